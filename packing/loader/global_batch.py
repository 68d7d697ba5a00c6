"""One global batch while it is loaded: dealt to ranks, read, decoded ahead, and settled before anybody uses it.

`loader/loader.py` stands before this and makes one after the other. What all batches of a loader share is a `Reader`:
where packs lie, who is dealt what, threads that decode, and a budget of bytes that may wait.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
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
    MediaBatch,
    PlacedItem,
    TokenRows,
    media_batch,
    placed_items,
    room_for,
    rows_of,
    segment_at,
)
from packing.loader.stand_ins import StandIns
from packing.timing import PhaseTimer
from stores.store import Snapshot

if TYPE_CHECKING:
    from packing.augment import Augmentation, ImageTransform
    from packing.mixture import Pixels

TOO_MANY = 4
"""Fewer failures in a batch are always stood in for; from so many on, more than half of its media mean that the decoder
is broken, not the data."""

PATCH_BYTES = CHANNELS * PATCH_PX * PATCH_PX

ChainLink = tuple[int, Snapshot]
"""The first global batch that a packs snapshot gives, and the snapshot. A plan that was amended at batch N goes on in
another one: ((0, A), (N, B))."""

Agree = Callable[[int, Sequence[Failure]], Sequence[Failure]]
"""(global batch, what failed on this rank) -> what failed on all of them, in one order everywhere."""


class GlobalBatch:
    """One optimizer step's data, the same for every world size. Made by a `Loader`."""

    def __init__(self, reader: PackReader, number: int) -> None:
        self.number = number
        self.failures: tuple[Failure, ...] = ()
        """Media that stand-ins replace, on all ranks."""
        self._reader = reader
        self._pixels: dict[tuple[int, int], Future[list[np.ndarray]]] = {}
        """By row and medium, of what this process was dealt: done once the patches stand in their place."""
        self._patches: dict[int, np.ndarray] = {}
        """By rank: the patches of all its items, and by item below."""
        self._parts: dict[int, np.ndarray] = {}
        self._arrays: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def packs(self) -> tuple[Pack, ...]:
        """Segments and media of all rows; ids and loss masks are left empty here."""
        with self._reader.stages.timed("outline"):
            return self._reader.outlines(self.number)

    @property
    def tokens(self) -> int:
        """Non-padding tokens of all rows: what schedules count."""
        return sum(segment.length for pack in self.packs for segment in pack.segments)

    def ids(self, rank: int) -> np.ndarray:
        """(R, L) uint32: the token rows of `rank` and nothing else."""
        return self._reader.array(self.number, "ids", np.dtype("<u4"), self._dealt_rows(rank))

    def rows(self, rank: int) -> TokenRows:
        ids, targets = self._arrays.get(rank) or self._read(rank)
        mine = self._dealt_rows(rank)
        failed = {(failure.row, failure.digest) for failure in self.failures}
        silent = {
            row: [item.slot for one in self.packs[row].media if (row, one.media.digest) in failed for item in one.items]
            for row in {failure.row for failure in self.failures}
        }
        with self._reader.stages.timed("collate"):
            return rows_of(mine, [self.packs[row].segments for row in mine], ids, targets, silent)

    def media(self, rank: int) -> MediaBatch:
        """Waits for the decoders. Raises ValueError for a rank whose media this process does not load."""
        if self._placed and rank not in self._reader.ranks:
            raise ValueError(f"this loader decodes for ranks {self._reader.ranks}, not for {rank}")
        failed = {(failure.row, failure.digest) for failure in self.failures}
        for i in self._dealt_media[rank]:
            one = self._placed[i]
            if (one.row, self.packs[one.row].media[one.medium].media.digest) in failed:
                self._parts[i].fill(STAND_IN)
            else:
                self._pixels[one.row, one.medium].result()
        with self._reader.stages.timed("collate"):
            mine = [self._placed[i] for i in self._dealt_media[rank]]
            return media_batch(mine, self._patches[rank] if mine else room_for(mine)[0])

    @property
    def shapes(self) -> dict[tuple[int, int], tuple[VisibleShape, ...]]:
        """By row and first slot, of media that have any: points, boxes and polygons in pixels of what is encoded.

        Stand-ins show none.
        """
        failed = {(failure.row, failure.digest) for failure in self.failures}
        return {
            (row, packed.items[0].slot): self._change(row, packed).move_shapes(
                packed.shapes, (packed.media.width_px, packed.media.height_px), packed.size_px
            )
            for row, pack in enumerate(self.packs)
            for packed in pack.media
            if packed.shapes and (row, packed.media.digest) not in failed
        }

    # ------------------------------------------------------------------ below: how it is dealt and prepared

    def _dealt_rows(self, rank: int) -> Sequence[int]:
        if self._reader.world == 1:
            return range(self._reader.size)
        return self._rows[rank]

    @cached_property
    def _rows(self) -> list[list[int]]:
        costs = [llm_cost(segment.length for segment in pack.segments) for pack in self.packs]
        return deal(costs, self._reader.world, equal_counts=True)

    @cached_property
    def _placed(self) -> list[PlacedItem]:
        return placed_items([pack.media for pack in self.packs]) if self._reader.has_media(self.number) else []

    @cached_property
    def _dealt_media(self) -> list[list[int]]:
        return deal([encoder_cost(one.item.grid) for one in self._placed], self._reader.encoders)

    def _read(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        mine = self._dealt_rows(rank)
        return (
            self._reader.array(self.number, "ids", np.dtype("<u4"), mine),
            self._reader.array(self.number, "loss_mask", np.dtype(bool), mine),
        )

    def prepare(self) -> None:
        """Runs in the reader's thread: rows of this process' ranks, encoded bytes and jobs of its media."""
        for rank in self._reader.rows_of:
            self._arrays[rank] = self._read(rank)
        wanted = sorted(i for rank in self._reader.ranks for i in self._dealt_media[rank])
        decided = self._reader.decided(self.number)
        given_up = {(failure.row, failure.digest) for failure in decided or ()}
        media = [
            (row, medium, tuple(group))
            for (row, medium), group in groupby(wanted, lambda i: (self._placed[i].row, self._placed[i].medium))
            if (row, self.packs[row].media[medium].media.digest) not in given_up
        ]
        self.held = sum(
            _bytes(self.packs[row].media[medium], [self._placed[i].item for i in items]) for row, medium, items in media
        )
        if not self._reader.budget.take(self.held):
            return  # closed meanwhile
        for rank in self._reader.ranks:
            self._patches[rank], parts = room_for([self._placed[i] for i in self._dealt_media[rank]])
            self._parts |= zip(self._dealt_media[rank], parts, strict=True)
        if media:
            from packing.navit import patches_of  # decoders: memory that nobody pays who reads rows
        for row, medium, items in media:
            packed = self.packs[row].media[medium]
            payload = self._reader.payload(self.number, packed, self._reader.where(self.number, row))
            some = replace(packed, items=tuple(self._placed[i].item for i in items))
            into = [self._parts[i] for i in items]
            self._pixels[row, medium] = self._reader.decoders.submit(
                patches_of, some, payload, self._reader.stages, self._change(row, packed), into, self._reader.pixels
            )

    def _change(self, row: int, packed: PackedMedia) -> ImageTransform:
        from packing.augment import RESIZE_ONLY, draw_transform

        settings, slot = self._reader.augment, packed.items[0].slot
        if settings is None or segment_at(self.packs[row].segments, slot)[0].source not in settings.sources:
            return RESIZE_ONLY
        size_px = (packed.media.width_px, packed.media.height_px)
        return draw_transform(settings, (self.number, row, slot), size_px, packed.told)

    held = 0
    """Bytes of the budget."""

    def settle(self, agree: Agree, stand_ins: StandIns | None) -> None:
        """Wait for this process' media, agree on what failed, make it durable. Nothing is consumed before."""
        failures = []
        cause: RecordError | None = None
        for (row, medium), pixels in self._pixels.items():
            error = pixels.exception()
            if error is not None and not isinstance(error, RecordError):
                raise error
            if error is not None:
                cause = error
                packed = self.packs[row].media[medium]
                segment, _ = segment_at(self.packs[row].segments, packed.items[0].slot)
                failures.append(Failure(row, packed.media.digest, segment.sample, segment.source, error.reason))
        decided = self._reader.decided(self.number)
        if failures and (stand_ins is None or decided is not None):
            raise self._unusable(failures[0], cause, decided is not None)
        if decided is not None:
            self.failures = decided
            return
        agreed = tuple(agree(self.number, list(dict.fromkeys(failures))))
        total = sum(len(pack.media) for pack in self.packs) if agreed else 0
        if len(agreed) >= TOO_MANY and len(agreed) * 2 > total:
            raise self._unusable(agreed[0], cause, False, f"{len(agreed)} of {total} media of a batch don't decode; ")
        if agreed and stand_ins is not None:
            stand_ins.decide(self.number, agreed)
            self.failures = agreed

    def _unusable(self, failure: Failure, cause: RecordError | None, decided: bool, before: str = "") -> StoreError:
        why = f"{failure.reason}: {cause.message}" if cause else failure.reason
        told = f"medium {failure.digest[:16]} of record {failure.sample} ({failure.source}) can't be used: {why}"
        return StoreError(
            before + told + (", and it was used when this batch was first seen" if decided else ""),
            where=self._reader.where(self.number, failure.row),
            fix="use the decoder that accepted it, make the packs again without it, or give the loader stand_ins",
        )


@dataclass(frozen=True, slots=True)
class PackReader:
    """What all batches of a loader share."""

    chain: tuple[ChainLink, ...]
    size: int
    world: int
    encoders: int
    ranks: tuple[int, ...]
    """Whose media are decoded."""
    rows_of: tuple[int, ...]
    """Whose rows are read ahead."""
    stand_ins: StandIns | None
    stages: PhaseTimer
    budget: MemoryBudget
    decoders: ThreadPoolExecutor
    augment: Augmentation | None
    pixels: Pixels

    def place(self, number: int) -> tuple[Snapshot, int]:
        """The snapshot that gives a global batch, and the ordinal of its first pack there."""
        first, packs = self.chain[bisect_right(self.chain, number, key=lambda link: link[0]) - 1]
        return packs, (number - first) * self.size

    def has_media(self, number: int) -> bool:
        counts = self.place(number)[0].counts
        return bool(counts["images"] + counts["videos"])

    def where(self, number: int, row: int) -> str:
        packs, first = self.place(number)
        return f"{packs.name}[{first + row}]"

    def outlines(self, number: int) -> tuple[Pack, ...]:
        packs, first = self.place(number)
        return tuple(packs.outline(first + row) for row in range(self.size))

    def array(self, number: int, name: str, kind: np.dtype, rows: Sequence[int]) -> np.ndarray:
        """(R, L): an array of some rows, neighbours in one read."""
        packs, first = self.place(number)
        with self.stages.timed("read"):
            into = np.empty((len(rows), packs.meta["max_pack_tokens"]), kind)
            done = 0
            while done < len(rows):
                count = 1
                while done + count < len(rows) and rows[done + count] == rows[done] + count:
                    count += 1
                packs.arrays(name, first + rows[done], into[done : done + count])
                done += count
        return into

    def payload(self, number: int, packed: PackedMedia, where: str) -> bytes:
        media = packed.media
        if media.location is None:
            raise StoreError(f"{media.kind} {media.digest} has no location", where=where, fix="run the pack node again")
        with self.stages.timed("read"):
            return self.place(number)[0].read(media.location)

    def decided(self, number: int) -> tuple[Failure, ...] | None:
        return self.stand_ins.at(number) if self.stand_ins else None


class MemoryBudget:
    """Bytes that may wait. Asked by one thread in batch order, so that the oldest batch is always let through."""

    def __init__(self, most: int) -> None:
        self._most, self._used, self._closed = most, 0, False
        self._changed = threading.Condition()

    def take(self, count: int) -> bool:
        """Waits for room; where nothing is in use, anything has room. False once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + count <= self._most)
            self._used += count
            return not self._closed

    def give(self, count: int) -> None:
        with self._changed:
            self._used -= count
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _bytes(packed: PackedMedia, items: Sequence[Item]) -> int:
    """That a medium holds while it waits: its encoded bytes and the patches of some of its items."""
    patches = sum(prod(item.grid) for item in items)
    return patches * PATCH_BYTES + (packed.media.location.length if packed.media.location else 0)
