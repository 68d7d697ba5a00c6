"""Time spent by a loader, phase by phase: seconds as numbers, and a summary in one sentence.

`loader/loader.py` and `navit.py` measure with it; trainers and benchmarks read it. Threads share one timer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Phase = Literal["outline", "read", "decode", "resize", "patch", "collate", "wait"]
"""One kind of work. outline: lines and index of packs; read: rows and encoded media out of the shards, with checksums;
decode, resize, patch: pixels; collate: token rows, labels and buffers; wait: time in which the trainer waits for the
loader. All but the last two run ahead, in threads."""


class PhaseTimer:
    """Seconds by phase, summed over threads."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(get_args(Phase), 0.0)
        self._lock = threading.Lock()
        self._start_s = time.perf_counter()

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Add the time that the body takes to `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            with self._lock:
                self._seconds[phase] += took

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, and under `elapsed` the wall time since the timer was made."""
        with self._lock:
            seconds = {phase: round(value, 6) for phase, value in self._seconds.items()}
        return seconds | {"elapsed": round(time.perf_counter() - self._start_s, 6)}

    def summary(self) -> str:
        """Return one sentence: the trainer's waiting time, and the phase that takes most of the loader's work."""
        seconds = self.seconds
        elapsed = seconds.pop("elapsed")
        waiting = seconds.pop("wait")
        busiest = max(seconds, key=lambda phase: (seconds[phase], phase))
        work = sum(seconds.values())
        if not elapsed or not work:
            return "the loader has not been used"
        share = seconds[busiest] / work
        return (
            f"the trainer waited {waiting / elapsed:.1%} of the time for the loader, which spent {share:.0%} of its "
            f"{work:.1f} s of work on {busiest}"
        )
