"""A property that is worked out once per object.

As `functools.cached_property` from Python 3.12 on. Before, that one holds a lock for all objects of a class together,
so that threads which read one shard each would wait for one another. Two that ask the same object at once both work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):
    def __init__(self, work: Callable[[Any], T]) -> None:
        self._work, self.__doc__ = work, work.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> once[T]: ...
    @overload
    def __get__(self, owner: object, kind: type) -> T: ...
    def __get__(self, owner: object | None, kind: type) -> once[T] | T:
        if owner is None:
            return self
        value = owner.__dict__[self._work.__name__] = self._work(owner)
        return value
