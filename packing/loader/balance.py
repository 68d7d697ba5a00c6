"""Who gets which rows and which media? Deals work so that ranks finish together; deterministic, integers only.

The loader deals the rows of a global batch by LLM cost and its media items by encoder cost. Source: the decoupled
encoder process of the K2.5 report, section 4.5.1, spreads all visual items of a global batch by load; the greedy
longest-first rule (Graham 1969: at most 4/3 of the best possible) and the exchanges after it are our reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

import numpy as np

TOWER_LINEAR = 2 * 1152 + 4304
"""Patches at which attention costs as much as everything else in a block of the released tower (hidden 1152, MLP
4304): per patch 8 d^2 + 4 d m operations in matrices, 4 n d in attention, so their ratio is n / (2 d + m)."""

EXCHANGES_PER_RANK = 8
"""At most so many exchanges; a deal of 4,096 rows to 256 ranks takes fewer."""


def llm_cost(segment_lengths: Iterable[int]) -> int:
    """Attention stays inside segments, and every row has equally many tokens for the rest: sum of squares."""
    return sum(length * length for length in segment_lengths)


def encoder_cost(grid: tuple[int, int, int]) -> int:
    """a * n + b * n^2 for an item of n = t * h * w patches that all attend to each other."""
    patches = grid[0] * grid[1] * grid[2]
    return patches * (TOWER_LINEAR + patches)


def deal(costs: Sequence[int], ranks: int, *, equal_counts: bool = False) -> list[list[int]]:
    """Share out pieces of work so that the busiest rank has little more than it must.

    Costliest first to the rank that has least to do (Graham's rule), then pieces of the busiest rank are moved to
    others or exchanged with theirs while that helps. With several pieces a rank the busiest ends within 5 % of `least`;
    where there is no such deal (three equal pieces for two ranks), near the best there is. Figures: `docs/loader.md`.

    Args:
        equal_counts: every rank gets len(costs) / ranks pieces, which must be whole.
    Returns:
        per rank the indexes of its work, ascending.
    """
    if equal_counts and len(costs) % ranks:
        raise ValueError(f"{len(costs)} pieces of work can't be dealt evenly to {ranks} ranks")
    if ranks == 1:
        return [list(range(len(costs)))]
    dealt = _longest_first(costs, ranks, len(costs) // ranks if equal_counts else len(costs))
    loads = [sum(costs[i] for i in mine) for mine in dealt]
    enough = least(costs, ranks, equal_counts=equal_counts)
    for _ in range(EXCHANGES_PER_RANK * ranks):
        busiest = max(range(ranks), key=lambda rank: (loads[rank], -rank))
        if loads[busiest] <= enough or not _relieve(dealt, loads, costs, busiest, move=not equal_counts):
            break
    return [sorted(mine) for mine in dealt]


def least(costs: Sequence[int], ranks: int, *, equal_counts: bool = False) -> int:
    """No deal gives the busiest rank less: the mean, or the largest piece, with equal counts beside the smallest ones
    that have to share its rank."""
    beside = sum(sorted(costs)[: len(costs) // ranks - 1]) if equal_counts else 0
    return max(-(-sum(costs) // ranks), max(costs, default=0) + beside)


def _longest_first(costs: Sequence[int], ranks: int, most: int) -> list[list[int]]:
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    free = [(0, rank) for rank in range(ranks)]  # a heap, also without heapify
    for work in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, rank = heappop(free)
        dealt[rank].append(work)
        if len(dealt[rank]) < most:
            heappush(free, (load + costs[work], rank))
    return dealt


def _relieve(dealt: list[list[int]], loads: list[int], costs: Sequence[int], busiest: int, *, move: bool) -> bool:
    """Make the one exchange between the busiest rank and another after which the busier of the two has least; False
    where none helps."""
    mine = np.array([costs[i] for i in dealt[busiest]], np.int64)
    best = (loads[busiest], 0, 0, 0)
    for rank, load in enumerate(loads):
        if rank == busiest or 2 * best[0] <= loads[busiest] + load:
            continue  # even a perfect exchange would not be better
        others = np.array([costs[i] for i in dealt[rank]] + [0] * move, np.int64)
        moved = mine[:, None] - others
        after = np.maximum(loads[busiest] - moved, load + moved)
        place = int(after.argmin())
        if int(after.flat[place]) < best[0]:
            best = (int(after.flat[place]), rank, *divmod(place, len(others)))
    after_most, rank, give, take = best
    if after_most >= loads[busiest]:
        return False
    given = dealt[busiest].pop(give)
    taken = [dealt[rank].pop(take)] if take < len(dealt[rank]) else []
    dealt[rank].append(given)
    dealt[busiest] += taken
    change = costs[given] - sum(costs[i] for i in taken)
    loads[busiest] -= change
    loads[rank] += change
    return True
