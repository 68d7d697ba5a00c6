"""What is made in a thread, and fails there, fails later: where one record is set aside (`dag/unit.py`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from manifests.errors import MillraceError, RecordError

T = TypeVar("T")


def tried(make: Callable[[], T]) -> Callable[[], T]:
    """What gives the result of `make`, or raises what it raised. An endpoint that is gone stops everything at once."""
    try:
        made = make()
    except MillraceError as error:
        if not isinstance(error, RecordError):
            raise
        return partial(_fail, error)
    except Exception as error:  # as in `dag/unit.py`, which sees it next
        return partial(_fail, error)
    return lambda: made


def _fail(error: Exception) -> NoReturn:
    raise error
