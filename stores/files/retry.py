"""Requests over the network: limits of rate and concurrency, retries with backoff, one deadline for all tries.

A transient failure (503, connection reset, stall, truncated answer) is retried after a pause that doubles and has a
random part, so that workers that failed together don't come back together. Time bounds the retries, not a count: after
`deadline_s` a request fails.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from manifests.errors import ManifestError, StoreError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 8.0
LONGEST_TRY_S = 30.0
SLOWEST = 1 << 20
"""Bytes per second: a request for many bytes may take longer by the time that they need at this rate."""

T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one process. The environment variable `MILLRACE_` + field name in capitals sets each one."""

    deadline_s: float = 120.0
    """From the first try of a request until it fails."""
    requests_at_once: float = 16
    requests_per_s: float = 500.0
    longest_try_s: float = LONGEST_TRY_S

    @classmethod
    def from_environment(cls) -> Limits:
        """Read the limits from the environment.

        Raises:
            ManifestError: a variable is not a number above 0.
        """
        limits = {}
        for name in cls.__slots__:
            variable = f"MILLRACE_{name.upper()}"
            text = os.environ.get(variable)
            if text is None:
                continue
            try:
                limits[name] = float(text)
            except ValueError:
                limits[name] = 0.0
            if not limits[name] > 0:
                message = f"expected a number above 0, got {text!r}"
                raise ManifestError(message, where=variable, fix="set one, or unset the variable")
        return cls(**limits)

    @property
    def try_s(self) -> float:
        """Time limit of one try: a stall costs at most a quarter of the deadline."""
        return min(self.longest_try_s, self.deadline_s / 4)


class Requests:
    """Runs requests within `Limits`. Threads may share one object."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._slots = threading.BoundedSemaphore(max(1, int(limits.requests_at_once)))
        self._lock = threading.Lock()
        self._next = 0.0
        """Earliest time of the next request: a token bucket that holds a tenth of a second's worth."""

    def run(
        self, attempt: Callable[[float], T], *, where: str, is_transient: Callable[[Exception], bool], size: int = 0
    ) -> T:
        """Run one request, with retries.

        Args:
            attempt: one try, given its time limit in seconds. It must not call `run` itself.
            where: path or URL, for the error.
            is_transient: tells whether a retry may help after an error.
            size: bytes that travel.
        Raises:
            StoreError: the deadline passed. Errors that are not transient pass through.
        """
        extra_s = size / SLOWEST
        start_s = time.monotonic()
        deadline_s = start_s + self.limits.deadline_s + extra_s
        tries = 0
        while True:
            tries += 1
            try:
                with self._slot(deadline_s):
                    return attempt(max(0.01, min(self.limits.try_s + extra_s, deadline_s - time.monotonic())))
            except Exception as error:
                if not is_transient(error):
                    raise
                pause = random.uniform(0.5, 1) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**tries)
                if time.monotonic() + pause >= deadline_s:
                    last = str(error) or type(error).__name__
                    raise StoreError(
                        f"no good answer after {tries} tries in {time.monotonic() - start_s:.0f} s; the last: {last}",
                        where=where,
                        fix="run the same command again when the server answers; committed work stays. "
                        "MILLRACE_DEADLINE_S sets how long to try",
                    ) from error
            time.sleep(pause)

    def map(self, work: Callable[[A], T], items: Iterable[A], at_once: int | None = None) -> list[T]:
        """Run `work` on all items in threads; results in the order of the items.

        The first error is raised after all have ended. By default as many threads as `requests_at_once`.
        """
        items = list(items)
        if len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(len(items), at_once or max(1, int(self.limits.requests_at_once)))) as pool:
            return list(pool.map(work, items))

    @contextmanager
    def _slot(self, deadline_s: float) -> Iterator[None]:
        """Wait until this request may start: for a free slot, then for the rate."""
        if not self._slots.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            raise TimeoutError(f"request limit reached (requests_at_once={self.limits.requests_at_once:g})")
        try:
            with self._lock:
                now = time.monotonic()
                start = self._next = max(self._next + 1 / self.limits.requests_per_s, now - 0.1)
            if start > now:
                time.sleep(min(start, deadline_s) - now)
            yield
        finally:
            self._slots.release()


def process_requests() -> Requests:
    """Return the object that all filesystems of this process share, as long as the environment stays the same."""
    return _requests_of(os.getpid(), Limits.from_environment())


@cache
def _requests_of(process: int, limits: Limits) -> Requests:
    """Return one object per process id, since a fork may copy locks that are held."""
    return Requests(limits)
