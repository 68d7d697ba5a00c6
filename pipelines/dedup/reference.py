"""What `minhash_loops.py` computes, slow and obvious: for tests only."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import regex

ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}]"
_WORD = regex.compile(rf"{ALONE}|(?:(?!{ALONE})[\p{{L}}\p{{N}}\p{{M}}])+")


def words(text: str) -> list[str]:
    """Of text in scripts whose punctuation `minhash_loops.py` knows."""
    plain = unicodedata.normalize("NFC", text.casefold())
    return ["".join("0" if "0" <= c <= "9" else c for c in word) for word in _WORD.findall(plain)]


def shingles(text: str, count: int) -> set[tuple[str, ...]]:
    found = words(text)
    wide = min(count, len(found))
    return {tuple(found[i : i + wide]) for i in range(len(found) - wide + 1)} if found else set()


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def shared(similarity: float, bands: int, rows: int) -> float:
    """Probability that two documents share a band."""
    return 1 - (1 - similarity**rows) ** bands


def clusters(keys: np.ndarray) -> list[int]:
    """(documents, bands) keys, 0 for none -> the smallest place of each document's cluster, by walking from it."""
    of_key: dict[tuple[int, int], list[int]] = {}
    for place, row in enumerate(keys.tolist()):
        for band, key in enumerate(row):
            if key:
                of_key.setdefault((band, key), []).append(place)
    cluster = [-1] * len(keys)
    for place in range(len(keys)):
        waiting = [place] if cluster[place] < 0 else []
        while waiting:
            one = waiting.pop()
            if cluster[one] < 0:
                cluster[one] = place
                waiting += [other for band, key in enumerate(keys[one].tolist()) if key for other in of_key[band, key]]
    return cluster


def predicted(texts: Sequence[str], pairs: Sequence[tuple[int, int]], count: int, bands: int, rows: int) -> np.ndarray:
    """(pairs,) probability of each pair to share a band."""
    sets = [shingles(text, count) for text in texts]
    return np.array([shared(jaccard(sets[a], sets[b]), bands, rows) for a, b in pairs])
