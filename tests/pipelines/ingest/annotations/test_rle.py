"""Run-length masks to outlines: the outlines cover the pixels of the masks."""

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
    """Counts in the text form of COCO: six bits per character, the lowest first."""
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


def mask_record(mask: np.ndarray, packed: bool = True) -> Json:
    counts = runs(mask)
    return {"size": list(mask.shape), "counts": in_text(counts) if packed else counts}


def inside(outline: list[tuple[float, float]], shape: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: pixels whose center is inside, by the crossings of a ray to the right."""
    y, x = (axis + 0.5 for axis in np.mgrid[: shape[0], : shape[1]])
    covered = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]], strict=True):
        if y0 != y1:
            covered ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return covered


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    """A mask of smooth pieces, some with holes."""
    dice = np.random.default_rng(seed)
    waves = sum(
        np.sin(dice.uniform(0.05, 0.4) * y + dice.uniform(0.05, 0.4) * x + dice.uniform(0, 6))
        for y, x in [np.mgrid[:height, :width]] * 4
    )
    return np.asarray(waves > 0.7)


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(st.integers(0, 2**31), shapes, st.floats(0, 1), st.booleans())
def test_loops_have_the_area_of_their_mask_and_runs_decode_to_it(
    seed: int, shape: tuple[int, int], share: float, packed: bool
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    assert np.array_equal(rle.decode_mask(mask_record(mask, packed)), mask)
    assert sum(map(rle._area, rle._loops(np.pad(mask, 1)))) == mask.sum()


@given(st.integers(0, 2**31), st.integers(20, 90), st.integers(20, 90))
def test_outlines_cover_the_pixels_of_their_mask(seed: int, height: int, width: int) -> None:
    mask = blobs(seed, height, width)
    outlines, left_out = rle.outlines(mask_record(mask))
    covered = np.zeros(mask.shape, bool)
    for outline in outlines:
        covered |= inside(outline, (height, width))
    specks, holes = left_out.count(rle.SPECK), left_out.count(rle.HOLE)
    missed = (mask & ~covered).sum() - specks * rle.FEWEST_PIXELS
    edge = sum(np.hypot(*(np.diff([*outline, outline[0]], axis=0).T)).sum() for outline in outlines)
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
def test_wrong_run_lengths_are_refused(wrong: Json) -> None:
    with pytest.raises(RecordError) as caught:
        rle.outlines(wrong)
    assert caught.value.reason == "bad_annotation"


def test_a_chessboard_is_left_out_quickly() -> None:
    began = time.process_time()
    assert rle.outlines(mask_record(np.indices((3000, 3000)).sum(axis=0) % 2 == 0, False)) == ([], [rle.RAGGED])
    assert time.process_time() - began < 20  # most of it is spent by this test to encode the board


def test_real_masks_have_the_area_and_the_box_of_their_annotation(test_data: Path) -> None:
    file = test_data / "coco_panoptic_sample/sample_data/panoptic_coco_detection_format.json"
    annotations = json.loads(file.read_text())["annotations"]
    assert len(annotations) == 50
    for annotation in annotations:
        mask = rle.decode_mask(annotation["segmentation"])
        assert mask.sum() == annotation["area"]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top, width, height = annotation["bbox"]
        assert (rows[0], columns[0]) == (top, left)
        assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (height, width)
        outlines, left_out = rle.outlines(annotation["segmentation"])
        covered = np.zeros(mask.shape, bool)
        for outline in outlines:
            polygon("thing", outline)
            covered |= inside(outline, (mask.shape[0], mask.shape[1]))
        if annotation["area"] > 1000 and rle.HOLE not in left_out:
            assert (covered & mask).sum() > 0.9 * (covered | mask).sum()
