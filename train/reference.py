"""Slow, obvious versions of Muon and the bootstrap, for tests and benchmarks only."""

from __future__ import annotations

import numpy as np


def muon_step(
    weight: np.ndarray, momentum: np.ndarray, gradient: np.ndarray, *, lr: float, mu: float, decay: float
) -> tuple[np.ndarray, np.ndarray]:
    """Take one Muon step on a float64 matrix through its singular values; return (new weight, new momentum).

    The quintic is odd, so on a matrix it acts on each singular value separately; no matrix product is iterated.
    """
    momentum = mu * momentum + gradient
    nesterov = gradient + mu * momentum
    left, values, right = np.linalg.svd(nesterov, full_matrices=False)
    values = values / (np.sqrt((values**2).sum()) + 1e-7)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    direction = (left * values) @ right * 0.2 * np.sqrt(max(weight.shape))
    return weight - lr * (direction + decay * weight), momentum


def bootstrap_ratio(
    totals: np.ndarray, counts: np.ndarray, *, resamples: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return mean per token and its 95 % percentile interval over scenes, one resample at a time: (mean, low, high)."""
    means = []
    for _ in range(resamples):
        chosen = [int(rng.integers(len(totals))) for _ in range(len(totals))]
        means.append(sum(float(totals[i]) for i in chosen) / sum(int(counts[i]) for i in chosen))
    means.sort()
    return float(totals.sum() / counts.sum()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))
