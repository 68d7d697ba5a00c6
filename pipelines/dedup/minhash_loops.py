"""Near duplicates of text: MinHash signatures in bands, and clusters of documents that share a band.

    text -> words -> shingles of `words` neighbours -> the smallest of `bands * rows` hashes of all -> one key per band

Two documents whose sets of shingles have Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands
(Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4). What shares a band is one
cluster, transitively, and of a cluster one document stays. 14 bands of 8 rows over shingles of 5 words are the numbers
of FineWeb (Penedo et al. 2024, section 3.4).

Words are runs of letters, digits and marks, without case; every digit counts as 0, so that dates and counters don't
part pages that are otherwise equal. Of scripts that put no spaces between words each character is a word. `keys_of`
runs on one shard at a time, `clusters` over the keys of all; `reference.py` has the slow twins.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from numba import types

from manifests.jit import compiled
from pipelines.dedup.unions import PARENTS, flatten, unite

VERSION = 1

NO_KEY = np.uint64(0)
"""Of documents without a word, and of those that are not looked at: it is no one's twin."""

_WORDS = types.Array(types.uint64, 1, "C")
_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_PREMIX, _MIX, _STEP = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
"""Of SplitMix64 (Steele et al. 2014)."""
_POWER = np.uint64(0xD6E8FEB86659FD93)


def constants(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count,) uint32 each: what makes `count` hashes out of one, x -> (x ^ mask) * factor; factors are odd."""
    state = np.arange(1, 2 * count + 1, dtype=np.uint64) * _PREMIX
    state = (state ^ (state >> np.uint64(30))) * _MIX
    state = (state ^ (state >> np.uint64(27))) * _STEP
    high = (state ^ (state >> np.uint64(31))) >> np.uint64(32)
    return high[:count].astype(np.uint32), (high[count:] | np.uint64(1)).astype(np.uint32)


def keys_of(texts: Iterable[str], words: int, bands: int, rows: int) -> np.ndarray:
    """(documents, bands) uint64: equal in a column where two documents share that band."""
    masks, factors = constants(bands * rows)
    found = []
    for text in texts:
        hashes = word_hashes(text)
        keys = np.zeros(bands, np.uint64)
        if len(hashes):
            _bands(hashes, words, rows, masks, factors, keys)
        found.append(keys)
    return np.array(found, np.uint64).reshape(-1, bands)


def word_hashes(text: str, digits: bool = False) -> np.ndarray:
    """(words,) uint64; with `digits` numbers that differ are different words."""
    data = np.frombuffer(_plain(text), np.uint8)
    hashes = np.empty(len(data) + 1, np.uint64)
    return hashes[: _words(data, digits, hashes)]


def _plain(text: str) -> bytes:
    """What words are cut out of; ASCII needs no look at Unicode."""
    if text.isascii():
        return text.encode()
    return unicodedata.normalize("NFC", text.casefold()).encode("utf-8", "replace")


@compiled(_BYTES, types.boolean, _WORDS, returns=types.int64)
def _words(data, digits, hashes):
    """Hash of each word of UTF-8 text; how many there are."""
    count = 0
    state = _PREMIX
    inside = False
    at = 0
    end = len(data)
    while at < end:
        byte = data[at]
        if byte < 0x80:
            letter = np.uint64(0)
            if 97 <= byte <= 122:
                letter = np.uint64(byte)
            elif 65 <= byte <= 90:
                letter = np.uint64(byte + 32)
            elif 48 <= byte <= 57:
                letter = np.uint64(byte) if digits else np.uint64(48)
            at += 1
            if letter:
                state = (state ^ letter) * _POWER
                inside = True
                continue
            if inside:
                hashes[count] = (state ^ (state >> np.uint64(29))) * _MIX
                count += 1
                state, inside = _PREMIX, False
            continue
        size = 2 if byte < 0xE0 else (3 if byte < 0xF0 else 4)
        point = np.uint64(byte & (0x3F >> (size - 1)))
        for k in range(1, size):
            if at + k < end:
                point = (point << np.uint64(6)) | np.uint64(data[at + k] & 0x3F)
        at += size
        if point < 0xC0 or 0x2000 <= point <= 0x206F or 0x3000 <= point <= 0x3004 or 0x3007 < point <= 0x3020:
            if inside:  # punctuation and blanks of Latin, general and CJK blocks
                hashes[count] = (state ^ (state >> np.uint64(29))) * _MIX
                count += 1
                state, inside = _PREMIX, False
            continue
        alone = (
            0x0E00 <= point <= 0x0EFF  # Thai, Lao
            or 0x1000 <= point <= 0x109F  # Burmese
            or 0x1780 <= point <= 0x17FF  # Khmer
            or 0x3040 <= point <= 0x30FF  # Kana
            or 0x3400 <= point <= 0x9FFF  # Han
            or 0xF900 <= point <= 0xFAFF
            or 0x20000 <= point <= 0x3FFFF
        )
        if alone:
            if inside:
                hashes[count] = (state ^ (state >> np.uint64(29))) * _MIX
                count += 1
                state, inside = _PREMIX, False
            lone = (_PREMIX ^ point) * _POWER
            hashes[count] = (lone ^ (lone >> np.uint64(29))) * _MIX
            count += 1
            continue
        state = (state ^ point) * _POWER
        inside = True
    if inside:
        hashes[count] = (state ^ (state >> np.uint64(29))) * _MIX
        count += 1
    return count


_SMALL = types.Array(types.uint32, 1, "C")


@compiled(_WORDS, types.int64, types.int64, _SMALL, _SMALL, _WORDS)
def _bands(hashes, words, rows, masks, factors, keys):
    """Key of each band; of fewer words than a shingle has, all are one shingle."""
    count = len(masks)
    least = np.empty(count, np.uint32)
    for k in range(count):
        least[k] = np.uint32(0xFFFFFFFF)
    wide = min(words, len(hashes))
    for first in range(len(hashes) - wide + 1):
        state = np.uint64(0)
        for k in range(first, first + wide):
            state = state * _POWER + hashes[k]
        state = (state ^ (state >> np.uint64(31))) * _STEP
        shingle = np.uint32(state >> np.uint64(32))
        for k in range(count):  # 32 bits wide, so that eight or more of them are one vector instruction
            value = np.uint32((shingle ^ masks[k]) * factors[k])
            least[k] = min(least[k], value)
    for band in range(len(keys)):
        state = np.uint64(band + 1) * _PREMIX
        for row in range(rows):
            state = (state ^ np.uint64(least[band * rows + row])) * _MIX
            state ^= state >> np.uint64(32)
        keys[band] = state | np.uint64(1)  # never NO_KEY


JOIN_BYTES = 24
"""Of memory that one document takes while a band is joined, beside 8 for its cluster."""


def clusters(bands: Iterable[Sequence[np.ndarray]], documents: int, max_memory_bytes: int) -> np.ndarray:
    """(documents,) int64: the smallest place of each document's cluster.

    Args:
        bands: for each band, the keys of all documents in pieces, in order; every piece is read once per pass.
        max_memory_bytes: bounds how many keys are looked at together; more passes over a band keep within it. What
            can't be bounded is 8 bytes a document.
    """
    parents = np.arange(documents, dtype=np.int64)
    passes = -(-documents * JOIN_BYTES // max(1, max_memory_bytes))
    for pieces in bands:
        for number in range(passes):
            keys, places = _of_pass(pieces, number, passes)
            order = np.argsort(keys, kind="stable")
            _join(parents, keys[order], places[order])
    flatten(parents)
    return parents


def _of_pass(pieces: Sequence[np.ndarray], number: int, passes: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and places of the documents whose key belongs to this pass."""
    if passes == 1:
        keys = np.concatenate([np.asarray(piece, np.uint64) for piece in pieces] or [np.zeros(0, np.uint64)])
        return keys, np.arange(len(keys), dtype=np.int64)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    first = 0
    for piece in pieces:
        piece = np.asarray(piece, np.uint64)
        mine = np.flatnonzero((piece >> np.uint64(32)) % np.uint64(passes) == np.uint64(number))
        found.append((piece[mine], first + mine))
        first += len(piece)
    found = found or [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    return np.concatenate([keys for keys, _ in found]), np.concatenate([places for _, places in found])


@compiled(PARENTS, _WORDS, types.Array(types.int64, 1, "C"))
def _join(parents, keys, places):
    """Join the places of equal neighbouring keys."""
    for k in range(1, len(keys)):
        if keys[k] != keys[k - 1] or keys[k] == np.uint64(0):
            continue
        unite(parents, places[k - 1], places[k])
