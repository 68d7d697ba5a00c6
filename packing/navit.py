"""NaViT packing of media: every medium in its own resolution, as a run of slots in the text and a run of patches.

An unexpanded `Sample` has one placeholder per medium. `expand` replaces it by the slots that a medium gets under a
plan's limits, for planning and for making packs; `patches_of` decodes pixels and cuts them into patches, for the
loader. Sources: Dehghani et al. 2023, "Patch n' Pack"; sizes, padding, patch order and prompt form are those of the
released Kimi K2.5 processor (`manifests/geometry.py`). Inferred: slots, wrappers and timestamps carry no loss, because
their placeholder carried none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from manifests.errors import RecordError
from manifests.geometry import (
    CHANNELS,
    MERGE,
    PATCH_PX,
    MediaLimits,
    choose_frames,
    chunks,
    fit,
    frame_time_s,
    timestamp,
)
from manifests.records import Item, Media, PackedMedia, Sample, Span
from packing.augment import RESIZE_ONLY, ImageTransform
from packing.mixture import Pixels
from packing.timing import PhaseTimer
from stores.media.image import PixelMemory, decode_near, decode_rgb
from stores.media.video import frames_at
from tokenization.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class MediaLayout:
    """Size and grid of one medium under some limits, and the frames that share slots."""

    size_px: tuple[int, int]
    """(width, height) after resizing, before padding."""
    rows: int
    """Patches down, even."""
    cols: int
    """Patches across, even."""
    chunks: tuple[tuple[int, ...], ...]
    """Frame numbers of each chunk, up to four; empty for an image."""
    times_s: tuple[float, ...] = ()
    """Start of each chunk as the model reads it."""

    @property
    def slots(self) -> int:
        """Vision tokens of the whole medium."""
        return self.rows * self.cols // MERGE**2 * max(1, len(self.chunks))

    @property
    def patches(self) -> int:
        """Patches of all frames, as the encoder sees them."""
        return self.rows * self.cols * max(1, sum(map(len, self.chunks)))


def lay_out(media: Media, limits: MediaLimits) -> MediaLayout:
    """Compute the layout of a medium under `limits`."""
    if media.kind == "image":
        fitted = fit(media.width_px, media.height_px, limits.max_image_patches)
        return MediaLayout((fitted.width_px, fitted.height_px), fitted.rows, fitted.cols, ())
    fitted = fit(media.width_px, media.height_px, limits.max_frame_patches)
    times_us, fps = media.frame_times_us, media.container_fps
    frames = chunks(choose_frames(times_us, limits, fps))
    times_s = tuple(frame_time_s(chunk[0], times_us, limits, fps) for chunk in frames)
    return MediaLayout((fitted.width_px, fitted.height_px), fitted.rows, fitted.cols, frames, times_s)


@dataclass(frozen=True, slots=True)
class Expanded:
    """A sample as the model sees it under some limits, before it is cut into pieces: E tokens."""

    ids: np.ndarray
    """(E,) uint32."""
    targets: np.ndarray
    """(E,) bool: ids that carry loss."""
    media: tuple[PackedMedia, ...]
    """Media with slots counted from the first id of the sample."""
    spans: tuple[Span, ...]


def expand(sample: Sample, limits: MediaLimits, vocabulary: Vocabulary) -> Expanded:
    """Replace every placeholder by the tokens that its medium takes under `limits`.

    The pad id of an image becomes the image's slots; its wrapper is part of the sample. The placeholder of a video
    becomes, per chunk, `HH:MM:SS.mmm<|media_begin|>video<|media_content|><|media_pad|>*N<|media_end|>`.

    Raises:
        ValueError: placeholders and media disagree.
    """
    placeholder = {"image": vocabulary.media_pad_id, "video": vocabulary.video_placeholder_id}
    expected = [placeholder[media.kind] for media in sample.media]
    places = list(sample.places)
    actual = sample.ids[places].tolist()
    if actual != expected:
        raise ValueError(f"sample {sample.id}: expected the placeholders {expected} of its media, got ids {actual}")
    targets = np.zeros(len(sample.ids), bool)
    for start, stop in sample.loss_runs.tolist():
        targets[start:stop] = True
    id_runs: list[np.ndarray] = []
    target_runs: list[np.ndarray] = []
    packed: list[PackedMedia] = []
    growth = [0]
    done = length = 0
    fact_names = tuple(sorted({span.name for span in sample.spans}))
    for ordinal, (place, media) in enumerate(zip(places, sample.media, strict=True)):
        layout = lay_out(media, limits)
        ids, slots = _media_ids(media, layout, vocabulary)
        id_runs += [sample.ids[done:place], ids]
        target_runs += [targets[done:place], np.zeros(len(ids), bool)]
        length += place - done
        items = _items(layout, [length + slot for slot in slots])
        packed.append(PackedMedia(media, layout.size_px, items, sample.shapes.get(ordinal, ()), fact_names))
        length += len(ids)
        done = place + 1
        growth.append(length - done)
    id_runs.append(sample.ids[done:])
    target_runs.append(targets[done:])
    spans = tuple(
        Span(span.name, *(at + growth[bisect_left(places, at)] for at in (span.start, span.stop)))
        for span in sample.spans
    )
    return Expanded(np.concatenate(id_runs), np.concatenate(target_runs), tuple(packed), spans)


def media_tokens(media: Media, layout: MediaLayout, vocabulary: Vocabulary) -> int:
    """Return the number of tokens that replace the placeholder of a medium."""
    return len(_media_ids(media, layout, vocabulary)[0])


def _media_ids(media: Media, layout: MediaLayout, vocabulary: Vocabulary) -> tuple[np.ndarray, list[int]]:
    """Return the ids that replace a placeholder, and the offset of each item's first slot in them."""
    pad = vocabulary.media_pad_id
    item_slots = layout.rows * layout.cols // MERGE**2
    if media.kind == "image":
        return np.full(item_slots, pad, np.uint32), [0]
    special = vocabulary.special
    opening = [special["<|media_begin|>"], *vocabulary.encode("video"), special["<|media_content|>"]]
    ids: list[int] = []
    slots: list[int] = []
    for time_s in layout.times_s:
        ids += vocabulary.encode(timestamp(time_s)) + opening
        slots.append(len(ids))
        ids += [pad] * item_slots
        ids.append(special["<|media_end|>"])
    return np.array(ids, np.uint32), slots


def _items(layout: MediaLayout, slots: list[int]) -> tuple[Item, ...]:
    if not layout.chunks:
        return (Item((1, layout.rows, layout.cols), slots[0]),)
    return tuple(
        Item((len(frames), layout.rows, layout.cols), slot, frames)
        for frames, slot in zip(layout.chunks, slots, strict=True)
    )


def cut_patches(frames: Sequence[np.ndarray], rows: int, cols: int, out: np.ndarray | None = None) -> np.ndarray:
    """Pad frames with zeros at the right and bottom to the grid, and cut them into patches.

    Args:
        frames: T arrays (H, W, 3) uint8 of one size, already resized; H <= rows * 14, W <= cols * 14.
        out: memory for the patches, by default new.
    Returns:
        (T * rows * cols, 3, 14, 14) uint8, ordered by frame, row, column. As in the release, padding is 0 before
        normalization: black (-1), not gray.
    """
    from packing.navit_loops import cut  # imports numba, which a process without images does not need

    if out is None:
        out = np.empty((len(frames) * rows * cols, CHANNELS, PATCH_PX, PATCH_PX), np.uint8)
    for frame, patches in zip(frames, out.reshape(len(frames), -1, *out.shape[1:]), strict=True):
        cut(frame, cols, patches)
    return out


_FREE_MEMORY: list[PixelMemory] = []
"""Pixel buffers of threads that are not decoding now, also of earlier loaders; one image each."""


def patches_of(
    packed: PackedMedia,
    payload: bytes,
    timer: PhaseTimer | None = None,
    transform: ImageTransform = RESIZE_ONLY,
    out: Sequence[np.ndarray] | None = None,
    pixels: Pixels = "exact",
) -> list[np.ndarray]:
    """Decode one medium, resize it to its planned size and cut it into patches.

    Args:
        payload: encoded bytes of the medium.
        timer: takes the time by phase. Transforming and resizing video frames counts as decoding.
        out: memory for the patches of each item, by default new.
    Returns:
        per item (t * h * w, 3, 14, 14) uint8.
    Raises:
        RecordError: the bytes do not decode to the size in the index.
    """
    timer = timer or PhaseTimer()
    memory = _FREE_MEMORY.pop() if _FREE_MEMORY else PixelMemory()
    try:
        frames = _frames(packed, payload, timer, transform, pixels, memory)
        with timer.timed("patch"):
            return [
                cut_patches([next(frames) for _ in range(item.grid[0])], *item.grid[1:], out[i] if out else None)
                for i, item in enumerate(packed.items)
            ]
    finally:
        _FREE_MEMORY.append(memory)


def _frames(
    packed: PackedMedia,
    payload: bytes,
    timer: PhaseTimer,
    transform: ImageTransform,
    pixels: Pixels,
    memory: PixelMemory,
) -> Iterator[np.ndarray]:
    """Return the transformed frames in their planned size; they are valid until the next use of `memory`."""
    media = packed.media
    if media.kind == "video":
        times_us = [media.frame_times_us[frame] for item in packed.items for frame in item.frames]
        with timer.timed("decode"):
            return iter(frames_at(payload, times_us, each=lambda rgb: transform.apply(rgb, packed.size_px)))
    with timer.timed("decode"):
        if pixels == "fast" and transform.crop is None:  # a crop needs the exact pixels
            rgb, (width, height) = decode_near(payload, *packed.size_px, memory=memory)  # already resized
        else:
            rgb = decode_rgb(payload, memory=memory)
            height, width, _ = rgb.shape
    if (width, height) != (media.width_px, media.height_px):
        message = f"decodes to {width} x {height} px, expected {media.width_px} x {media.height_px} px"
        raise RecordError("wrong_size", message)
    with timer.timed("resize"):
        return iter([transform.apply(rgb, packed.size_px)])
