"""Tests of `decode_near`: exact unless a JPEG is at least halved in both directions, and close to exact then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests.errors import RecordError
from stores.media import image
from tests.stores.media.test_codecs import damaged, jpeg, oriented, png, saved, verdict, webp

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 130)


def smooth(random: np.random.Generator) -> Image.Image:
    """A smooth random picture of 200 to 500 px per side."""
    width, height = random.integers(200, 500, 2).tolist()
    few = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
    return few.resize((width, height), Image.Resampling.BICUBIC)


@given(seeds, sides, sides)
@settings(max_examples=300)
def test_pictures_that_are_not_halved_are_exact(seed: int, width: int, height: int) -> None:
    random = np.random.default_rng(seed)
    payload = (jpeg, jpeg, webp, png)[seed % 4](random)
    assume(verdict(payload) == "ok")
    exact = image.decode_rgb(payload)
    near, size = image.decode_near(payload, width, height)
    assert size == (exact.shape[1], exact.shape[0]) and near.shape == (height, width, 3)
    if exact.shape[0] < 2 * height or exact.shape[1] < 2 * width or image.probe(payload).format != "jpg":
        assert np.array_equal(near, image.resize(exact, width, height))


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_smooth_pictures_are_close_upright_and_reproducible(seed: int) -> None:
    random = np.random.default_rng(seed)
    payload = saved(smooth(random), "JPEG", quality=90, progressive=bool(random.integers(2)), exif=oriented(random))
    exact = image.decode_rgb(payload)
    wanted = (exact.shape[1] // int(random.integers(2, 10)), exact.shape[0] // int(random.integers(2, 10)))
    memory = image.PixelMemory()
    memory.pixels(600, 600)[:] = 77
    near, size = image.decode_near(payload, *wanted, memory=memory)
    assert size == (exact.shape[1], exact.shape[0])
    difference = np.abs(near.astype(int) - image.resize(exact, *wanted))
    assert difference.mean() < 1 and difference.max() <= 8
    assert np.array_equal(near, image.decode_near(payload, *wanted)[0])


def test_damaged_files_have_the_same_verdict_as_in_exact_decoding() -> None:
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        payload = damaged(jpeg(random), random)
        seen.add(expected := verdict(payload))
        if expected == "ok":
            assert image.decode_near(payload, 5, 5)[1] == image.probe(payload)[1:]
        else:
            with pytest.raises(RecordError) as caught:
                image.decode_near(payload, 5, 5)
            assert caught.value.reason == expected
    assert len(seen) > 2
