"""Loops over pixels and pieces, compiled by numba: how, when, and where the machine code is kept.

Modules that use this are imported where their first loop runs and not before: numba costs a process half a
second and about 110 MB of memory. Compiling takes some seconds, once: the machine code is kept beside the source, or
in the user's cache folder where that can't be written, for this kind of processor. The interpreter's lock is free while
compiled code runs. Arithmetic is on integers only, so that every processor gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

BYTES_2D = types.Array(types.uint8, 2, "C")
READ_BYTES_2D = types.Array(types.uint8, 2, "C", readonly=True)


def compiled(*arguments: types.Type, returns: types.Type = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function of these types at once."""

    def compile_now(function: Callable[..., Any]) -> Any:
        signature = returns(*arguments)
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # no folder can be written: compiled again in each process
            return njit(signature, nogil=True)(function)

    return compile_now
