"""Ordered prefetch: a few threads work on the next items while the caller uses the last result."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def prefetch(work: Callable[[A], T], items: Iterable[A], at_once: int) -> Iterator[T]:
    """Yield `work(item)` for all items, in their order.

    The first error is raised in the place of its result.

    Args:
        at_once: threads, and the most results that wait. Below 2 there are no threads, and each item is worked on when
            its result is asked for.
    """
    if at_once < 2:
        yield from map(work, items)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
