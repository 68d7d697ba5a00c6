"""Compiled loops that choose the offsets at which a plan may cut a long text, for `encode.py`.

`judge` rates a cut before every token, `choose` picks the offsets. `reference.py` has a slow version of `judge`.
"""

from __future__ import annotations

import numpy as np
from numba import types

from manifests.jit import compiled

NEVER, CHARACTER, WORD, SENTENCE, LINE = range(5)
"""Quality of a cut: inside a character, between two characters, before white space, after a sentence, after a line."""

SPLIT_MIN = 16
SPLIT_MAX = 48
"""Bounds on the ids of text between two splits. A piece of a long document leaves half of that empty on average, which
is less than 1/200 of a pack of 4,096; with fewer ids pieces would be too short to make sense."""

_READ_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_BYTES = types.Array(types.uint8, 1, "C")
_IDS = types.Array(types.uint32, 1, "C", readonly=True)
_LENGTHS = types.Array(types.int32, 1, "C")
_OFFSETS = types.Array(types.int64, 1, "C")


@compiled(_READ_BYTES, _IDS, _LENGTHS, _BYTES)
def judge(text: np.ndarray, ids: np.ndarray, token_bytes: np.ndarray, quality: np.ndarray) -> None:
    """Rate a cut before each token. The start of a text counts as the start of a line.

    Args:
        text: (bytes,) uint8, UTF-8.
        ids: (n,) uint32, the tokens of `text`.
        token_bytes: (size,) int32, bytes of each token of the vocabulary.
        quality: (n,) uint8, the result.
    """
    at = 0
    for i in range(len(ids)):
        after = text[at] if at < len(text) else 0
        before = text[at - 1] if at else 0x0A
        if at and after & 0xC0 == 0x80:
            quality[i] = NEVER
        elif before == 0x0A and (after != 0x0A or not at):
            quality[i] = LINE
        elif after != 0x20 and after != 0x09 and after != 0x0A:
            quality[i] = CHARACTER
        else:
            ends = before == 0x2E or before == 0x21 or before == 0x3F  # . ! ?
            if at >= 3 and text[at - 3] == 0xE3:
                ends = text[at - 2] == 0x80 and before == 0x82  # 。
            elif at >= 3 and text[at - 3] == 0xEF and text[at - 2] == 0xBC:
                ends = before == 0x81 or before == 0x9F  # ！ ？
            quality[i] = SENTENCE if ends else WORD
        at += token_bytes[ids[i]]


@compiled(_BYTES, _OFFSETS, _OFFSETS, returns=types.int64)
def choose(quality: np.ndarray, edges: np.ndarray, splits: np.ndarray) -> int:
    """Choose the offsets at which a sample may be cut: before every medium, and inside the text behind it.

    In a text, a split is at the first end of a line after SPLIT_MIN ids; if no line ends within SPLIT_MAX ids, at
    the last place of the best quality. The rest of a text is never shorter than SPLIT_MIN.

    Args:
        quality: (n,) uint8 from `judge`; NEVER at ids that are no text.
        edges: 0, the first id of each medium, and the number of ids, ascending.
        splits: the result, filled from the start; a length of `n // SPLIT_MIN + len(edges)` always suffices.
    Returns:
        the number of splits.
    """
    count = 0
    for i in range(len(edges) - 1):
        if edges[i]:
            splits[count] = edges[i]
            count += 1
        first, last = edges[i] + SPLIT_MIN, edges[i + 1] - SPLIT_MIN
        while first <= last:
            best, place = NEVER, first
            for at in range(first, min(first + SPLIT_MAX - SPLIT_MIN, last) + 1):
                if quality[at] >= best and quality[at] != NEVER:
                    best, place = quality[at], at
                if best == LINE:
                    break
            if best == NEVER:
                break
            splits[count] = place
            count += 1
            first = place + SPLIT_MIN
    return count
