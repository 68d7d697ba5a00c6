"""Statistics of a plan agree with its packs, and a step is the same before and after packing."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from manifests.errors import StoreError
from manifests.records import Text
from manifests.schedule import VisionShare
from packing.proof import Recount, prove
from pipelines.inspect import command, step_view
from pipelines.inspect.plan_stats import plan_statistics
from pipelines.inspect.plan_view import PlanView
from stores.store import Store
from tests.packing import corpus
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, run
from tokenization.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    (folder / "data").mkdir()
    small_data.write(folder / "data", texts=25)
    dag = small_data.DAG.replace("weight: 1}", "weight: 1, max_epochs: 3}").replace("tokens: 512", "tokens: 128")
    (folder / "dag.yaml").write_text(dag)
    run(folder / "dag.yaml", folder / "out", workers=0)
    return folder / "out"


@pytest.fixture(scope="module")
def planned(out: Path) -> PlanView:
    return PlanView(head(out, "plan"))


def test_statistics_equal_the_recount_of_the_packs(out: Path, planned: PlanView) -> None:
    statistics = plan_statistics(planned)
    packs = head(out, "packs")
    counted = prove(packs, planned.plan.meta, Vocabulary.load())
    assert {row["source"]: row["tokens"] for row in statistics["sources"]} == counted.source_tokens
    assert sum(row["tokens"] for row in statistics["domains"]) == counted.tokens
    assert sum(row["slots"] for row in statistics["domains"]) == counted.slots
    assert statistics["positions"]["padding"] == pytest.approx(1 - counted.fill)
    for row, held in zip(statistics["pack_limits"], limited(counted), strict=True):
        assert (row["mean"], row["max"]) == (pytest.approx(held.mean()), held.max()), row
    seen = Counter(segment.sample for pack in packs.records() for segment in pack.segments if segment.start == 0)
    media = Counter(packed.media.digest for pack in packs.records() for packed in pack.media)
    assert statistics["repetition"]["shown_documents"] == len(seen)
    assert statistics["repetition"]["max_document_exposures"] == max(seen.values()) == 3
    assert statistics["repetition"]["shown_media"] == len(media)
    assert statistics["repetition"]["max_media_exposures"] == max(media.values())
    continued = sum(segment.start > 0 for pack in packs.records() for segment in pack.segments)
    assert statistics["splits"]["continued_segments"] == continued > 0
    assert all(row["rows"] >= 1 for row in statistics["balance"])


def limited(counted: Recount) -> tuple[np.ndarray, ...]:
    return counted.pack_tokens, counted.pack_patches, counted.pack_media, counted.pack_attention


def test_a_step_is_the_same_before_and_after_packing(out: Path, planned: PlanView) -> None:
    packed = PlanView(head(out, "packs"))
    assert packed.steps == planned.steps
    for step in (0, planned.steps.stop // 2, planned.steps.stop - 1):
        assert step_view.step_summary(planned, step, 1000) == step_view.step_summary(packed, step, 1000)
        before, after = step_view.step_page(planned, step), step_view.step_page(packed, step)
        assert before == after
        assert before.count("<image ") == sum(
            max(1, min(step_view.FRAMES, sum(len(item.frames) for item in packed.items)))
            for pack in planned.batch(step)
            for packed in pack.media
        )
    with pytest.raises(StoreError, match="has no step"):
        planned.batch(planned.steps.stop)


def test_a_step_shows_its_texts_and_its_tokens_with_loss(planned: PlanView) -> None:
    vocabulary = Vocabulary.load()
    for step in planned.steps[::7]:
        summary = step_view.step_summary(planned, step, 1 << 30)
        packs = planned.batch(step, payload=False)
        assert sum(row["loss_tokens"] for row in summary["segments"]) == sum(int(p.loss_mask.sum()) for p in packs)
        row = summary["segments"][0]
        ids = packs[0].ids[: row["tokens"]]
        if not row["slots"]:
            assert row["text"] == " ".join(vocabulary.decode(ids).split())


def test_every_segment_of_a_sample_is_statistics(planned: PlanView) -> None:
    wanted = np.random.default_rng(0).choice(sorted({s.sample for p in planned.batch(1) for s in p.segments}), 2)
    for sample in wanted.tolist():
        expected = [
            (step, row, segment.start, segment.length)
            for step in planned.steps
            for row, pack in enumerate(planned.batch(step, payload=False))
            for segment in pack.segments
            if segment.sample == sample
        ]
        places = planned.segments_of(sample)
        assert [(p.step, p.row, p.start, p.length) for p in places] == sorted(expected)
        assert len({place.epoch for place in places}) == 3


def test_the_command_gives_json_and_a_page(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(out / "plan"), "--step", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"]["global_batch"] == 0
    assert command.main([str(out / "packs"), "--step", "0", "--html"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert command.main([str(out / "plan")]) == 0
    shown = capsys.readouterr().out
    assert "balance" in shown and max(map(len, shown.splitlines())) <= 100


def test_exposures_of_media_are_those_of_the_segments_that_contain_them(tmp_path: Path) -> None:
    """A document is split, and the horizon ends in the middle of an epoch: segments have different exposure counts."""
    pictures = [corpus.medium(corpus.picture(i, 60, 60, "PNG")) for i in range(27)]
    words = Text("a red square beside a circle, and many more of them.\n" * 4)
    pages = [
        corpus.document(
            f"page {i}", "page", *(part for picture in pictures[9 * i : 9 * i + 9] for part in (words, picture))
        )
        for i in range(3)
    ]
    texts = [corpus.document(f"text {i}", "text", Text(f"{i} {words.text}")) for i in range(80)]
    source = dataclasses.replace(corpus.MIXTURE.sources[0], domains=("page", "text"), max_epochs=4)
    share = VisionShare(constant=0.025)
    mixture = dataclasses.replace(
        corpus.MIXTURE, sources=(source,), global_batch_packs=2, horizon_tokens=10_500, vision_share=share
    )
    made = corpus.make(tmp_path, pages + texts, mixture)
    plan = Store.open(str(tmp_path / "plan")).head()
    assert plan is not None
    shown = prove(made.packs, plan.meta, corpus.tiny).after.media
    often = np.concatenate(list(shown.counts()))
    assert often.min() < shown.most == often.max()
    statistics = plan_statistics(PlanView(plan))["repetition"]
    assert statistics["shown_media"] == len(often)
    assert statistics["repeated_media"] == np.count_nonzero(often > 1)
    assert statistics["max_media_exposures"] == shown.most
