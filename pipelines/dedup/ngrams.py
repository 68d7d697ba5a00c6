"""Which evaluation items does a text hold? Runs of words in common, looked up by hash.

Words are those of `minhash_loops.py`, but digits count as they are: the same problem with other numbers is another
problem. An item of `words` words or more is known by every run of that many, a shorter one by all of its words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import types

from manifests.jit import compiled
from pipelines.dedup.minhash_loops import word_hashes

VERSION = 1

_FILTER_BITS = 25
"""Of a key, that say at once that it is none of the items': 4 MB."""

_WORDS = types.Array(types.uint64, 1, "C")
_BITS = types.Array(types.uint8, 1, "C")
_FACTOR, _MIX = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class Items:
    keys: np.ndarray
    """(n,) uint64, ascending, each once."""
    item: np.ndarray
    """(n,) the first item that each is of."""
    lengths: tuple[int, ...]
    """Of runs, in words, longest first."""
    short: int
    """Items of too few words to be compared."""

    @cached_property
    def bits(self) -> np.ndarray:
        """One bit for every beginning of a key."""
        bits = np.zeros(2 ** (_FILTER_BITS - 3), np.uint8)
        begin = self.keys >> np.uint64(64 - _FILTER_BITS)
        np.bitwise_or.at(bits, begin >> np.uint64(3), np.uint8(1) << (begin & np.uint64(7)).astype(np.uint8))
        return bits


def items_of(texts: Iterable[str], words: int, min_words: int, max_items: int) -> Items:
    """Args:
    words: of a run.
    min_words: an item with fewer is in no text: everybody says such things.
    max_items: a run that more items share is how questions are put, not one of them, and is left out.
    """
    keys, owner, lengths, short = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], set(), 0
    for number, text in enumerate(texts):
        hashes = word_hashes(text, digits=True)
        if len(hashes) < min_words:
            short += bool(text)
            continue
        wide = min(words, len(hashes))
        lengths.add(wide)
        own = np.unique(runs(hashes, wide))
        keys.append(own)
        owner.append(np.full(len(own), number))
    found, first, count = np.unique(np.concatenate(keys), return_index=True, return_counts=True)
    rare = count <= max_items
    return Items(found[rare], np.concatenate(owner)[first[rare]], tuple(sorted(lengths, reverse=True)), short)


def runs(hashes: np.ndarray, wide: int) -> np.ndarray:
    """Key of each run of so many words."""
    keys = np.empty(max(0, len(hashes) - wide + 1), np.uint64)
    _runs(hashes, wide, keys)
    return keys


def first_found(text: str, items: Items) -> tuple[int, int, int]:
    """(item, words of the run, how many runs of that length the text has of any item); item -1 where there is none.

    The longest run comes first, of equally long ones the first in the text.
    """
    hashes = word_hashes(text, digits=True)
    for wide in items.lengths:
        keys = runs(hashes, wide)
        place, count = _look_up(keys, items.bits, items.keys)
        if count:
            return int(items.item[place]), wide, count
    return -1, 0, 0


@compiled(_WORDS, types.int64, _WORDS)
def _runs(hashes, wide, keys):
    gone = np.uint64(1)
    for _ in range(wide):
        gone *= _FACTOR
    state = np.uint64(0)
    for k in range(len(hashes)):
        state = (state * _FACTOR) + hashes[k]
        if k >= wide:
            state -= hashes[k - wide] * gone
        if k >= wide - 1:
            key = (state ^ np.uint64(wide)) * _MIX
            key = (key ^ (key >> np.uint64(32))) * _FACTOR
            keys[k - wide + 1] = key ^ (key >> np.uint64(29))


@compiled(_WORDS, _BITS, _WORDS, returns=types.UniTuple(types.int64, 2))
def _look_up(keys, bits, known):
    place, count = np.int64(-1), np.int64(0)
    for key in keys:
        begin = key >> np.uint64(64 - _FILTER_BITS)
        if not (bits[begin >> np.uint64(3)] >> (begin & np.uint64(7))) & np.uint64(1):
            continue
        low, high = 0, len(known)
        while low < high:
            middle = (low + high) // 2
            if known[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < len(known) and known[low] == key:
            count += 1
            if place < 0:
                place = np.int64(low)
    return place, count
