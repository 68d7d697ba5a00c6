"""The mixture as people write it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from manifests.errors import ManifestError
from manifests.load import load
from packing.mixture import Mixture, Source

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "manifests/mixtures").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_mixture_loads(file: Path) -> None:
    assert load(Mixture, [file]).value.sources


def test_there_are_shipped_mixtures() -> None:
    assert SHIPPED


def mixture(**values: object) -> Mixture:
    source = Source(name="a", store="x", weight=1.0)
    return Mixture(**({"sources": (source,), "max_pack_tokens": 64, "global_batch_packs": 2} | values))  # type: ignore[arg-type]


def test_the_digest_says_what_decides_the_plan_and_not_where_stores_lie() -> None:
    one = mixture()
    moved = mixture(sources=(dataclasses.replace(one.sources[0], store="elsewhere"),))
    assert one.digest == moved.digest
    others = [mixture(seed=1), mixture(block_packs=8), mixture(horizon_tokens=9), mixture(max_pack_tokens=65)]
    assert len({one.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sources.0.weight=-3", "weight of text is -3.0"),
        ("sources.0.max_epochs=0", "max_epochs of text is 0"),
        ("sources.0.wieght=1", "not a known key"),
        ("global_batch_packs=0", "global_batch_packs is 0"),
        ("limits.max_image_patches=many", "max_image_patches"),
        ("vision_share.constant=1.0", "vision share"),
        ("sources=[]", "there must be one"),
        ("segment_align=24", "segment_align is 24, expected a divisor of max_pack_tokens, 64"),
        ("pack_limits.patches=0", "patches is 0, expected at least 1"),
        ("pack_limits.pixels=9", "not a known key"),
    ],
)
def test_nonsense_is_refused_with_a_place(key: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mixture.yaml"
    file.write_text("sources: [{name: text, store: x, weight: 1}]\nmax_pack_tokens: 64\nglobal_batch_packs: 2\n")
    with pytest.raises(ManifestError, match=message):
        load(Mixture, [file], [key])
