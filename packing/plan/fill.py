"""Sequence packing: fill packs with whole pieces, under one or several limits, with a foresight of two pieces.

`blocks.py` gives the pieces of one block and afterwards orders its packs. Long documents were cut before (`pieces.py`),
so nothing is truncated here.

Source: minimum bin slack (Gupta & Ho 1999) with a foresight of two. Best-fit decreasing, used by "Fewer truncations
improve language modeling" (Ding et al. 2024), leaves 1.6 % of packs of 1,024 empty for 4,638 maths problems of 266
tokens on average, this 0.25 %; both leave 0.2 to 0.3 % for lengths spread widely. Where long documents are cut at
paragraphs, the empty part is half the distance between two splits. To place heavy pieces first is longest-first
scheduling (Graham 1969); to rank them by their largest part of any limit is our own choice.
`fill_loops.py` has the compiled loops, `packing/reference.py` the slow version that tests compare with;
`benchmarks/sequence_packing.py` compares both with other packers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

STEPS = 2**20
"""Steps that a limit is filled in at most; with a larger limit, the cost of a piece is rounded up to a step."""

LOOKS = 32
"""Sizes, and pairs of sizes, at which a piece is tested against the other limits before a pack is closed."""

SPREAD = ((0.25, 0.5), (1.0, 0.5), (1.5, 1.0), (1.0, 1.0))
"""(heavy, half): ways to choose the pieces that are spread, tried one after the other. Spread are pieces whose part of
some limit is more than `heavy` times their part of the binding limit, and pieces that take more than `half` of that
one. The best way depends on how nearly other limits bind, and on how much small text there is to fill up with."""


def fill_packs(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Put pieces into packs of `capacity` tokens.

    A pack begins with the longest piece left. Then, until nothing fits: a piece that fills it exactly; else the two
    most equal pieces that together do; else the longest that fits. Of equally long pieces the first given comes first.

    Args:
        lengths: (N,) tokens of each piece, 1 .. capacity.
    Returns:
        Packs, each a list of indexes into `lengths` in the order of filling.
    Raises:
        ValueError: a length outside 1 .. capacity.
    """
    return fill_limited(np.asarray(lengths, np.int64).reshape(-1, 1), [capacity])


def fill_limited(costs: np.ndarray, limits: Sequence[int]) -> list[list[int]]:
    """Put pieces into packs that keep several limits at once, such as tokens, patches, media and attention.

    The binding limit is the one for which all pieces together need most packs, K. Pieces that take more of another
    limit than of this one are spread first (`SPREAD`): the heaviest first, each into that of K packs in which least is
    used of the limit that the piece is heaviest in. So no pack uses up one limit while the others are hardly used. Then
    all packs are filled with the other pieces as in `fill_packs`, by their cost in the binding limit; a piece that
    breaks another limit is passed over. Last, more packs are opened. With one limit this is `fill_packs`.

    Args:
        costs: (N, D) int64 >= 0, cost of each piece in each limit; at least 1 in the first.
        limits: (D,) of a pack.
    Returns:
        Packs, each a list of rows of `costs` in the order of filling.
    Raises:
        ValueError: a piece breaks a limit even alone.
    Complexity: K operations for a piece that is spread; for any other a few operations on 64 bits, at worst one for
    every 64 steps of the limit.
    """
    rows, ends = fill_rows(costs, limits)
    return [rows[a:b].tolist() for a, b in pairwise(ends.tolist())]


FilledPacks = tuple[np.ndarray, np.ndarray]
"""((N,) rows, pack by pack in the order of filling; (packs + 1,) offsets at which each pack begins and the last
ends)."""


def fill_rows(costs: np.ndarray, limits: Sequence[int]) -> FilledPacks:
    """`fill_limited` with arrays as result."""
    costs = np.ascontiguousarray(costs, np.int64)
    most = np.asarray(limits, np.int64)
    if not len(costs):
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    if costs.min() < 0 or costs[:, 0].min() < 1 or (costs > most).any():
        raise ValueError(f"pieces of {costs.min(0).tolist()} to {costs.max(0).tolist()} do not fit packs of {limits}")
    attempts = (_attempt(costs, most, heavy, half) for heavy, half in (SPREAD if len(most) > 1 else SPREAD[:1]))
    bound = fewest_packs(costs, most)
    best = next(attempts)
    for packs in attempts:
        if len(best[1]) == bound + 1:
            break
        best = min(best, packs, key=lambda filled: len(filled[1]))
    return best


def fewest_packs(costs: np.ndarray, limits: np.ndarray) -> int:
    """Lower bound on the packs of any packing: the largest ratio of total cost to limit, rounded up."""
    return int(np.max(-(-costs.sum(0) // limits)))


def _attempt(costs: np.ndarray, limits: np.ndarray, heavy: float, half: float) -> FilledPacks:
    """One packing; `heavy` and `half` choose the pieces that are spread (`SPREAD`)."""
    from packing.plan.fill_loops import fill, spread  # compiled code costs time and memory to load

    count = len(costs)
    part = costs / limits  # correctly rounded, so the same on every machine
    binding = int(np.argmax(costs.sum(0) / limits))
    largest = part.max(1)
    first = np.flatnonzero((largest > heavy * part[:, binding]) | (part[:, binding] > half))
    first = first[np.argsort(-largest[first], kind="stable")]
    used = np.zeros_like(costs)
    pack_of, turn = np.full(count, -1), np.full(count, -1)
    if len(limits) > 1:
        spread(costs, limits, first, part.argmax(1)[first], fewest_packs(costs, limits), used, pack_of)

    step = -(-int(limits[binding]) // STEPS)
    capacity = int(limits[binding]) // step
    sizes = np.clip(-(-costs[:, binding] // step), 1, capacity)
    is_spread = pack_of >= 0
    rooms = capacity - np.bincount(pack_of[is_spread], sizes[is_spread], count).astype(np.int64)
    rest = np.flatnonzero(~is_spread)
    order = rest[np.lexsort((-rest, sizes[rest]))]
    fill(costs, limits, sizes, order, rooms, capacity, LOOKS, used, pack_of, turn)
    held = np.bincount(pack_of)
    order = np.argsort(pack_of * (count + 1) + turn + 1, kind="stable")
    return order, np.concatenate([[0], np.cumsum(held[held > 0])])
