"""Requests to filesystems on the network: how many at once, how often, how long one may take, and when to give up.

What fails for a while (503, a reset, a stall, an answer cut short) is asked again, each time after a longer pause of a
random length, so that workers who failed together don't come back together. What bounds it is time, not a count: a
request whose `deadline_s` is over is an error that says so.
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
"""Bytes per second at the least: a request for many bytes may take longer by what they take at this rate."""

T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process. `MILLRACE_` and a field's name in capitals, in the environment, sets it: workers inherit that."""

    deadline_s: float = 120.0
    """From the first try of a request until it is an error."""
    requests_at_once: float = 16
    requests_per_s: float = 500.0
    longest_try_s: float = LONGEST_TRY_S

    @classmethod
    def from_environment(cls) -> Limits:
        """Raises ManifestError for what is no number above 0."""
        given = {}
        for name in cls.__slots__:
            variable = f"MILLRACE_{name.upper()}"
            text = os.environ.get(variable)
            if text is None:
                continue
            try:
                given[name] = float(text)
            except ValueError:
                given[name] = 0.0
            if not given[name] > 0:
                raise ManifestError(f"{text!r} is no number above 0", where=variable, fix="set one, or unset it")
        return cls(**given)

    @property
    def try_s(self) -> float:
        """One try; a stall costs a quarter of the deadline at the most."""
        return min(self.longest_try_s, self.deadline_s / 4)


class Requests:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._room = threading.BoundedSemaphore(max(1, int(limits.requests_at_once)))
        self._lock = threading.Lock()
        self._next = 0.0
        """When the next request may go out: a bucket that holds a tenth of a second's worth."""

    def run(self, ask: Callable[[float], T], *, where: str, passes: Callable[[Exception], bool], size: int = 0) -> T:
        """`ask(seconds that it may take)`, again while `passes(error)` says that trying helps.

        `ask` must not call this in turn. `size` is how many bytes travel.

        Raises StoreError after the deadline, and whatever `ask` raised that does not pass.
        """
        extra = size / SLOWEST
        began = time.monotonic()
        ends = began + self.limits.deadline_s + extra
        tries = 0
        while True:
            tries += 1
            try:
                with self._turn(ends):
                    return ask(max(0.01, min(self.limits.try_s + extra, ends - time.monotonic())))
            except Exception as error:
                if not passes(error):
                    raise
                pause = random.uniform(0.5, 1) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**tries)
                if time.monotonic() + pause >= ends:
                    what = str(error) or type(error).__name__
                    raise StoreError(
                        f"no good answer after {tries} tries in {time.monotonic() - began:.0f} s; the last: {what}",
                        where=where,
                        fix="run the same command again once the other side answers; what is committed stays. "
                        "MILLRACE_DEADLINE_S sets how long to try",
                    ) from error
            time.sleep(pause)

    def together(self, work: Callable[[A], T], items: Iterable[A], at_once: int | None = None) -> list[T]:
        """`work` on all items in threads, in the order of the items; the first error counts, once all have ended."""
        items = list(items)
        if len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(len(items), at_once or max(1, int(self.limits.requests_at_once)))) as pool:
            return list(pool.map(work, items))

    @contextmanager
    def _turn(self, ends: float) -> Iterator[None]:
        if not self._room.acquire(timeout=max(0.0, ends - time.monotonic())):
            raise TimeoutError("all requests that may be under way at once are under way")
        try:
            with self._lock:
                now = time.monotonic()
                goes = self._next = max(self._next + 1 / self.limits.requests_per_s, now - 0.1)
            if goes > now:
                time.sleep(min(goes, ends) - now)
            yield
        finally:
            self._room.release()


def process_requests() -> Requests:
    """One for all filesystems, as long as the environment says the same."""
    return _of(os.getpid(), Limits.from_environment())


@cache
def _of(process: int, limits: Limits) -> Requests:
    """By process, since a fork may copy locks that are held."""
    return Requests(limits)
