"""One pass over a text, shared by all ops that count words, lines and paragraphs: hashes and lengths of each.

    text -> code points -> words, lines, paragraphs -> numbers

A word is what stands between white space, as in the published rules' other implementations on plain text; of scripts
that put no spaces between words (Han, Kana, Thai, Lao, Burmese, Khmer) each character is one. A line that shows nothing
is none; paragraphs are parted by such lines. Everything is compared by 64-bit hashes. Time and memory are linear in the
length of the text, whatever it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex
from numba import types

from manifests.jit import compiled

_LETTER, _SPACE, _LONE, _ENDS, _BULLET, _WORD = (1 << bit for bit in range(6))
_KNOWN = 0x34000
"""Behind it there are no letters, only tags, variation selectors and private use."""
_FOLDED = 0x2000
"""Capitals below it are compared as small letters: Latin, Greek, Cyrillic, Armenian, Georgian, Vietnamese."""
_LONE_SCRIPTS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}]")
_SENTENCE_END = regex.compile(r"\p{Sentence_Terminal}")
_BULLETS = "•‣⁃◦▪■●-*"

_START, _MIX, _POWER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0xD6E8FEB86659FD93)

_POINTS = types.Array(types.uint32, 1, "C", readonly=True)
_KINDS = types.Array(types.uint8, 1, "C")
_FOLDS = types.Array(types.uint32, 1, "C")
_HASHES = types.Array(types.uint64, 1, "C")
_COUNTS = types.Array(types.int64, 1, "C")
_MARKS = types.Array(types.uint8, 1, "C")

BULLET_LINE, ELLIPSIS_LINE, ENDED_LINE = 1, 2, 4
"""Marks of a line: begins with a bullet; ends in an ellipsis; ends in a mark that ends a sentence (Unicode's property
Sentence_Terminal, the list of FineWeb)."""


@dataclass(frozen=True)
class Reading:
    """Arrays have one row per word, line or paragraph."""

    characters: int
    words: np.ndarray
    """uint64, hash of each word as it stands."""
    cores: np.ndarray
    """uint64, hash of each word without case and without marks around it; 0 where nothing else is in it."""
    word_lengths: np.ndarray
    """In characters."""
    words_with_letter: int
    lone_words: int
    """Words of scripts without spaces."""
    lines: np.ndarray
    line_lengths: np.ndarray
    line_marks: np.ndarray
    paragraphs: np.ndarray
    paragraph_lengths: np.ndarray

    @property
    def spaced(self) -> bool:
        """Most words are really words."""
        return self.lone_words * 2 <= len(self.words)


@lru_cache(maxsize=1)
def read(text: str) -> Reading:
    """The last one is kept, so that ops side by side share it."""
    kinds, folds = _tables()
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    sizes = np.zeros(2, np.int64)
    _count(points, kinds, sizes)
    words, lines = sizes.tolist()
    hashes, cores, word_lengths = np.empty(words, np.uint64), np.empty(words, np.uint64), np.empty(words, np.int64)
    line_hashes, line_lengths = np.empty(lines, np.uint64), np.empty(lines, np.int64)
    marks, blank = np.zeros(lines, np.uint8), np.zeros(lines, np.uint8)
    sums = np.zeros(3, np.int64)
    _words(points, kinds, folds, hashes, cores, word_lengths, sums)
    shown = _lines(points, kinds, line_hashes, line_lengths, marks, blank)
    line_hashes, line_lengths, marks = line_hashes[:shown], line_lengths[:shown], marks[:shown]
    paragraphs, paragraph_lengths = np.empty(shown, np.uint64), np.empty(shown, np.int64)
    count = _paragraphs(line_hashes, line_lengths, blank, paragraphs, paragraph_lengths)
    return Reading(
        len(text),
        hashes,
        cores,
        word_lengths,
        int(sums[0]),
        int(sums[1]),
        line_hashes,
        line_lengths,
        marks,
        paragraphs[:count],
        paragraph_lengths[:count],
    )


def repeated(hashes: np.ndarray, lengths: np.ndarray) -> tuple[int, int]:
    """(how many occurred before, how many characters they have together)."""
    sums = np.zeros(2, np.int64)
    _repeated(hashes, lengths, sums)
    count, characters = sums.tolist()
    return count, characters


MOST_WORDS = 10


def repeated_ngrams(reading: Reading) -> list[int]:
    """Characters in repeated n-grams of words, by n from 0 to `MOST_WORDS`.

    For n of 2 to 4: occurrences times characters of the n-gram that occurs most often, of several the one that comes
    first, with a space between words; 0 where none comes twice. From 5 on: characters without spaces of n-grams that
    occurred before, from left to right and without overlap.
    """
    sums = np.zeros(MOST_WORDS + 1, np.int64)
    _ngrams(reading.words, reading.word_lengths, sums)
    found: list[int] = sums.tolist()
    return found


def core(word: str) -> int:
    """What stands in `Reading.cores` for a word."""
    found = read(word).cores
    return int(found[0]) if len(found) == 1 else 0


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    kinds = np.zeros(_KNOWN, np.uint8)
    for point in range(_KNOWN):
        character = chr(point)
        if character.isalpha():
            kinds[point] |= _LETTER
        if character.isalnum():
            kinds[point] |= _WORD
        if character.isspace():
            kinds[point] |= _SPACE
    every = "".join(map(chr, range(_KNOWN)))
    for pattern, kind in ((_LONE_SCRIPTS, _LONE), (_SENTENCE_END, _ENDS)):
        kinds[[match.start() for match in pattern.finditer(every)]] |= kind
    kinds[list(map(ord, _BULLETS))] |= _BULLET
    lower = [chr(point).lower() for point in range(_FOLDED)]
    folds = np.array([ord(small) if len(small) == 1 else point for point, small in enumerate(lower)], np.uint32)
    return kinds, folds


@compiled(_POINTS, _KINDS, _COUNTS)
def _count(points, kinds, sizes):
    """How many words there are, and lines with those that show nothing."""
    inside = False
    words, lines = 0, 1
    for point in points:
        kind = kinds[point] if point < _KNOWN else 0
        if point == 10:
            lines += 1
        if kind & _LONE:
            words += 1
            inside = False
        elif kind & _SPACE:
            inside = False
        elif not inside:
            words += 1
            inside = True
    sizes[0], sizes[1] = words, lines


@compiled(_POINTS, _KINDS, _FOLDS, _HASHES, _HASHES, _COUNTS, _COUNTS)
def _words(points, kinds, folds, hashes, cores, lengths, sums):
    count = 0
    at = 0
    end = len(points)
    while at < end:
        kind = kinds[points[at]] if points[at] < _KNOWN else 0
        if kind & _SPACE:
            at += 1
            continue
        state = _START
        inner = inner_kept = _START
        seen = False
        letter = False
        first = at
        alone = (kind & _LONE) != 0
        while at < end:
            point = points[at]
            kind = kinds[point] if point < _KNOWN else 0
            if kind & _SPACE or (kind & _LONE and not alone):
                break
            state = (state ^ np.uint64(point)) * _POWER
            state ^= state >> np.uint64(32)
            if kind & _WORD:
                seen = True
            if seen:
                folded = folds[point] if point < _FOLDED else point
                inner = (inner ^ np.uint64(folded)) * _POWER
                inner ^= inner >> np.uint64(32)
                if kind & _WORD:
                    inner_kept = inner
            if kind & _LETTER:
                letter = True
            at += 1
            if alone:
                break
        hashes[count] = (state ^ (state >> np.uint64(29))) * _MIX
        cores[count] = ((inner_kept ^ (inner_kept >> np.uint64(29))) * _MIX) | np.uint64(1) if seen else np.uint64(0)
        lengths[count] = at - first
        count += 1
        if letter:
            sums[0] += 1
        if alone:
            sums[1] += 1


@compiled(_POINTS, _KINDS, _HASHES, _COUNTS, _MARKS, _MARKS, returns=types.int64)
def _lines(points, kinds, hashes, lengths, marks, blank):
    """How many lines show something. `blank` is set for those in front of which a line shows nothing."""
    count = 0
    at = 0
    end = len(points)
    parted = False
    while at <= end:
        state = kept = _START
        first = last = -1
        while at < end and points[at] != 10:
            point = points[at]
            space = point < _KNOWN and kinds[point] & _SPACE
            if not space and first < 0:
                first = at
            if first >= 0:
                state = (state ^ np.uint64(point)) * _POWER
                state ^= state >> np.uint64(32)
                if not space:
                    last, kept = at, state
            at += 1
        at += 1
        if first < 0:
            parted = True
            continue
        hashes[count] = (kept ^ (kept >> np.uint64(29))) * _MIX
        lengths[count] = last - first + 1
        if points[first] < _KNOWN and kinds[points[first]] & _BULLET:
            marks[count] |= BULLET_LINE
        if points[last] == 0x2026 or (
            last - first >= 2 and points[last] == 46 and points[last - 1] == 46 and points[last - 2] == 46
        ):
            marks[count] |= ELLIPSIS_LINE
        if points[last] < _KNOWN and kinds[points[last]] & _ENDS:
            marks[count] |= ENDED_LINE
        blank[count] = parted
        parted = False
        count += 1
    return count


@compiled(_HASHES, _COUNTS, _MARKS, _HASHES, _COUNTS, returns=types.int64)
def _paragraphs(lines, line_lengths, blank, hashes, lengths):
    count = 0
    for row in range(len(lines)):
        if row == 0 or blank[row]:
            hashes[count], lengths[count] = _START, -1
            count += 1
        hashes[count - 1] = (hashes[count - 1] ^ lines[row]) * _POWER
        lengths[count - 1] += line_lengths[row] + 1  # with the line end between two of them
    return count


@compiled(_HASHES, types.uint64, returns=types.int64)
def _slot(table, key):
    """Place of a key, or of the free row where it belongs. 0 is free."""
    mask = np.uint64(len(table) - 1)
    slot = (key ^ (key >> np.uint64(32))) * _MIX
    slot = (slot ^ (slot >> np.uint64(29))) & mask
    while table[slot] != 0 and table[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@compiled(_HASHES, _COUNTS, _COUNTS)
def _repeated(hashes, lengths, sums):
    size = 4
    while size < 2 * len(hashes):
        size *= 2
    table = np.zeros(size, np.uint64)
    for row in range(len(hashes)):
        key = hashes[row] | np.uint64(1)
        slot = _slot(table, key)
        if table[slot] == key:
            sums[0] += 1
            sums[1] += lengths[row]
        table[slot] = key


@compiled(_HASHES, _COUNTS, _COUNTS)
def _ngrams(hashes, lengths, sums):
    count = len(hashes)
    size = 4
    while size < 2 * count:
        size *= 2
    table = np.zeros(size, np.uint64)
    times = np.zeros(size, np.int32)
    states = hashes.copy()
    for n in range(2, len(sums)):
        grams = count - n + 1
        if grams < 2:
            break
        for row in range(grams):
            state = states[row] * _POWER + hashes[row + n - 1]
            states[row] = state ^ (state >> np.uint64(31))
        table[:] = 0
        if n <= 4:
            times[:] = 0
            most = 0
            for row in range(grams):
                key = states[row] | np.uint64(1)
                slot = _slot(table, key)
                table[slot] = key
                times[slot] += 1
                most = max(most, times[slot])
            for row in range(grams):
                if most > 1 and times[_slot(table, states[row] | np.uint64(1))] == most:
                    sums[n] = most * (lengths[row : row + n].sum() + n - 1)
                    break
            continue
        row = 0
        while row < grams:
            key = states[row] | np.uint64(1)
            slot = _slot(table, key)
            if table[slot] == key:
                sums[n] += lengths[row : row + n].sum()
                row += n
            else:
                table[slot] = key
                row += 1
