"""The plan: which pieces share which pack, and which pack is seen when. Made from the index; no payload is read.

    samples snapshots -> pieces.py -> one order of pieces (order.py) -> blocks -> sequence.py -> packs in order

1. Each source's pieces are permuted by hash, epoch by epoch. Two merged orders, of rich and of poor pieces, follow the
   weights (`mixture.py` says what is rich, and what the weights mean). Where the share changes, what was not yet drawn
   is divided anew.
2. One pass merges the two: a rich piece where fewer slots were given than the schedule wants, else a poor one. The
   result is cut into blocks of about equally many tokens, and where the share jumps or begins or ceases to be 0. That
   fixes what is in a block.
3. Blocks are filled independently of each other, by any mapper, on any number of workers.
4. One pass carries the exact error from block to block and orders the packs inside each by the same rule: a pack with
   which fewer slots are missing where any are, else one with which not more are given, each kind in seeded order. A
   block in which the bound below would be passed is halved and filled again.

Blocks leave as they are made, so that a plan needs memory for the pieces it permutes and not for what it says.

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
the slots of that piece are those of a pack so far. Inside a block the pass looks at E after every pack. Where that
passes M the block is halved: at last it holds one pack, and has no inside.

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
from dataclasses import dataclass
from functools import partial

import numpy as np

from manifests.errors import ManifestError
from manifests.records import Json, PlanBlock, canonical_json, digest
from manifests.schedule import MILLION
from packing.account import account, by_source, per_pack
from packing.amend import BEGINNING, Begun, begun_at, chain_of
from packing.mixture import Mixture
from packing.order import COLUMNS, NEVER, Order, Segments, permutation, position_at
from packing.pieces import SourcePieces, pieces_of
from packing.refusal import refusal, threshold
from packing.sequence import fill_limited
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary

VERSION = 4
"""Raised when the same mixture and snapshots would give another plan."""

Fill = Callable[[Segments], list[list[int]]]
Mapper = Callable[[Fill, Iterable[Segments]], Iterable[list[list[int]]]]


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
) -> Plan:
    """Compile `mixture` over samples snapshots, given by source name.

    Args:
        mapper: like `map`, e.g. that of a process pool; has no influence on the plan.
        amends: a stored plan, and the global batch from which on this one takes its place.
    Raises:
        ManifestError: within their epochs the sources can't give what schedule and horizon want. Says where the plan
            would fail and what can be changed.
    """
    sources = [pieces_of(samples[source.name], source, mixture, vocabulary) for source in mixture.sources]
    begun = BEGINNING
    if amends is not None:
        begun = begun_at(chain_of(amends[0]), amends[1], mixture, sources, vocabulary.digest)
    return arrange(mixture, sources, vocabulary.digest, mapper, begun)


def arrange(
    mixture: Mixture,
    sources: Sequence[SourcePieces],
    vocabulary: str,
    mapper: Mapper = map,
    begun: Begun = BEGINNING,
) -> Plan:
    """The plan over pieces, one entry of `sources` per source of the mixture; `vocabulary` is its digest."""
    planner = Planner(mixture, sources, vocabulary, mapper, begun)
    return Plan(tuple(planner), planner.meta)


class Planner:
    """Gives the blocks of a plan one after the other, in training order; then `meta` is complete. Iterated once.

    Raises ManifestError where it gets to a place at which the plan fails.
    """

    def __init__(
        self,
        mixture: Mixture,
        sources: Sequence[SourcePieces],
        vocabulary: str,
        mapper: Mapper = map,
        begun: Begun = BEGINNING,
    ) -> None:
        self._mixture, self._sources, self._mapper, self._begun = mixture, sources, mapper, begun
        self._fill = partial(fill_block, mixture)
        goal = NEVER
        if mixture.horizon_tokens is not None:  # one global batch more, so that whole packs can reach it
            goal = mixture.horizon_tokens + mixture.global_batch_packs * mixture.max_pack_tokens
        self._goal = goal
        self._order = Order(mixture, sources, goal, begun)
        self._constants = {
            "sources": [source.name for source in mixture.sources],
            "max_pack_tokens": mixture.max_pack_tokens,
            "limits": dataclasses.asdict(mixture.limits),
            "segment_align": mixture.segment_align,
            "vocabulary": vocabulary,
        }
        self._sequenced = _Sequence(mixture, begun)
        self._digests: list[str] = []
        self._tokens: list[np.ndarray] = []
        self._slots: list[np.ndarray] = []
        self._errors: list[np.ndarray] = []
        self._given = np.zeros((len(sources), 2), np.int64)
        self.meta: Json = None

    def __iter__(self) -> Iterator[PlanBlock]:
        parts: deque[Segments] = deque()

        def cut() -> Iterator[Segments]:
            for part in in_blocks(self._order, self._mixture, self._begun.tokens, self._goal):
                parts.append(part)
                yield part

        ready = (
            block
            for packs in self._mapper(self._fill, cut())
            for block in self._sequenced(parts.popleft(), packs, self._fill)
        )
        for block, errors in whole_batches(self._mixture, ready, self._begun.tokens):
            yield self._record(block, errors)
        missing = self._order.missing
        if missing is not None and (self._mixture.horizon_tokens is not None or not self._both_sides()):
            raise refusal(self._mixture, self._sources, self._order.tokens, rich_missing=missing)
        if not self._digests:
            raise ManifestError(
                f"the sources fill {self._sequenced.packs} packs, "
                f"one global batch needs {self._mixture.global_batch_packs}",
                where="mixture",
                fix="lower global_batch_packs or max_pack_tokens, or add data",
            )
        self.meta = self._told()

    def _record(self, block: Segments, errors: np.ndarray) -> PlanBlock:
        first = sum(map(len, self._tokens))
        record = PlanBlock({"block": len(self._digests), "first_pack": first, **self._constants}, block)
        self._digests.append(block_digest(record))
        self._tokens.append(per_pack(block, "length"))
        self._slots.append(per_pack(block, "slots"))
        self._errors.append(errors)
        for column, name in enumerate(("length", "slots")):
            np.add.at(self._given[:, column], block["source"], block[name])
        return record

    def _told(self) -> dict[str, Json]:
        mixture = self._mixture
        tokens, slots, errors = map(np.concatenate, (self._tokens, self._slots, self._errors))
        return {
            "plan": plan_digest(self._digests),
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
            "pack_limits": dataclasses.asdict(mixture.pack_limits),
            "segment_align": mixture.segment_align,
            **account(mixture, self._begun, tokens, slots, errors),
            "sources": by_source(mixture, self._sources, self._given.tolist(), self._order.spent, self._order.allowed),
        }

    def _both_sides(self) -> bool:
        """Whether there are pieces to give and to take vision with; a share of 0 needs none that give."""
        share = threshold(self._mixture.curve.at(self._order.tokens))
        rich = np.concatenate([pieces.richer_than(share) for pieces in self._sources])
        return bool((rich.any() or share == 0) and (~rich).any())


def block_digest(block: PlanBlock) -> str:
    parts: list[str | bytes] = [canonical_json(dict(block.header))]
    for name, array in sorted(block.arrays.items()):
        parts += [name, array.dtype.str, array.tobytes()]
    return digest(*parts)


def plan_digest(blocks: Sequence[str]) -> str:
    """Over the digests of all blocks: equal ones, equal packs in equal order."""
    return digest("plan", str(VERSION), *blocks)


def fill_block(mixture: Mixture, part: Segments) -> list[list[int]]:
    """Step 3: the packs of one block, as rows of `part`."""
    length = part["length"].astype(np.int64)
    limits = mixture.pack_limits
    costs = [
        (length + -length % mixture.segment_align, mixture.max_pack_tokens),
        (part["patches"], limits.patches),
        (part["media_in"], limits.media),
        (length**2, limits.attention),
    ]
    kept = [(cost, most) for cost, most in costs if most is not None]
    return fill_limited(np.stack([cost for cost, _ in kept], 1), [most for _, most in kept])


def in_blocks(chunks: Iterable[Segments], mixture: Mixture, begun: int, goal: int) -> Iterator[Segments]:
    """Step 2: the order, which goes from token `begun` to `goal`, in stretches of about `block_packs` full packs, cut
    where the share breaks. What remains where the sources end joins the block before if it is less than half of one."""
    wanted = mixture.block_packs * mixture.max_pack_tokens
    places = deque(
        [*(place for place in mixture.curve.breaks if begun < place < goal), *([goal] if goal < NEVER else [])]
    )
    waiting: list[Segments] = []
    held: Segments | None = None
    tokens = begun
    cut = _next_cut(begun, wanted, places)
    for chunk in chunks:
        ends = tokens + np.cumsum(chunk["length"], dtype=np.int64)
        first = 0
        while ends[-1] >= cut and first < len(ends):
            stop = int(np.searchsorted(ends, cut)) + 1
            if held is not None:
                yield held
            held = _joined([*waiting, _rows(chunk, first, stop)])
            waiting, first, begun = [], stop, int(ends[stop - 1])
            if places and places[0] <= begun:  # nothing joins a block that ends where the share breaks
                yield held
                held = None
                while places and places[0] <= begun:
                    places.popleft()
            cut = _next_cut(begun, wanted, places)
        waiting.append(_rows(chunk, first, len(ends)))
        tokens = int(ends[-1])
    rest = [_joined(waiting)] if tokens > begun else []
    if held is not None and 2 * (tokens - begun) < wanted:
        yield _joined([held, *rest])
    else:
        yield from [*([] if held is None else [held]), *rest]


def _next_cut(begun: int, wanted: int, places: Sequence[int]) -> int:
    """Blocks up to the next place at which one has to end are equally large."""
    if not places:
        return begun + wanted
    room = places[0] - begun
    return begun + -(-room // max(1, round(room / wanted)))


class _Sequence:
    """Step 4: the packs of each block in the order in which they are seen. Blocks come in order."""

    def __init__(self, mixture: Mixture, begun: Begun) -> None:
        from packing import merging

        self._mixture, self._merging = mixture, merging
        curve = mixture.curve
        self._curve = [np.array(values, np.int64) for values in (curve.starts, curve.first, curve.last)]
        self._bound = max(begun.bound, 2 * int(curve.highest * MILLION) * mixture.max_pack_tokens)
        self._position = np.array([*position_at(curve, begun), 0], np.int64)
        self._blocks = 0
        self.packs = 0

    def __call__(self, part: Segments, packs: list[list[int]], fill: Fill) -> Iterator[tuple[Segments, np.ndarray]]:
        """The block, or its halves, with |slots given - slots wanted| after each pack in half-millionths."""
        rows = np.array([i for pack in packs for i in pack], np.int64)
        ends = np.cumsum([0, *map(len, packs)], dtype=np.int64)
        tokens, slots = (np.add.reduceat(part[name][rows], ends[:-1], dtype=np.int64) for name in ("length", "slots"))
        name = f"block {self._blocks}"
        waiting = permutation(self._mixture.seed, 0, name, np.arange(len(packs), dtype=np.uint64))
        seen, errors = np.zeros((2, len(packs)), np.int64)
        self._merging.sequence(*self._curve, self._position, self._bound, tokens, slots, waiting, seen, errors)
        if seen[0] < 0:
            half = len(part["length"]) // 2
            for piece in (_rows(part, 0, half), _rows(part, half, 2 * half + 1)):
                yield from self(piece, fill(piece), fill)
            return
        self._blocks += 1
        self.packs += len(packs)
        rows = np.concatenate([rows[ends[pack] : ends[pack + 1]] for pack in seen])
        offsets = np.cumsum([0, *(ends[seen + 1] - ends[seen])], dtype=np.int64)
        yield {"pack_offsets": offsets} | {name: part[name][rows] for name in COLUMNS}, errors


def whole_batches(
    mixture: Mixture, blocks: Iterable[tuple[Segments, np.ndarray]], tokens: int
) -> Iterator[tuple[Segments, np.ndarray]]:
    """The blocks up to the first whole global batch that reaches the horizon, or up to the last whole one; `tokens`
    were seen before them."""
    batch = mixture.global_batch_packs
    waiting: deque[tuple[Segments, np.ndarray]] = deque()
    packs = given = 0
    enough = NEVER
    """Packs that reach the horizon in whole batches, once that is known."""
    for block, errors in blocks:
        waiting.append((block, errors))
        ends = tokens + np.cumsum(per_pack(block, "length"))
        if mixture.horizon_tokens is not None and enough == NEVER and ends[-1] >= mixture.horizon_tokens:
            reached = packs + int(np.searchsorted(ends, mixture.horizon_tokens)) + 1
            enough = -(-reached // batch) * batch
        tokens, packs = int(ends[-1]), packs + len(errors)
        while waiting and given + len(waiting[0][1]) <= min(enough, packs // batch * batch):
            given += len(waiting[0][1])
            yield waiting.popleft()
    for block, errors in waiting:
        if left := min(enough, packs // batch * batch, given + len(errors)) - given:
            offsets = block["pack_offsets"][: left + 1]
            columns = _rows({name: column for name, column in block.items() if name in COLUMNS}, 0, int(offsets[-1]))
            yield {"pack_offsets": offsets} | columns, errors[:left]
            given += left


def _rows(segments: Segments, first: int, stop: int) -> Segments:
    return {name: column[first:stop] for name, column in segments.items()}


def _joined(parts: Sequence[Segments]) -> Segments:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
