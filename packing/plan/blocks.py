"""Blocks of a plan: what is cut out of the order together, filled into packs, and put in the order in which it is seen.

A block is all that one needs to know to compile it, so that blocks are compiled by any number of workers, in any order:
its pieces, and where the schedule stands at its first one. `plan/planner.py` says what holds, and proves it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture
from packing.plan.amend import Begun
from packing.plan.fill import fill_rows
from packing.plan.legs import NEVER, end_of_leg
from packing.plan.order import Order, Segments, Standing, permutation
from packing.plan.summary import per_pack

Block = tuple[Segments, np.ndarray]
"""Segments with `pack_offsets`; and (packs,) int64, |slots given - slots wanted| after each pack in half-millionths."""

A = TypeVar("A")
T = TypeVar("T")
Mapper = Callable[[Callable[[A], T], Iterable[A]], Iterable[T]]


@dataclass(frozen=True)
class Part:
    """Of the order."""

    first_token: int
    position: np.ndarray
    """(4,) int64 at its first piece, as `plan/order_loops.py` counts."""
    pieces: Segments
    standing: Standing | None = None
    """Where a leg begins with it."""


def in_parts(order: Order, mixture: Mixture, goal: int) -> Iterator[Part]:
    """The order up to token `goal`, in blocks, each with its place in the schedule."""
    from packing.plan import order_loops

    curve = arrays_of(mixture.curve)
    position = np.array(order.begin.position, np.int64)
    token = order.begin.tokens
    for pieces in in_blocks(order, mixture, token, goal):
        yield Part(token, position.copy(), pieces, order.standings.pop(token, None))
        token = move(order_loops.move, curve, position, token, pieces)


def arrays_of(curve: Curve) -> list[np.ndarray]:
    return [np.array(values, np.int64) for values in (curve.starts, curve.first, curve.last)]


def move(by: Callable[..., None], curve: Sequence[np.ndarray], position: np.ndarray, token: int, some: Segments) -> int:
    """The token after these pieces; `position` is moved there."""
    tokens, slots = (int(some[name].sum(dtype=np.int64)) for name in ("length", "slots"))
    by(*curve, position, tokens, slots)
    return token + tokens


def in_blocks(chunks: Iterable[Segments], mixture: Mixture, begun: int, goal: int) -> Iterator[Segments]:
    """The order, which goes from token `begun` to `goal`, in stretches of about `block_packs` full packs, cut where the
    share breaks and where legs end. What remains where the sources end joins the block before if it is less than half
    of one."""
    wanted = mixture.block_packs * mixture.max_pack_tokens
    breaks = [*mixture.curve.breaks, goal]
    waiting: list[Segments] = []
    held: Segments | None = None
    tokens = begun
    place, cut = _next_cut(begun, wanted, breaks)
    for chunk in chunks:
        ends = tokens + np.cumsum(chunk["length"], dtype=np.int64)
        first = 0
        while ends[-1] >= cut and first < len(ends):
            stop = int(np.searchsorted(ends, cut)) + 1
            if held is not None:
                yield held
            held = _joined([*waiting, _rows(chunk, first, stop)])
            waiting, first, begun = [], stop, int(ends[stop - 1])
            if place <= begun:  # nothing joins a block that ends there
                yield held
                held = None
            place, cut = _next_cut(begun, wanted, breaks)
        waiting.append(_rows(chunk, first, len(ends)))
        tokens = int(ends[-1])
    rest = [_joined(waiting)] if tokens > begun else []
    if held is not None and 2 * (tokens - begun) < wanted:
        yield _joined([held, *rest])
    else:
        yield from [*([] if held is None else [held]), *rest]


def _next_cut(begun: int, wanted: int, breaks: Sequence[int]) -> tuple[int, int]:
    """The next place at which a block has to end, and where to cut: blocks up to there are equally large."""
    place = min([end_of_leg(begun), *(one for one in breaks if one > begun)])
    room = place - begun
    return place, begun + -(-room // max(1, round(room / wanted)))


def compile_part(mixture: Mixture, bound: int, part: Part) -> list[Block]:
    """Fill the packs of a part and put them in order; halve it where a pack would pass the bound.

    Args:
        bound: on the error after each pack, in half-millionths, as far as it does not depend on the part.
    """
    from packing.plan import order_loops

    curve = arrays_of(mixture.curve)
    rows, ends = fill_part(mixture, part.pieces)
    after = part.position.copy()
    move(order_loops.move, curve, after, 0, part.pieces)
    here = max(bound, *(order_loops.distance(*curve[1:], position) for position in (part.position, after)))
    tokens, slots = (
        np.add.reduceat(part.pieces[name][rows], ends[:-1], dtype=np.int64) for name in ("length", "slots")
    )
    packs = np.arange(len(ends) - 1, dtype=np.uint64)
    waiting = permutation(mixture.seed, 0, f"block at token {part.first_token}", packs)
    seen, errors = np.zeros((2, len(packs)), np.int64)
    order_loops.sequence(*curve, part.position, here, tokens, slots, waiting, seen, errors)
    if seen[0] < 0:
        return [block for half in _halves(part, curve) for block in compile_part(mixture, bound, half)]
    rows = np.concatenate([rows[ends[pack] : ends[pack + 1]] for pack in seen])
    offsets = np.concatenate([[0], np.cumsum(np.diff(ends)[seen])])
    return [({"pack_offsets": offsets} | {name: column[rows] for name, column in part.pieces.items()}, errors)]


def _halves(part: Part, curve: Sequence[np.ndarray]) -> list[Part]:
    from packing.plan import order_loops

    count = len(part.pieces["length"])
    first = replace(part, pieces=_rows(part.pieces, 0, count // 2))
    position = part.position.copy()
    token = move(order_loops.move, curve, position, part.first_token, first.pieces)
    return [first, Part(token, position, _rows(part.pieces, count // 2, count))]


def fill_part(mixture: Mixture, pieces: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Packs of pieces, as `sequence.fill_rows` gives them."""
    length = pieces["length"].astype(np.int64)
    limits = mixture.pack_limits
    costs = [(length + -length % mixture.segment_align, mixture.max_pack_tokens)]
    costs += [(pieces[name], most) for name, most in (("patches", limits.patches), ("media_in", limits.media)) if most]
    if limits.attention:
        costs.append((length**2, limits.attention))
    return fill_rows(np.stack([cost for cost, _ in costs], 1), [most for _, most in costs])


def bound_of(mixture: Mixture, begun: Begun) -> int:
    """On the error wherever a plan stands, in half-millionths: what a pack ought to hold, or held before the plan."""
    return max(begun.bound, 2 * int(mixture.curve.highest * MILLION) * mixture.max_pack_tokens)


class WholeBatches:
    """Blocks up to the first whole global batch that reaches the horizon, or up to the last whole one."""

    def __init__(self, mixture: Mixture, tokens: int) -> None:
        """`tokens` were seen before."""
        self._batch, self._horizon, self._tokens = mixture.global_batch_packs, mixture.horizon_tokens, tokens
        self._waiting: deque[Block] = deque()
        self.packs = self._given = 0
        self._enough = NEVER
        """Packs that reach the horizon in whole batches, once that is known."""

    def add(self, block: Segments, errors: np.ndarray) -> Iterator[Block]:
        """The next block comes; those that are surely part of whole batches leave."""
        self._waiting.append((block, errors))
        ends = self._tokens + np.cumsum(per_pack(block, "length"))
        if self._horizon is not None and self._enough == NEVER and ends[-1] >= self._horizon:
            reached = self.packs + int(np.searchsorted(ends, self._horizon)) + 1
            self._enough = -(-reached // self._batch) * self._batch
        self._tokens, self.packs = int(ends[-1]), self.packs + len(errors)
        while self._waiting and self._given + len(self._waiting[0][1]) <= self._whole:
            self._given += len(self._waiting[0][1])
            yield self._waiting.popleft()

    def rest(self) -> Iterator[Block]:
        """What is left of the last whole batch, when all blocks came."""
        for block, errors in self._waiting:
            if left := min(self._whole, self._given + len(errors)) - self._given:
                offsets = block["pack_offsets"][: left + 1]
                whole = {name: column for name, column in block.items() if name != "pack_offsets"}
                columns = _rows(whole, 0, int(offsets[-1]))
                yield {"pack_offsets": offsets} | columns, errors[:left]
                self._given += left

    @property
    def _whole(self) -> int:
        """Packs in whole batches."""
        return min(self._enough, self.packs // self._batch * self._batch)


def _rows(segments: Segments, first: int, stop: int) -> Segments:
    return {name: column[first:stop] for name, column in segments.items()}


def _joined(parts: Sequence[Segments]) -> Segments:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
