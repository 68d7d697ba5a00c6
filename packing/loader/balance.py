"""Load balancing of a global batch: rows are dealt by LLM cost, media items by encoder cost.

`loader/global_batch.py` calls it. Deterministic, integers only. Source: the decoupled encoder process of the Kimi K2.5
report, section 4.5.1, spreads all visual items of a global batch by load. The greedy longest-first rule (Graham 1969:
at most 4/3 of the optimum) and the exchanges after it are our reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

import numpy as np

TOWER_LINEAR = 2 * 1152 + 4304
"""Number of patches at which attention costs as much as the rest of a block of the released tower (hidden size d =
1152, MLP m = 4304): per patch 8 d^2 + 4 d m operations in matrices and 4 n d in attention, a ratio of n / (2 d + m)."""

EXCHANGES_PER_RANK = 8
"""Bound on the exchanges after the greedy deal; a deal of 4,096 rows to 256 ranks needs fewer."""


def llm_cost(segment_lengths: Iterable[int]) -> int:
    """Return the attention cost of a row, the sum of squared segment lengths; other costs are equal for all rows."""
    return sum(length * length for length in segment_lengths)


def encoder_cost(grid: tuple[int, int, int]) -> int:
    """Return a * n + n^2 for an item of n = t * h * w patches that all attend to each other."""
    patches = grid[0] * grid[1] * grid[2]
    return patches * (TOWER_LINEAR + patches)


def deal(costs: Sequence[int], ranks: int, *, equal_counts: bool = False) -> list[list[int]]:
    """Deal pieces of work to ranks so that the busiest rank has as little as possible.

    The costliest piece goes first, each to the rank with the smallest load (Graham's rule). Then pieces of the busiest
    rank are moved to others or exchanged with theirs as long as that helps. With several pieces per rank the busiest
    one ends within 5 % of `lower_bound`; where no deal is that good (three equal pieces for two ranks), near the best
    one. `docs/loader.md` has the figures.

    Args:
        equal_counts: every rank gets len(costs) / ranks pieces, which must be a whole number.
    Returns:
        per rank the indexes of its pieces, ascending.
    """
    if equal_counts and len(costs) % ranks:
        raise ValueError(f"{len(costs)} pieces of work can't be dealt evenly to {ranks} ranks")
    if ranks == 1:
        return [list(range(len(costs)))]
    dealt = _longest_first(costs, ranks, len(costs) // ranks if equal_counts else len(costs))
    loads = [sum(costs[i] for i in indexes) for indexes in dealt]
    bound = lower_bound(costs, ranks, equal_counts=equal_counts)
    for _ in range(EXCHANGES_PER_RANK * ranks):
        busiest = max(range(ranks), key=lambda rank: (loads[rank], -rank))
        if loads[busiest] <= bound or not _relieve(dealt, loads, costs, busiest, move=not equal_counts):
            break
    return [sorted(indexes) for indexes in dealt]


def lower_bound(costs: Sequence[int], ranks: int, *, equal_counts: bool = False) -> int:
    """Return a load that the busiest rank has in every deal.

    It is the mean load or the largest piece, whichever is more. With equal counts the smallest pieces that have to
    share a rank with the largest one are added to it.
    """
    smallest = sum(sorted(costs)[: len(costs) // ranks - 1]) if equal_counts else 0
    return max(-(-sum(costs) // ranks), max(costs, default=0) + smallest)


def _longest_first(costs: Sequence[int], ranks: int, most: int) -> list[list[int]]:
    """Deal by Graham's rule, at most `most` pieces per rank."""
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    free = [(0, rank) for rank in range(ranks)]  # sorted, so it is a heap
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, rank = heappop(free)
        dealt[rank].append(index)
        if len(dealt[rank]) < most:
            heappush(free, (load + costs[index], rank))
    return dealt


def _relieve(dealt: list[list[int]], loads: list[int], costs: Sequence[int], busiest: int, *, move: bool) -> bool:
    """Make the exchange between the busiest rank and another one that leaves the busier of the two with the least.

    Args:
        move: a piece may also move without one in return.
    Returns:
        False if no exchange helps.
    """
    own = np.array([costs[i] for i in dealt[busiest]], np.int64)
    best = (loads[busiest], 0, 0, 0)
    for rank, load in enumerate(loads):
        if rank == busiest or 2 * best[0] <= loads[busiest] + load:
            continue  # even a perfect exchange would not be better
        others = np.array([costs[i] for i in dealt[rank]] + [0] * move, np.int64)
        moved = own[:, None] - others
        after = np.maximum(loads[busiest] - moved, load + moved)
        place = int(after.argmin())
        if int(after.flat[place]) < best[0]:
            best = (int(after.flat[place]), rank, *divmod(place, len(others)))
    load_after, rank, give, take = best
    if load_after >= loads[busiest]:
        return False
    given = dealt[busiest].pop(give)
    taken = [dealt[rank].pop(take)] if take < len(dealt[rank]) else []
    dealt[rank].append(given)
    dealt[busiest] += taken
    change = costs[given] - sum(costs[i] for i in taken)
    loads[busiest] -= change
    loads[rank] += change
    return True
