"""NaViT: every medium in its own resolution, as a run of slots in the text and a run of patches for the encoder.

Before this stands an unexpanded `Sample`, one placeholder per medium; here a plan's limits fix how many slots each gets
(`expand`), and pixels become patches (`cut_patches`). After it packs and batches. Sources: Dehghani et al. 2023, "Patch
n' Pack"; sizes, padding, patch order and prompt form are the released Kimi K2.5 processor's (manifests/geometry.py).
Loss on expanded tokens is inferred: slots, wrappers and timestamps carry none, as no placeholder did.
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
    timestamp,
    told_time_s,
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
    """One medium under some limits: size, grid, and which frames share which slots."""

    size_px: tuple[int, int]
    """(width, height) after resizing, before padding."""
    rows: int
    cols: int
    """Patches down and across, both even."""
    chunks: tuple[tuple[int, ...], ...]
    """Frame ordinals, up to four per chunk; empty for an image."""
    times_s: tuple[float, ...] = ()
    """What each chunk is told to begin at."""

    @property
    def slots(self) -> int:
        """Of the whole medium."""
        return self.rows * self.cols // MERGE**2 * max(1, len(self.chunks))

    @property
    def patches(self) -> int:
        """That the encoder sees, of all frames."""
        return self.rows * self.cols * max(1, sum(map(len, self.chunks)))


def lay_out(media: Media, limits: MediaLimits) -> MediaLayout:
    if media.kind == "image":
        place = fit(media.width_px, media.height_px, limits.max_image_patches)
        return MediaLayout((place.width_px, place.height_px), place.rows, place.cols, ())
    place = fit(media.width_px, media.height_px, limits.max_frame_patches)
    times_us, fps = media.frame_times_us, media.container_fps
    frames = chunks(choose_frames(times_us, limits, fps))
    told = tuple(told_time_s(chunk[0], times_us, limits, fps) for chunk in frames)
    return MediaLayout((place.width_px, place.height_px), place.rows, place.cols, frames, told)


@dataclass(frozen=True, slots=True)
class Expanded:
    """A sample as the model sees it under some limits, before it is cut into pieces."""

    ids: np.ndarray
    """(E,) uint32."""
    targets: np.ndarray
    """(E,) bool: ids that carry loss."""
    media: tuple[PackedMedia, ...]
    """Slots counted from the first id of the sample."""
    spans: tuple[Span, ...]


def expand(sample: Sample, limits: MediaLimits, vocabulary: Vocabulary) -> Expanded:
    """Replace every placeholder by what a medium takes under `limits`.

    An image's pad id becomes its slots (its wrapper stands in the sample already); a video's placeholder becomes, per
    chunk, `HH:MM:SS.mmm<|media_begin|>video<|media_content|><|media_pad|>*N<|media_end|>`.

    Raises ValueError where placeholders and media disagree.
    """
    stand_in = {"image": vocabulary.media_pad_id, "video": vocabulary.video_placeholder_id}
    expected = [stand_in[media.kind] for media in sample.media]
    places = list(sample.places)
    found = sample.ids[places].tolist()
    if found != expected:
        raise ValueError(f"sample {sample.id} has ids {found} where placeholders {expected} of its media should stand")
    targets = np.zeros(len(sample.ids), bool)
    for start, stop in sample.loss_runs.tolist():
        targets[start:stop] = True
    id_runs: list[np.ndarray] = []
    target_runs: list[np.ndarray] = []
    packed: list[PackedMedia] = []
    growth = [0]
    done = length = 0
    told = tuple(sorted({span.name for span in sample.spans}))
    for ordinal, (place, media) in enumerate(zip(places, sample.media, strict=True)):
        layout = lay_out(media, limits)
        ids, slots = _media_ids(media, layout, vocabulary)
        id_runs += [sample.ids[done:place], ids]
        target_runs += [targets[done:place], np.zeros(len(ids), bool)]
        length += place - done
        items = _items(layout, [length + slot for slot in slots])
        packed.append(PackedMedia(media, layout.size_px, items, sample.shapes.get(ordinal, ()), told))
        length += len(ids)
        done = place + 1
        growth.append(length - done)
    id_runs.append(sample.ids[done:])
    target_runs.append(targets[done:])
    moved = [
        Span(span.name, *(at + growth[bisect_left(places, at)] for at in (span.start, span.stop)))
        for span in sample.spans
    ]
    return Expanded(np.concatenate(id_runs), np.concatenate(target_runs), tuple(packed), tuple(moved))


def media_tokens(media: Media, layout: MediaLayout, vocabulary: Vocabulary) -> int:
    """Tokens that the medium takes in place of its placeholder."""
    return len(_media_ids(media, layout, vocabulary)[0])


def _media_ids(media: Media, layout: MediaLayout, vocabulary: Vocabulary) -> tuple[np.ndarray, list[int]]:
    """The ids that replace the placeholder, and where in them each item's slots begin."""
    pad = vocabulary.media_pad_id
    each = layout.rows * layout.cols // MERGE**2
    if media.kind == "image":
        return np.full(each, pad, np.uint32), [0]
    special = vocabulary.special
    opening = [special["<|media_begin|>"], *vocabulary.encode("video"), special["<|media_content|>"]]
    ids: list[int] = []
    slots: list[int] = []
    for time_s in layout.times_s:
        ids += vocabulary.encode(timestamp(time_s)) + opening
        slots.append(len(ids))
        ids += [pad] * each
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
    """Pad right and bottom with zeros to the grid, and cut.

    Args:
        frames: T arrays (H, W, 3) uint8, all of one size, resized already; H <= rows * 14, W <= cols * 14.
        out: where the patches go, by default new memory.
    Returns:
        (T * rows * cols, 3, 14, 14) uint8, ordered by frame, row, column. Zeros are padded before normalisation, as in
        the release, so padding is black (-1), not grey.
    """
    from packing.navit_loops import cut  # costs time and memory that nobody pays who has no pictures

    if out is None:
        out = np.empty((len(frames) * rows * cols, CHANNELS, PATCH_PX, PATCH_PX), np.uint8)
    for frame, patches in zip(frames, out.reshape(len(frames), -1, *out.shape[1:]), strict=True):
        cut(frame, cols, patches)
    return out


_MEMORY: list[PixelMemory] = []
"""Pixels of one picture each; of threads, also earlier loaders', that decode none right now."""


def patches_of(
    packed: PackedMedia,
    payload: bytes,
    stages: PhaseTimer | None = None,
    change: ImageTransform = RESIZE_ONLY,
    out: Sequence[np.ndarray] | None = None,
    pixels: Pixels = "exact",
) -> list[np.ndarray]:
    """Decode one medium, resize it as planned and cut it: per item (t * h * w, 3, 14, 14) uint8.

    `stages` counts the time; frames of a video are changed and resized while they are decoded. `out`: where each item's
    patches go, by default new memory. Raises RecordError where the bytes don't decode to what the index promised.
    """
    stages = stages or PhaseTimer()
    memory = _MEMORY.pop() if _MEMORY else PixelMemory()
    try:
        frames = _frames(packed, payload, stages, change, pixels, memory)
        with stages.timed("patch"):
            return [
                cut_patches([next(frames) for _ in range(item.grid[0])], *item.grid[1:], out[i] if out else None)
                for i, item in enumerate(packed.items)
            ]
    finally:
        _MEMORY.append(memory)


def _frames(
    packed: PackedMedia, payload: bytes, stages: PhaseTimer, change: ImageTransform, pixels: Pixels, memory: PixelMemory
) -> Iterator[np.ndarray]:
    """Changed and of the planned size, valid until the next use of `memory`."""
    media = packed.media
    if media.kind == "video":
        times_us = [media.frame_times_us[frame] for item in packed.items for frame in item.frames]
        with stages.timed("decode"):
            return iter(frames_at(payload, times_us, each=lambda rgb: change.apply(rgb, packed.size_px)))
    with stages.timed("decode"):
        if pixels == "fast" and change.crop is None:  # a view is cut out of the true pixels
            rgb, (width, height) = decode_near(payload, *packed.size_px, memory=memory)  # resized, too
        else:
            rgb = decode_rgb(payload, memory=memory)
            height, width, _ = rgb.shape
    if (width, height) != (media.width_px, media.height_px):
        said = f"decodes to {width} x {height} px, not to {media.width_px} x {media.height_px} px"
        raise RecordError("wrong_size", said)
    with stages.timed("resize"):
        return iter([change.apply(rgb, packed.size_px)])
