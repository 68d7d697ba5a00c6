"""Ops with published quality rules, against definitions worked out by hand and against slow code."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.records import Document, Drop, Text, record_id
from pipelines.filters import text_stats
from pipelines.filters.language import Language, identify
from pipelines.filters.op import Measured
from pipelines.filters.quality import C4, FineWeb, GopherQuality, GopherRepetition
from tokenization.learn_ranks import interpreter_text

quality = GopherQuality(kind="gopher_quality")
repetition = GopherRepetition(kind="gopher_repetition")
fineweb = FineWeb(kind="fineweb")
c4 = C4(kind="c4")

WORDS = [
    "a",
    "the",
    "of",
    "The,",
    "été",
    "7",
    "#",
    "...",
    "…",
    ".",
    "•",
    "-",
    "人",
    "ไทย",
    "\u200d",
    "👍",
    "\U0010ffff",
]
pieces = st.sampled_from([*WORDS, " ", "  ", "\t", "\n", "\n\n", "\n \n"])
odd_text = st.lists(pieces, max_size=60).map("".join)


def document(text: str, domain: str = "web") -> Document:
    return Document(record_id("t", "1"), "t", "1", domain, (Text(text),))


@given(odd_text | st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
@settings(max_examples=300)
def test_text_stats_equal_those_of_slow_code(text: str) -> None:
    stats = text_stats.text_stats(text)
    words = slow_words(text)
    assert stats.word_lengths.tolist() == [len(word) for word in words]
    assert same_equalities(stats.words, words)
    assert stats.words_with_letter == sum(any(c.isalpha() for c in word) for word in words)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    assert stats.line_lengths.tolist() == [len(line) for line in lines]
    assert same_equalities(stats.lines, lines)
    assert [bool(mark & text_stats.ELLIPSIS_LINE) for mark in stats.line_marks] == [
        l.endswith(("...", "…")) for l in lines
    ]
    paragraphs = slow_paragraphs(text)
    assert stats.paragraph_lengths.tolist() == [len(paragraph) for paragraph in paragraphs]
    assert same_equalities(stats.paragraphs, paragraphs)


def slow_words(text: str) -> list[str]:
    single = text_stats._SINGLE_SCRIPTS.pattern
    return [word for part in text.split() for word in regex.findall(rf"{single}|(?:(?!{single}).)+", part, regex.S)]


def slow_paragraphs(text: str) -> list[str]:
    paragraphs: list[list[str]] = [[]]
    for line in map(str.strip, text.split("\n")):
        if line:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(lines) for lines in paragraphs if lines]


def same_equalities(hashes, things: list[str]) -> bool:
    """Whether two hashes are equal exactly if their things are."""
    return len(hashes) == len(things) and len(set(zip(hashes.tolist(), things, strict=True))) == len(set(things))


few_words = st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=12)


@given(few_words, st.integers(1, 8), few_words, st.integers(2, 10))
def test_ngram_counts_equal_those_of_slow_code(first: list[str], times: int, last: list[str], n: int) -> None:
    words = first * times + last
    grams = [words[i : i + n] for i in range(len(words) - n + 1)]
    if n <= 4:
        top, count = Counter(map(" ".join, grams)).most_common(1)[0] if grams else ("", 0)
        expected = len(top) * count if count > 1 else 0
    else:
        seen: set[str] = set()
        expected = at = 0
        while at < len(grams):
            gram = " ".join(grams[at])
            expected += len("".join(grams[at])) if gram in seen else 0
            at += n if gram in seen else 1
            seen.add(gram)
    assert text_stats.repeated_ngrams(text_stats.text_stats(" ".join(words)))[n] == expected


def test_gopher_quality_by_hand():
    text = "• The mill, and #2 wheels...\n- have 34 of them\n\nend …"
    assert quality.measure(document(text)) == {
        "words": 13,
        "mean_word_length": pytest.approx(sum(map(len, text.split())) / 13),
        "hashes_per_word": 1 / 13,
        "ellipses_per_word": 2 / 13,
        "bullet_lines": 2 / 3,
        "ellipsis_lines": 2 / 3,
        "words_with_letter": 8 / 13,
        "stop_words": 4,
    }
    assert quality.measure(document(" \n")) == {"words": 0}


PROSE = "The miller wanted to be there at dawn and have the wheel repaired. "


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE * 3, "too_few_words"),
        (PROSE * 8000, "too_many_words"),
        ("to be of it " * 20, "short_words"),
        ("to incomprehensibilities and internationalisation " * 20, "long_words"),
        ((PROSE + "# # ") * 5, "hash_symbols"),
        ((PROSE + "so ... so … ") * 5, "ellipses"),
        ("\n".join(["- " + PROSE] * 10), "bullet_lines"),
        ("\n".join([PROSE + PROSE + "so..."] * 4), "ellipsis_lines"),
        ((PROSE + "1234 " * 4) * 5, "few_letters"),
        ("Die alte Mühle klappert noch immer am rauschenden Bach " * 10, "few_stop_words"),
        (PROSE * 5, None),
    ],
)
def test_each_gopher_rule_gives_its_reason(text: str, reason: str | None):
    result = quality.apply(document(text))
    assert (result.reason if isinstance(result, Drop) else None) == reason


def test_word_length_is_not_measured_in_scripts_without_spaces():
    assert "mean_word_length" not in quality.measure(document("人人生而自由在尊严和权利上一律平等 ok"))


def test_gopher_repetition_by_hand():
    text = "ab cd\n\nab cd\nx\n\nab cd"
    measured = repetition.measure(document(text))
    assert measured["lines"] == 2 / 4
    assert measured["line_characters"] == 10 / 21
    assert measured["paragraphs"] == 1 / 3
    assert measured["paragraph_characters"] == 5 / 21
    assert measured["top_2_gram"] == 15 / 21
    assert measured["top_3_gram"] == 0
    ten = " ".join("abcdefghij")
    assert repetition.measure(document(f"{ten} {ten}"))["repeated_10_grams"] == 10 / 39
    assert repetition.apply(document(f"{ten} {ten}")) == Drop("top_3_gram", 10 / 39)


def test_fineweb_by_hand():
    text = "A sentence that ends, and is longer than thirty.\nmenu\nmenu\n\nmore"
    assert fineweb.measure(document(text)) == {
        "ended_lines": 1 / 4,
        "short_lines": 3 / 4,
        "repeated_characters": 4 / (len(text) - 4),
        "line_ends_per_word": 4 / 12,
    }
    assert fineweb.apply(document("你好。\n" * 2)) == Drop("short_lines", 1.0)


def test_c4_by_hand():
    lines = [
        "Three words end. And three more!",
        "no end mark here",
        "Too few.",
        "Trailing off, as they do...",
        "Please enable JavaScript to go on.",
        "Our site uses cookies all day.",
        "x" * 1001 + " is too long.",
        'He said: "It\'s five now."',
    ]
    measured = c4.measure(document("\n\n".join(lines)))
    assert measured == {"lorem_ipsum": 0, "curly_brackets": 0, "sentences": 3, "removed_lines": 6 / 8}
    assert c4.apply(document("\n".join(lines))) == Drop("too_few_sentences", 3)
    assert c4.apply(document("Lorem Ipsum dolor.")) == Drop("lorem_ipsum", 1)
    assert c4.apply(document("if (x) { y }")) == Drop("curly_brackets", 1)


SNIPPETS = {
    "en": "Everyone has the right to freedom of thought, conscience and religion.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "ja": "すべての人間は、生まれながらにして自由である。",
}


def test_languages_and_confidences_equal_those_of_py3langid():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    theirs = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    texts = [*SNIPPETS.values(), "HELLO TO ALL OF YOU", "Zdravo svete, kako ste danas?", *islice(interpreter_text(), 2)]
    for text in texts:
        language, confidence = theirs.classify(text[:5000])
        assert identify(text[:5000]) == (language, pytest.approx(confidence, abs=2e-4))
    assert {identify(text)[0] for text in SNIPPETS.values()} == set(SNIPPETS)  # type: ignore[index]
    assert identify("") is None


def test_other_and_uncertain_languages_are_dropped():
    op = Language(kind="language", keep=("en", "fr"))
    assert isinstance(op.apply(document(SNIPPETS["en"])), Document)
    assert op.apply(document(SNIPPETS["de"])) == Drop("other_language")
    strict = Language(kind="language", min_confidence=1.0)
    assert isinstance(dropped := strict.apply(document("la casa")), Drop) and dropped.reason == "unsure_language"
    assert isinstance(op.apply(document("")), Document)


OPS: list[Measured] = [quality, repetition, fineweb, c4, Language(kind="language")]


@pytest.mark.parametrize("text", ["a", "a ", "\n", " ", "é. ", "...", '"', ".!?)", "人", "\U0001f44d\n"])
def test_a_million_equal_characters_take_under_four_seconds(text: str):
    for op in OPS:
        op.apply(document("warm"))
    hostile = document(text * (1_000_000 // len(text)) + "x")
    began = time.process_time()
    for op in OPS:
        op.apply(hostile)
    assert time.process_time() - began < 4
