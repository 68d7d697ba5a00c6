"""Global batches off packs stores: two streams per rank, and a position that is a few words of JSON.

Before this the packs in training order, after it `loader/torch_batches.py` and the model. Global batch n is the n-th
run of `global_batch_packs` packs, whatever the world size; ranks differ only in what they are dealt:

- `rows(rank)`: token rows, dealt by LLM cost, equally many per rank;
- `media(rank)`: what the rank encodes, dealt by encoder cost over *all* ranks, with the map from each item to the row
  and the slots that its features fill. A rank's media need not belong to its rows: that is the decoupled encoder
  process (DEP) of the K2.5 report, section 4.5.1, of which one process is the plain case.

The state names what was read and the next batch; restored at batch k, the loader gives what an uninterrupted one gives
from k on, in time that does not depend on k. Nothing else is remembered: no buffers, no random state. What each part
does, and what is promised: `docs/loader.md`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, NotRequired, TypedDict

from manifests.errors import ManifestError, ResumeError, StoreError
from packing.loader.certificate import check
from packing.loader.global_batch import Agree, ChainLink, GlobalBatch, MemoryBudget, PackReader
from packing.loader.stand_ins import StandIns
from packing.timing import PhaseTimer
from stores.store import Snapshot

if TYPE_CHECKING:
    from packing.augment import Augmentation
    from packing.mixture import Pixels

EXACT: Pixels = "exact"

AHEAD_BATCHES = 4
"""Global batches that are prepared while the trainer is busy, memory permitting."""


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
    pixels: NotRequired[str]
    """How pictures were decoded; left out where that is `exact`."""


class Loader:
    """Iterates over the global batches of packs, once. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        packs: Snapshot | Sequence[ChainLink],
        global_batch_packs: int,
        world: int = 1,
        state: LoaderState | None = None,
        *,
        ranks: Sequence[int] | None = None,
        rows_of: Sequence[int] | None = None,
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
            rows_of: those whose rows it reads ahead, by default `ranks`; others where it encodes under another number.
            encoders: ranks that media are dealt to, by default `world`; more where pipeline, tensor or context ranks
                encode as well.
            stand_ins: where decisions about media that don't decode are kept; without it such a medium is an error.
            agree: exchanges failures between processes.
            ahead_bytes: bound on encoded and decoded media that wait; one batch is always let through.
            threads: that decode. Pillow and FFmpeg release the interpreter's lock while they work.
            part: (k, n) gives every n-th batch from the k-th on, for n loaders that share the work.
            augment: changes of pictures.
            certified: whether certificates of the packs are held against what decodes here. Without it packs of a plan
                that amends another are read by themselves, as `certify` does.
        Raises:
            StoreError: packs that are not all there.
            ManifestError: a world size that does not divide the global batch, or one that the plan was not made for;
                a chain whose links don't follow each other, or that begins in the middle of a run;
                `augment` names a source that is not in the packs, or they don't say what texts tell of media.
            ResumeError: a state of other packs, of other decisions about media, or of other changes of pictures; or the
                packs were certified with a decoder, resize kernel or data path that gives other bytes.
        """
        chain = ((0, packs),) if isinstance(packs, Snapshot) else tuple(packs)
        for _, snapshot in chain:
            _check(snapshot, global_batch_packs)
            if augment is not None:
                _check_sources(snapshot, augment)
        if certified:
            _check_first(chain[0][1])
        for (_, before), (first, snapshot) in pairwise(chain):
            _check_link(before, first, snapshot)
        packs_seen = [snapshot for _, snapshot in chain] if certified else []
        self.notes = tuple(note for seen in packs_seen for note in check(seen, augmented=augment is not None))
        """What has another version than where the packs were certified, and gives the same bytes."""
        if global_batch_packs % world:
            raise ManifestError(
                f"{world} ranks can't share {global_batch_packs} packs evenly",
                where=chain[0][1].name,
                fix="use a number of ranks that divides global_batch_packs",
            )
        self.stages = PhaseTimer()
        self._chain, self._size = chain, global_batch_packs
        self._stand_ins, self._agree = stand_ins, agree
        ranks = tuple(range(max(world, encoders or world)) if ranks is None else ranks)
        self._reader = PackReader(
            chain,
            global_batch_packs,
            world,
            encoders or world,
            ranks,
            tuple(rank for rank in (ranks if rows_of is None else rows_of) if rank < world),
            stand_ins,
            self.stages,
            MemoryBudget(ahead_bytes),
            ThreadPoolExecutor(threads, thread_name_prefix="decode"),
            augment,
            pixels_of(chain[0][1]),
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
        if self._reader.augment is not None:
            state["augment"] = self._reader.augment.digest
        if self._reader.pixels != EXACT:
            state["pixels"] = self._reader.pixels
        return state

    def __iter__(self) -> Iterator[GlobalBatch]:
        return self

    def __next__(self) -> GlobalBatch:
        """The next global batch. Raises StoreError where its packs or media can't be read."""
        with self.stages.timed("wait"):
            batch = self._following()
            batch.settle(self._agree, self._stand_ins)
            self._reader.budget.give(batch.held)
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
        batch.prepare()
        return batch

    def _resumed(self, state: LoaderState) -> int:
        self._compare("global_batch_packs", "global batches of another size", state["global_batch_packs"], self._size)
        self._compare("pixels", "other pixels", state.get("pixels", EXACT), self._reader.pixels)
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


def pixels_of(packs: Snapshot) -> Pixels:
    """How the plan of these packs wants pictures decoded."""
    return packs.meta.get("pixels", EXACT)


def _check_first(packs: Snapshot) -> None:
    if amends := packs.meta.get("amends"):
        raise ManifestError(
            f"these packs go on from global batch {amends['at_batch']} of plan {amends['plan'][:12]}, "
            "and nothing says what comes before them",
            where=packs.name,
            fix="give the packs of all plans of the run, the first plan's first",
        )


def _check_link(before: Snapshot, first: int, packs: Snapshot) -> None:
    """Packs of a plan that amends another one follow that one, at the batch that they were planned for."""
    amends = packs.meta.get("amends")
    if amends and (amends["plan"], amends["at_batch"]) != (before.meta["plan"], first):
        raise ManifestError(
            f"these packs go on from global batch {amends['at_batch']} of plan {amends['plan'][:12]}, "
            f"not from {first} of {before.meta['plan'][:12]}",
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
