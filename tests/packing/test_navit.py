"""Expansion of samples to slots, and of pixels to patches."""

from __future__ import annotations

import ast
import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests.errors import RecordError
from manifests.geometry import RELEASED_LIMITS, MediaLimits, fit, timestamp
from manifests.records import Document, Fact, Media, PackedMedia, Text, digest, record_id
from packing import reference
from packing.navit import cut_patches, expand, lay_out, patches_of
from tokenization.encode import encode
from tokenization.vocabulary import Vocabulary

tiny = Vocabulary.load("tiny")
PAD = tiny.media_pad_id


def image(width: int, height: int) -> Media:
    return Media(digest(f"{width} {height}"), "image", "png", width, height)


def video(frames: int, fps: int = 2) -> Media:
    times_us = tuple(i * 1_000_000 // fps for i in range(frames))
    return Media(digest(f"video {frames}"), "video", "mp4", 56, 28, times_us)


parts = st.lists(
    st.text("ab \n", max_size=30).map(Text)
    | st.tuples(st.integers(1, 400), st.integers(1, 400)).map(lambda size: image(*size))
    | st.integers(1, 20).map(video),
    max_size=6,
).map(tuple)
limits = st.sampled_from([MediaLimits(), MediaLimits(max_image_patches=16, max_frame_patches=4, max_video_frames=6)])


def document(*parts: Text | Media, facts: tuple[Fact, ...] = ()) -> Document:
    return Document(record_id("test", "1"), "test", "1", "interleaved", parts, facts)


@given(parts, limits)
def test_slots_are_exactly_the_media_pads_and_all_other_ids_are_the_samples(
    parts: tuple[Text | Media, ...], limits: MediaLimits
) -> None:
    sample = encode(document(*parts), tiny)
    expanded = expand(sample, limits, tiny)
    slots = [
        item.slot + i
        for packed in expanded.media
        for item in packed.items
        for i in range(item.grid[1] * item.grid[2] // 4)
    ]
    assert slots == np.flatnonzero(expanded.ids == PAD).tolist()
    assert tuple(packed.media for packed in expanded.media) == sample.media
    assert not expanded.targets[slots].any()
    assert expanded.targets.sum() == sum(stop - start for start, stop in sample.loss_runs.tolist())
    assert expanded.ids[expanded.targets].tolist() == [
        i for start, stop in sample.loss_runs.tolist() for i in sample.ids[start:stop].tolist()
    ]


@given(parts, limits)
def test_expansion_uses_the_layout(parts: tuple[Text | Media, ...], limits: MediaLimits) -> None:
    expanded = expand(encode(document(*parts), tiny), limits, tiny)
    for packed in expanded.media:
        layout = lay_out(packed.media, limits)
        assert packed.size_px == layout.size_px
        assert sum(item.grid[1] * item.grid[2] // 4 for item in packed.items) == layout.slots
        assert tuple(item.frames for item in packed.items if item.frames) == layout.chunks


def test_an_image_reads_as_in_the_released_prompt() -> None:
    text = tiny.decode(expand(encode(document(image(56, 28)), tiny), MediaLimits(), tiny).ids)
    assert text == "<|media_begin|>image<|media_content|><|media_pad|><|media_pad|><|media_end|>[EOS]"


def test_a_video_reads_as_one_group_per_chunk_with_the_time_of_its_first_frame() -> None:
    text = tiny.decode(expand(encode(document(Text("see "), video(6)), tiny), MediaLimits(), tiny).ids)
    chunk = "<|media_begin|>video<|media_content|><|media_pad|><|media_pad|><|media_end|>"
    assert text == f"see 00:00:00.000{chunk}{timestamp(2.0)}{chunk}[EOS]"


def test_spans_behind_a_medium_move_by_its_growth() -> None:
    facts = (Fact("color", 0, 2, 5), Fact("shape", 2, 4, 10))
    sample = encode(document(Text("a red"), image(300, 200), Text("the circle"), facts=facts), tiny)
    expanded = expand(sample, MediaLimits(), tiny)
    texts = {span.name: tiny.decode(expanded.ids[span.start : span.stop]).strip() for span in expanded.spans}
    assert texts == {"color": "red", "shape": "circle"}


@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
@settings(max_examples=15)
def test_patches_equal_the_reference(frames: int, width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)
    grid = fit(width, height, 10_000)
    patches = cut_patches(list(pixels), grid.rows, grid.cols)
    assert patches.dtype == np.uint8
    assert np.array_equal(patches, np.stack(reference.cut_patches(list(pixels), grid.rows, grid.cols)))


def test_patches_fill_the_given_memory_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 30, 50, 3), np.uint8)
    whole = np.full((50, 3, 14, 14), 7, np.uint8)
    patches = cut_patches(list(pixels), 4, 4, whole[10:42])
    assert np.shares_memory(patches, whole)
    assert np.array_equal(whole[10:42], np.stack(reference.cut_patches(list(pixels), 4, 4)))
    assert (whole[:10] == 7).all() and (whole[42:] == 7).all()


def test_patches_equal_those_of_transformers() -> None:
    """Only the method `patchify` is compiled: its module needs torchvision."""
    torch = pytest.importorskip("torch")
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        pytest.skip("needs transformers")
    file = Path(spec.origin).parent / "models/kimi_k25/image_processing_kimi_k25.py"
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    (method,) = (node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "patchify")
    names: dict[str, Any] = {}
    exec(compile(ast.Module([method], []), str(file), "exec"), names)
    pixels = np.random.default_rng(0).integers(0, 256, (56, 84, 3), np.uint8)
    theirs, rows, cols = names["patchify"](None, torch.from_numpy(pixels).permute(2, 0, 1)[None], 14)
    assert np.array_equal(cut_patches([pixels], rows, cols), theirs[0].numpy())


def test_images_and_frames_have_separate_limits() -> None:
    clip = Media(digest("large"), "video", "mp4", 448, 448, (0,))
    limits = MediaLimits(max_image_patches=64, max_frame_patches=256)
    assert (lay_out(image(448, 448), limits).rows, lay_out(clip, limits).rows) == (8, 16)
    assert lay_out(image(448, 448), limits).size_px == (112, 112)


def test_long_videos_get_the_released_numbers_of_slots() -> None:
    """The evaluation settings of the K2.5 report: 128 frames of 896 px, 2,048 of 448 px."""
    for frames, side, slots in [(128, 896, 32_768), (2048, 448, 131_072)]:
        times_us = tuple(i * 500_000 for i in range(frames))
        assert lay_out(Media(digest("v"), "video", "mp4", side, side, times_us), RELEASED_LIMITS).slots == slots


def packed_image(width: int, height: int, limits: MediaLimits = RELEASED_LIMITS) -> PackedMedia:
    return expand(encode(document(image(width, height)), tiny), limits, tiny).media[0]


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_an_image_within_the_limit_keeps_every_pixel_and_is_padded_with_black() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (30, 50, 3), np.uint8)
    (patches,) = patches_of(packed_image(50, 30), png(pixels))
    canvas = patches.reshape(4, 4, 3, 14, 14).transpose(0, 3, 1, 4, 2).reshape(56, 56, 3)
    assert np.array_equal(canvas[:30, :50], pixels)
    assert not canvas[30:].any() and not canvas[:, 50:].any()


def test_an_image_over_the_limit_is_resized_with_the_released_kernel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    packed = packed_image(400, 300, MediaLimits(max_image_patches=64))
    (patches,) = patches_of(packed, png(pixels))
    _, rows, cols = packed.items[0].grid
    canvas = patches.reshape(rows, cols, 3, 14, 14).transpose(0, 3, 1, 4, 2).reshape(rows * 14, cols * 14, 3)
    width, height = packed.size_px
    expected = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    assert len(patches) == rows * cols <= 80
    assert np.array_equal(canvas[:height, :width], expected)


def test_an_image_of_another_size_than_in_the_index_is_refused() -> None:
    with pytest.raises(RecordError, match="expected 50 x 30 px"):
        patches_of(packed_image(50, 30), png(np.zeros((30, 51, 3), np.uint8)))


@pytest.mark.parametrize("places", [(), (0,), (5, 5)])
def test_media_and_placeholders_must_agree(places: tuple[int, ...]) -> None:
    sample = encode(document(Text("one picture"), image(5, 5)), tiny)
    with pytest.raises(ValueError, match="placeholders"):
        expand(replace(sample, places=places), RELEASED_LIMITS, tiny)
