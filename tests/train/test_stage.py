"""The schedule as a function of the step, and stages that can't be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.stage import GroundingTest, Schedule, Stage

schedules = st.builds(
    Schedule,
    warmup_steps=st.integers(0, 50),
    decay_from=st.floats(0, 1),
    decay=st.sampled_from(["cosine", "linear"]),
    floor=st.floats(0, 1),
)


@given(schedules, st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_the_factor_warms_up_holds_and_decays_within_bounds(schedule: Schedule, steps: int) -> None:
    factors = [schedule.factor(step, steps) for step in range(steps)]
    assert all(0 < f <= 1 or (f == 0 and schedule.floor == 0) for f in factors)
    start = schedule.decay_from * steps
    for step, (now, after) in enumerate(itertools.pairwise(factors)):
        if step + 1 < start:
            assert after >= now
        elif step >= schedule.warmup_steps:
            assert after <= now
    if schedule.warmup_steps < start - 1:
        assert factors[schedule.warmup_steps] == 1
    if schedule.warmup_steps <= steps:
        assert factors[-1] >= schedule.floor - 1e-12


def test_the_k2_schedule_at_its_corners() -> None:
    schedule = Schedule(warmup_steps=500, decay_from=0.65, decay="cosine", floor=0.1)
    assert schedule.factor(0, 10_000) == pytest.approx(1 / 500)
    assert schedule.factor(499, 10_000) == 1 == schedule.factor(6499, 10_000)
    assert schedule.factor(8250, 10_000) == pytest.approx(0.55)  # half-way down: (1 + 0.1) / 2
    assert schedule.factor(9999, 10_000) == pytest.approx(0.1, abs=1e-6)


def test_a_linear_decay_to_zero_still_updates_at_the_last_step() -> None:
    schedule = Schedule(warmup_steps=0, decay_from=0.5, decay="linear", floor=0.0)
    assert [schedule.factor(s, 4) for s in range(4)] == [1, 1, 1, 0.5]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"threads": 0}, {"keep_checkpoints": 0}])
def test_an_impossible_stage_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Stage(model="m", packs="p", **wrong)


def test_a_verdict_on_an_attribute_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="texture"):
        GroundingTest(store="s", must_exceed={"texture": 0.0})
