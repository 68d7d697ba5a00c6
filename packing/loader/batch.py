"""Contents of one optimizer step in numpy: token rows and media items, equal for every world size.

`loader/global_batch.py` fills them from packs and decoded pixels; `loader/torch_batches.py` turns them into tensors.
Shape letters: R rows, L positions per row, M media items, N patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from manifests.geometry import CHANNELS, MERGE, PATCH_PX
from manifests.records import Item, Pack, PackedMedia, Segment, segment_ranges

IGNORED = -100
"""Label of a position without a target; `ignore_index` of the released model."""

STAND_IN = 127
"""Value of every pixel of a stand-in: close to 0 after the released normalization."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Token rows of one rank."""

    rows: np.ndarray
    """(R,) int64: their numbers in the global batch, ascending."""
    ids: np.ndarray
    """(R, L) int64."""
    labels: np.ndarray
    """(R, L) int64: ids[i + 1] where that is a target in the same segment as position i, else -100."""
    loss_mask: np.ndarray
    """(R, L) bool: `labels` is not -100."""
    positions: np.ndarray
    """(R, L) int64, from 0 in every segment; 0 in padding."""
    segment_lengths: tuple[tuple[int, ...], ...]
    """Lengths per row, from position 0 on; the rest of a row is padding. With `segment_align` they are multiples of it:
    the padding behind a segment counts as part of it, so that a segment never starts in the middle of a context rank's
    piece."""


@dataclass(frozen=True, slots=True)
class MediaItems:
    """Media items that one rank encodes."""

    patches: np.ndarray
    """(N, 3, 14, 14) uint8, item after item, each by frame, row, column. The model normalizes."""
    grids: np.ndarray
    """(M, 3) int64: t, h, w of each item in patches."""
    rows: np.ndarray
    """(M,) int64: row of the global batch that holds the item's slots."""
    first_slots: np.ndarray
    """(M,) int64: position of the item's first slot in that row."""
    slots: np.ndarray
    """(M,) int64: number of consecutive slots that the item fills."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A medium of a global batch that did not decode. Gray items replace it, and its segment carries no loss."""

    row: int
    """Row of the global batch."""
    digest: str
    """SHA-256 of the medium. Its number in the row would change when other media are forgotten."""
    sample: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """A media item and its address in the global batch."""

    row: int
    medium: int
    """Number of the medium in its row."""
    index: int
    """Number of the item in its medium."""
    item: Item


def placed_items(media: Sequence[Sequence[PackedMedia]]) -> list[PlacedItem]:
    """Return all items of a global batch, ordered by row, medium and item.

    Args:
        media: media of each row.
    """
    return [
        PlacedItem(row, number, index, item)
        for row, row_media in enumerate(media)
        for number, packed in enumerate(row_media)
        for index, item in enumerate(packed.items)
    ]


def segment_at(segments: Sequence[Segment], position: int) -> tuple[Segment, int]:
    """Return the segment that holds `position` of a row, and its first position."""
    for segment, start, end in segment_ranges(segments):
        if position < end:
            return segment, start
    raise IndexError(f"position {position} is in the padding of its row")


def token_rows(
    numbers: Sequence[int],
    segments: Sequence[Sequence[Segment]],
    ids: np.ndarray,
    targets: np.ndarray,
    muted: Mapping[int, Sequence[int]] | None = None,
) -> TokenRows:
    """Build the rows of one rank.

    Args:
        numbers: (R,) numbers of the rows in the global batch.
        segments: segments of each row.
        ids: (R, L) of any integer type.
        targets: (R, L) bool, as in `Pack.loss_mask`: position i is predicted.
        muted: by row number, positions whose segments carry no loss.
    """
    wide = ids.astype(np.int64)
    labels = np.full_like(wide, IGNORED)
    positions = np.zeros_like(wide)
    for row, row_segments in enumerate(segments):
        row_muted = (muted or {}).get(numbers[row], ())
        for _, start, end in segment_ranges(row_segments):
            positions[row, start:end] = np.arange(end - start)
            if not any(start <= position < end for position in row_muted):
                next_ids, next_targets = wide[row, start + 1 : end], targets[row, start + 1 : end]
                labels[row, start : end - 1] = np.where(next_targets, next_ids, IGNORED)
    lengths = tuple(tuple(segment.length + segment.padding for segment in row_segments) for row_segments in segments)
    return TokenRows(np.array(numbers, np.int64), wide, labels, labels != IGNORED, positions, lengths)


def rows_of_packs(packs: Sequence[Pack]) -> TokenRows:
    """Return whole packs as the rows of one rank."""
    ids = np.stack([pack.ids for pack in packs])
    targets = np.stack([pack.loss_mask for pack in packs])
    return token_rows(range(len(packs)), [pack.segments for pack in packs], ids, targets)


def media_items(items: Sequence[PlacedItem], patches: np.ndarray) -> MediaItems:
    """Combine items with their patches, (N, 3, 14, 14) uint8 in the order of `items`."""
    grids = np.array([placed.item.grid for placed in items], np.int64).reshape(-1, 3)
    return MediaItems(
        patches=patches,
        grids=grids,
        rows=np.array([placed.row for placed in items], np.int64),
        first_slots=np.array([placed.item.slot for placed in items], np.int64),
        slots=grids[:, 1] * grids[:, 2] // MERGE**2,
    )


def patch_memory(items: Sequence[PlacedItem]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Allocate memory for the patches of all items, (N, 3, 14, 14) uint8, and return it with the part of each item."""
    ends = np.cumsum([prod(placed.item.grid) for placed in items], dtype=np.int64)
    whole = np.empty((int(ends[-1]) if items else 0, CHANNELS, PATCH_PX, PATCH_PX), np.uint8)
    return whole, np.split(whole, ends[:-1]) if items else []
