"""Masks in run lengths become outlines that cover what they covered."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest.annotations import rle
from pipelines.ingest.annotations.shapes import polygon


def runs(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(np.diff(flat.astype(np.int8)))
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def in_text(counts: list[int]) -> str:
    """As COCO packs them, six bits a character, the lowest first."""
    out = ""
    for place, count in enumerate(counts):
        value = count - (counts[place - 2] if place > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            out += chr(48 + (bits | 32 * more))
            if not more:
                break
    return out


def told(mask: np.ndarray, packed: bool = True) -> Json:
    counts = runs(mask)
    return {"size": list(mask.shape), "counts": in_text(counts) if packed else counts}


def inside(outline: list[tuple[float, float]], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside, by how often a line to the right crosses an edge."""
    y, x = (one + 0.5 for one in np.mgrid[: shape[0], : shape[1]])
    found = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]], strict=True):
        if y0 != y1:
            found ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return found


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth pieces, some with holes."""
    dice = np.random.default_rng(seed)
    waves = sum(
        np.sin(dice.uniform(0.05, 0.4) * one + dice.uniform(0.05, 0.4) * other + dice.uniform(0, 6))
        for one, other in [np.mgrid[:height, :width]] * 4
    )
    return np.asarray(waves > 0.7)


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(st.integers(0, 2**31), shapes, st.floats(0, 1), st.booleans())
def test_loops_around_any_mask_have_its_area_and_runs_come_back(
    seed: int, shape: tuple[int, int], share: float, packed: bool
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    assert np.array_equal(rle.decode_mask(told(mask, packed)), mask)
    assert sum(map(rle._area, rle._loops(np.pad(mask, 1)))) == mask.sum()


@given(st.integers(0, 2**31), st.integers(20, 90), st.integers(20, 90))
def test_outlines_cover_what_the_mask_covers(seed: int, height: int, width: int) -> None:
    mask = blobs(seed, height, width)
    found, left_out = rle.outlines(told(mask))
    covered = np.zeros(mask.shape, bool)
    for outline in found:
        covered |= inside(outline, (height, width))
    specks, holes = left_out.count(rle.SPECK), left_out.count(rle.HOLE)
    missed = (mask & ~covered).sum() - specks * rle.FEWEST_PIXELS
    edge = sum(np.hypot(*(np.diff([*one, one[0]], axis=0).T)).sum() for one in found)
    assert missed <= rle.TOLERANCE_PX * edge
    if not holes:
        assert (covered & ~mask).sum() <= rle.TOLERANCE_PX * edge


@pytest.mark.parametrize(
    "wrong",
    [
        {"counts": [4]},
        {"size": [2, 2], "counts": [5]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": "o" * 40},
        {"size": [2, 2], "counts": "\u00ff"},
        {"size": [2, 2], "counts": None},
        {"size": [2, True], "counts": [2]},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [2, 2], "counts": [1.5, 2.5]},
    ],
)
def test_what_are_no_run_lengths_is_refused(wrong: Json) -> None:
    with pytest.raises(RecordError) as caught:
        rle.outlines(wrong)
    assert caught.value.reason == "bad_annotation"


def test_a_chessboard_costs_little() -> None:
    began = time.process_time()
    assert rle.outlines(told(np.indices((3000, 3000)).sum(axis=0) % 2 == 0, False)) == ([], [rle.RAGGED])
    assert time.process_time() - began < 20  # most of it to pack the board


def test_real_masks_have_the_area_and_the_box_that_stand_beside_them(test_data: Path) -> None:
    file = test_data / "coco_panoptic_sample/sample_data/panoptic_coco_detection_format.json"
    annotations = json.loads(file.read_text())["annotations"]
    assert len(annotations) == 50
    for one in annotations:
        mask = rle.decode_mask(one["segmentation"])
        assert mask.sum() == one["area"]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top, width, height = one["bbox"]
        assert (rows[0], columns[0]) == (top, left)
        assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (height, width)
        found, left_out = rle.outlines(one["segmentation"])
        covered = np.zeros(mask.shape, bool)
        for outline in found:
            polygon("thing", outline)
            covered |= inside(outline, (mask.shape[0], mask.shape[1]))
        if one["area"] > 1000 and rle.HOLE not in left_out:
            assert (covered & mask).sum() > 0.9 * (covered | mask).sum()
