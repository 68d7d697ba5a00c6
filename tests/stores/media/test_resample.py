"""Tests of the compiled resampling kernel: the same bytes as Pillow for any size, order of passes and content."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stores.media.resample import bicubic

sides = st.integers(1, 200)


def pillow(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


@given(sides, sides, sides, sides, st.sampled_from(["noise", "black and white", "flat"]), st.integers(0, 99))
@settings(max_examples=300)
@example(100, 100, 50, 1, "noise", 0)  # columns before rows
@example(17, 33, 16, 16, "black and white", 1)
@example(1, 200, 1, 3, "noise", 2)
@example(200, 1, 3, 1, "noise", 3)
@example(1, 1, 200, 200, "noise", 4)
def test_bytes_equal_those_of_pillow(
    width: int, height: int, to_width: int, to_height: int, kind: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    if kind == "flat":
        rgb = np.full((height, width, 3), random.integers(0, 256), np.uint8)
    else:
        rgb = random.integers(0, 256, (height, width, 3), np.uint8)
        rgb = rgb if kind == "noise" else (rgb > 127).astype(np.uint8) * 255  # the largest overshoot of the weights
    assert np.array_equal(bicubic(rgb, to_width, to_height), pillow(rgb, to_width, to_height))


@pytest.mark.parametrize(
    ("width", "height", "to_width", "to_height"), [(2300, 1700, 1717, 1269), (600, 5200, 120, 301)]
)
def test_large_pictures_equal_those_of_pillow(width: int, height: int, to_width: int, to_height: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert np.array_equal(bicubic(rgb, to_width, to_height), pillow(rgb, to_width, to_height))


def test_a_view_of_an_array_is_resized_like_a_copy() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)[::-1, 5:80]
    assert np.array_equal(bicubic(rgb, 40, 40), pillow(np.ascontiguousarray(rgb), 40, 40))
