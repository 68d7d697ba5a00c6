"""Ops with the published quality rules for web text: Gopher, C4, FineWeb.

Sources:
    Gopher   Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", A.1.1
    C4       Raffel et al. 2020, "Exploring the Limits of Transfer Learning ...", section 2.2, and the code published
             with it
    FineWeb  Penedo et al. 2024, "The FineWeb Datasets", section 3.6

The papers do not define words, lines and paragraphs; `filters/text_stats.py` does. The rules were made for English
prose: use `domains` to keep them from captions and code. Only `stop_words` depends on the language.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from manifests.load import schema
from manifests.records import Document
from pipelines.filters.c4_lines import judged_lines
from pipelines.filters.op import Limit, Measured

if TYPE_CHECKING:
    from pipelines.filters.text_stats import TextStats

GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


def stats_of(document: Document) -> TextStats:
    """Return the statistics of the document's text. The compiled module is loaded at the first call."""
    from pipelines.filters.text_stats import text_stats

    return text_stats(document.text)


@schema
class GopherQuality(Measured):
    """Gopher's rules for quality. For a text without words only `words` is measured.

    The length of words is not measured if most words are characters of scripts without spaces. Stop words are compared
    without case and surrounding punctuation; for other languages give theirs, or `min_stop_words: 0`.
    """

    LIBRARIES = ("regex",)
    LIMITS = (
        Limit("words", "below", "min_words", "too_few_words"),
        Limit("words", "above", "max_words", "too_many_words"),
        Limit("mean_word_length", "below", "min_mean_word_length", "short_words"),
        Limit("mean_word_length", "above", "max_mean_word_length", "long_words"),
        Limit("hashes_per_word", "above", "max_symbols_per_word", "hash_symbols"),
        Limit("ellipses_per_word", "above", "max_symbols_per_word", "ellipses"),
        Limit("bullet_lines", "above", "max_bullet_lines", "bullet_lines"),
        Limit("ellipsis_lines", "above", "max_ellipsis_lines", "ellipsis_lines"),
        Limit("words_with_letter", "below", "min_words_with_letter", "few_letters"),
        Limit("stop_words", "below", "min_stop_words", "few_stop_words"),
    )
    kind: Literal["gopher_quality"]
    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 10.0
    max_symbols_per_word: float = 0.1
    """Number of `#` per word, and of `...` and `…` per word, each on its own."""
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_words_with_letter: float = 0.8
    min_stop_words: int = 2
    """Number of different stop words."""
    stop_words: tuple[str, ...] = GOPHER_STOP_WORDS
    """Frequent words of the language."""

    def measure(self, document: Document) -> Mapping[str, float]:
        from pipelines.filters.text_stats import BULLET_LINE, ELLIPSIS_LINE

        text, stats = document.text, stats_of(document)
        words, lines = len(stats.words), len(stats.lines)
        if not words:
            return {"words": 0}
        numbers: dict[str, float] = {
            "words": words,
            "hashes_per_word": text.count("#") / words,
            "ellipses_per_word": (text.count("...") + text.count("…")) / words,
            "bullet_lines": np.count_nonzero(stats.line_marks & BULLET_LINE) / lines,
            "ellipsis_lines": np.count_nonzero(stats.line_marks & ELLIPSIS_LINE) / lines,
            "words_with_letter": stats.words_with_letter / words,
            "stop_words": sum(bool((stats.cores == core).any()) for core in _cores(self.stop_words)),
        }
        if stats.spaced:
            numbers["mean_word_length"] = int(stats.word_lengths.sum()) / words
        return numbers


@lru_cache(maxsize=16)
def _cores(words: tuple[str, ...]) -> frozenset[np.uint64]:
    """Return the hashes of stop words as in `TextStats.cores`."""
    from pipelines.filters.text_stats import core

    return frozenset(np.uint64(core(word)) for word in words)


@schema
class GopherRepetition(Measured):
    """Gopher's limits for repetition, Table A1: lines, paragraphs and n-grams of words.

    Fractions of characters are of all characters of the text. The first occurrence of a line, a paragraph or an n-gram
    of five and more words is no duplicate; the most frequent n-gram of two to four words counts with all occurrences.
    """

    LIBRARIES = ("regex",)
    LIMITS = (
        Limit("lines", "above", "max_lines", "repeated_lines"),
        Limit("paragraphs", "above", "max_paragraphs", "repeated_paragraphs"),
        Limit("line_characters", "above", "max_line_characters", "repeated_lines"),
        Limit("paragraph_characters", "above", "max_paragraph_characters", "repeated_paragraphs"),
        *(Limit(f"top_{n}_gram", "above", f"max_top_{n}_gram", f"top_{n}_gram") for n in (2, 3, 4)),
        *(Limit(f"repeated_{n}_grams", "above", f"max_{n}_grams", f"repeated_{n}_grams") for n in range(5, 11)),
    )
    kind: Literal["gopher_repetition"]
    max_lines: float = 0.30
    max_paragraphs: float = 0.30
    max_line_characters: float = 0.20
    max_paragraph_characters: float = 0.20
    max_top_2_gram: float = 0.20
    max_top_3_gram: float = 0.18
    max_top_4_gram: float = 0.16
    max_5_grams: float = 0.15
    max_6_grams: float = 0.14
    max_7_grams: float = 0.13
    max_8_grams: float = 0.12
    max_9_grams: float = 0.11
    max_10_grams: float = 0.10

    def measure(self, document: Document) -> Mapping[str, float]:
        from pipelines.filters.text_stats import repeated, repeated_ngrams

        stats = stats_of(document)
        if not len(stats.words):
            return {}
        lines, line_characters = repeated(stats.lines, stats.line_lengths)
        paragraphs, paragraph_characters = repeated(stats.paragraphs, stats.paragraph_lengths)
        ngrams = repeated_ngrams(stats)
        return {
            "lines": lines / len(stats.lines),
            "paragraphs": paragraphs / len(stats.paragraphs),
            "line_characters": line_characters / stats.characters,
            "paragraph_characters": paragraph_characters / stats.characters,
            **{f"top_{n}_gram": ngrams[n] / stats.characters for n in (2, 3, 4)},
            **{f"repeated_{n}_grams": ngrams[n] / stats.characters for n in range(5, 11)},
        }


@schema
class FineWeb(Measured):
    """FineWeb's own rules, to be used after Gopher's and C4's: lists, menus and broken lines."""

    LIBRARIES = ("regex",)
    LIMITS = (
        Limit("ended_lines", "below", "min_ended_lines", "unended_lines"),
        Limit("short_lines", "above", "max_short_lines", "short_lines"),
        Limit("repeated_characters", "above", "max_repeated_characters", "repeated_lines"),
        Limit("line_ends_per_word", "above", "max_line_ends_per_word", "list"),
    )
    kind: Literal["fineweb"]
    min_ended_lines: float = 0.12
    """Fraction of lines that end in a sentence mark."""
    max_short_lines: float = 0.67
    short_line_characters: int = 30
    """A line of at most this many characters is short."""
    max_repeated_characters: float = 0.01
    """Fraction of characters in lines that occurred before."""
    max_line_ends_per_word: float = 0.3

    def measure(self, document: Document) -> Mapping[str, float]:
        from pipelines.filters.text_stats import ENDED_LINE, repeated

        text, stats = document.text, stats_of(document)
        lines = len(stats.lines)
        if not lines:
            return {}
        line_ends = text.count("\n")
        return {
            "ended_lines": np.count_nonzero(stats.line_marks & ENDED_LINE) / lines,
            "short_lines": np.count_nonzero(stats.line_lengths <= self.short_line_characters) / lines,
            "repeated_characters": repeated(stats.lines, stats.line_lengths)[1] / (len(text) - line_ends),
            "line_ends_per_word": line_ends / len(stats.words),
        }


@schema
class C4(Measured):
    """C4's rules for documents. C4 first deletes lines and then requires five sentences in the others.

    This op only counts the lines that C4 would delete; the op `c4_lines` of a `transform` node deletes them. Sentences
    are counted by their end marks in the lines that would stay.
    """

    LIMITS = (
        Limit("lorem_ipsum", "above", "max_lorem_ipsum", "lorem_ipsum"),
        Limit("curly_brackets", "above", "max_curly_brackets", "curly_brackets"),
        Limit("sentences", "below", "min_sentences", "too_few_sentences"),
        Limit("removed_lines", "above", "max_removed_lines", "c4_lines"),
    )
    kind: Literal["c4"]
    max_lorem_ipsum: int = 0
    max_curly_brackets: int = 0
    """Number of `{`. Not for code and mathematics."""
    min_sentences: int = 5
    max_removed_lines: float = 1.0
    """Fraction of lines that C4 would delete; C4 has no such limit."""

    def measure(self, document: Document) -> Mapping[str, float]:
        text = document.text
        lines = judged_lines(text)
        removed = sum(line.reason is not None for line in lines)
        return {
            "lorem_ipsum": text.casefold().count("lorem ipsum"),
            "curly_brackets": text.count("{"),
            "sentences": sum(line.sentences for line in lines if line.reason is None),
            "removed_lines": removed / len(lines) if lines else 0.0,
        }
