"""What a person sees while a stage runs: a bar on a terminal, else a line every ten seconds; all of it on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

EVERY_S = 10.0
SMOOTHING = 0.9
"""Weight of the past in the shown losses: single batches are noisy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One optimizer step, as the run log keeps it. Losses are means over target tokens, in nats."""

    step: int
    """Counted from 1: this many steps are done."""
    loss: float
    loss_text: float | None
    """Over documents without media; None where the batch has none."""
    loss_vision: float | None
    """Over the text of documents with media."""
    tokens: int
    """Not padding."""
    slots: int
    """Of those, vision slots."""
    targets: int
    """Tokens that carry loss."""
    lr_factor: float
    gradient_norm: float
    """Before clipping."""


class Show(Protocol):
    def __call__(self, report: StepReport) -> None: ...


@contextmanager
def progress(done: int, steps: int) -> Iterator[Show]:
    """A function to call after each step. The time left assumes that steps go on as fast as in this process so far."""
    told = _Told(done, steps)
    if not sys.stderr.isatty():
        yield told.line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=steps, completed=done)

        def show(report: StepReport) -> None:
            told.note(report)
            bar.update(task, completed=report.step, description=told.losses())

        yield show


class _Told:
    def __init__(self, done: int, steps: int) -> None:
        self.first, self.steps = done, steps
        self.start = self.last = time.monotonic()
        self.tokens = 0
        self.mean: dict[str, float] = {}

    def note(self, report: StepReport) -> None:
        self.tokens += report.tokens
        for name, loss in (("text", report.loss_text), ("vision", report.loss_vision)):
            if loss is not None:
                self.mean[name] = SMOOTHING * self.mean.get(name, loss) + (1 - SMOOTHING) * loss

    def losses(self) -> str:
        spent = max(time.monotonic() - self.start, 1e-9)
        losses = " ".join(f"{name} {loss:.3f}" for name, loss in sorted(self.mean.items()))
        return f"loss {losses}  {self.tokens / spent:,.0f} tokens/s"

    def line(self, report: StepReport) -> None:
        self.note(report)
        now = time.monotonic()
        if now - self.last >= EVERY_S or report.step == self.steps:
            self.last = now
            left = (now - self.start) / (report.step - self.first) * (self.steps - report.step)
            text = f"step {report.step}/{self.steps}  {self.losses()}  {left // 60:.0f}:{left % 60:02.0f} left"
            print(text, file=sys.stderr, flush=True)
