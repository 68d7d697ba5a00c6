"""Slow and obvious versions of `dedup/minhash_loops.py`, for tests and benchmarks only."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import regex

SINGLE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}]"
"""Characters that are words of their own."""
_WORD = regex.compile(rf"{SINGLE}|(?:(?!{SINGLE})[\p{{L}}\p{{N}}\p{{M}}])+")


def words(text: str) -> list[str]:
    """Words of a text in scripts whose punctuation `minhash_loops.py` knows; digits are 0."""
    plain = unicodedata.normalize("NFC", text.casefold())
    return ["".join("0" if "0" <= c <= "9" else c for c in word) for word in _WORD.findall(plain)]


def shingles(text: str, count: int) -> set[tuple[str, ...]]:
    """Runs of `count` words; of a shorter text all its words as one."""
    sequence = words(text)
    length = min(count, len(sequence))
    starts = range(len(sequence) - length + 1)
    return {tuple(sequence[i : i + length]) for i in starts} if sequence else set()


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def shared(similarity: float, bands: int, rows: int) -> float:
    """Probability that two documents of this Jaccard similarity share a band."""
    return 1 - (1 - similarity**rows) ** bands


def clusters(keys: np.ndarray) -> list[int]:
    """The smallest place in each document's cluster, by a walk over the graph of shared keys.

    Args:
        keys: (documents, bands) uint64, 0 for none.
    """
    of_key: dict[tuple[int, int], list[int]] = {}
    for place, row in enumerate(keys.tolist()):
        for band, key in enumerate(row):
            if key:
                of_key.setdefault((band, key), []).append(place)
    cluster = [-1] * len(keys)
    for start in range(len(keys)):
        waiting = [start] if cluster[start] < 0 else []
        while waiting:
            place = waiting.pop()
            if cluster[place] < 0:
                cluster[place] = start
                row = enumerate(keys[place].tolist())
                waiting += [other for band, key in row if key for other in of_key[band, key]]
    return cluster


def predicted(texts: Sequence[str], pairs: Sequence[tuple[int, int]], count: int, bands: int, rows: int) -> np.ndarray:
    """(pairs,) float64 probability that each pair of texts shares a band, from the exact Jaccard similarity."""
    sets = [shingles(text, count) for text in texts]
    return np.array([shared(jaccard(sets[a], sets[b]), bands, rows) for a, b in pairs])
