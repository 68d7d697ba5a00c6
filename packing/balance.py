"""Who gets which rows and which media? Deals work so that ranks finish together; deterministic, integers only.

The loader deals the rows of a global batch by LLM cost and its media items by encoder cost. Source: the decoupled
encoder process of the K2.5 report, section 4.5.1, spreads all visual items of a global batch by load; the greedy
longest-first rule (Graham 1969: at most 4/3 of the best possible) is our reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TOWER_LINEAR = 2 * 1152 + 4304
"""Patches at which attention costs as much as everything else in a block of the released tower (hidden 1152, MLP
4304): per patch 8 d^2 + 4 d m operations in matrices, 4 n d in attention, so their ratio is n / (2 d + m)."""


def llm_cost(segment_lengths: Iterable[int]) -> int:
    """Attention stays inside segments, and every row has equally many tokens for the rest: sum of squares."""
    return sum(length * length for length in segment_lengths)


def encoder_cost(grid: tuple[int, int, int]) -> int:
    """a * n + b * n^2 for an item of n = t * h * w patches that all attend to each other."""
    patches = grid[0] * grid[1] * grid[2]
    return patches * (TOWER_LINEAR + patches)


def deal(costs: Sequence[int], ranks: int, *, equal_counts: bool = False) -> list[list[int]]:
    """Give each piece of work, costliest first, to the rank that has least to do (the lowest of equal ones).

    Args:
        equal_counts: every rank gets len(costs) / ranks pieces, which must be whole.
    Returns:
        per rank the indexes of its work, ascending.
    """
    most = len(costs)
    if equal_counts:
        most, rest = divmod(len(costs), ranks)
        if rest:
            raise ValueError(f"{len(costs)} pieces of work can't be dealt evenly to {ranks} ranks")
    loads = [0] * ranks
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for work in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min((r for r in range(ranks) if len(dealt[r]) < most), key=lambda r: (loads[r], r))
        loads[rank] += costs[work]
        dealt[rank].append(work)
    return [sorted(work) for work in dealt]
