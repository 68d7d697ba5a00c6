"""Progress of a run on stderr: a bar per node on a terminal, a line now and then elsewhere, a line per finished node.

`execute.py` reports finished units; engines report the records under way about once a second, so that the bar also
moves inside a large unit. No program reads this output.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from manifests.progress import ProgressBar, progress_bar
from manifests.quantities import duration_text
from pipelines.dag.results import RecordCounts


class NodeProgress:
    """Progress of one node: units and records finished in this run, and the part that is under way."""

    def __init__(self, bar: ProgressBar, done: int) -> None:
        """
        Args:
            done: units that earlier runs committed.
        """
        self.counts = RecordCounts()
        self._bar, self._done = bar, done
        self._units, self._records = 0.0, 0
        self._start_s = time.monotonic()

    def finished(self, units: int, counts: RecordCounts) -> None:
        """Add units whose results have arrived; they are committed within seconds."""
        self._done += units
        self.counts.add(counts)
        self._show()

    def under_way(self, units: float, records: int) -> None:
        """Show the finished part of the units under way; an `OnWait` of the engine."""
        self._units, self._records = units, records
        self._show()

    def _show(self) -> None:
        records = self.counts.seen + self._records
        detail = self.counts.losses() if records else f"{duration_text(time.monotonic() - self._start_s)} so far"
        self._bar.update(self._done + self._units, records, detail)


class RunConsole:
    """The terminal of a run, or its log where stderr is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, node: str, units: int, done: int) -> Iterator[NodeProgress]:
        """Show a bar for a node while the body runs.

        Args:
            units: all units of the node; `done` of them were committed before.
        """
        with progress_bar(node, units, done=done, console=self.console) as bar:
            yield NodeProgress(bar, done)


class QuietConsole(RunConsole):
    """A terminal that shows bars and no lines, for the runs over samples of `--estimate`."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True, quiet=not self.console.is_terminal)

    def say(self, text: str) -> None:
        pass
