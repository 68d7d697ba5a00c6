"""The next pieces of work are done while the last one is looked at: in order, in a few threads, never many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def ahead(work: Callable[[A], T], items: Iterable[A], at_once: int) -> Iterator[T]:
    """`work` on the items, in their order. With `at_once` of 1 nothing is done before it is asked for, in no thread;
    else at most so many results wait. The first error is raised where its result would have come."""
    if at_once < 2:
        yield from map(work, items)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
