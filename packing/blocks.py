"""Blocks of a plan: what is cut out of the order together, filled into packs, and put in the order in which it is seen.

A block is all that one needs to know to compile it, so that blocks are compiled by any number of workers, in any order:
its pieces, and where the schedule stands at its first one. `plan.py` says what holds, and proves it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from manifests.schedule import MILLION, Curve
from packing.account import per_pack
from packing.amend import Begun
from packing.mixture import Mixture
from packing.order import Segments, permutation, position_at
from packing.sequence import fill_rows
from packing.stretches import NEVER

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
    """(4,) int64 at its first piece, as `merging.py` counts."""
    pieces: Segments


def in_parts(chunks: Iterable[Segments], mixture: Mixture, begun: Begun, goal: int) -> Iterator[Part]:
    """The order, which goes on from `begun` to token `goal`, in blocks, each with its place in the schedule."""
    from packing import merging

    curve = arrays_of(mixture.curve)
    position = np.array(position_at(mixture.curve, begun), np.int64)
    token = begun.tokens
    for pieces in in_blocks(chunks, mixture, begun.tokens, goal):
        yield Part(token, position.copy(), pieces)
        token = move(merging.move, curve, position, token, pieces)


def arrays_of(curve: Curve) -> list[np.ndarray]:
    return [np.array(values, np.int64) for values in (curve.starts, curve.first, curve.last)]


def move(by: Callable[..., None], curve: Sequence[np.ndarray], position: np.ndarray, token: int, some: Segments) -> int:
    """The token after these pieces; `position` is moved there."""
    tokens, slots = (int(some[name].sum(dtype=np.int64)) for name in ("length", "slots"))
    by(*curve, position, tokens, slots)
    return token + tokens


def in_blocks(chunks: Iterable[Segments], mixture: Mixture, begun: int, goal: int) -> Iterator[Segments]:
    """The order, which goes from token `begun` to `goal`, in stretches of about `block_packs` full packs, cut where the
    share breaks. What remains where the sources end joins the block before if it is less than half of one."""
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


def compile_part(mixture: Mixture, bound: int, part: Part) -> list[Block]:
    """Fill the packs of a part and put them in order; halve it where a pack would pass the bound.

    Args:
        bound: on the error after each pack, in half-millionths, as far as it does not depend on the part.
    """
    from packing import merging

    curve = arrays_of(mixture.curve)
    rows, ends = fill_part(mixture, part.pieces)
    after = part.position.copy()
    move(merging.move, curve, after, 0, part.pieces)
    here = max(bound, *(merging.distance(*curve[1:], position) for position in (part.position, after)))
    tokens, slots = (
        np.add.reduceat(part.pieces[name][rows], ends[:-1], dtype=np.int64) for name in ("length", "slots")
    )
    packs = np.arange(len(ends) - 1, dtype=np.uint64)
    waiting = permutation(mixture.seed, 0, f"block at token {part.first_token}", packs)
    seen, errors = np.zeros((2, len(packs)), np.int64)
    merging.sequence(*curve, part.position, here, tokens, slots, waiting, seen, errors)
    if seen[0] < 0:
        return [block for half in _halves(part, curve) for block in compile_part(mixture, bound, half)]
    rows = np.concatenate([rows[ends[pack] : ends[pack + 1]] for pack in seen])
    offsets = np.concatenate([[0], np.cumsum(np.diff(ends)[seen])])
    return [({"pack_offsets": offsets} | {name: column[rows] for name, column in part.pieces.items()}, errors)]


def _halves(part: Part, curve: Sequence[np.ndarray]) -> list[Part]:
    from packing import merging

    count = len(part.pieces["length"])
    first = replace(part, pieces=_rows(part.pieces, 0, count // 2))
    position = part.position.copy()
    token = move(merging.move, curve, position, part.first_token, first.pieces)
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


def whole_batches(mixture: Mixture, blocks: Iterable[Block], tokens: int) -> Iterator[Block]:
    """The blocks up to the first whole global batch that reaches the horizon, or up to the last whole one; `tokens`
    were seen before them."""
    batch = mixture.global_batch_packs
    waiting: deque[Block] = deque()
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
            whole = {name: column for name, column in block.items() if name != "pack_offsets"}
            columns = _rows(whole, 0, int(offsets[-1]))
            yield {"pack_offsets": offsets} | columns, errors[:left]
            given += left


def _rows(segments: Segments, first: int, stop: int) -> Segments:
    return {name: column[first:stop] for name, column in segments.items()}


def _joined(parts: Sequence[Segments]) -> Segments:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
