"""One global batch during loading: dealt to ranks, read, decoded ahead, and final before the trainer sees it.

`loader/loader.py` makes one after the other and hands them to a trainer or to `loader/torch_batches.py`. All batches of
a loader share a `PackReader`: the packs, the ranks, the decoder threads and the memory budget.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from manifests.errors import RecordError, StoreError
from manifests.geometry import CHANNELS, PATCH_PX
from manifests.records import Item, Pack, PackedMedia
from packing.augment_shapes import VisibleShape
from packing.loader.balance import deal, encoder_cost, llm_cost
from packing.loader.batch import (
    STAND_IN,
    Failure,
    MediaItems,
    PlacedItem,
    TokenRows,
    media_items,
    patch_memory,
    placed_items,
    segment_at,
    token_rows,
)
from packing.loader.stand_ins import StandIns
from packing.timing import PhaseTimer
from stores.store import Snapshot

if TYPE_CHECKING:
    from packing.augment import Augmentation, ImageTransform
    from packing.mixture import Pixels

MANY_FAILURES = 4
"""Fewer failed media in a batch are always replaced. From this number on, if they are more than half of its media, the
decoder is taken to be broken rather than the data."""

PATCH_BYTES = CHANNELS * PATCH_PX * PATCH_PX

ChainLink = tuple[int, Snapshot]
"""(first global batch, packs snapshot that gives it and the following ones). A plan that is amended at batch N
continues in another snapshot: ((0, A), (N, B))."""


class GlobalBatch:
    """Data of one optimizer step, the same for every world size. Made by a `Loader`."""

    held_bytes = 0
    """Bytes of the memory budget that this batch holds."""

    def __init__(self, reader: PackReader, number: int) -> None:
        self.number = number
        self.failures: tuple[Failure, ...] = ()
        """Media of all ranks that stand-ins replace."""
        self._reader = reader
        self._decoding: dict[tuple[int, int], Future[list[np.ndarray]]] = {}
        """Decoder jobs by (row, medium), for media of this process; a job writes into the memory below."""
        self._patches: dict[int, np.ndarray] = {}
        """By rank: memory for the patches of all its items."""
        self._item_patches: dict[int, np.ndarray] = {}
        """By number of an item: its part of that memory."""
        self._arrays: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        """By rank: ids and loss mask that were read ahead."""

    @cached_property
    def packs(self) -> tuple[Pack, ...]:
        """Segments and media of all rows; their ids and loss masks are empty."""
        with self._reader.timer.timed("outline"):
            return self._reader.outlines(self.number)

    @property
    def tokens(self) -> int:
        """Number of non-padding tokens in all rows, as schedules count."""
        return sum(segment.length for pack in self.packs for segment in pack.segments)

    def ids(self, rank: int) -> np.ndarray:
        """(R, L) uint32: ids of the rows of `rank`, without labels and masks."""
        return self._reader.array(self.number, "ids", np.dtype("<u4"), self._dealt_rows(rank))

    def rows(self, rank: int) -> TokenRows:
        """Return the token rows of `rank`, with labels."""
        ids, targets = self._arrays.get(rank) or self._read_rows(rank)
        numbers = self._dealt_rows(rank)
        failed = self._failed
        muted = {
            row: [
                item.slot
                for packed in self.packs[row].media
                if (row, packed.media.digest) in failed
                for item in packed.items
            ]
            for row in {failure.row for failure in self.failures}
        }
        with self._reader.timer.timed("collate"):
            return token_rows(numbers, [self.packs[row].segments for row in numbers], ids, targets, muted)

    def media(self, rank: int) -> MediaItems:
        """Return the items that `rank` encodes; waits for its decoder jobs.

        Raises:
            ValueError: this process does not decode for that rank.
        """
        if self._items and rank not in self._reader.ranks:
            raise ValueError(f"this loader decodes for ranks {self._reader.ranks}, not for {rank}")
        failed = self._failed
        for i in self._dealt_items[rank]:
            placed = self._items[i]
            if (placed.row, self.packs[placed.row].media[placed.medium].media.digest) in failed:
                self._item_patches[i].fill(STAND_IN)
            else:
                self._decoding[placed.row, placed.medium].result()
        with self._reader.timer.timed("collate"):
            items = [self._items[i] for i in self._dealt_items[rank]]
            return media_items(items, self._patches[rank] if items else patch_memory(items)[0])

    @property
    def shapes(self) -> dict[tuple[int, int], tuple[VisibleShape, ...]]:
        """Points, boxes and polygons in pixels of the encoded image, by (row, first slot) of the medium.

        Media without shapes and stand-ins are left out.
        """
        return {
            (row, packed.items[0].slot): self._transform(row, packed).move_shapes(
                packed.shapes, (packed.media.width_px, packed.media.height_px), packed.size_px
            )
            for row, pack in enumerate(self.packs)
            for packed in pack.media
            if packed.shapes and (row, packed.media.digest) not in self._failed
        }

    @property
    def _failed(self) -> set[tuple[int, str]]:
        return {(failure.row, failure.digest) for failure in self.failures}

    # ------------------------------------------------------------------ dealing and preparing

    def _dealt_rows(self, rank: int) -> Sequence[int]:
        if self._reader.world == 1:
            return range(self._reader.size)
        return self._rows_by_rank[rank]

    @cached_property
    def _rows_by_rank(self) -> list[list[int]]:
        costs = [llm_cost(segment.length for segment in pack.segments) for pack in self.packs]
        return deal(costs, self._reader.world, equal_counts=True)

    @cached_property
    def _items(self) -> list[PlacedItem]:
        return placed_items([pack.media for pack in self.packs]) if self._reader.has_media(self.number) else []

    @cached_property
    def _dealt_items(self) -> list[list[int]]:
        """By encoder rank: numbers of its items in `_items`."""
        return deal([encoder_cost(placed.item.grid) for placed in self._items], self._reader.encoders)

    def _read_rows(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = self._dealt_rows(rank)
        return (
            self._reader.array(self.number, "ids", np.dtype("<u4"), numbers),
            self._reader.array(self.number, "loss_mask", np.dtype(bool), numbers),
        )

    def prepare(self) -> None:
        """Read the rows and encoded media of this process, and start its decoder jobs. Runs in the read thread."""
        for rank in self._reader.row_ranks:
            self._arrays[rank] = self._read_rows(rank)
        wanted = sorted(i for rank in self._reader.ranks for i in self._dealt_items[rank])
        replaced = {(failure.row, failure.digest) for failure in self._decided or ()}
        media = [
            (row, medium, tuple(group))
            for (row, medium), group in groupby(wanted, lambda i: (self._items[i].row, self._items[i].medium))
            if (row, self.packs[row].media[medium].media.digest) not in replaced
        ]
        self.held_bytes = sum(
            _memory_bytes(self.packs[row].media[medium], [self._items[i].item for i in numbers])
            for row, medium, numbers in media
        )
        if not self._reader.budget.take(self.held_bytes):
            return  # the loader was closed
        for rank in self._reader.ranks:
            self._patches[rank], parts = patch_memory([self._items[i] for i in self._dealt_items[rank]])
            self._item_patches |= zip(self._dealt_items[rank], parts, strict=True)
        if media:
            from packing.navit import patches_of  # imports the decoders, memory that a loader of text does not need
        for row, medium, numbers in media:
            packed = self.packs[row].media[medium]
            payload = self._reader.payload(self.number, packed, self._reader.where(self.number, row))
            own_items = replace(packed, items=tuple(self._items[i].item for i in numbers))
            self._decoding[row, medium] = self._reader.decoders.submit(
                patches_of,
                own_items,
                payload,
                self._reader.timer,
                self._transform(row, packed),
                [self._item_patches[i] for i in numbers],
                self._reader.pixels,
            )

    def _transform(self, row: int, packed: PackedMedia) -> ImageTransform:
        from packing.augment import RESIZE_ONLY, draw_transform

        settings, slot = self._reader.augment, packed.items[0].slot
        if settings is None or segment_at(self.packs[row].segments, slot)[0].source not in settings.sources:
            return RESIZE_ONLY
        size_px = (packed.media.width_px, packed.media.height_px)
        return draw_transform(settings, (self.number, row, slot), size_px, packed.fact_names)

    @property
    def _decided(self) -> tuple[Failure, ...] | None:
        stand_ins = self._reader.stand_ins
        return stand_ins.decided(self.number) if stand_ins else None

    def settle(self) -> None:
        """Wait for the decoder jobs, agree with the other ranks on failures, and store the decision.

        The batch is given out only after this.

        Raises:
            StoreError: a medium does not decode and may not be replaced.
        """
        failures = []
        cause: RecordError | None = None
        for (row, medium), job in self._decoding.items():
            error = job.exception()
            if error is not None and not isinstance(error, RecordError):
                raise error
            if error is not None:
                cause = error
                packed = self.packs[row].media[medium]
                segment, _ = segment_at(self.packs[row].segments, packed.items[0].slot)
                failures.append(Failure(row, packed.media.digest, segment.sample, segment.source, error.reason))
        stand_ins, decided = self._reader.stand_ins, self._decided
        if failures and (stand_ins is None or decided is not None):
            raise self._unusable(failures[0], cause, used_before=decided is not None)
        if decided is not None:
            self.failures = decided
            return
        if stand_ins is None:
            return
        agreed = tuple(stand_ins.agree(self.number, list(dict.fromkeys(failures))))
        total = sum(len(pack.media) for pack in self.packs) if agreed else 0
        if len(agreed) >= MANY_FAILURES and len(agreed) * 2 > total:
            summary = f"{len(agreed)} of {total} media of a batch don't decode; "
            raise self._unusable(agreed[0], cause, used_before=False, summary=summary)
        if agreed:
            stand_ins.decide(self.number, agreed)
            self.failures = agreed

    def _unusable(
        self, failure: Failure, cause: RecordError | None, *, used_before: bool, summary: str = ""
    ) -> StoreError:
        why = f"{failure.reason}: {cause.message}" if cause else failure.reason
        medium = f"medium {failure.digest[:16]} of record {failure.sample} ({failure.source})"
        earlier = ", but it decoded when this batch was first loaded" if used_before else ""
        return StoreError(
            f"{summary}{medium} does not decode: {why}{earlier}",
            where=self._reader.where(self.number, failure.row),
            fix="use the decoder that accepted it, make the packs again without it, or give the loader stand_ins",
        )


@dataclass(frozen=True, slots=True)
class PackReader:
    """Packs, ranks, threads and budget that all batches of a loader share."""

    chain: tuple[ChainLink, ...]
    size: int
    """Packs in a global batch."""
    world: int
    """Ranks that rows are dealt to."""
    encoders: int
    """Ranks that media are dealt to."""
    ranks: tuple[int, ...]
    """Ranks whose media this process decodes."""
    row_ranks: tuple[int, ...]
    """Ranks whose rows this process reads ahead."""
    stand_ins: StandIns | None
    timer: PhaseTimer
    budget: MemoryBudget
    decoders: ThreadPoolExecutor
    augment: Augmentation | None
    pixels: Pixels

    def address(self, number: int) -> tuple[Snapshot, int]:
        """Return the snapshot that gives a global batch, and the number of the batch's first pack in it."""
        first, packs = self.chain[bisect_right(self.chain, number, key=lambda link: link[0]) - 1]
        return packs, (number - first) * self.size

    def has_media(self, number: int) -> bool:
        """Return whether the snapshot of a global batch holds any media."""
        counts = self.address(number)[0].counts
        return bool(counts["images"] + counts["videos"])

    def where(self, number: int, row: int) -> str:
        """Return the name of a row for messages: `STORE[PACK]`."""
        packs, first = self.address(number)
        return f"{packs.name}[{first + row}]"

    def outlines(self, number: int) -> tuple[Pack, ...]:
        """Return the packs of a global batch without their arrays."""
        packs, first = self.address(number)
        return tuple(packs.outline(first + row) for row in range(self.size))

    def array(self, number: int, name: str, dtype: np.dtype, rows: Sequence[int]) -> np.ndarray:
        """(R, L): one array of the given rows; adjacent rows are read together."""
        packs, first = self.address(number)
        with self.timer.timed("read"):
            values = np.empty((len(rows), packs.meta["max_pack_tokens"]), dtype)
            done = 0
            while done < len(rows):
                count = 1
                while done + count < len(rows) and rows[done + count] == rows[done] + count:
                    count += 1
                packs.arrays(name, first + rows[done], values[done : done + count])
                done += count
        return values

    def payload(self, number: int, packed: PackedMedia, where: str) -> bytes:
        """Return the encoded bytes of a medium."""
        media = packed.media
        if media.location is None:
            raise StoreError(f"{media.kind} {media.digest} has no location", where=where, fix="run the pack node again")
        with self.timer.timed("read"):
            return self.address(number)[0].read(media.location)


class MemoryBudget:
    """Bound on the bytes that batches hold while they wait.

    One thread asks in batch order, so the oldest batch is always admitted.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._closed = limit, 0, False
        self._changed = threading.Condition()

    def take(self, count: int) -> bool:
        """Wait for `count` free bytes; an empty budget admits any count. Returns False once the budget is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + count <= self._limit)
            self._used += count
            return not self._closed

    def give(self, count: int) -> None:
        """Free `count` bytes."""
        with self._changed:
            self._used -= count
            self._changed.notify_all()

    def close(self) -> None:
        """Wake a waiting thread for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _memory_bytes(packed: PackedMedia, items: Sequence[Item]) -> int:
    """Return the memory of a waiting medium: its encoded bytes and the patches of `items`."""
    patches = sum(prod(item.grid) for item in items)
    return patches * PATCH_BYTES + (packed.media.location.length if packed.media.location else 0)
