"""Where a loader's time goes, stage by stage, as numbers and as one plain sentence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Phase = Literal["outline", "read", "decode", "resize", "patch", "collate", "wait"]
"""outline: packs' lines and index; read: rows and encoded media out of the tars, with their checks; decode, resize,
patch: pixels; collate: rows, labels and buffers; wait: the trainer waits for the loader. All but the last two happen
ahead, in threads."""


class PhaseTimer:
    """Seconds by stage, added up over threads."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(get_args(Phase), 0.0)
        self._lock = threading.Lock()
        self._since = time.perf_counter()

    @contextmanager
    def timed(self, stage: Phase) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            with self._lock:
                self._seconds[stage] += took

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, and `elapsed` since the loader was made."""
        with self._lock:
            told = {stage: round(seconds, 6) for stage, seconds in self._seconds.items()}
        return told | {"elapsed": round(time.perf_counter() - self._since, 6)}

    def in_words(self) -> str:
        """One sentence: what the trainer loses to the loader, and what the loader is busy with."""
        told = self.seconds
        elapsed = told.pop("elapsed")
        waiting = told.pop("wait")
        busiest = max(told, key=lambda stage: (told[stage], stage))
        work = sum(told.values())
        if not elapsed or not work:
            return "the loader has not been used"
        share = told[busiest] / work
        return (
            f"the trainer waited {waiting / elapsed:.1%} of the time for the loader, which spent {share:.0%} of its "
            f"{work:.1f} s of work on {busiest}"
        )
