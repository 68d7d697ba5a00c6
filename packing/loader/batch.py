"""What one optimizer step reads, in numpy: token rows and media, dealt to ranks, the same for every world size.

Before this `loader/loader.py` brings outlines of packs, their arrays and decoded pixels; after it
`loader/torch_batches.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from manifests.geometry import CHANNELS, MERGE, PATCH_PX
from manifests.records import Item, Pack, PackedMedia, Segment, starts

IGNORED = -100
"""The label of a position that predicts nothing; the release's `ignore_index`."""

STAND_IN = 127
"""Value of every pixel of a stand-in: next to 0 after the release's normalisation."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Token rows of one rank: R rows of L positions."""

    rows: np.ndarray
    """(R,) int64: their numbers in the global batch, ascending."""
    ids: np.ndarray
    """(R, L) int64."""
    labels: np.ndarray
    """(R, L) int64: what position i predicts, ids[i + 1] where that is a target in the same segment, else -100."""
    loss_mask: np.ndarray
    """(R, L) bool: where `labels` is not -100."""
    positions: np.ndarray
    """(R, L) int64, from 0 in every segment; 0 in padding."""
    segment_lengths: tuple[tuple[int, ...], ...]
    """Per row, from position 0 on; what remains of a row is padding. With `segment_align` its multiples: the padding
    behind a segment counts to it, so that no attention begins between two context ranks."""


@dataclass(frozen=True, slots=True)
class MediaBatch:
    """Items that one rank encodes: M items of N patches together."""

    patches: np.ndarray
    """(N, 3, 14, 14) uint8, one item after another, each by frame, row, column. The model normalises."""
    grids: np.ndarray
    """(M, 3) int64: t, h, w of each item in patches."""
    rows: np.ndarray
    """(M,) int64: the row of the global batch in which the item's slots lie."""
    first_slots: np.ndarray
    """(M,) int64: position of its first slot in that row."""
    slots: np.ndarray
    """(M,) int64: how many consecutive slots it fills."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A medium of a global batch that did not decode. Its items are stand-ins and its segment carries no loss."""

    row: int
    """Of the global batch."""
    digest: str
    """Of the medium. Its number in the row would change when others are forgotten."""
    sample: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """An item and its place in the global batch."""

    row: int
    medium: int
    """Which of the row's media."""
    index: int
    """Which of the medium's items."""
    item: Item


def placed_items(media: Sequence[Sequence[PackedMedia]]) -> list[PlacedItem]:
    """All items of a global batch in canonical order: by row, medium, item. `media`: those of each row."""
    return [
        PlacedItem(row, number, index, item)
        for row, packed in enumerate(media)
        for number, one in enumerate(packed)
        for index, item in enumerate(one.items)
    ]


def segment_at(segments: Sequence[Segment], position: int) -> tuple[Segment, int]:
    """The segment that holds `position` of a row, and where it begins."""
    for segment, start, end in starts(segments):
        if position < end:
            return segment, start
    raise IndexError(f"position {position} lies in the padding")


def rows_of(
    numbers: Sequence[int],
    segments: Sequence[Sequence[Segment]],
    ids: np.ndarray,
    targets: np.ndarray,
    silent: Mapping[int, Sequence[int]] | None = None,
) -> TokenRows:
    """Args:
    numbers: (R,) of the rows in the global batch.
    segments: of each row.
    ids: (R, L) of any integer type.
    targets: (R, L) bool, as in `Pack.loss_mask`: position i is predicted.
    silent: by row number, positions whose segments carry no loss.
    """
    wide = ids.astype(np.int64)
    labels = np.full_like(wide, IGNORED)
    positions = np.zeros_like(wide)
    for row, mine in enumerate(segments):
        quiet = (silent or {}).get(numbers[row], ())
        for _, at, end in starts(mine):
            positions[row, at:end] = np.arange(end - at)
            if not any(at <= position < end for position in quiet):
                labels[row, at : end - 1] = np.where(targets[row, at + 1 : end], wide[row, at + 1 : end], IGNORED)
    lengths = tuple(tuple(segment.length + segment.padding for segment in mine) for mine in segments)
    return TokenRows(np.array(numbers, np.int64), wide, labels, labels != IGNORED, positions, lengths)


def rows_of_packs(packs: Sequence[Pack]) -> TokenRows:
    """Whole packs as the rows of one rank."""
    ids = np.stack([pack.ids for pack in packs])
    targets = np.stack([pack.loss_mask for pack in packs])
    return rows_of(range(len(packs)), [pack.segments for pack in packs], ids, targets)


def media_batch(placed: Sequence[PlacedItem], patches: np.ndarray) -> MediaBatch:
    """`patches`: of all items, one after another, (N, 3, 14, 14) uint8."""
    grids = np.array([one.item.grid for one in placed], np.int64).reshape(-1, 3)
    return MediaBatch(
        patches=patches,
        grids=grids,
        rows=np.array([one.row for one in placed], np.int64),
        first_slots=np.array([one.item.slot for one in placed], np.int64),
        slots=grids[:, 1] * grids[:, 2] // MERGE**2,
    )


def room_for(placed: Sequence[PlacedItem]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Memory for the patches of all items, one after another, and the part of each."""
    ends = np.cumsum([prod(one.item.grid) for one in placed], dtype=np.int64)
    whole = np.empty((int(ends[-1]) if placed else 0, CHANNELS, PATCH_PX, PATCH_PX), np.uint8)
    return whole, np.split(whole, ends[:-1]) if placed else []
