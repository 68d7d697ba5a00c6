"""What was read last stays at hand, up to so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Cache(Generic[V]):
    """Safe between threads; two that miss at once both read."""

    def __init__(self, max_bytes: int, size: Callable[[V], int]) -> None:
        self._max_bytes, self._size = max_bytes, size
        self._held: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], V]) -> V:
        """What was read for `key`; the least recently used go where there are too many bytes, this one never."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = read()
        with self._lock:
            self._held[key] = value
            total = sum(map(self._size, self._held.values()))
            while total > self._max_bytes and len(self._held) > 1:
                _, gone = self._held.popitem(last=False)
                total -= self._size(gone)
        return value

    @property
    def bytes(self) -> int:
        with self._lock:
            return sum(map(self._size, self._held.values()))
