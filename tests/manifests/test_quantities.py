"""Counts and sizes are short and keep their order of magnitude."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from manifests.quantities import count_text, size_text


def test_counts_and_sizes_have_a_unit() -> None:
    assert [count_text(n) for n in (0, 9_999_999, 12_345_678, 4_560_000_000)] == ["0", "9,999,999", "12.3M", "4.56B"]
    assert [size_text(n) for n in (0, 812, 3_924_992, 142_475_776)] == ["", "812 B", "3.9 MB", "142 MB"]


@given(st.integers(1, 10**15))
def test_every_count_and_size_is_short_and_within_five_percent(value: int) -> None:
    number, unit = size_text(value).split()
    size = float(number.replace(",", "")) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert abs(size / value - 1) <= 0.05 and len(size_text(value)) <= 8
    assert len(count_text(value)) <= 9
