"""MinHash keys of texts, and clusters of documents that share a key. The nodes are in `dedup/minhash.py`.

    text -> words -> shingles of `words` neighbors -> the smallest of `bands * rows` hashes of all -> one key per band

Two documents whose sets of shingles have Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands
(Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4). Documents that share a band
form a cluster, transitively, of which one document stays. 14 bands of 8 rows over shingles of 5 words are the numbers
of FineWeb (Penedo et al. 2024, section 3.4).

Words are runs of letters, digits and marks, without case; every digit counts as 0, so that pages that differ only in
dates and counters are equal. In scripts without spaces between words each character is a word. `keys_of` runs on one
shard at a time, `clusters` over the keys of all documents; `dedup/reference.py` has slow versions of both.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from numba import types

from manifests.jit import compiled
from pipelines.dedup.unions import PARENTS, flatten, unite

VERSION = 1
"""Raised when the same texts would give other keys."""

NO_KEY = np.uint64(0)
"""Key of documents without a word and of documents that are not compared; it matches no other key."""

_WORDS = types.Array(types.uint64, 1, "C")
_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_PREMIX, _MIX, _STEP = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
"""Constants of SplitMix64 (Steele et al. 2014)."""
_POWER = np.uint64(0xD6E8FEB86659FD93)


def constants(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return masks and odd factors, (count,) uint32 each: x -> (x ^ mask) * factor makes `count` hashes of one."""
    state = np.arange(1, 2 * count + 1, dtype=np.uint64) * _PREMIX
    state = (state ^ (state >> np.uint64(30))) * _MIX
    state = (state ^ (state >> np.uint64(27))) * _STEP
    high = (state ^ (state >> np.uint64(31))) >> np.uint64(32)
    return high[:count].astype(np.uint32), (high[count:] | np.uint64(1)).astype(np.uint32)


def keys_of(texts: Iterable[str], words: int, bands: int, rows: int) -> np.ndarray:
    """Return (documents, bands) uint64: two documents share a band if their keys in its column are equal.

    Args:
        words: words of a shingle.
        rows: hashes in a band.
    """
    masks, factors = constants(bands * rows)
    by_document = []
    for text in texts:
        hashes = word_hashes(text)
        keys = np.zeros(bands, np.uint64)
        if len(hashes):
            _bands(hashes, words, rows, masks, factors, keys)
        by_document.append(keys)
    return np.array(by_document, np.uint64).reshape(-1, bands)


def word_hashes(text: str, digits: bool = False) -> np.ndarray:
    """Return (words,) uint64, a hash per word; with `digits`, numbers with other digits are other words."""
    data = np.frombuffer(_plain(text), np.uint8)
    hashes = np.empty(len(data) + 1, np.uint64)
    return hashes[: _words(data, digits, hashes)]


def _plain(text: str) -> bytes:
    """Return case-folded UTF-8 in NFC; ASCII is folded later, byte by byte."""
    if text.isascii():
        return text.encode()
    return unicodedata.normalize("NFC", text.casefold()).encode("utf-8", "replace")


@compiled(_BYTES, types.boolean, _WORDS, returns=types.int64)
def _words(data, digits, hashes):
    """Hash the words of UTF-8 text into `hashes` and return their number."""
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
        single = (
            0x0E00 <= point <= 0x0EFF  # Thai, Lao
            or 0x1000 <= point <= 0x109F  # Burmese
            or 0x1780 <= point <= 0x17FF  # Khmer
            or 0x3040 <= point <= 0x30FF  # Kana
            or 0x3400 <= point <= 0x9FFF  # Han
            or 0xF900 <= point <= 0xFAFF
            or 0x20000 <= point <= 0x3FFFF
        )
        if single:
            if inside:
                hashes[count] = (state ^ (state >> np.uint64(29))) * _MIX
                count += 1
                state, inside = _PREMIX, False
            state = (_PREMIX ^ point) * _POWER
            hashes[count] = (state ^ (state >> np.uint64(29))) * _MIX
            count += 1
            state = _PREMIX
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
    """Write the key of each band into `keys`; a text with fewer words than a shingle is one shingle."""
    count = len(masks)
    least = np.empty(count, np.uint32)
    for k in range(count):
        least[k] = np.uint32(0xFFFFFFFF)
    length = min(words, len(hashes))
    for first in range(len(hashes) - length + 1):
        state = np.uint64(0)
        for k in range(first, first + length):
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
"""Memory of one document while a band is joined; 8 bytes for its cluster come on top."""


def clusters(bands: Iterable[Sequence[np.ndarray]], documents: int, max_memory_bytes: int) -> np.ndarray:
    """Return (documents,) int64: the smallest place in each document's cluster.

    Args:
        bands: for each band, the keys of all documents in pieces, in order; every piece is read once per pass.
        documents: number of documents.
        max_memory_bytes: bounds the keys that are compared together, by more passes over a band. 8 bytes per document
            come on top.
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
    """Return keys and places of the documents whose key belongs to this pass."""
    if passes == 1:
        keys = np.concatenate([np.asarray(piece, np.uint64) for piece in pieces] or [np.zeros(0, np.uint64)])
        return keys, np.arange(len(keys), dtype=np.int64)
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    first = 0
    for piece in pieces:
        piece = np.asarray(piece, np.uint64)
        mine = np.flatnonzero((piece >> np.uint64(32)) % np.uint64(passes) == np.uint64(number))
        chosen.append((piece[mine], first + mine))
        first += len(piece)
    chosen = chosen or [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    return np.concatenate([keys for keys, _ in chosen]), np.concatenate([places for _, places in chosen])


@compiled(PARENTS, _WORDS, types.Array(types.int64, 1, "C"))
def _join(parents, keys, places):
    """Join the places of equal neighboring keys."""
    for k in range(1, len(keys)):
        if keys[k] != keys[k - 1] or keys[k] == np.uint64(0):
            continue
        unite(parents, places[k - 1], places[k])
