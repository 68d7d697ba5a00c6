"""Bootstrap interval of a mean per token over scenes, and the pairing of scenes for the grounding test.

Tokens of one scene are correlated, so scenes are resampled and a mean is a ratio of sums. Source: Efron's percentile
bootstrap; `bootstrap_ratio` in train/reference.py is the slow version.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES_AT_ONCE = 100
"""Resamples drawn together, which bounds memory."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean per token with its 95 % interval."""

    mean: float
    low: float
    high: float
    scenes: int
    tokens: int


def bootstrap(totals: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator) -> Interval:
    """Return the mean per token and its 95 % percentile interval over scenes.

    Args:
        totals: (S,) float64, sum over each scene's tokens.
        counts: (S,) int64, number of tokens of each scene, all > 0.
    """
    scenes = len(totals)
    means = np.empty(resamples)
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        stop = min(start + RESAMPLES_AT_ONCE, resamples)
        chosen = rng.integers(scenes, size=(stop - start, scenes))
        means[start:stop] = totals[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(totals.sum() / counts.sum()), float(low), float(high), scenes, int(counts.sum()))


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return for each scene the number of another one, (count,) int64: a permutation without fixed points.

    It is one seeded cycle through all scenes. `count` is at least 2.
    """
    cycle = rng.permutation(count)
    other = np.empty(count, np.int64)
    other[cycle] = np.roll(cycle, 1)
    return other
