"""Exact schedules of the vision share."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.schedule import Curve, VisionShare

shares = st.integers(0, 999_999).map(lambda millionths: millionths / 10**6)
tokens = st.integers(0, 10**13)
HORIZON = 10**9


@st.composite
def schedules(draw: st.DrawFn) -> VisionShare:
    kind = draw(st.sampled_from(["constant", "steps", "linear", "piecewise"]))
    if kind == "constant":
        return VisionShare(constant=draw(shares))
    if kind == "linear":
        return VisionShare(linear=(draw(shares), draw(shares)))
    positions = st.integers(1, 1000).map(lambda n: n / 1000) if draw(st.booleans()) else st.integers(2, 2 * HORIZON)
    later = sorted(draw(st.lists(positions, unique=True, max_size=4)))
    points = tuple((float(position), draw(shares)) for position in [0, *later])
    return VisionShare(steps=points) if kind == "steps" else VisionShare(piecewise=points)


@given(schedules(), tokens, st.integers(0, 10**6))
def test_scheduled_slots_are_the_integral_of_the_share(schedule: VisionShare, before: int, more: int) -> None:
    curve = schedule.over(HORIZON)
    inside = [before, *(start for start in curve.starts if before < start < before + more), before + more]
    by_trapezoids = Fraction(0)
    for a, b in pairwise(inside):  # the share is straight between these
        if b > a:
            end = curve.at(b - 1) + (curve.at(b - 1) - curve.at(a)) / max(1, b - 1 - a)
            by_trapezoids += (curve.at(a) + (end if b - 1 > a else _end(curve, b))) * (b - a) / 2
    assert curve.slots_until(before + more) - curve.slots_until(before) == by_trapezoids
    assert 0 <= curve.slots_until(before) <= before
    assert curve.at(before) <= curve.highest < 1
    assert Curve.of(curve.rows) == curve


def _end(curve: Curve, token: int) -> Fraction:
    """The share just before `token`."""
    return 2 * (curve.slots_until(token) - curve.slots_until(token - 1)) - curve.at(token - 1)


@given(thousandths=st.integers(0, 999), count=tokens)
def test_a_decimal_share_is_exact(thousandths: int, count: int) -> None:
    """0.1 is a tenth, not the nearest binary fraction."""
    curve = VisionShare(constant=thousandths / 1000).over(None)
    assert curve.slots_until(count * 1000) == thousandths * count
    assert curve.at(count) == Fraction(thousandths, 1000)


def test_each_form_gives_its_curve() -> None:
    steps = VisionShare(steps=((0, 0.0), (0.5, 0.2))).over(1000)
    assert [steps.at(t) for t in (0, 499, 500, 10**9)] == [0, 0, Fraction(1, 5), Fraction(1, 5)]
    assert (steps.slots_until(500), steps.slots_until(1000), steps.breaks) == (0, 100, (500,))
    linear = VisionShare(linear=(0.1, 0.3)).over(1000)
    assert [linear.at(t) for t in (0, 500, 1000, 5000)] == [Fraction(n, 10) for n in (1, 2, 3, 3)]
    assert (linear.slots_until(500), linear.slots_until(1000), linear.slots_until(2000)) == (75, 200, 500)
    points = VisionShare(piecewise=((0, 0.0), (100, 0.5), (100, 0.1), (300, 0.2))).over(None)
    assert [points.at(t) for t in (0, 50, 99, 100, 200, 300)] == [
        Fraction(n, 1000) for n in (0, 250, 495, 100, 150, 200)
    ]
    assert (points.slots_until(300), points.breaks) == (25 + 30, (100,))
    assert VisionShare().over(None) == VisionShare(constant=0.1).over(None)


def test_the_three_arms_of_the_ablation_schedule_equal_numbers_of_slots() -> None:
    """Table 1 of the K2.5 report: (1 - start) * share is constant."""
    arms = [
        VisionShare(constant=0.1),
        VisionShare(steps=((0, 0.0), (0.5, 0.2))),
        VisionShare(steps=((0, 0.0), (0.8, 0.5))),
    ]
    assert {arm.over(HORIZON).slots_until(HORIZON) for arm in arms} == {Fraction(HORIZON, 10)}


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=re.escape("expected a vision share in [0, 1), got")):
        VisionShare(constant=share)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"constant": 0.1234567}, "at most six decimals"),
        ({"constant": 0.1, "linear": (0.1, 0.2)}, "expected one form of vision share, got constant and linear"),
        ({"steps": ()}, "from 0 on"),
        ({"steps": ((0.5, 0.1),)}, "from 0 on"),
        ({"steps": ((0, 0.1), (0.5, 0.2), (0.5, 0.3))}, "expected ascending"),
        ({"piecewise": ((0, 0.1), (0.5, 0.2), (0.25, 0.3))}, "expected ascending"),
        ({"steps": ((0, 0.1), (0.5, 0.2), (1e9, 0.3))}, "0.5 is a fraction of the horizon and 1e\\+09 a number of tok"),
        ({"steps": ((0, 0.1), (1.5, 0.2))}, "expected whole numbers of tokens"),
        ({"linear": (0.1, 1.2)}, "expected a vision share in"),
    ],
)
def test_an_invalid_vision_share_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionShare(**values)  # type: ignore[arg-type]


def test_fractions_need_a_horizon() -> None:
    for schedule in (VisionShare(linear=(0.1, 0.2)), VisionShare(steps=((0, 0.1), (0.5, 0.2)))):
        with pytest.raises(ValueError, match="needs horizon_tokens"):
            schedule.over(None)
