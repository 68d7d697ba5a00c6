"""Compilation of loops over pixels, pieces and words by numba, for modules such as `packing/navit_loops.py`.

Such modules are imported just before their first loop runs: numba costs a process half a second and about 110 MB of
memory. Compiling takes a few seconds once; the machine code is cached in the source's `__pycache__`, or in the user's
cache folder if that is read-only, per kind of processor. Compiled code releases the interpreter's lock. It computes
with integers only, so that every processor gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

BYTES_2D = types.Array(types.uint8, 2, "C")
READ_BYTES_2D = types.Array(types.uint8, 2, "C", readonly=True)


def compiled(*arguments: types.Type, returns: types.Type = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function for one signature, at import time.

    Args:
        arguments: numba types of the arguments.
        returns: numba type of the result.
    """

    def compile_now(function: Callable[..., Any]) -> Any:
        signature = returns(*arguments)
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # no cache folder is writable: compile in each process
            return njit(signature, nogil=True)(function)

    return compile_now
