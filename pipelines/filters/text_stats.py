"""Words, lines and paragraphs of a text as arrays of hashes and lengths, computed in one pass for all ops.

    text -> code points -> words, lines, paragraphs -> numbers

A word is a run of characters between white space, as in other implementations of the published rules on plain text; in
scripts without spaces between words (Han, Kana, Thai, Lao, Burmese, Khmer) each character is a word. Blank lines are
not counted as lines; they separate paragraphs. Everything is compared by 64-bit hashes. Time and memory are linear in
the length of the text. Used by `filters/quality.py` and `filters/blocklist.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex
from numba import types

from manifests.jit import compiled

_LETTER, _SPACE, _SINGLE, _ENDS, _BULLET, _WORD = (1 << bit for bit in range(6))
"""Properties of a code point."""
_TABLE_SIZE = 0x34000
"""Code points with properties; from here on Unicode has no letters, only tags, variation selectors and private use."""
_FOLDED = 0x2000
"""Code points below it are compared without case: Latin, Greek, Cyrillic, Armenian, Georgian, Vietnamese."""
_SINGLE_SCRIPTS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}]")
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
"""Properties of a line: begins with a bullet; ends in an ellipsis; ends in a mark that ends a sentence (Unicode's
property Sentence_Terminal, the list of FineWeb)."""


@dataclass(frozen=True)
class TextStats:
    """Statistics of one text. Arrays have one row per word, line or paragraph; lengths are in characters."""

    characters: int
    words: np.ndarray
    """(words,) uint64, hash of each word."""
    cores: np.ndarray
    """(words,) uint64, hash of each word without case and surrounding punctuation; 0 for words of punctuation only."""
    word_lengths: np.ndarray
    """(words,) int64."""
    words_with_letter: int
    single_words: int
    """Number of words in scripts without spaces."""
    lines: np.ndarray
    """(lines,) uint64, hash of each line without surrounding white space."""
    line_lengths: np.ndarray
    line_marks: np.ndarray
    """(lines,) uint8, bits `BULLET_LINE`, `ELLIPSIS_LINE`, `ENDED_LINE`."""
    paragraphs: np.ndarray
    """(paragraphs,) uint64, hash of each paragraph's lines."""
    paragraph_lengths: np.ndarray

    @property
    def spaced(self) -> bool:
        """True if at least half of the words are in scripts with spaces between words."""
        return self.single_words * 2 <= len(self.words)


@lru_cache(maxsize=1)
def text_stats(text: str) -> TextStats:
    """Compute the statistics of a text. The last result is cached, so that the ops of one filter share it."""
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
    count = _lines(points, kinds, line_hashes, line_lengths, marks, blank)
    line_hashes, line_lengths, marks = line_hashes[:count], line_lengths[:count], marks[:count]
    paragraphs, paragraph_lengths = np.empty(count, np.uint64), np.empty(count, np.int64)
    count = _paragraphs(line_hashes, line_lengths, blank, paragraphs, paragraph_lengths)
    return TextStats(
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
    """Return how many lines (or paragraphs) repeat an earlier one, and their characters together."""
    sums = np.zeros(2, np.int64)
    _repeated(hashes, lengths, sums)
    count, characters = sums.tolist()
    return count, characters


MOST_WORDS = 10
"""Longest n-gram that is counted."""


def repeated_ngrams(stats: TextStats) -> list[int]:
    """Return the characters in repeated n-grams of words, by n from 0 to `MOST_WORDS`.

    For n of 2 to 4: occurrences times characters of the most frequent n-gram, of several the first, with a space
    between words; 0 if none occurs twice. From 5 on: characters without spaces of n-grams that occurred before, from
    left to right and without overlap.
    """
    sums = np.zeros(MOST_WORDS + 1, np.int64)
    _ngrams(stats.words, stats.word_lengths, sums)
    characters: list[int] = sums.tolist()
    return characters


def core(word: str) -> int:
    """Return the hash of one word as in `TextStats.cores`; 0 if the text is not one word."""
    cores = text_stats(word).cores
    return int(cores[0]) if len(cores) == 1 else 0


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return properties (uint8) and lower-case code points (uint32) by code point."""
    kinds = np.zeros(_TABLE_SIZE, np.uint8)
    for point in range(_TABLE_SIZE):
        character = chr(point)
        if character.isalpha():
            kinds[point] |= _LETTER
        if character.isalnum():
            kinds[point] |= _WORD
        if character.isspace():
            kinds[point] |= _SPACE
    every = "".join(map(chr, range(_TABLE_SIZE)))
    for pattern, kind in ((_SINGLE_SCRIPTS, _SINGLE), (_SENTENCE_END, _ENDS)):
        kinds[[match.start() for match in pattern.finditer(every)]] |= kind
    kinds[list(map(ord, _BULLETS))] |= _BULLET
    lower = [chr(point).lower() for point in range(_FOLDED)]
    folds = np.array([ord(small) if len(small) == 1 else point for point, small in enumerate(lower)], np.uint32)
    return kinds, folds


@compiled(_POINTS, _KINDS, _COUNTS)
def _count(points, kinds, sizes):
    """Write the number of words and of lines, blank ones included, into `sizes`."""
    inside = False
    words, lines = 0, 1
    for point in points:
        kind = kinds[point] if point < _TABLE_SIZE else 0
        if point == 10:
            lines += 1
        if kind & _SINGLE:
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
    """Write hash, core and length of each word; `sums` counts words with a letter and single-character words."""
    count = 0
    at = 0
    end = len(points)
    while at < end:
        kind = kinds[points[at]] if points[at] < _TABLE_SIZE else 0
        if kind & _SPACE:
            at += 1
            continue
        state = _START
        inner = inner_kept = _START
        seen = False
        letter = False
        first = at
        single = (kind & _SINGLE) != 0
        while at < end:
            point = points[at]
            kind = kinds[point] if point < _TABLE_SIZE else 0
            if kind & _SPACE or (kind & _SINGLE and not single):
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
            if single:
                break
        hashes[count] = (state ^ (state >> np.uint64(29))) * _MIX
        cores[count] = ((inner_kept ^ (inner_kept >> np.uint64(29))) * _MIX) | np.uint64(1) if seen else np.uint64(0)
        lengths[count] = at - first
        count += 1
        if letter:
            sums[0] += 1
        if single:
            sums[1] += 1


@compiled(_POINTS, _KINDS, _HASHES, _COUNTS, _MARKS, _MARKS, returns=types.int64)
def _lines(points, kinds, hashes, lengths, marks, blank):
    """Write hash, length and marks of each line that is not blank and return their number. `blank` is set for lines
    that follow a blank line."""
    count = 0
    at = 0
    end = len(points)
    after_blank = False
    while at <= end:
        state = kept = _START
        first = last = -1
        while at < end and points[at] != 10:
            point = points[at]
            space = point < _TABLE_SIZE and kinds[point] & _SPACE
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
            after_blank = True
            continue
        hashes[count] = (kept ^ (kept >> np.uint64(29))) * _MIX
        lengths[count] = last - first + 1
        if points[first] < _TABLE_SIZE and kinds[points[first]] & _BULLET:
            marks[count] |= BULLET_LINE
        if points[last] == 0x2026 or (
            last - first >= 2 and points[last] == 46 and points[last - 1] == 46 and points[last - 2] == 46
        ):
            marks[count] |= ELLIPSIS_LINE
        if points[last] < _TABLE_SIZE and kinds[points[last]] & _ENDS:
            marks[count] |= ENDED_LINE
        blank[count] = after_blank
        after_blank = False
        count += 1
    return count


@compiled(_HASHES, _COUNTS, _MARKS, _HASHES, _COUNTS, returns=types.int64)
def _paragraphs(lines, line_lengths, blank, hashes, lengths):
    """Write hash and length of each paragraph, lines joined by one line end, and return their number."""
    count = 0
    for row in range(len(lines)):
        if row == 0 or blank[row]:
            hashes[count], lengths[count] = _START, -1
            count += 1
        hashes[count - 1] = (hashes[count - 1] ^ lines[row]) * _POWER
        lengths[count - 1] += line_lengths[row] + 1  # 1 for the line end between two lines
    return count


@compiled(_HASHES, types.uint64, returns=types.int64)
def _slot(table, key):
    """Index of a key in an open-addressing table, or of the free slot where it belongs. 0 marks a free slot."""
    mask = np.uint64(len(table) - 1)
    slot = (key ^ (key >> np.uint64(32))) * _MIX
    slot = (slot ^ (slot >> np.uint64(29))) & mask
    while table[slot] != 0 and table[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@compiled(_HASHES, _COUNTS, _COUNTS)
def _repeated(hashes, lengths, sums):
    """Add number and lengths of hashes that occurred before to `sums`."""
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
    """Write the characters in repeated n-grams into `sums`, as `repeated_ngrams` defines them."""
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
