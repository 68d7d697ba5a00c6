"""Progress of a stage: one report per optimizer step, and the bar or lines that show them on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from manifests.progress import progress_bar

SMOOTHING = 0.9
"""Weight of the past in the shown losses, because single batches are noisy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One optimizer step, as the run log keeps it. Losses are means over target tokens, in nats."""

    step: int
    """Number of finished steps, this one included."""
    loss: float
    loss_text: float | None
    """Loss over documents without media; None if the batch has none."""
    loss_vision: float | None
    """Loss over the text of documents with media; None if the batch has none."""
    tokens: int
    """Tokens without padding."""
    slots: int
    """Vision slots among the tokens."""
    targets: int
    """Tokens that carry loss."""
    lr_factor: float
    gradient_norm: float
    """Global gradient norm before clipping."""


ShowStep = Callable[[StepReport], None]


@contextmanager
def training_progress(done: int, steps: int) -> Iterator[ShowStep]:
    """Yield a function to call after each step. `done` steps of `steps` were finished by earlier processes."""
    tokens = 0
    means: dict[str, float] = {}
    with progress_bar("train", steps, done=done, unit="steps", rate_unit="tokens") as bar:

        def show(report: StepReport) -> None:
            nonlocal tokens
            tokens += report.tokens
            for name, loss in (("text", report.loss_text), ("vision", report.loss_vision)):
                if loss is not None:
                    means[name] = SMOOTHING * means.get(name, loss) + (1 - SMOOTHING) * loss
            losses = " ".join(f"{name} {loss:.3f}" for name, loss in sorted(means.items()))
            bar.update(report.step, tokens, f"loss {losses}")
            if report.step == steps:
                bar.write_line()

        yield show
