"""Reserved values and contents of one split never occur in the other, in the code and in the drawn scenes."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import pipelines.scenes
from manifests.records import canonical_json
from pipelines.scenes.elements import split as splitting
from pipelines.scenes.elements.entities import COLORS, FONT_FACES, FONT_FAMILIES, RESERVED_PAIRS, SHAPES, SIMPLE_SHAPES
from pipelines.scenes.elements.split import Pool, SceneRng
from pipelines.scenes.write import CATEGORIES
from tests.pipelines.scenes.rendered import RenderedScene, first_scenes, rendered

COUNT = {"caption": 150, "question": 40, "reading": 40, "chart": 40}
FAMILY_OF = {face: family for family, faces in FONT_FACES.items() for face in faces}


def pools() -> Iterator[Pool[Any]]:
    """Every pool of any module of `pipelines.scenes`, at the top level or in a table."""

    def within(value: object) -> Iterator[Pool[Any]]:
        if isinstance(value, Pool):
            yield value
        elif isinstance(value, dict):
            for inner in value.values():
                yield from within(inner)
        elif isinstance(value, tuple | list):
            for inner in value:
                yield from within(inner)

    for module in pkgutil.walk_packages(pipelines.scenes.__path__, "pipelines.scenes."):
        for value in vars(importlib.import_module(module.name)).values():
            yield from within(value)


def scenes(split: str) -> Iterator[tuple[str, RenderedScene]]:
    for category in CATEGORIES:
        for scene in first_scenes(category, COUNT.get(category, 25), split):
            yield category, scene


def inner(value: object) -> Iterator[dict]:
    """Every dictionary anywhere inside the notes."""
    if isinstance(value, dict):
        yield value
        for below in value.values():
            yield from inner(below)
    elif isinstance(value, list):
        for below in value:
            yield from inner(below)


def test_no_pool_has_a_value_in_both_parts() -> None:
    every = list(pools())
    assert len(every) > 50
    for pool in every:
        assert pool.train and pool.reserved and not set(pool.train) & set(pool.reserved), pool.name


def test_training_draws_no_reserved_value_and_held_out_scenes_list_their_pools() -> None:
    assert all(not scene.notes["reserved"] for _, scene in scenes("train"))
    owned = {name for _, scene in scenes("held_out") for name in scene.notes["reserved"]}
    assert owned >= {"pair", "backdrop", "wording", "manner", "font", "name", "goods", "place", "sign", "title"}


def test_reserved_pairs_are_in_no_training_picture_and_no_training_text() -> None:
    names = {f"{color} {shape}" for color, shape in RESERVED_PAIRS}
    for _, scene in scenes("train"):
        assert not [name for name in names if name in scene.text], scene.line["scene"]
        for note in inner(scene.notes):
            assert f"{note.get('color')} {note.get('shape')}" not in names
    assert any(name in scene.text for _, scene in scenes("held_out") for name in names)


def test_each_color_and_each_shape_has_one_reserved_pair() -> None:
    assert [color for color, _ in RESERVED_PAIRS] == list(COLORS)
    assert sorted(shape for _, shape in RESERVED_PAIRS) == sorted(SHAPES)


def test_type_families_of_the_two_splits_differ() -> None:
    def families(split: str) -> set[str]:
        return {FAMILY_OF[note["font"]] for _, scene in scenes(split) for note in inner(scene.notes) if "font" in note}

    assert families("train") == set(FONT_FAMILIES.train)
    assert families("held_out") == set(FONT_FAMILIES.reserved)


def test_reserved_names_and_words_are_in_no_training_text() -> None:
    kinds = ("name", "goods", "place", "verb", "thing", "column")
    strict = [pool for pool in pools() if pool.strict and pool.name in kinds]
    for pool in strict:
        words = re.compile(r"\b(" + "|".join(map(re.escape, pool.reserved)) + r")\b", re.IGNORECASE)
        for _, scene in scenes("train"):
            assert not words.search(scene.text), (pool.name, scene.line["scene"])


def test_most_held_out_captions_contain_no_reserved_value() -> None:
    """Unseen scenes then test a model without new values, and scenes with new values can be reported alone."""
    held_out = [scene for category, scene in scenes("held_out") if category == "caption"]
    ordinary = sum(not scene.notes["reserved"] for scene in held_out) / len(held_out)
    assert 0.5 < ordinary < 0.75
    for name in ("pair", "backdrop", "wording"):
        share = sum(name in scene.notes["reserved"] for scene in held_out) / len(held_out)
        assert 0.07 < share < 0.25, name
    assert {thing["shape"] for scene in held_out for thing in scene.notes["things"]} <= set(SIMPLE_SHAPES)


CONTENTS = {
    "caption": lambda scene: [
        [t["color"], t["shape"], int(t["point"][0] / width * 8), int(t["point"][1] / height * 8)]
        for height, width in [scene.pictures[0].shape[:2]]
        for t in scene.notes["things"]
    ],
    "dial": lambda scene: [scene.notes["dial"], scene.notes.get("top"), scene.notes["value"]],
    "maze": lambda scene: scene.notes["maze"],
    "geometry": lambda scene: [scene.notes["figure"], scene.notes["questions"][0]["answer"], scene.notes.get("sides"),
                               scene.notes.get("grid_corners"), scene.notes.get("lines")],
    "reading": lambda scene: [line["text"] for line in scene.notes["lines"]],
}  # fmt: skip


def contents(category: str, split: str, seed: int, count: int) -> set[str]:
    scenes_of_category = [rendered(split, category, ordinal, seed) for ordinal in range(count)]
    if category == "geometry":
        wanted = ("rectangle_area", "rectangle_perimeter", "hypotenuse", "grid_area", "crossings", "coordinates")
        scenes_of_category = [scene for scene in scenes_of_category if scene.notes["figure"] in wanted]
    return {canonical_json(CONTENTS[category](scene)) for scene in scenes_of_category}


@pytest.mark.parametrize("category", CONTENTS)
def test_no_content_occurs_in_both_splits_with_different_seeds(category: str) -> None:
    assert not contents(category, "train", 0, 150) & contents(category, "held_out", 1, 60)


def test_without_in_split_the_splits_share_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "in_split", lambda split, content: True)
    rendered.cache_clear()
    assert contents("dial", "train", 0, 150) & contents("dial", "held_out", 1, 60)
    rendered.cache_clear()


def test_one_in_five_contents_is_held_out_and_every_content_has_one_split() -> None:
    held_out = [splitting.in_split("held_out", i) for i in range(2000)]
    train = [splitting.in_split("train", i) for i in range(2000)]
    assert held_out == [not ours for ours in train]
    assert 0.17 < sum(held_out) / 2000 < 0.23


def test_equal_keys_give_equal_numbers_and_different_keys_different_ones() -> None:
    def numbers(*key: Any) -> list[float]:
        rng = SceneRng(*key)
        return [rng.uniform(0, 1), rng.integer(0, 10**6), *rng.sample(range(100), 5)]

    base = numbers(0, "train", "caption", 7)
    assert base == numbers(0, "train", "caption", 7)
    for other in (
        (1, "train", "caption", 7),
        (0, "held_out", "caption", 7),
        (0, "train", "clip", 7),
        (0, "train", "caption", 8),
    ):
        assert base != numbers(*other)
