"""How sure is a mean per token over scenes? The bootstrap over scenes, and who is shown whose image.

Tokens of one scene hang together, so scenes are what is drawn again, and a mean is a ratio: total over tokens. Source:
the percentile bootstrap of Efron; the twin that loops is `bootstrap_ratio` in train/reference.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES_AT_ONCE = 100
"""Bounds memory: this many rows of scene numbers at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    mean: float
    """Per token."""
    low: float
    high: float
    """Ends of the 95 % interval."""
    scenes: int
    tokens: int


def bootstrap(totals: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator) -> Interval:
    """Mean per token with its 95 % percentile interval over scenes.

    Args:
        totals: (S,) float64, sum over a scene's tokens; counts: (S,) int64, how many those are, all > 0.
    """
    scenes = len(totals)
    means = np.empty(resamples)
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        stop = min(start + RESAMPLES_AT_ONCE, resamples)
        chosen = rng.integers(scenes, size=(stop - start, scenes))
        means[start:stop] = totals[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(totals.sum() / counts.sum()), float(low), float(high), scenes, int(counts.sum()))


def others(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) int64: for each scene the number of another one, everybody's image shown exactly once.

    One seeded circle through all scenes, so nobody ever meets their own. `count` is at least 2.
    """
    circle = rng.permutation(count)
    other = np.empty(count, np.int64)
    other[circle] = np.roll(circle, 1)
    return other
