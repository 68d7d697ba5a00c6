"""Evaluation items that a text contains: common runs of words, looked up by hash. For `dedup/decontaminate.py`.

Words are those of `dedup/minhash_loops.py`, except that digits count as they are: the same problem with other numbers
is another problem. An item of at least `words` words is found by any run of that length, a shorter one by all its
words.
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
"""Raised when the same texts would give other results."""

_FILTER_BITS = 25
"""Leading bits of a key that are looked up in `ItemIndex.bits` (4 MB) before the search among all keys."""

_WORDS = types.Array(types.uint64, 1, "C")
_BITS = types.Array(types.uint8, 1, "C")
_FACTOR, _MIX = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class ItemIndex:
    """Runs of words of all evaluation items."""

    keys: np.ndarray
    """(n,) uint64 hash of each distinct run, ascending."""
    item: np.ndarray
    """(n,) int64 number of the first item that has the run."""
    lengths: tuple[int, ...]
    """Lengths of runs in words, longest first."""
    short: int
    """Number of items with too few words to be compared."""

    @cached_property
    def bits(self) -> np.ndarray:
        """Bit array: bit b is set if a key begins with the `_FILTER_BITS` bits b."""
        bits = np.zeros(2 ** (_FILTER_BITS - 3), np.uint8)
        begin = self.keys >> np.uint64(64 - _FILTER_BITS)
        np.bitwise_or.at(bits, begin >> np.uint64(3), np.uint8(1) << (begin & np.uint64(7)).astype(np.uint8))
        return bits


def index_items(texts: Iterable[str], words: int, min_words: int, max_items: int) -> ItemIndex:
    """Index the texts of evaluation items.

    Args:
        texts: one per item.
        words: length of a run.
        min_words: items with fewer words are left out; too many texts contain such phrases.
        max_items: a run that more items share is left out; it is a way of asking, not an item.
    """
    keys, owner, lengths, short = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], set(), 0
    for number, text in enumerate(texts):
        hashes = word_hashes(text, digits=True)
        if len(hashes) < min_words:
            short += bool(text)
            continue
        length = min(words, len(hashes))
        lengths.add(length)
        own = np.unique(runs(hashes, length))
        keys.append(own)
        owner.append(np.full(len(own), number))
    distinct, first, count = np.unique(np.concatenate(keys), return_index=True, return_counts=True)
    rare = count <= max_items
    item = np.concatenate(owner)[first[rare]]
    return ItemIndex(distinct[rare], item, tuple(sorted(lengths, reverse=True)), short)


def runs(hashes: np.ndarray, length: int) -> np.ndarray:
    """Return uint64 hashes of all runs of `length` words, from (words,) uint64 hashes of words."""
    keys = np.empty(max(0, len(hashes) - length + 1), np.uint64)
    _runs(hashes, length, keys)
    return keys


def first_match(text: str, items: ItemIndex) -> tuple[int, int, int]:
    """Return (item, words in the run, number of runs of that length in the text that any item has); item -1 if none.

    Longer runs are looked up first; of equally long ones the first in the text is returned.
    """
    hashes = word_hashes(text, digits=True)
    for length in items.lengths:
        keys = runs(hashes, length)
        place, count = _look_up(keys, items.bits, items.keys)
        if count:
            return int(items.item[place]), length, count
    return -1, 0, 0


@compiled(_WORDS, types.int64, _WORDS)
def _runs(hashes, length, keys):
    """Rolling polynomial hash over `length` words."""
    leaving = np.uint64(1)
    for _ in range(length):
        leaving *= _FACTOR
    state = np.uint64(0)
    for k in range(len(hashes)):
        state = (state * _FACTOR) + hashes[k]
        if k >= length:
            state -= hashes[k - length] * leaving
        if k >= length - 1:
            key = (state ^ np.uint64(length)) * _MIX
            key = (key ^ (key >> np.uint64(32))) * _FACTOR
            keys[k - length + 1] = key ^ (key >> np.uint64(29))


@compiled(_WORDS, _BITS, _WORDS, returns=types.UniTuple(types.int64, 2))
def _look_up(keys, bits, index):
    """(place in `index` of the first key that is in it, number of keys that are in it); place -1 if none is."""
    place, count = np.int64(-1), np.int64(0)
    for key in keys:
        begin = key >> np.uint64(64 - _FILTER_BITS)
        if not (bits[begin >> np.uint64(3)] >> (begin & np.uint64(7))) & np.uint64(1):
            continue
        low, high = 0, len(index)
        while low < high:
            middle = (low + high) // 2
            if index[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < len(index) and index[low] == key:
            count += 1
            if place < 0:
                place = np.int64(low)
    return place, count
