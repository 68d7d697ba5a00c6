"""Progress bar: columns on a narrow terminal, lines in a pipe, and the time left."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from manifests import progress
from manifests.progress import progress_bar

LONG = "dropped too_short 123,456, repeated_lines 98,765, garbled 12,345, few_letters 1,234; quarantined torn_image 17"


def screen(width: int, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


@pytest.mark.parametrize("width", [80, 100, 120])
def test_bar_count_rate_and_time_left_stay_with_long_details(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen(width)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress_bar("scene_documents", 12_345, console=console) as bar:
        now[0] = 100.0
        bar.update(1_234.5, items=1_000_000, detail=LONG)
        assert bar._rich is not None
        bar._rich.refresh()
    line = [line for line in re.split(r"[\r\n]", text_of(console)) if "1,234/" in line][-1]
    assert len(line.rstrip()) <= width
    for part in ("scene_docume", "━", "1,234/12,345 units", "10,000 records/s", "15:00"):
        assert part in line
    assert (LONG in line) == (width > 190)


def test_a_pipe_gets_a_line_at_most_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen(80, terminal=False)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress_bar("filtered", 40, done=10, console=console) as bar:
        for second in range(1, 31):
            now[0] = float(second)
            bar.update(10 + second / 2, items=second * 5, detail="5 kept")
    assert text_of(console).splitlines() == [
        "filtered: 15/40 units, 5 records/s, 0:50 left, 5 kept",
        "filtered: 20/40 units, 5 records/s, 0:40 left, 5 kept",
        "filtered: 25/40 units, 5 records/s, 0:30 left, 5 kept",
    ]


def test_time_left_is_unknown_without_a_total_or_before_the_first_unit() -> None:
    with progress_bar("copy", None, console=screen(80, terminal=False)) as bar:
        assert bar.seconds_left() is None
        bar.update(0, total=10)
        assert bar.seconds_left() is None
