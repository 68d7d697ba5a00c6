"""Progress bar of every verb: one line that always keeps its bar, count, rate and time left.

On a terminal it is a bar that repaints itself, elsewhere a line at most every ten seconds, on stderr; no program reads
it back. `run`, `train` and `store` draw theirs with this.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_EVERY_S = 10.0
"""Without a terminal, a line at most this often."""
TITLE_WIDTH = 14
BAR_WIDTH = 10


class ProgressBar:
    """Progress of one piece of work, for example of a node's units or a stage's steps."""

    def __init__(self, console: Console, title: str, total: int | None, done: float, unit: str, rate_unit: str) -> None:
        self.console, self.title = console, title
        self.total, self.done, self.unit = total, done, unit
        self.items, self.rate_unit = 0, rate_unit
        self.detail = ""
        self._first_done = done
        self._start_s = self._last_line_s = time.monotonic()
        self._rich: RichProgress | None = None
        self._task: TaskID | None = None

    def update(self, done: float, items: int = 0, detail: str = "", total: int | None = None) -> None:
        """Show a new state.

        Args:
            done: finished units, counted as `total` is; a fraction stands for the part of a unit under way.
            items: count for the rate (records, tokens, bytes), from the start of this process.
            detail: free text behind the rate, cut at the terminal's width.
            total: a new total, if it became known only now.
        """
        self.done, self.items, self.detail = done, items, detail
        self.total = self.total if total is None else total
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, completed=done, total=self.total, **self._fields())
        elif time.monotonic() - self._last_line_s >= LINE_EVERY_S:
            self.write_line()

    def write_line(self) -> None:
        """Print the state as a line, terminal or not."""
        self._last_line_s = time.monotonic()
        parts = [self._count(), self._rate(), f"{self._left()} left", self.detail]
        text = ", ".join(part for part in parts if part)
        self.console.print(f"{self.title}: {text}", highlight=False, markup=False, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Time left if the rest goes on as fast as in this process so far; None where that is not known."""
        finished = self.done - self._first_done
        if self.total is None or finished <= 0:
            return None
        return (time.monotonic() - self._start_s) / finished * max(0.0, self.total - self.done)

    def _fields(self) -> dict[str, Any]:
        return {"count": self._count(), "rate": self._rate(), "left": self._left(), "detail": self.detail}

    def _count(self) -> str:
        total = "" if self.total is None else f"/{self.total:,}"
        return f"{int(self.done):,}{total} {self.unit}"

    def _rate(self) -> str:
        if not self.rate_unit:
            return ""
        rate = self.items / max(time.monotonic() - self._start_s, 1e-9)
        return f"{rate:,.0f} {self.rate_unit}/s" if rate >= 10 or not self.items else f"{rate:.2g} {self.rate_unit}/s"

    def _left(self) -> str:
        left_s = self.seconds_left()
        if left_s is None:
            return "-:--"
        minutes, seconds = divmod(round(left_s), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def progress_bar(
    title: str,
    total: int | None,
    *,
    done: float = 0,
    unit: str = "units",
    rate_unit: str = "records",
    console: Console | None = None,
) -> Iterator[ProgressBar]:
    """Show a bar while the body runs, and take it away at the end.

    Args:
        total: units in all; None where that is not known yet.
        done: units that earlier processes finished; they don't count for the time left.
        unit: plural noun of the things that `done` and `total` count.
        rate_unit: plural noun of the things that `items` of `update` counts; "" shows no rate.
        console: where to draw; by default a console on stderr.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = console or Console(stderr=True)
    bar = ProgressBar(console, title, total, done, unit, rate_unit)
    if not console.is_terminal:
        yield bar
        return
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=TITLE_WIDTH)),
        BarColumn(bar_width=BAR_WIDTH),
        TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
        TextColumn(
            "{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as rich:
        bar._rich = rich
        bar._task = rich.add_task(title, total=total, **bar._fields())
        rich.update(bar._task, completed=done)
        yield bar
