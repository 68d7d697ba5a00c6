"""The bootstrap against its slow reference and against theory; a pairing without fixed points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.judge.interval import bootstrap, derangement
from train.reference import bootstrap_ratio


@given(st.integers(2, 500), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_every_scene_gets_another_image_and_every_image_is_used_once(count: int, seed: int) -> None:
    other = derangement(count, np.random.default_rng(seed))
    assert sorted(other) == list(range(count)) and not (other == np.arange(count)).any()


def test_the_interval_agrees_with_the_slow_reference() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 6, 80)
    totals = rng.normal(0.5, 1, 80) * counts
    fast = bootstrap(totals, counts, 4000, np.random.default_rng(1))
    mean, low, high = bootstrap_ratio(totals, counts, resamples=4000, rng=np.random.default_rng(2))
    assert (fast.scenes, fast.tokens) == (80, counts.sum())
    assert fast.mean == pytest.approx(mean, abs=1e-12)
    # Two independent sets of resamples: ends differ by the noise of a quantile only.
    assert fast.low == pytest.approx(low, abs=0.03) and fast.high == pytest.approx(high, abs=0.03)


def test_resampling_in_batches_gives_the_same_numbers() -> None:
    totals, counts = np.arange(7.0), np.arange(1, 8)
    one = bootstrap(totals, counts, 250, np.random.default_rng(5))
    assert one == bootstrap(totals, counts, 250, np.random.default_rng(5))
    assert one.low <= one.mean <= one.high


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    """200 experiments of a model that sees nothing: the interval of the difference holds 0 in most of them."""
    rng = np.random.default_rng(0)
    holds = 0
    for _ in range(200):
        counts = rng.integers(1, 5, 150)
        totals = rng.normal(0, 1, 150) * np.sqrt(counts)
        found = bootstrap(totals, counts, 400, rng)
        holds += found.low <= 0 <= found.high
    assert 180 <= holds <= 199
