"""Planner: compiles a mixture and the indexes of its samples into a plan, the content and the order of all packs.

    samples snapshots -> pieces.py -> one order of pieces (order.py) -> blocks (blocks.py) -> packs in order

No payload is read. A piece is *rich* if it holds more vision than the share wanted at its place, else *poor*.

1. The pieces of each source are permuted by hash, epoch by epoch. Weights merge the sources into two orders, of rich
and
   of poor pieces (`mixture.py` explains weights). Where the share changes, the pieces not yet drawn are divided anew.
2. One pass merges the two: a rich piece where fewer slots were given than the schedule wants, else a poor one. The
   result is cut into blocks of about equally many tokens; a block also ends where the share jumps, and where it begins
   or ceases to be 0. That fixes the pieces of a block, and the exact error at its start.
3. Blocks are compiled independently of each other, in any order, by any mapper, on any number of workers: filled, and
   their packs put in order by the same rule, each kind in seeded order. A block in which the bound below would be
   exceeded is halved and filled again.

Blocks leave as they are made, and pieces are read from files where memory is too small for them (`epochs.py`).

**The bound.** After every pack the vision slots given so far differ from the schedule's by at most one pack's: by at
most M = max(slots of any pack so far, B), where B = the highest share * max_pack_tokens: the most that a pack holds, or
ought to hold. Proof, for E = slots given - slots wanted.

*After every piece* -B <= E <= max(slots of any piece so far, B), because a piece is drawn only if (a) E < 0 before it
and it does not lower E: then E rises to less than its own slots; or (b) E >= 0 before it and it does not raise E: then
E falls by at most the slots that the schedule wants for its length, at most B; or (c) |E| <= B after it. Where no piece
does any of these, the plan ends, and is refused if that is before its horizon. Rich pieces do (a) and poor ones (b)
wherever the share stays. Where a piece reaches beyond a token at which the share falls, a poor one may do neither; the
remaining pieces are then divided anew first, and poor pieces of the lower share do (b).

*After every pack.* Filling moves pieces inside a block only, so E at the end of a block is E after its last piece, and
the slots of that piece are those of a pack so far. Inside a block E is checked after every pack. If it exceeds B, the
slots of every pack of that block so far, and |E| at both ends of the block, which are all at most M, the block is
halved: in the end it holds one pack, and has no inside.

Where the share is level halving never happens. While both kinds of packs are left, a rich one comes at E < 0 and a
poor one at E >= 0, as in (a) and (b). Once one kind is used up, E moves in one direction to its value at the block's
end. That value lies within the bound, or above it where a piece of s slots in a pack still to come made it so; but then
it ends below s, gains at least s - B with that pack, and is below B before.

**Windows.** Over any W consecutive packs the slots differ from the schedule by at most 2 M: 2/W of a pack's. Over 4,096
packs that are half full or more that is below a tenth of a percentage point, whatever their content. `packing/proof.py`
recounts both from the bytes of the packs.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from manifests.records import Json, PlanBlock, canonical_json, digest
from manifests.schedule import VisionShare
from packing.mixture import Mixture
from packing.plan.amend import NO_PREFIX, RunPrefix, plan_chain, prefix_at
from packing.plan.blocks import A, BlockTask, Mapper, T, WholeBatches, block_tasks, compile_block, error_bound
from packing.plan.infeasible import OrderEnd, Remedies, goal_tokens
from packing.plan.legs import thresholds
from packing.plan.media_caps import cap_media
from packing.plan.order import Order, OrderState, Segments
from packing.plan.pieces import SourcePieces
from packing.plan.summary import PlanTotals, per_pack, source_rows
from packing.plan.supply import Supply, read_supplies
from stores.prefetch import prefetch
from stores.spill import Scratch
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary

PLAN_VERSION = 8
"""Raised when the same mixture and snapshots would give another plan."""

SHARE_STEPS = 10_000
"""A vision share from the data is rounded down to ten-thousandths."""

Rebuild = Callable[[Mixture, Scratch], Sequence[Supply]]
"""Function that makes the supplies of the same samples for a changed mixture."""


@dataclass(frozen=True)
class Plan:
    """A finished plan."""

    blocks: tuple[PlanBlock, ...]
    """In training order. Arrays: `pack_offsets` (packs + 1,) into the segments, and per segment `source` (index into
    the header's `sources`), `ordinal` (of the sample in that source's snapshot), `start` and `length` (in expanded
    tokens), `slots` (vision slots in it), `epoch`."""
    meta: Json
    """Inputs, totals and promises of the plan. `plan` is its digest."""


@dataclass(frozen=True)
class PlanInputs:
    """Everything that decides a plan, opened."""

    mixture: Mixture
    supplies: Sequence[Supply]
    """One per source of the mixture."""
    vocabulary: str
    """Digest."""
    prefix: RunPrefix = NO_PREFIX
    """The run before the plan."""
    rebuild: Rebuild | None = None
    """With it, the changes that an infeasible plan suggests are tried before they are named."""


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
        mapper: like `map`, e.g. that of a process pool. Neither it nor `scratch` influences the plan.
        amends: a stored plan, and the global batch from which on this one takes its place.
    Raises:
        ManifestError: within their epochs the sources can't give what schedule and horizon want. Names the token at
            which the plan would fail, and changes that help.
    """
    prefix = NO_PREFIX
    if amends is not None:
        prefix = prefix_at(plan_chain(amends[0]), amends[1], mixture, vocabulary.digest)
    scratch = scratch or Scratch()

    def rebuild(changed: Mixture, scratch: Scratch) -> list[Supply]:
        return read_supplies(changed, samples, vocabulary, scratch, prefix)

    inputs = PlanInputs(mixture, rebuild(mixture, scratch), vocabulary.digest, prefix, rebuild)
    planner = Planner(inputs, scratch, mapper)
    return Plan(tuple(planner), planner.meta)


def arrange(
    mixture: Mixture,
    sources: Sequence[SourcePieces],
    vocabulary: str,
    mapper: Mapper = map,
    prefix: RunPrefix = NO_PREFIX,
    scratch: Scratch | None = None,
) -> Plan:
    """Compile a plan over pieces instead of stores.

    Args:
        sources: the pieces of each source of the mixture.
        vocabulary: digest.
        mapper, scratch: as in `compile_plan`.
        prefix: the run before the plan.
    """
    scratch = scratch or Scratch()

    def rebuild(changed: Mixture, scratch: Scratch) -> list[Supply]:
        return [Supply.from_pieces(changed, number, pieces, scratch, prefix) for number, pieces in enumerate(sources)]

    planner = Planner(PlanInputs(mixture, rebuild(mixture, scratch), vocabulary, prefix, rebuild), scratch, mapper)
    return Plan(tuple(planner), planner.meta)


def in_threads(work: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
    """A mapper that compiles two blocks while the next one is drawn."""
    return prefetch(work, items, 2)


@dataclass
class GivenBlocks:
    """Totals of the blocks that a planner gave so far, and the queue of compiled ones."""

    batches: WholeBatches
    by_source: np.ndarray
    """(sources, 2) int64: tokens and slots."""
    totals: PlanTotals = field(default_factory=PlanTotals)
    blocks: int = 0
    digest: str = digest("plan", str(PLAN_VERSION))
    """Over the digests of all blocks."""

    def as_state(self) -> dict[str, Any]:
        """JSON values and arrays for a checkpoint file."""
        nested = {"batches": self.batches.as_state(), "totals": self.totals.as_state()}
        return nested | {"by_source": self.by_source.copy(), "blocks": self.blocks, "digest": self.digest}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state that `as_state` returned."""
        self.batches.restore(state["batches"])
        self.totals.restore(state["totals"])
        self.by_source, self.blocks, self.digest = state["by_source"].copy(), state["blocks"], state["digest"]


@dataclass(frozen=True)
class PlannerState:
    """State of a planner at a checkpoint. Another planner with equal inputs resumes from it."""

    order: OrderState
    given: dict[str, Any]
    """`GivenBlocks.as_state`."""


class Planner:
    """Iterator over the blocks of a plan in training order; iterated once, `meta` is then complete.

    Raises ManifestError when it reaches the token at which the plan fails.
    """

    def __init__(
        self,
        inputs: PlanInputs,
        scratch: Scratch,
        mapper: Mapper = map,
        resume_from: PlannerState | None = None,
        on_checkpoint: Callable[[PlannerState], None] = lambda state: None,
    ) -> None:
        """
        Args:
            scratch: for partitions that memory can't hold.
            mapper: compiles blocks; like `map`.
            resume_from: a state that another planner passed to `on_checkpoint`; this one gives the blocks after it.
            on_checkpoint: called with the state at each checkpoint (`legs.py`).
        """
        mixture, supplies = with_share_of_data(inputs.mixture, inputs.supplies), inputs.supplies
        self._inputs, self._mapper = dataclasses.replace(inputs, mixture=mixture), mapper
        self._goal, self._on_checkpoint = goal_tokens(mixture), on_checkpoint
        for supply in supplies:
            supply.set_thresholds(thresholds(mixture))
        cap_media(mixture, supplies, scratch)
        self._given = GivenBlocks(WholeBatches(mixture, inputs.prefix.tokens), np.zeros((len(supplies), 2), np.int64))
        if resume_from is not None:
            self._given.restore(resume_from.given)
        order_state = resume_from.order if resume_from else None
        self._order = Order(mixture, supplies, self._goal, inputs.prefix, order_state)
        self._constants = {
            "sources": [source.name for source in mixture.sources],
            "max_pack_tokens": mixture.max_pack_tokens,
            "media_limits": dataclasses.asdict(mixture.media_limits),
            **({} if mixture.pixels == "exact" else {"pixels": mixture.pixels}),
            "segment_align": mixture.segment_align,
            "vocabulary": inputs.vocabulary,
        }
        self._types = column_types(mixture, max(supply.records for supply in supplies))
        self.meta: Json = None

    def __iter__(self) -> Iterator[PlanBlock]:
        mixture, given = self._inputs.mixture, self._given
        checkpoints = deque[OrderState | None]()

        def tasks() -> Iterator[BlockTask]:
            for task in block_tasks(self._order, mixture, self._goal):
                checkpoints.append(task.checkpoint)
                yield dataclasses.replace(task, checkpoint=None)

        work = partial(compile_block, mixture, error_bound(mixture, self._inputs.prefix))
        for compiled in self._mapper(work, tasks()):
            if (order_state := checkpoints.popleft()) is not None:
                self._on_checkpoint(PlannerState(order_state, given.as_state()))
            for compiled_block in compiled:
                for block, errors in given.batches.add(*compiled_block):
                    yield self._record(block, errors)
        for block, errors in given.batches.finish():
            yield self._record(block, errors)
        if self._missing is not None:
            raise self._remedies.error(self._missing)
        if not given.blocks:
            raise self._remedies.too_few(given.batches.packs)
        self.meta = self._meta()

    def end(self) -> OrderEnd:
        """Draw all pieces without packing them."""
        for _ in self._order:
            pass
        return self._order.tokens, self._missing

    @property
    def _missing(self) -> bool | None:
        """Side of the share whose pieces ran out and made the plan fail: True for rich pieces, False for poor ones.

        Without a horizon a plan ends where one side runs out, and fails only if all pieces lie on one side.
        """
        failed = self._inputs.mixture.horizon_tokens is not None or not self._both_sides()
        return self._order.missing if failed else None

    @property
    def _remedies(self) -> Remedies:
        inputs, rebuild = self._inputs, self._inputs.rebuild

        def end_with(changed: Mixture) -> OrderEnd:
            assert rebuild is not None
            scratch = Scratch()
            return Planner(PlanInputs(changed, rebuild(changed, scratch), "", inputs.prefix), scratch).end()

        return Remedies(
            inputs.mixture,
            inputs.supplies,
            inputs.prefix,
            self._order.tokens,
            self._order.threshold,
            end_with if rebuild is not None else None,
        )

    def _record(self, block: Segments, errors: np.ndarray) -> PlanBlock:
        given = self._given
        for column, name in enumerate(("length", "slots")):
            sums = np.bincount(block["source"], block[name], len(given.by_source))
            given.by_source[:, column] += sums.astype(np.int64)
        header = {"block": given.blocks, "first_pack": given.totals.packs, **self._constants}
        given.totals.add(per_pack(block, "length"), per_pack(block, "slots"), errors)
        given.totals.add_limited(block)
        block = {name: column for name, column in block.items() if name in self._types}
        record = PlanBlock(header, {name: column.astype(self._types[name]) for name, column in block.items()})
        given.digest = digest(given.digest, block_digest(record))
        given.blocks += 1
        return record

    def _meta(self) -> dict[str, Json]:
        mixture, prefix, given = self._inputs.mixture, self._inputs.prefix, self._given
        return {
            "plan": given.digest,
            "version": PLAN_VERSION,
            "mixture": mixture.digest,
            "vocabulary": self._inputs.vocabulary,
            "seed": mixture.seed,
            "max_pack_tokens": mixture.max_pack_tokens,
            "global_batch_packs": mixture.global_batch_packs,
            "horizon_tokens": mixture.horizon_tokens,
            "vision_share": mixture.vision_share.declared,
            "schedule": mixture.curve.rows,
            "amends": prefix.as_json(),
            "max_media_exposures": mixture.max_media_exposures,
            "media_limits": self._constants["media_limits"],
            "pixels": mixture.pixels,
            "pack_limits": dataclasses.asdict(mixture.pack_limits),
            "segment_align": mixture.segment_align,
            **given.totals.as_json(mixture, prefix),
            "fill_by_limit": given.totals.fill_by_limit(mixture),
            "sources": source_rows(mixture, self._inputs.supplies, given.by_source.tolist(), self._order.spent),
        }

    def _both_sides(self) -> bool:
        """Whether there are rich and poor pieces; a share of 0 needs no rich ones."""
        threshold = self._order.threshold
        rich, poor = (
            any(supply.totals_of_side(threshold, side)[0] for supply in self._inputs.supplies) for side in (True, False)
        )
        return (rich or threshold == 0) and poor


def with_share_of_data(mixture: Mixture, supplies: Sequence[Supply]) -> Mixture:
    """The mixture with a constant vision share in place of `from_data`: slots over tokens of all supplies."""
    if not mixture.vision_share.from_data:
        return mixture
    tokens, slots = sum(supply.tokens for supply in supplies), sum(supply.slots for supply in supplies)
    share = slots * SHARE_STEPS // max(tokens, 1) / SHARE_STEPS
    return dataclasses.replace(mixture, vision_share=VisionShare(constant=share))


def column_types(mixture: Mixture, records: int) -> dict[str, np.dtype]:
    """Narrowest dtypes of a block's columns, the same in all blocks.

    Args:
        records: number of samples of the largest source.
    """
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
    """Digest of a block's header and arrays."""
    parts: list[str | bytes] = [canonical_json(dict(block.header))]
    for name, array in sorted(block.arrays.items()):
        parts += [name, array.dtype.str, array.tobytes()]
    return digest(*parts)
