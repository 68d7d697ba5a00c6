"""Blocks of a plan: consecutive pieces of the order, filled into packs, whose packs are put in the order of training.

A `BlockTask` has everything that its block needs: the pieces, and the position of the schedule at the first one. So
blocks are compiled by any number of workers, in any order. `order.py` gives the pieces; `planner.py` states and proves
the bound on the vision share that holds after every pack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture
from packing.plan.amend import RunPrefix
from packing.plan.fill import fill_rows
from packing.plan.legs import NEVER, next_checkpoint
from packing.plan.order import Order, OrderState, Segments, permutation
from packing.plan.summary import per_pack

Block = tuple[Segments, np.ndarray]
"""(segments with `pack_offsets`; (packs,) int64 |slots given - slots wanted| after each pack, in half-millionths)."""

A = TypeVar("A")
T = TypeVar("T")
Mapper = Callable[[Callable[[A], T], Iterable[A]], Iterable[T]]
"""A function with the signature of `map`, such as the `map` of a process pool."""


@dataclass(frozen=True)
class BlockTask:
    """Consecutive pieces of the order that become one block."""

    first_token: int
    position: np.ndarray
    """(4,) int64 position of `order_loops` at the first piece."""
    pieces: Segments
    checkpoint: OrderState | None = None
    """State of the order at the first piece, if a checkpoint is there."""


def block_tasks(order: Order, mixture: Mixture, goal: int) -> Iterator[BlockTask]:
    """The order up to token `goal`, cut into blocks."""
    from packing.plan import order_loops

    curve = curve_arrays(mixture.curve)
    position = np.array(order.begin.position, np.int64)
    token = order.begin.tokens
    for pieces in cut_blocks(order, mixture, token, goal):
        yield BlockTask(token, position.copy(), pieces, order.checkpoints.pop(token, None))
        token = _advance(order_loops.advance, curve, position, token, pieces)


def curve_arrays(curve: Curve) -> list[np.ndarray]:
    """Fields of a curve as int64 arrays, for the compiled loops."""
    return [np.array(values, np.int64) for values in (curve.starts, curve.first, curve.last)]


def _advance(
    advance: Callable[..., None], curve: Sequence[np.ndarray], position: np.ndarray, token: int, pieces: Segments
) -> int:
    """Advance `position` in place by all of `pieces`; returns the token after them."""
    tokens, slots = (int(pieces[name].sum(dtype=np.int64)) for name in ("length", "slots"))
    advance(*curve, position, tokens, slots)
    return token + tokens


def cut_blocks(chunks: Iterable[Segments], mixture: Mixture, first_token: int, goal: int) -> Iterator[Segments]:
    """Cut the order into blocks of about `block_packs` full packs.

    A block also ends where the share jumps, where it begins or ceases to be 0, at checkpoints and at `goal`. A last
    block of less than half the size joins the one before it.

    Args:
        chunks: the order from token `first_token` on.
    """
    wanted = mixture.block_packs * mixture.max_pack_tokens
    breaks = [*mixture.curve.breaks, goal]
    waiting: list[Segments] = []
    held: Segments | None = None
    tokens = begin = first_token
    stop_at, cut = _next_cut(begin, wanted, breaks)
    for chunk in chunks:
        ends = tokens + np.cumsum(chunk["length"], dtype=np.int64)
        first = 0
        while ends[-1] >= cut and first < len(ends):
            stop = int(np.searchsorted(ends, cut)) + 1
            if held is not None:
                yield held
            held = _joined([*waiting, _rows(chunk, first, stop)])
            waiting, first, begin = [], stop, int(ends[stop - 1])
            if stop_at <= begin:  # no rest may join a block that ends there
                yield held
                held = None
            stop_at, cut = _next_cut(begin, wanted, breaks)
        waiting.append(_rows(chunk, first, len(ends)))
        tokens = int(ends[-1])
    rest = [_joined(waiting)] if tokens > begin else []
    if held is not None and 2 * (tokens - begin) < wanted:
        yield _joined([held, *rest])
    else:
        yield from [*([] if held is None else [held]), *rest]


def _next_cut(begin: int, wanted: int, breaks: Sequence[int]) -> tuple[int, int]:
    """(next token at which a block must end, token at which to cut): blocks up to the former are about equally
    large."""
    stop_at = min([next_checkpoint(begin), *(token for token in breaks if token > begin)])
    room = stop_at - begin
    return stop_at, begin + -(-room // max(1, round(room / wanted)))


def compile_block(mixture: Mixture, bound: int, task: BlockTask) -> list[Block]:
    """Fill the packs of a block and put them in order; halve the block while a pack would exceed the bound.

    Args:
        bound: on the error after each pack, in half-millionths, as far as it does not depend on this block.
    """
    from packing.plan import order_loops

    curve = curve_arrays(mixture.curve)
    rows, ends = fill_block(mixture, task.pieces)
    after = task.position.copy()
    _advance(order_loops.advance, curve, after, 0, task.pieces)
    here = max(bound, *(order_loops.distance(*curve[1:], position) for position in (task.position, after)))
    tokens, slots = (
        np.add.reduceat(task.pieces[name][rows], ends[:-1], dtype=np.int64) for name in ("length", "slots")
    )
    packs = np.arange(len(ends) - 1, dtype=np.uint64)
    waiting = permutation(mixture.seed, 0, f"block at token {task.first_token}", packs)
    seen, errors = np.zeros((2, len(packs)), np.int64)
    order_loops.order_packs(*curve, task.position, here, tokens, slots, waiting, seen, errors)
    if seen[0] < 0:
        return [block for half in _halves(task, curve) for block in compile_block(mixture, bound, half)]
    rows = np.concatenate([rows[ends[pack] : ends[pack + 1]] for pack in seen])
    offsets = np.concatenate([[0], np.cumsum(np.diff(ends)[seen])])
    return [({"pack_offsets": offsets} | {name: column[rows] for name, column in task.pieces.items()}, errors)]


def _halves(task: BlockTask, curve: Sequence[np.ndarray]) -> list[BlockTask]:
    from packing.plan import order_loops

    count = len(task.pieces["length"])
    first = replace(task, pieces=_rows(task.pieces, 0, count // 2))
    position = task.position.copy()
    token = _advance(order_loops.advance, curve, position, task.first_token, first.pieces)
    return [first, BlockTask(token, position, _rows(task.pieces, count // 2, count))]


def fill_block(mixture: Mixture, pieces: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Fill packs with pieces under all limits of the mixture; returns a `fill.FilledPacks`."""
    length = pieces["length"].astype(np.int64)
    limits = mixture.pack_limits
    costs = [(length + -length % mixture.segment_align, mixture.max_pack_tokens)]
    costs += [(pieces[name], most) for name, most in (("patches", limits.patches), ("media_in", limits.media)) if most]
    if limits.attention:
        costs.append((length**2, limits.attention))
    return fill_rows(np.stack([cost for cost, _ in costs], 1), [most for _, most in costs])


def error_bound(mixture: Mixture, prefix: RunPrefix) -> int:
    """Bound on |slots given - slots wanted| at any piece of a plan, in half-millionths.

    It is the most that a pack ought to hold, or that one held or ought to hold before the plan.
    """
    return max(prefix.bound, 2 * int(mixture.curve.highest * MILLION) * mixture.max_pack_tokens)


class WholeBatches:
    """Queue of compiled blocks that lets through whole global batches only.

    It ends with the first batch that reaches the horizon, or without a horizon with the last whole one.
    """

    def __init__(self, mixture: Mixture, tokens: int) -> None:
        """`tokens`: tokens of the run before these blocks."""
        self._batch, self._horizon, self._tokens = mixture.global_batch_packs, mixture.horizon_tokens, tokens
        self._waiting: deque[Block] = deque()
        self.packs = self._given = 0
        """Packs that came in; packs that left."""
        self._enough = NEVER
        """Packs that reach the horizon in whole batches, once that is known."""

    def add(self, block: Segments, errors: np.ndarray) -> Iterator[Block]:
        """Take the next block; yield those that are certain to be part of whole batches."""
        self._waiting.append((block, errors))
        ends = self._tokens + np.cumsum(per_pack(block, "length"))
        if self._horizon is not None and self._enough == NEVER and ends[-1] >= self._horizon:
            reached = self.packs + int(np.searchsorted(ends, self._horizon)) + 1
            self._enough = -(-reached // self._batch) * self._batch
        self._tokens, self.packs = int(ends[-1]), self.packs + len(errors)
        while self._waiting and self._given + len(self._waiting[0][1]) <= self._whole:
            self._given += len(self._waiting[0][1])
            yield self._waiting.popleft()

    def finish(self) -> Iterator[Block]:
        """Yield the rest of the last whole batch, after the last `add`."""
        for block, errors in self._waiting:
            if left := min(self._whole, self._given + len(errors)) - self._given:
                offsets = block["pack_offsets"][: left + 1]
                whole = {name: column for name, column in block.items() if name != "pack_offsets"}
                columns = _rows(whole, 0, int(offsets[-1]))
                yield {"pack_offsets": offsets} | columns, errors[:left]
                self._given += left

    def as_state(self) -> dict[str, Any]:
        """JSON values and arrays for a checkpoint file."""
        waiting = [{"block": block, "errors": errors} for block, errors in self._waiting]
        counts = {"tokens": self._tokens, "packs": self.packs, "given": self._given, "enough": self._enough}
        return counts | {"waiting": waiting}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state that `as_state` returned."""
        self._tokens, self.packs, self._given = state["tokens"], state["packs"], state["given"]
        self._enough = state["enough"]
        self._waiting = deque((entry["block"], entry["errors"]) for entry in state["waiting"])

    @property
    def _whole(self) -> int:
        """Packs in whole batches."""
        return min(self._enough, self.packs // self._batch * self._batch)


def _rows(segments: Segments, first: int, stop: int) -> Segments:
    return {name: column[first:stop] for name, column in segments.items()}


def _joined(parts: Sequence[Segments]) -> Segments:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
