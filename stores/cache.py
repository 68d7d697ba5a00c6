"""In-memory caches: values by key up to a number of bytes, and properties computed once per object."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class Cache(Generic[T]):
    """Least-recently-used cache bounded by bytes. Thread-safe; two threads that miss together both compute."""

    def __init__(self, max_bytes: int, size: Callable[[T], int]) -> None:
        """
        Args:
            size: bytes of a value; it may grow while the value is cached.
        """
        self._max_bytes, self._size = max_bytes, size
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """Return the value of `key`, computed by `read` on a miss.

        A miss evicts the least recently used values beyond `max_bytes`, never the new one.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = read()
        with self._lock:
            self._values[key] = value
            total = sum(map(self._size, self._values.values()))
            while total > self._max_bytes and len(self._values) > 1:
                _, evicted = self._values.popitem(last=False)
                total -= self._size(evicted)
        return value

    @property
    def bytes(self) -> int:
        """Bytes of all cached values."""
        with self._lock:
            return sum(map(self._size, self._values.values()))


class lock_free_property(Generic[T]):
    """Property that is computed once per object, without a lock: two threads that ask together both compute.

    `functools.cached_property` behaves like this from Python 3.12 on. In 3.11 it holds one lock for all objects of a
    class, so that threads that read different shards would wait for each other.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> lock_free_property[T]: ...
    @overload
    def __get__(self, owner: object, kind: type) -> T: ...
    def __get__(self, owner: object | None, kind: type) -> lock_free_property[T] | T:
        if owner is None:
            return self
        value = owner.__dict__[self._compute.__name__] = self._compute(owner)
        return value
