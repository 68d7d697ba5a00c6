"""Global batches off a packs store: two streams per rank, and a position that is a few words of JSON.

Before this the packs in training order, after it `torch_batches.py` and the model. Global batch n is the n-th run of
`global_batch_packs` packs, whatever the world size; ranks differ only in what they are dealt:

- `rows(rank)`: token rows, dealt by LLM cost, equally many per rank;
- `media(rank)`: what the rank encodes, dealt by encoder cost over *all* ranks, with the map from each item to the row
  and the slots that its features fill. A rank's media need not belong to its rows: that is the decoupled encoder
  process (DEP) of the K2.5 report, section 4.5.1, of which one process is the plain case.

The state names what was read and the next batch; restored at batch k, the loader gives what an uninterrupted one gives
from k on. Nothing else is remembered: no buffers, no random state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import TypedDict

import numpy as np

from manifests.errors import ManifestError, RecordError, ResumeError, StoreError
from manifests.geometry import MERGE
from manifests.records import Item, Pack, PackedMedia
from packing.balance import deal, encoder_cost, llm_cost
from packing.navit import CHANNELS, PATCH_PX, patches_of
from stores.store import Snapshot

IGNORED = -100
"""The label of a position that predicts nothing; the release's `ignore_index`."""

AHEAD = 2
"""Global batches whose media are decoded while the trainer is busy; bounds memory."""

DECODERS = 2
"""Threads that decode. Pillow and FFmpeg release the interpreter's lock while they work."""


class LoaderState(TypedDict):
    """Where a loader stands. JSON; valid for any world size."""

    plan: str
    packs: str
    """Content root of the packs store."""
    global_batch_packs: int
    next_batch: int


@dataclass(frozen=True, slots=True)
class Rows:
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
    """Per row, from position 0 on; what remains of a row is padding."""


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
class _Placed:
    """An item of the global batch and where its pixels will come from."""

    row: int
    item: Item
    index: int
    """Among the items of its medium."""
    pixels: Future[list[np.ndarray]]


class GlobalBatch:
    """One optimizer step's data, the same for every world size."""

    def __init__(self, number: int, packs: tuple[Pack, ...], world: int, placed: tuple[_Placed, ...]) -> None:
        self.number = number
        self.packs = packs
        costs = [llm_cost(segment.length for segment in pack.segments) for pack in packs]
        self._rows = deal(costs, world, equal_counts=True)
        self._media = deal([encoder_cost(one.item.grid) for one in placed], world)
        self._placed = placed

    @property
    def tokens(self) -> int:
        """Non-padding tokens of all rows: what schedules count."""
        return sum(segment.length for pack in self.packs for segment in pack.segments)

    def rows(self, rank: int) -> Rows:
        mine = self._rows[rank]
        packs = [self.packs[row] for row in mine]
        ids = np.stack([pack.ids for pack in packs]).astype(np.int64)
        labels = np.full_like(ids, IGNORED)
        positions = np.zeros_like(ids)
        for row, pack in enumerate(packs):
            at = 0
            for segment in pack.segments:
                end = at + segment.length
                following = ids[row, at + 1 : end]
                labels[row, at : end - 1] = np.where(pack.loss_mask[at + 1 : end], following, IGNORED)
                positions[row, at:end] = np.arange(segment.length)
                at = end
        lengths = tuple(tuple(segment.length for segment in pack.segments) for pack in packs)
        return Rows(np.array(mine, np.int64), ids, labels, labels != IGNORED, positions, lengths)

    def media(self, rank: int) -> MediaBatch:
        """Waits for the decoders. Raises StoreError, naming the record, for a medium that does not decode."""
        mine = [self._placed[i] for i in self._media[rank]]
        grids = np.array([one.item.grid for one in mine], np.int64).reshape(-1, 3)
        patches = [one.pixels.result()[one.index] for one in mine]
        none = np.zeros((0, CHANNELS, PATCH_PX, PATCH_PX), np.uint8)
        return MediaBatch(
            patches=np.concatenate([none, *patches]),
            grids=grids,
            rows=np.array([one.row for one in mine], np.int64),
            first_slots=np.array([one.item.slot for one in mine], np.int64),
            slots=grids[:, 1] * grids[:, 2] // MERGE**2,
        )


class Loader:
    """Iterates over the global batches of a packs snapshot, once. Close it, or use it in a `with` statement."""

    def __init__(
        self, packs: Snapshot, global_batch_packs: int, world: int = 1, state: LoaderState | None = None
    ) -> None:
        """Raises StoreError for packs that are not all there, ManifestError for a world size that does not divide the
        global batch or a batch that the plan was not made for, ResumeError for a state of other packs."""
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
        if global_batch_packs % world:
            raise ManifestError(
                f"{world} ranks can't share {global_batch_packs} packs evenly",
                where=packs.name,
                fix="use a number of ranks that divides global_batch_packs",
            )
        self._packs, self._world = packs, world
        self._start: LoaderState = {
            "plan": packs.meta["plan"],
            "packs": packs.content_root,
            "global_batch_packs": global_batch_packs,
            "next_batch": 0,
        }
        self._next = 0 if state is None else _resumed(state, self._start, len(self))
        self._ahead: deque[Future[GlobalBatch]] = deque()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")

    def __len__(self) -> int:
        """Global batches in all."""
        return self._packs.counts["records"] // self._start["global_batch_packs"]

    @property
    def state(self) -> LoaderState:
        """After batch k was given out, a loader restored from this begins with k + 1."""
        return {**self._start, "next_batch": self._next}

    def __iter__(self) -> Iterator[GlobalBatch]:
        return self

    def __next__(self) -> GlobalBatch:
        """The next global batch. Raises StoreError where its packs can't be read."""
        while len(self._ahead) <= AHEAD and self._next + len(self._ahead) < len(self):
            self._ahead.append(self._reader.submit(self._read, self._next + len(self._ahead)))
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.popleft().result()
        self._next += 1
        return batch

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, number: int) -> GlobalBatch:
        """Runs in the reader's thread, the only one that touches the store."""
        size = self._start["global_batch_packs"]
        packs = tuple(self._packs.records(number * size, (number + 1) * size))
        placed: list[_Placed] = []
        for row, pack in enumerate(packs):
            for packed in pack.media:
                where = f"{self._packs.name}[{number * size + row}]"
                pixels = self._decoders.submit(_decode, packed, self._payload(packed, where), pack, where)
                placed += [_Placed(row, item, i, pixels) for i, item in enumerate(packed.items)]
        return GlobalBatch(number, packs, self._world, tuple(placed))

    def _payload(self, packed: PackedMedia, where: str) -> bytes:
        media = packed.media
        if media.location is None:
            raise StoreError(f"{media.kind} {media.digest} has no location", where=where, fix="run the pack node again")
        return self._packs.read(media.location)


def _resumed(state: LoaderState, here: LoaderState, batches: int) -> int:
    for key, what in (
        ("plan", "another plan"),
        ("packs", "other packs"),
        ("global_batch_packs", "global batches of another size"),
    ):
        if state[key] != here[key]:  # type: ignore[literal-required]
            raise ResumeError(
                f"the saved position belongs to {what}: {state[key]}, here is {here[key]}",  # type: ignore[literal-required]
                where="loader",
                fix="resume with the packs that the run began with, or start a new run",
            )
    if not 0 <= state["next_batch"] <= batches:
        raise ResumeError(f"the saved position is batch {state['next_batch']} of {batches}", where="loader")
    return state["next_batch"]


def _decode(packed: PackedMedia, payload: bytes, pack: Pack, where: str) -> list[np.ndarray]:
    try:
        return patches_of(packed, payload)
    except RecordError as error:
        ends = accumulate(segment.length for segment in pack.segments)
        segment = next(s for s, end in zip(pack.segments, ends, strict=True) if packed.items[0].slot < end)
        raise StoreError(
            f"{packed.media.kind} {packed.media.digest[:16]} of record {segment.sample} ({segment.source}) can't be "
            f"used: {error.reason}: {error.message}",
            where=where,
            fix="make the store again without this record, or with the decoder that accepted it",
        ) from error
