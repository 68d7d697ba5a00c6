"""The vision share as an exact integer schedule."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.schedule import VisionShare

shares = st.floats(0, 1, exclude_max=True)
tokens = st.integers(0, 10**13)


@given(share=shares, before=tokens, more=tokens)
def test_slots_are_the_sum_of_shares_without_rounding(share: float, before: int, more: int) -> None:
    schedule = VisionShare(constant=share)
    assert schedule.slots_until(before + more) - schedule.slots_until(before) == schedule.at(before) * more
    assert 0 <= schedule.slots_until(before) <= before


@given(thousandths=st.integers(0, 999), count=tokens)
def test_a_decimal_means_what_it_says(thousandths: int, count: int) -> None:
    """0.1 is a tenth, not the nearest binary fraction."""
    assert VisionShare(constant=thousandths / 1000).slots_until(count * 1000) == thousandths * count
    assert VisionShare(constant=thousandths / 1000).at(count) == Fraction(thousandths, 1000)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="a vision share lies in"):
        VisionShare(constant=share)
