"""Deferred results: an exception of a thread is raised later, where the record is quarantined (`dag/unit.py`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from manifests.errors import MillraceError, RecordError

T = TypeVar("T")


def deferred(make: Callable[[], T]) -> Callable[[], T]:
    """Call `make` now; return a function that returns its result or raises its exception.

    Raises:
        MillraceError: at once, for errors that concern more than one record, e.g. an endpoint that doesn't answer.
    """
    try:
        result = make()
    except MillraceError as error:
        if not isinstance(error, RecordError):
            raise
        return partial(_fail, error)
    except Exception as error:  # `dag/unit.py` catches it next
        return partial(_fail, error)
    return lambda: result


def _fail(error: Exception) -> NoReturn:
    raise error
