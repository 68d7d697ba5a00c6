"""Packed scoring against the plainest way there is, and the visual grounding test with a model that can't see."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests import load
from model.canonical import canonical_state, load_canonical
from model.config import ModelConfig
from model.multimodal import MultimodalModel
from stores.store import Snapshot, Store
from tokenization.vocabulary import Vocabulary
from train import checkpoint
from train.judge.evaluate import (
    Evaluator,
    GroundingScene,
    RowFormat,
    attribute_positions,
    choose_scenes,
    grounding_test,
)
from train.judge.score import ScoringItem, score
from train.loop import train
from train.stage import Evaluation, GroundingTest

ROW = 64


@pytest.fixture(scope="module")
def frame(corpus) -> RowFormat:
    return RowFormat.of(opened(corpus, "packs").meta, Vocabulary.load("tiny"))


@pytest.fixture(scope="module")
def settings(corpus) -> GroundingTest:
    grounding = corpus.stage().value.evaluation.grounding
    assert grounding is not None
    return grounding


@pytest.fixture(scope="module")
def scenes(corpus, frame: RowFormat, settings: GroundingTest) -> list[GroundingScene]:
    return choose_scenes(opened(corpus, "held_out"), settings, frame)


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    """Trained until it sees."""
    folder = tmp_path_factory.mktemp("run")
    identity = train(corpus.stage(), folder)["identity"]
    saved = checkpoint.load(folder / "checkpoints", identity)
    assert saved is not None
    model = MultimodalModel(load.load(ModelConfig, [corpus.folder / "model.yaml"]).value)
    load_canonical(model, saved.weights)
    return model


def opened(corpus, name: str) -> Snapshot:
    snapshot = Store.open(str(corpus.folder / name)).head()
    assert snapshot is not None
    return snapshot


@torch.no_grad()
def alone(model: MultimodalModel, text: ScoringItem) -> np.ndarray:
    """Loss of every target of one text without media, one prefix at a time and without any batch."""
    losses = np.zeros(text.tokens)
    ids = torch.from_numpy(text.expanded.ids.astype(np.int64))
    for place in range(1, text.tokens):
        if text.expanded.targets[place]:
            embedded = model.language_model.embed(ids[:place])
            logits = model.language_model.logits(model.language_model(embedded, [place]))[-1]
            losses[place] = -torch.log_softmax(logits, 0)[ids[place]]
    return losses


def test_scores_of_packed_texts_are_those_of_each_prefix_alone(
    corpus, frame: RowFormat, model: MultimodalModel
) -> None:
    samples = [sample for sample in opened(corpus, "held_out").records() if not sample.media][:6]
    texts = [ScoringItem(frame.expand(sample), ()) for sample in samples]
    assert len(texts) == 6
    for text, found in zip(texts, score(model, texts, ROW, frame.vocabulary.pad_id), strict=True):
        assert np.allclose(found.losses, alone(model, text), atol=2e-4)
        assert (found.losses > 0).sum() == text.expanded.targets.sum()
        assert not found.hits[~text.expanded.targets].any()


def test_other_texts_in_a_row_change_no_score(
    frame: RowFormat, scenes: list[GroundingScene], model: MultimodalModel
) -> None:
    texts = [ScoringItem(scene.own, scene.pixels) for scene in scenes[:9]]
    together = score(model, texts, ROW, frame.vocabulary.pad_id)
    for text, found in zip(texts, together, strict=True):
        (apart,) = score(model, [text], ROW, frame.vocabulary.pad_id)
        assert np.allclose(found.losses, apart.losses, atol=1e-4) and (found.hits == apart.hits).all()


def test_scoring_changes_nothing_in_the_model(
    frame: RowFormat, scenes: list[GroundingScene], model: MultimodalModel
) -> None:
    before = {name: tensor.clone() for name, tensor in canonical_state(model).items()}
    counts = [b.clone() for name, b in model.named_buffers() if name.endswith("local_tokens_per_expert")]
    score(model, [ScoringItem(scenes[0].own, scenes[0].pixels)], ROW, frame.vocabulary.pad_id)
    assert all(torch.equal(tensor, before[name]) for name, tensor in canonical_state(model).items())
    after = [b for name, b in model.named_buffers() if name.endswith("local_tokens_per_expert")]
    assert counts and all(torch.equal(a, b) for a, b in zip(after, counts, strict=True))


def test_attributes_are_found_behind_images_of_any_size(frame: RowFormat, scenes: list[GroundingScene]) -> None:
    colors = {"red", "green", "blue", "white"}
    widths = set()
    for scene, other in itertools.pairwise(scenes):
        for text in (ScoringItem(scene.own, scene.pixels), scene.with_image_of(other)):
            places = attribute_positions(text.expanded, ["color"])
            word = frame.vocabulary.decode(text.expanded.ids[places]).strip()
            assert word in colors and text.expanded.targets[places].all()
            widths.add(text.tokens - len(scene.sample.ids))
    assert len(widths) > 1


def test_a_swapped_image_brings_its_own_pixels(frame: RowFormat, scenes: list[GroundingScene]) -> None:
    wide = max(scenes, key=lambda scene: scene.sample.media[0].width_px)
    narrow = min(scenes, key=lambda scene: scene.sample.media[0].width_px)
    mixed = narrow.with_image_of(wide)
    assert (mixed.pixels[0] == wide.pixels[0]).all()
    assert [item.grid for item in mixed.expanded.media[0].items] == [item.grid for item in wide.own.media[0].items]


def test_a_model_shown_gray_images_fails(
    frame: RowFormat, scenes: list[GroundingScene], settings: GroundingTest, model: MultimodalModel, corpus
) -> None:
    """The same weights, every image a gray sheet of its own size: what is left is the prior."""
    seen = grounding_test(model, scenes, settings, frame)
    gray = [blindfolded(scene) for scene in scenes]
    blind = grounding_test(model, gray, settings, frame)
    assert seen["sees"] and not blind["sees"]
    color = blind["attributes"]["color"]
    assert color["low"] <= 0 <= color["high"] and color["tokens"] == seen["attributes"]["color"]["tokens"]
    assert blind["verdict"].startswith("fail on all, color")


def blindfolded(scene: GroundingScene) -> GroundingScene:
    blind = dataclasses.replace(scene)
    blind.__dict__["pixels"] = tuple(np.full_like(pixels, 128) for pixels in scene.pixels)
    return blind


def test_the_numbers_add_up(
    frame: RowFormat, scenes: list[GroundingScene], settings: GroundingTest, model: MultimodalModel
) -> None:
    found = grounding_test(model, scenes, settings, frame)["attributes"]["color"]
    assert found["scenes"] == len(scenes) == 40
    assert found["difference"] == pytest.approx(found["loss_other"] - found["loss_own"])
    assert found["low"] < found["difference"] < found["high"]
    own = score(model, [ScoringItem(scene.own, scene.pixels) for scene in scenes], ROW, frame.vocabulary.pad_id)
    places = [attribute_positions(scene.own, ["color"]) for scene in scenes]
    total = sum(one.losses[where].sum() for one, where in zip(own, places, strict=True))
    assert found["loss_own"] == pytest.approx(total / found["tokens"])


def test_the_same_scenes_are_chosen_however_the_store_is_cut(corpus, frame: RowFormat, settings: GroundingTest) -> None:
    few = dataclasses.replace(settings, scenes=10)
    held_out = opened(corpus, "held_out")
    chosen = [scene.sample.id for scene in choose_scenes(held_out, few, frame)]
    assert chosen == [scene.sample.id for scene in choose_scenes(Backwards(held_out), few, frame)]
    other = [scene.sample.id for scene in choose_scenes(held_out, dataclasses.replace(few, seed=1), frame)]
    assert chosen != other


class Backwards:
    """A snapshot that gives its records in the opposite order."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot, self.name = snapshot, snapshot.name

    def records(self):
        return reversed(list(self.snapshot.records()))


def test_the_identity_of_an_evaluation_ignores_urls(corpus, frame: RowFormat, tmp_path: Path) -> None:
    settings = corpus.stage().value.evaluation
    evaluator = Evaluator(settings, frame)
    (tmp_path / "moved").symlink_to(corpus.folder)
    moved = json.loads(json.dumps(dataclasses.asdict(settings)).replace(str(corpus.folder), str(tmp_path / "moved")))
    elsewhere = load_evaluation(moved)
    assert elsewhere.held_out != settings.held_out
    assert Evaluator(elsewhere, frame).identity == evaluator.identity
    assert Evaluator(dataclasses.replace(settings, seed=1), frame).identity != evaluator.identity


def load_evaluation(values: dict[str, Any]) -> Evaluation:
    grounding = GroundingTest(**{**values["grounding"], "attributes": tuple(values["grounding"]["attributes"])})
    return Evaluation(**{**values, "held_out": tuple(values["held_out"]), "grounding": grounding})
