"""Counts, sizes and durations as short text for people, in the last screen of a run and in `millrace inspect`."""

from __future__ import annotations


def count_text(value: float) -> str:
    """Return a count with at most 9 characters: `9,999,999`, `12.3M`, `4.56B`, `7.89T`."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= unit and value >= 1e7:
            return f"{value / unit:.3g}{letter}" if value / unit < 1000 else f"{value / unit:,.0f}{letter}"
    return f"{value:,.0f}"


def size_text(value: int) -> str:
    """Return a number of bytes as `812 B`, `3.4 MB` or `142 GB`; "" for 0."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.1f} {name}" if value / unit < 9.95 else f"{value / unit:,.0f} {name}"
    return f"{value} B" if value else ""


def duration_text(seconds: float) -> str:
    """Return a time span as `4.2 s`, `4:27`, `1:04:27` or `12 d`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours / 24:,.0f} d"
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
