"""Compiled automaton and classifier of `filters/language.py`.

One table look-up per byte finds the features; then one row of weights is added per feature that occurs.
"""

from __future__ import annotations

import numpy as np
from numba import types

from manifests.jit import compiled

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_STATES = types.Array(types.uint32, 1, "C")
_FEATURES = types.Array(types.int32, 1, "C")
_WEIGHTS = types.Array(types.float32, 2, "C")
_SCORES = types.Array(types.float64, 1, "C")


def score(
    data: bytes,
    moves: np.ndarray,
    rows: np.ndarray,
    features: np.ndarray,
    weights: np.ndarray,
    priors: np.ndarray,
) -> np.ndarray | None:
    """Return (classes,) float64 log-likelihoods up to a constant; None if no feature occurs.

    The arguments after `data` are the arrays of `_Model` in `filters/language.py`.
    """
    seen = np.empty(min(len(data), len(weights)), np.int32)
    times = np.zeros(len(weights), np.int32)
    count = _walk(np.frombuffer(data, np.uint8), moves, rows, features, times, seen)
    if not count:
        return None
    scores = priors.copy()
    _add(seen[:count], np.log1p(times[seen[:count]], dtype=np.float64), weights, scores)
    return scores


@compiled(_BYTES, _STATES, _STATES, _FEATURES, _FEATURES, _FEATURES, returns=types.int64)
def _walk(data, moves, rows, features, times, seen):
    """Count each feature in `times`, list those that occur in `seen` and return their number."""
    count = 0
    state = np.uint32(0)
    for byte in data:
        state = moves[np.int64(rows[state]) * 256 + np.int64(byte)]
        feature = features[state]
        if feature >= 0:
            if times[feature] == 0:
                seen[count] = feature
                count += 1
            times[feature] += 1
    return count


@compiled(_FEATURES, _SCORES, _WEIGHTS, _SCORES)
def _add(seen, amounts, weights, scores):
    """Add the weights of each feature, times its amount, to `scores`."""
    for row in range(len(seen)):
        feature, amount = seen[row], amounts[row]
        for k in range(len(scores)):
            scores[k] += amount * weights[feature, k]
