"""Mixtures as people write them: loading, digests, messages, and the shipped files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from manifests.errors import ManifestError
from manifests.load import load
from manifests.schedule import VisionShare
from packing.mixture import Mixture, Source
from packing.plan.planner import arrange
from tests.packing.plan.test_planner import TEXT, pieces

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "manifests/mixtures").glob("*.yaml"))
BASE = ROOT / "manifests/mixtures/base.yaml"
ARMS = ("early", "mid", "late")
"""Overlays of `base.yaml`."""


def arm(name: str) -> Mixture:
    return load(Mixture, [BASE, ROOT / f"manifests/mixtures/{name}.yaml"]).value


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_mixture_loads(file: Path) -> None:
    assert load(Mixture, [BASE, file] if file.stem in ARMS else [file]).value.sources


def test_there_are_shipped_mixtures() -> None:
    assert {file.stem for file in SHIPPED} >= {"base", "quickstart", *ARMS}


@pytest.mark.parametrize(
    ("name", "digest"), [("early", "9258bd534df70abe"), ("mid", "7264ef6261f7ef0b"), ("late", "a7d662aba1db4b9e")]
)
def test_digests_of_the_arms_are_pinned(name: str, digest: str) -> None:
    """The identity of a plan contains this digest."""
    assert arm(name).digest.startswith(digest)


def mixture(**values: object) -> Mixture:
    source = Source(name="a", input="x", weight=1.0)
    return Mixture(**({"sources": (source,), "max_pack_tokens": 64, "global_batch_packs": 2} | values))  # type: ignore[arg-type]


def test_the_digest_covers_all_that_decides_the_plan_but_not_the_location_of_stores() -> None:
    plain = mixture()
    moved = mixture(sources=(dataclasses.replace(plain.sources[0], input="elsewhere"),))
    assert plain.digest == moved.digest
    others = [mixture(seed=1), mixture(block_packs=8), mixture(horizon_tokens=9), mixture(max_pack_tokens=65)]
    assert len({plain.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sources.0.weight=-3", "weight of text is -3.0"),
        ("sources.0.max_epochs=0", "max_epochs of text is 0"),
        ("sources.0.wieght=1", "not a known key"),
        ("global_batch_packs=0", "global_batch_packs is 0"),
        ("media_limits.max_image_patches=many", "max_image_patches"),
        ("vision_share.constant=1.0", "vision share"),
        ("groups={web: 1}", "groups with a weight"),
        ("sources.0.group=web", "groups with a weight"),
        ("vision_share={linear: [0.1, 0.2]}", "needs horizon_tokens"),
        ("vision_share={constant: 0.1, linear: [0.1, 0.2]}", "expected one form of vision share"),
        ("vision_share={constant: 0.1, from_data: true}", "one form of vision share, got constant and from_data"),
        ("vision_share={steps: [[0, 0.1], [0.5, 0.2], [9000, 0.1]]}", "is a fraction of the horizon"),
        ("max_media_exposures=0", "max_media_exposures is 0"),
        ("sources=[]", "there must be one"),
        ("segment_align=24", "segment_align is 24, expected a divisor of max_pack_tokens, 64"),
        ("pack_limits.patches=0", "patches is 0, expected at least 1"),
        ("pack_limits.pixels=9", "not a known key"),
        ("limits={max_image_patches: 64}", "limits is now called media_limits"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(key: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mixture.yaml"
    file.write_text("sources: [{name: text, input: x, weight: 1}]\nmax_pack_tokens: 64\nglobal_batch_packs: 2\n")
    with pytest.raises(ManifestError, match=message):
        load(Mixture, [file], [key])


def test_the_arms_of_the_ablation_differ_only_in_the_start_of_vision() -> None:
    arms = [arm(name) for name in ARMS]
    horizon = arms[0].horizon_tokens
    assert horizon
    assert len({dataclasses.replace(one, vision_share=VisionShare()).digest for one in arms}) == 1
    assert {one.curve.slots_until(horizon) for one in arms} == {horizon // 10}, "equal vision, so equal text"
    begins = [next(t for t in range(0, horizon, horizon // 10) if one.curve.at(t)) for one in arms]
    assert begins == [0, horizon // 2, horizon * 4 // 5]


def test_plans_of_the_arms_see_equally_much_vision_and_text() -> None:
    sources = [pieces("pictures", [(64, 49), (40, 30), (30, 16)] * 150), pieces("text", TEXT * 400)]
    named = tuple(Source(name=source.content_root, input="", weight=1.0) for source in sources)
    metas = {}
    for name in ARMS:
        small = dataclasses.replace(arm(name), sources=named, max_pack_tokens=64, horizon_tokens=30_000)
        metas[name] = arrange(small, sources, "v").meta
    for meta in metas.values():
        assert abs(meta["slots"] - metas["early"]["slots"]) <= 2 * meta["one_pack_slots"] + 2 * 64
        assert abs(meta["tokens"] - metas["early"]["tokens"]) <= 2 * 64
