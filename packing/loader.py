"""Global batches off packs stores: two streams per rank, and a position that is a few words of JSON.

Before this the packs in training order, after it `torch_batches.py` and the model. Global batch n is the n-th run of
`global_batch_packs` packs, whatever the world size; ranks differ only in what they are dealt:

- `rows(rank)`: token rows, dealt by LLM cost, equally many per rank;
- `media(rank)`: what the rank encodes, dealt by encoder cost over *all* ranks, with the map from each item to the row
  and the slots that its features fill. A rank's media need not belong to its rows: that is the decoupled encoder
  process (DEP) of the K2.5 report, section 4.5.1, of which one process is the plain case.

The state names what was read and the next batch; restored at batch k, the loader gives what an uninterrupted one gives
from k on, in time that does not depend on k. Nothing else is remembered: no buffers, no random state. What each part
does, and what is promised: `docs/loader.md`.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import prod
from typing import NotRequired, TypedDict

import numpy as np

from manifests.errors import ManifestError, RecordError, ResumeError, StoreError
from manifests.records import Item, Pack, PackedMedia
from packing.augment import PLAIN, Augmentation, Change, draw
from packing.balance import deal, encoder_cost, llm_cost
from packing.batch import (
    STAND_IN,
    Failure,
    MediaBatch,
    Placed,
    Rows,
    media_batch,
    placed_items,
    room_for,
    rows_of,
    segment_at,
)
from packing.certificate import check
from packing.navit import CHANNELS, PATCH_PX, patches_of
from packing.shapes import Seen
from packing.stages import Stages
from packing.stand_ins import StandIns
from stores.store import Snapshot

AHEAD_BATCHES = 4
"""Global batches that are prepared while the trainer is busy, memory permitting."""

TOO_MANY = 4
"""Fewer failures in a batch are always stood in for; from so many on, more than half of its media mean that the decoder
is broken, not the data."""

PATCH_BYTES = CHANNELS * PATCH_PX * PATCH_PX

Link = tuple[int, Snapshot]
"""The first global batch that a packs snapshot gives, and the snapshot. A plan that was amended at batch N goes on in
another one: ((0, A), (N, B))."""

Agree = Callable[[int, Sequence[Failure]], Sequence[Failure]]
"""(global batch, what failed on this rank) -> what failed on all of them, in one order everywhere."""


class LoaderState(TypedDict):
    """Where a loader stands. JSON; valid for any world size."""

    chain: list[list[int | str]]
    """[first batch, digest of the plan, content root of the packs] of every snapshot that was begun."""
    global_batch_packs: int
    next_batch: int
    stand_ins: str
    """Digest of all decisions about earlier batches; "" where there is none."""
    augment: NotRequired[str]
    """Digest of the changes made to pictures; left out where there are none."""


class GlobalBatch:
    """One optimizer step's data, the same for every world size. Made by a `Loader`."""

    def __init__(self, reader: _Reader, number: int) -> None:
        self.number = number
        self.failures: tuple[Failure, ...] = ()
        """Media that stand-ins replace, on all ranks."""
        self._reader = reader
        self._pixels: dict[tuple[int, int], Future[None]] = {}
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

    def rows(self, rank: int) -> Rows:
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
    def shapes(self) -> dict[tuple[int, int], tuple[Seen, ...]]:
        """By row and first slot, of media that have any: points, boxes and polygons in pixels of what is encoded.

        Stand-ins show none.
        """
        failed = {(failure.row, failure.digest) for failure in self.failures}
        return {
            (row, packed.items[0].slot): self._change(row, packed).moved(
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
    def _placed(self) -> list[Placed]:
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

    def _prepare(self) -> None:
        """Runs in the reader's thread: rows of this process' ranks, encoded bytes and jobs of its media."""
        for rank in self._reader.ranks:
            if rank < self._reader.world:
                self._arrays[rank] = self._read(rank)
        wanted = sorted(i for rank in self._reader.ranks for i in self._dealt_media[rank])
        decided = self._reader.decided(self.number)
        given_up = {(failure.row, failure.digest) for failure in decided or ()}
        media = [
            (row, medium, tuple(group))
            for (row, medium), group in groupby(wanted, lambda i: (self._placed[i].row, self._placed[i].medium))
            if (row, self.packs[row].media[medium].media.digest) not in given_up
        ]
        self._held = sum(
            _bytes(self.packs[row].media[medium], [self._placed[i].item for i in items]) for row, medium, items in media
        )
        if not self._reader.budget.take(self._held):
            return  # closed meanwhile
        for rank in self._reader.ranks:
            self._patches[rank], parts = room_for([self._placed[i] for i in self._dealt_media[rank]])
            self._parts |= zip(self._dealt_media[rank], parts, strict=True)
        for row, medium, items in media:
            packed = self.packs[row].media[medium]
            payload = self._reader.payload(self.number, packed, self._reader.where(self.number, row))
            some = replace(packed, items=tuple(self._placed[i].item for i in items))
            into = [self._parts[i] for i in items]
            self._pixels[row, medium] = self._reader.decoders.submit(
                _decode, some, payload, self._reader.stages, self._change(row, packed), into
            )

    def _change(self, row: int, packed: PackedMedia) -> Change:
        settings, slot = self._reader.augment, packed.items[0].slot
        if settings is None or segment_at(self.packs[row].segments, slot)[0].source not in settings.sources:
            return PLAIN
        size_px = (packed.media.width_px, packed.media.height_px)
        return draw(settings, (self.number, row, slot), size_px, packed.told)

    _held = 0
    """Bytes of the budget."""

    def _settle(self, agree: Agree, stand_ins: StandIns | None) -> None:
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


class Loader:
    """Iterates over the global batches of packs, once. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        packs: Snapshot | Sequence[Link],
        global_batch_packs: int,
        world: int = 1,
        state: LoaderState | None = None,
        *,
        ranks: Sequence[int] | None = None,
        encoders: int | None = None,
        stand_ins: StandIns | None = None,
        agree: Agree = lambda batch, failures: failures,
        ahead_bytes: int = 256 << 20,
        threads: int = 2,
        part: tuple[int, int] = (0, 1),
        augment: Augmentation | None = None,
        certified: bool = True,
    ) -> None:
        """
        Args:
            packs: one snapshot, or a chain of them.
            world: ranks that rows are dealt to.
            state: of a loader over the same packs, of any world size.
            ranks: those that this process loads for, by default all.
            encoders: ranks that media are dealt to, by default `world`; more where pipeline, tensor or context ranks
                encode as well.
            stand_ins: where decisions about media that don't decode are kept; without it such a medium is an error.
            agree: exchanges failures between processes.
            ahead_bytes: bound on encoded and decoded media that wait; one batch is always let through.
            threads: that decode. Pillow and FFmpeg release the interpreter's lock while they work.
            part: (k, n) gives every n-th batch from the k-th on, for n loaders that share the work.
            augment: changes of pictures.
            certified: whether certificates of the packs are held against what decodes here.
        Raises:
            StoreError: packs that are not all there.
            ManifestError: a world size that does not divide the global batch, or one that the plan was not made for;
                `augment` names a source that is not in the packs, or they don't say what texts tell of media.
            ResumeError: a state of other packs, of other decisions about media, or of other changes of pictures; or the
                packs were certified with a decoder, resize kernel or data path that gives other bytes.
        """
        chain = ((0, packs),) if isinstance(packs, Snapshot) else tuple(packs)
        for _, snapshot in chain:
            _check(snapshot, global_batch_packs)
            if augment is not None:
                _check_sources(snapshot, augment)
        packs_seen = [snapshot for _, snapshot in chain] if certified else []
        self.notes = tuple(note for seen in packs_seen for note in check(seen, augmented=augment is not None))
        """What has another version than where the packs were certified, and gives the same bytes."""
        if global_batch_packs % world:
            raise ManifestError(
                f"{world} ranks can't share {global_batch_packs} packs evenly",
                where=chain[0][1].name,
                fix="use a number of ranks that divides global_batch_packs",
            )
        self.stages = Stages()
        self._chain, self._size = chain, global_batch_packs
        self._stand_ins, self._agree = stand_ins, agree
        all_ranks = max(world, encoders or world)
        self._reader = _Reader(
            chain,
            global_batch_packs,
            world,
            encoders or world,
            tuple(range(all_ranks)) if ranks is None else tuple(ranks),
            stand_ins,
            self.stages,
            _Budget(ahead_bytes),
            ThreadPoolExecutor(threads, thread_name_prefix="decode"),
            augment,
        )
        first = 0 if state is None else self._resumed(state)
        self._next = first
        self._numbers = iter(range(first + part[0], len(self), part[1]))
        self._ahead: deque[Future[GlobalBatch]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read")

    def __len__(self) -> int:
        """Global batches in all, from the first on. Packs beyond the last whole batch are left out."""
        first, last = self._chain[-1]
        return first + last.counts["records"] // self._size

    @property
    def state(self) -> LoaderState:
        """After batch k was given out, a loader restored from this begins with k + 1."""
        begun = [link for link in self._chain if link[0] < self._next] or self._chain[:1]
        state: LoaderState = {
            "chain": [[first, packs.meta["plan"], packs.content_root] for first, packs in begun],
            "global_batch_packs": self._size,
            "next_batch": self._next,
            "stand_ins": self._stand_ins.digest_before(self._next) if self._stand_ins else "",
        }
        augment = self._reader.augment
        return state if augment is None else {**state, "augment": augment.digest}

    def __iter__(self) -> Iterator[GlobalBatch]:
        return self

    def __next__(self) -> GlobalBatch:
        """The next global batch. Raises StoreError where its packs or media can't be read."""
        with self.stages.timed("wait"):
            batch = self._following()
            batch._settle(self._agree, self._stand_ins)
            self._reader.budget.give(batch._held)
        self._next = batch.number + 1
        return batch

    def close(self) -> None:
        self._reader.budget.close()
        self._thread.shutdown(cancel_futures=True)
        self._reader.decoders.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _following(self) -> GlobalBatch:
        while len(self._ahead) < AHEAD_BATCHES and (number := next(self._numbers, None)) is not None:
            if not self._ahead and not self._reader.has_media(number):
                return GlobalBatch(self._reader, number)  # rows alone are read where they are asked for
            self._ahead.append(self._thread.submit(self._made, number))
        if not self._ahead:
            raise StopIteration
        return self._ahead.popleft().result()

    def _made(self, number: int) -> GlobalBatch:
        batch = GlobalBatch(self._reader, number)
        batch._prepare()
        return batch

    def _resumed(self, state: LoaderState) -> int:
        self._compare("global_batch_packs", "global batches of another size", state["global_batch_packs"], self._size)
        reached = state["next_batch"]
        here = dict(self._chain)
        for first, plan, root in state["chain"]:
            packs = here.pop(int(first), None)
            if packs is None:
                raise _another("a chain that goes on elsewhere", f"from batch {first}", "nothing")
            self._compare("plan", "another plan", plan, packs.meta["plan"])
            self._compare("packs", "other packs", root, packs.content_root)
        late = [first for first in here if first < reached]
        if late:
            raise _another("a run that was not amended at that place", f"batch {reached}", f"a link at {late[0]}")
        if not 0 <= reached <= len(self):
            raise ResumeError(
                f"the saved position is batch {reached} of {len(self)}",
                where="loader",
                fix="resume with the packs that the run began with",
            )
        seen = self._stand_ins.digest_before(reached) if self._stand_ins else ""
        self._compare("stand_ins", "other decisions about media that don't decode", state["stand_ins"], seen)
        augment = self._reader.augment
        self._compare("augment", "other changes of pictures", state.get("augment"), augment and augment.digest)
        return reached

    def _compare(self, key: str, what: str, saved: object, here: object) -> None:
        if saved != here:
            raise _another(what, saved or "none", here or "none")


def _another(what: str, saved: object, here: object) -> ResumeError:
    return ResumeError(
        f"the saved position belongs to {what}: {saved}, here is {here}",
        where="loader",
        fix="resume with the packs that the run began with, or start a new run",
    )


def _check(packs: Snapshot, global_batch_packs: int) -> None:
    if packs.kind != "packs" or not packs.complete:
        what = f"holds {packs.kind}, not packs" if packs.kind != "packs" else "is not complete yet"
        raise StoreError(f"the store {what}", where=packs.name, fix="run the node that packs to its end")
    planned = packs.meta["global_batch_packs"]
    if global_batch_packs != planned:
        raise ManifestError(
            f"global_batch_packs is {global_batch_packs}, the packs were planned for {planned}",
            where=packs.name,
            fix=f"set it to {planned}, or change the mixture and plan again",
        )


def _check_sources(packs: Snapshot, augment: Augmentation) -> None:
    """Packs that name their sources also say which facts are told beside each medium; older ones say neither."""
    known = packs.meta.get("sources")
    if known is None:
        raise ManifestError(
            "these packs don't say which facts stand beside a picture, so none can be changed safely",
            where=packs.name,
            fix="make the packs again, or leave augment out",
        )
    unknown = [name for name in augment.sources if name not in known]
    if unknown:
        raise ManifestError(
            f"augment names the sources {', '.join(unknown)}, the packs have {', '.join(known)}",
            where=packs.name,
            fix="name sources of the mixture",
        )


@dataclass(frozen=True, slots=True)
class _Reader:
    """What all batches of a loader share."""

    chain: tuple[Link, ...]
    size: int
    world: int
    encoders: int
    ranks: tuple[int, ...]
    stand_ins: StandIns | None
    stages: Stages
    budget: _Budget
    decoders: ThreadPoolExecutor
    augment: Augmentation | None

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


class _Budget:
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


def _decode(packed: PackedMedia, payload: bytes, stages: Stages, change: Change, into: Sequence[np.ndarray]) -> None:
    """Patches of all items, each in its place. Raises RecordError where the bytes are not what the index promised."""
    patches_of(packed, payload, stages, change, into)
