"""The plan: which pieces share which pack, and which pack is seen when. Made from the index; no payload is read.

    samples snapshots -> pieces.py -> one order of pieces (order.py) -> blocks -> sequence.py -> packs in order

1. Each source's pieces are permuted by hash, epoch by epoch. Two merged orders, of rich and of poor pieces, follow the
   weights (`mixture.py` says what is rich, and what the weights mean). Where the share changes, what was not yet drawn
   is divided anew.
2. One pass merges the two: a rich piece where fewer slots were given than the schedule wants, else a poor one. The
   result is cut into blocks of about equally many tokens, and where the share jumps or begins or ceases to be 0. That
   fixes what is in a block, and the exact error where it begins.
3. Blocks are compiled independently of each other, in any order, by any mapper, on any number of workers
   (`plan/blocks.py`): filled, and their packs put in order by the same rule: a pack with which fewer slots are missing
   where any are, else one with which not more are given, each kind in seeded order. A block in which the bound below
   would be passed is halved and filled again.

Blocks leave as they are made, and pieces come from files where memory is too small for them (`plan/epochs.py`).

**The bound.** After every pack the vision slots given so far differ from the schedule's by at most one pack's: by at
most M = max(slots of any pack so far, B), B = the highest share * max_pack_tokens: what a pack holds, or what it ought
to hold. Proof, for E = slots given - slots wanted.

*After every piece* -B <= E <= max(slots of any piece so far, B), because a piece is drawn only if (a) E < 0 before it
and it does not lower E: then E rises to less than its own slots; or (b) E >= 0 before it and it does not raise E: then
E falls by at most what the schedule wants for its length, at most B; or (c) |E| <= B after it. Where no piece does any
of these, the plan ends there, and is refused if that is before its horizon. Rich pieces do (a) and poor ones (b)
wherever the share stays. Where a piece reaches beyond a place at which the share falls, a poor one may do neither, and
then what is left is divided anew first: poor pieces of the lower share do (b).

*After every pack.* Filling moves pieces inside a block only, so E at the end of a block is E after its last piece, and
the slots of that piece are those of a pack so far. Inside a block E is looked at after every pack. Where it passes both
B and the slots of any pack of that block so far, and |E| at both ends of the block, which are all at most M, the block
is halved: at last it holds one pack, and has no inside.

Where the share is level halving never happens. While both kinds of packs are left, a rich one comes at E < 0 and a
poor one at E >= 0, as in (a) and (b). Once one kind is used up, E moves in one direction to its value at the block's
end, and that lies within the bound, or above it where a piece of s slots in a pack still to come made it so; but then
it ends below s, gains at least s - B with that pack, and is below B before.

**Windows.** Over any W packs in a row the slots differ from the schedule by at most 2 M: 2/W of a pack's. Over 4,096
packs that are half full or more that is below a tenth of a percentage point, whatever they hold. `proof.py` recounts.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from manifests.records import Json, PlanBlock, canonical_json, digest
from packing.mixture import Mixture
from packing.plan.amend import BEGINNING, Begun, begun_at, chain_of
from packing.plan.blocks import A, Mapper, Part, T, WholeBatches, bound_of, compile_part, in_parts
from packing.plan.infeasible import End, WaysOut, goal_of
from packing.plan.legs import thresholds
from packing.plan.media_caps import withhold
from packing.plan.order import Order, Segments, Standing
from packing.plan.pieces import SourcePieces
from packing.plan.summary import Account, by_source, per_pack
from packing.plan.supply import Supply, supplies_of
from stores.prefetch import prefetch
from stores.spill import Scratch
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary

VERSION = 7
"""Raised when the same mixture and snapshots would give another plan."""


Again = Callable[[Mixture, Scratch], Sequence[Supply]]
"""The same samples for a mixture that was changed."""


@dataclass(frozen=True)
class Plan:
    blocks: tuple[PlanBlock, ...]
    """In training order. Arrays: `pack_offsets` (packs + 1,) into the segments, and per segment `source` (index into
    the header's `sources`), `ordinal` (of the sample in that source's snapshot), `start` and `length` (in expanded
    tokens), `slots` (vision slots in it), `epoch`."""
    meta: Json
    """What it was made from, what is in it and how well promises are kept. `plan` is its digest."""


def compile_plan(
    mixture: Mixture,
    samples: Mapping[str, Snapshot],
    vocabulary: Vocabulary,
    mapper: Mapper = map,
    amends: tuple[Snapshot, int] | None = None,
    scratch: Scratch | None = None,
) -> Plan:
    """Compile `mixture` over samples snapshots, given by source name.

    Args:
        mapper: like `map`, e.g. that of a process pool; has no influence on the plan, nor has `scratch`.
        amends: a stored plan, and the global batch from which on this one takes its place.
    Raises:
        ManifestError: within their epochs the sources can't give what schedule and horizon want. Says where the plan
            would fail and what can be changed.
    """
    begun = BEGINNING
    if amends is not None:
        begun = begun_at(chain_of(amends[0]), amends[1], mixture, vocabulary.digest)
    scratch = scratch or Scratch()

    def again(changed: Mixture, scratch: Scratch) -> list[Supply]:
        return supplies_of(changed, samples, vocabulary, scratch, begun)

    planner = Planner(mixture, again(mixture, scratch), vocabulary.digest, scratch, mapper, begun, again)
    return Plan(tuple(planner), planner.meta)


def arrange(
    mixture: Mixture,
    sources: Sequence[SourcePieces],
    vocabulary: str,
    mapper: Mapper = map,
    begun: Begun = BEGINNING,
    scratch: Scratch | None = None,
) -> Plan:
    """The plan over pieces, one entry of `sources` per source of the mixture; `vocabulary` is its digest."""
    scratch = scratch or Scratch()

    def again(changed: Mixture, scratch: Scratch) -> list[Supply]:
        return [Supply.of(changed, number, pieces, scratch, begun) for number, pieces in enumerate(sources)]

    planner = Planner(mixture, again(mixture, scratch), vocabulary, scratch, mapper, begun, again)
    return Plan(tuple(planner), planner.meta)


def in_threads(work: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
    """A mapper: two blocks are compiled while the next one is drawn."""
    return prefetch(work, items, 2)


@dataclass
class Made:
    """What there is of a plan so far."""

    batches: WholeBatches
    given: np.ndarray
    """(sources, 2) int64: tokens and slots."""
    account: Account = field(default_factory=Account)
    blocks: int = 0
    digest: str = digest("plan", str(VERSION))
    """Over the digests of all blocks."""


class Planner:
    """Gives the blocks of a plan one after the other, in training order; then `meta` is complete. Iterated once.

    Raises ManifestError where it gets to a place at which the plan fails.
    """

    def __init__(
        self,
        mixture: Mixture,
        sources: Sequence[Supply],
        vocabulary: str,
        scratch: Scratch,
        mapper: Mapper = map,
        begun: Begun = BEGINNING,
        again: Again | None = None,
        rested: tuple[Standing, Made] | None = None,
        at_rest: Callable[[Standing, Made], None] = lambda standing, made: None,
    ) -> None:
        """
        Args:
            again: with it, ways out of a refusal are tried before they are named.
            rested: what another planner of the same plan told `at_rest`; this one gives the blocks that come then.
            at_rest: told at the end of each leg where the order stands and what was given.
        """
        self._mixture, self._sources, self._mapper, self._begun = mixture, sources, mapper, begun
        self._goal, self._again, self._at_rest = goal_of(mixture), again, at_rest
        for source in sources:
            source.divide_by(thresholds(mixture))
        withhold(mixture, sources, scratch)
        nothing = Made(WholeBatches(mixture, begun.tokens), np.zeros((len(sources), 2), np.int64))
        standing, made = rested or (None, nothing)
        self._order, self._made = Order(mixture, sources, self._goal, begun, standing), made
        self._constants = {
            "sources": [source.name for source in mixture.sources],
            "max_pack_tokens": mixture.max_pack_tokens,
            "limits": dataclasses.asdict(mixture.limits),
            **({} if mixture.pixels == "exact" else {"pixels": mixture.pixels}),
            "segment_align": mixture.segment_align,
            "vocabulary": vocabulary,
        }
        self._types = narrow(mixture, max(source.records for source in sources))
        self.meta: Json = None

    def __iter__(self) -> Iterator[PlanBlock]:
        made, standings = self._made, deque[Standing | None]()

        def parts() -> Iterator[Part]:
            for part in in_parts(self._order, self._mixture, self._goal):
                standings.append(part.standing)
                yield dataclasses.replace(part, standing=None)

        work = partial(compile_part, self._mixture, bound_of(self._mixture, self._begun))
        for compiled in self._mapper(work, parts()):
            if standing := standings.popleft():
                self._at_rest(standing, made)
            for one in compiled:
                for block, errors in made.batches.add(*one):
                    yield self._record(block, errors)
        for block, errors in made.batches.rest():
            yield self._record(block, errors)
        if self._missing is not None:
            raise self._ways_out.refusal(self._missing)
        if not made.blocks:
            raise self._ways_out.too_few(made.batches.packs)
        self.meta = self._told()

    def end(self) -> End:
        """Draws all, packs nothing."""
        for _ in self._order:
            pass
        return self._order.tokens, self._missing

    @property
    def _missing(self) -> bool | None:
        """What makes this plan fail: True for rich pieces, False for poor ones. Without a horizon a plan ends where a
        kind runs out, and fails only where all that there is lies on one side of the share."""
        failed = self._mixture.horizon_tokens is not None or not self._both_sides()
        return self._order.missing if failed else None

    @property
    def _ways_out(self) -> WaysOut:
        again, begun = self._again, self._begun

        def ends(changed: Mixture) -> End:
            assert again is not None
            scratch = Scratch()
            return Planner(changed, again(changed, scratch), "", scratch, begun=begun).end()

        tried = ends if again is not None else None
        return WaysOut(self._mixture, self._sources, begun, self._order.tokens, self._order.threshold, tried)

    def _record(self, block: Segments, errors: np.ndarray) -> PlanBlock:
        made = self._made
        for column, name in enumerate(("length", "slots")):
            made.given[:, column] += np.bincount(block["source"], block[name], len(made.given)).astype(np.int64)
        header = {"block": made.blocks, "first_pack": made.account.packs, **self._constants}
        made.account.add(per_pack(block, "length"), per_pack(block, "slots"), errors)
        made.account.add_limited(block)
        block = {name: column for name, column in block.items() if name in self._types}
        record = PlanBlock(header, {name: column.astype(self._types[name]) for name, column in block.items()})
        made.digest = digest(made.digest, block_digest(record))
        made.blocks += 1
        return record

    def _told(self) -> dict[str, Json]:
        mixture = self._mixture
        return {
            "plan": self._made.digest,
            "version": VERSION,
            "mixture": mixture.digest,
            "vocabulary": self._constants["vocabulary"],
            "seed": mixture.seed,
            "max_pack_tokens": mixture.max_pack_tokens,
            "global_batch_packs": mixture.global_batch_packs,
            "horizon_tokens": mixture.horizon_tokens,
            "vision_share": mixture.vision_share.said,
            "schedule": mixture.curve.rows,
            "amends": self._begun.told,
            "max_media_exposures": mixture.max_media_exposures,
            "limits": self._constants["limits"],
            "pixels": mixture.pixels,
            "pack_limits": dataclasses.asdict(mixture.pack_limits),
            "segment_align": mixture.segment_align,
            **self._made.account.told(mixture, self._begun),
            "fill_by_limit": self._made.account.fill_by_limit(mixture),
            "sources": by_source(mixture, self._sources, self._made.given.tolist(), self._order.spent),
        }

    def _both_sides(self) -> bool:
        """Whether there are pieces to give and to take vision with; a share of 0 needs none that give."""
        threshold = self._order.threshold
        rich, poor = (any(one.on_side(threshold, side)[0] for one in self._sources) for side in (True, False))
        return (rich or threshold == 0) and poor


def narrow(mixture: Mixture, records: int) -> dict[str, np.dtype]:
    """Types of a block's columns, the same ones in all blocks; `records` are of the largest source."""
    most = {
        "source": len(mixture.sources),
        "ordinal": records,
        "length": mixture.max_pack_tokens,
        "slots": mixture.max_pack_tokens,
        "epoch": max(source.max_epochs for source in mixture.sources),
    }
    wide = dict.fromkeys(("pack_offsets", "start"), np.dtype(np.int32))
    return wide | {name: np.min_scalar_type(-1 - number) for name, number in most.items()}


def block_digest(block: PlanBlock) -> str:
    parts: list[str | bytes] = [canonical_json(dict(block.header))]
    for name, array in sorted(block.arrays.items()):
        parts += [name, array.dtype.str, array.tobytes()]
    return digest(*parts)
