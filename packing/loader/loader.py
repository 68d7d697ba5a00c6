"""Loader: global batches off packs stores, two streams per rank, and a position that is a few words of JSON.

It reads packs in training order and feeds `loader/torch_batches.py` and the model. Global batch n is the n-th run of
`global_batch_packs` packs, for any world size; ranks differ only in the part that they are dealt:

- `rows(rank)`: token rows, dealt by LLM cost, equally many per rank;
- `media(rank)`: items to encode, dealt by encoder cost over *all* ranks, each with the row and the slots that its
  features fill. A rank's media need not belong to its rows: this is the decoupled encoder process (DEP) of the Kimi
  K2.5 report, section 4.5.1. A single process is the simplest case of it.

The state names the packs that were read and the next batch. Restored at batch k, the loader gives the batches from k on
that an uninterrupted loader gives, after a time that does not depend on k. No buffers and no random state are saved.
`docs/loader.md` lists the guarantees.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NotRequired, TypedDict

from manifests.errors import ManifestError, ResumeError, StoreError
from packing.loader.certificate import check
from packing.loader.global_batch import ChainLink, GlobalBatch, MemoryBudget, PackReader
from packing.loader.stand_ins import StandIns
from packing.timing import PhaseTimer
from stores.store import Snapshot

if TYPE_CHECKING:
    from packing.augment import Augmentation
    from packing.mixture import Pixels

EXACT: Pixels = "exact"

PREFETCH_BATCHES = 4
"""Global batches prepared ahead of the trainer, as far as memory allows."""


class LoaderState(TypedDict):
    """Position of a loader, as JSON; valid for any world size."""

    chain: list[list[int | str]]
    """[first batch, digest of the plan, content root of the packs] of every snapshot that was begun."""
    global_batch_packs: int
    next_batch: int
    stand_ins: str
    """Digest of all decisions about media of earlier batches; "" if there is none."""
    augment: NotRequired[str]
    """Digest of the augmentation; absent without augmentation."""
    pixels: NotRequired[str]
    """How images were decoded; absent for `exact`."""


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options for turning encoded media into patches."""

    threads: int = 2
    """Decoder threads. Pillow and FFmpeg release the interpreter lock while they work."""
    ahead_bytes: int = 256 << 20
    """Bound on encoded media and patches that wait; one batch is always admitted."""
    augment: Augmentation | None = None


class Loader:
    """Iterator over the global batches of packs. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        packs: Snapshot | Sequence[ChainLink],
        global_batch_packs: int,
        world: int = 1,
        state: LoaderState | None = None,
        *,
        ranks: Sequence[int] | None = None,
        row_ranks: Sequence[int] | None = None,
        encoders: int | None = None,
        part: tuple[int, int] = (0, 1),
        stand_ins: StandIns | None = None,
        decode: DecodeOptions | None = None,
        verify_certificate: bool = True,
    ) -> None:
        """
        Args:
            packs: one snapshot, or a chain of snapshots of plans that amend each other.
            world: ranks that rows are dealt to.
            state: `state` of a loader over the same packs, of any world size.
            ranks: ranks that this process loads, by default all.
            row_ranks: ranks whose rows are read ahead, by default `ranks`. They differ for a process that encodes under
                another number than the one under which it reads rows.
            encoders: ranks that media are dealt to, by default `world`; more if pipeline, tensor or context ranks
                encode as well.
            part: (k, n) gives every n-th batch from the k-th on, for n loaders that share the work.
            stand_ins: record of media that don't decode. Without it such a medium is an error.
            verify_certificate: compare the environment with the certificates of the packs. Without it, packs of a plan
                that amends another one may be read alone; `certify` does this.
        Raises:
            StoreError: the store holds no packs, or not all of them yet.
            ManifestError: the world size does not divide the global batch, the plan was made for another batch size,
                links of the chain do not follow each other, the chain begins in the middle of a run, or the
                augmentation names a source that the packs don't have.
            ResumeError: the state belongs to other packs, stand-ins, augmentation or pixels; or a decoder, a resize
                kernel or the data path gives other bytes than the certificate of the packs records.
        """
        decode = decode or DecodeOptions()
        chain = ((0, packs),) if isinstance(packs, Snapshot) else tuple(packs)
        for _, snapshot in chain:
            _check_packs(snapshot, global_batch_packs)
            if decode.augment is not None:
                _check_sources(snapshot, decode.augment)
        if verify_certificate:
            _check_first(chain[0][1])
        for (_, before), (first, snapshot) in pairwise(chain):
            _check_link(before, first, snapshot)
        certified = [snapshot for _, snapshot in chain] if verify_certificate else []
        augmented = decode.augment is not None
        self.notes = tuple(note for snapshot in certified for note in check(snapshot, augmented=augmented))
        """Components that have another version than the certificate records, and give the same bytes."""
        if global_batch_packs % world:
            raise ManifestError(
                f"{world} ranks can't share {global_batch_packs} packs evenly",
                where=chain[0][1].name,
                fix="use a number of ranks that divides global_batch_packs",
            )
        self.timer = PhaseTimer()
        self._chain, self._size = chain, global_batch_packs
        self._stand_ins = stand_ins
        ranks = tuple(range(max(world, encoders or world)) if ranks is None else ranks)
        self._reader = PackReader(
            chain=chain,
            size=global_batch_packs,
            world=world,
            encoders=encoders or world,
            ranks=ranks,
            row_ranks=tuple(rank for rank in (ranks if row_ranks is None else row_ranks) if rank < world),
            stand_ins=stand_ins,
            timer=self.timer,
            budget=MemoryBudget(decode.ahead_bytes),
            decoders=ThreadPoolExecutor(decode.threads, thread_name_prefix="decode"),
            augment=decode.augment,
            pixels=pixels_of(chain[0][1]),
        )
        first = 0 if state is None else self._resumed(state)
        self._next = first
        self._numbers = iter(range(first + part[0], len(self), part[1]))
        self._ahead: deque[Future[GlobalBatch]] = deque()
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="read")

    def __len__(self) -> int:
        """Number of global batches, counted from the first one. Packs behind the last whole batch are left out."""
        first, last = self._chain[-1]
        return first + last.counts["records"] // self._size

    @property
    def state(self) -> LoaderState:
        """Position after the last batch given out."""
        begun = [link for link in self._chain if link[0] < self._next] or self._chain[:1]
        state: LoaderState = {
            "chain": [[first, packs.meta["plan"], packs.content_root] for first, packs in begun],
            "global_batch_packs": self._size,
            "next_batch": self._next,
            "stand_ins": self._stand_ins.digest_before(self._next) if self._stand_ins else "",
        }
        if self._reader.augment is not None:
            state["augment"] = self._reader.augment.digest
        if self._reader.pixels != EXACT:
            state["pixels"] = self._reader.pixels
        return state

    def __iter__(self) -> Iterator[GlobalBatch]:
        return self

    def __next__(self) -> GlobalBatch:
        """Return the next global batch.

        Raises:
            StoreError: its packs or media can't be read.
        """
        with self.timer.timed("wait"):
            batch = self._prefetched()
            batch.settle()
            self._reader.budget.give(batch.held_bytes)
        self._next = batch.number + 1
        return batch

    def close(self) -> None:
        """Stop all threads and drop the batches that were prepared ahead."""
        self._reader.budget.close()
        self._read_thread.shutdown(cancel_futures=True)
        self._reader.decoders.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prefetched(self) -> GlobalBatch:
        while len(self._ahead) < PREFETCH_BATCHES and (number := next(self._numbers, None)) is not None:
            if not self._ahead and not self._reader.has_media(number):
                return GlobalBatch(self._reader, number)  # rows without media are read when they are asked for
            self._ahead.append(self._read_thread.submit(self._prepared, number))
        if not self._ahead:
            raise StopIteration
        return self._ahead.popleft().result()

    def _prepared(self, number: int) -> GlobalBatch:
        batch = GlobalBatch(self._reader, number)
        batch.prepare()
        return batch

    def _resumed(self, state: LoaderState) -> int:
        """Check a saved state and return its next batch."""
        _compare("global batches of another size", state["global_batch_packs"], self._size)
        _compare("other pixels", state.get("pixels", EXACT), self._reader.pixels)
        next_batch = state["next_batch"]
        links = dict(self._chain)
        for first, plan, root in state["chain"]:
            packs = links.pop(int(first), None)
            if packs is None:
                raise _other_run("a chain with another link", f"a link at batch {first}", "none")
            _compare("another plan", plan, packs.meta["plan"])
            _compare("other packs", root, packs.content_root)
        late = [first for first in links if first < next_batch]
        if late:
            raise _other_run("a run that was not amended there", f"batch {next_batch}", f"a link at batch {late[0]}")
        if not 0 <= next_batch <= len(self):
            raise ResumeError(
                f"the saved position is batch {next_batch} of {len(self)}",
                where="loader",
                fix="resume with the packs that the run began with",
            )
        decisions = self._stand_ins.digest_before(next_batch) if self._stand_ins else ""
        _compare("other decisions about media that don't decode", state["stand_ins"], decisions)
        augment = self._reader.augment
        _compare("another augmentation", state.get("augment"), augment and augment.digest)
        return next_batch


def _compare(difference: str, saved: object, current: object) -> None:
    if saved != current:
        raise _other_run(difference, saved or "none", current or "none")


def _other_run(difference: str, saved: object, current: object) -> ResumeError:
    return ResumeError(
        f"the saved position belongs to {difference}: saved {saved}, now {current}",
        where="loader",
        fix="resume with the packs and settings that the run began with, or start a new run",
    )


def _check_packs(packs: Snapshot, global_batch_packs: int) -> None:
    if packs.kind != "packs" or not packs.complete:
        problem = f"holds {packs.kind}, not packs" if packs.kind != "packs" else "is not complete yet"
        raise StoreError(f"the store {problem}", where=packs.name, fix="run the node that packs to its end")
    planned = packs.meta["global_batch_packs"]
    if global_batch_packs != planned:
        raise ManifestError(
            f"global_batch_packs is {global_batch_packs}, the packs were planned for {planned}",
            where=packs.name,
            fix=f"set it to {planned}, or change the mixture and plan again",
        )


def pixels_of(packs: Snapshot) -> Pixels:
    """Return how images of these packs are decoded, as their plan says."""
    return packs.meta.get("pixels", EXACT)


def _check_first(packs: Snapshot) -> None:
    if amends := packs.meta.get("amends"):
        raise ManifestError(
            f"these packs continue plan {amends['plan'][:12]} from global batch {amends['at_batch']}, "
            "and the packs before them are missing",
            where=packs.name,
            fix="give the packs of all plans of the run, the first plan's first",
        )


def _check_link(before: Snapshot, first: int, packs: Snapshot) -> None:
    """Check that packs of a plan that amends another one follow that one, at the batch that they were planned for."""
    amends = packs.meta.get("amends")
    if amends and (amends["plan"], amends["at_batch"]) != (before.meta["plan"], first):
        raise ManifestError(
            f"these packs continue plan {amends['plan'][:12]} from global batch {amends['at_batch']}, "
            f"not plan {before.meta['plan'][:12]} from {first}",
            where=packs.name,
            fix="give the packs of all plans of the run, each from the batch at which it amends the one before",
        )
    if pixels_of(packs) != pixels_of(before):
        raise ManifestError(
            f"these packs were planned for {pixels_of(packs)} pixels, those before them for {pixels_of(before)}",
            where=packs.name,
            fix="keep `pixels` of the mixture as it was, or begin a new run",
        )


def _check_sources(packs: Snapshot, augment: Augmentation) -> None:
    sources = packs.meta["sources"]
    unknown = [name for name in augment.sources if name not in sources]
    if unknown:
        raise ManifestError(
            f"augment names the sources {', '.join(unknown)}, the packs have {', '.join(sources)}",
            where=packs.name,
            fix="name sources of the mixture",
        )
