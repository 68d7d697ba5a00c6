"""Text ops: what they drop and with which number, what they change, and that facts follow."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import Document, Drop, Fact, Media, Text, digest, record_id
from pipelines.filters.text_rules import (
    FewLetters,
    Garbled,
    Normalise,
    RepeatedCharacters,
    RepeatedLines,
    TooLong,
    TooShort,
    clean,
)

normalise = Normalise(kind="normalise")
ODD = [
    "e\u0301", "\r\n", "\r", "\n", "\u200b", "\ufeff", "a", " ", "\x00", "Å", "A\u030a", "\u1100\u1161",
    "\u2029", "👩‍👩‍👧",
]  # fmt: skip
odd_text = st.lists(st.sampled_from(ODD), max_size=12).map("".join)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def document(*texts: str, facts: tuple[Fact, ...] = (), domain: str = "web") -> Document:
    return Document(record_id("t", "1"), "t", "1", domain, tuple(Text(t) for t in texts), facts)


def only_text(result: Document | Drop) -> str:
    assert isinstance(result, Document)
    return result.text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("a\u2029b", "a\n\nb"),
        ("\ufeffnul\x00 bell\x07 feed\x0c tab\t", "nul bell feed tab\t"),
        ("zero\u200bwidth\u2060", "zerowidth"),
        ("cafe\u0301", "café"),
        ("\u1112\u1161\u11ab", "한"),
        ("می\u200cخواهم 👩\u200d👧", "می\u200cخواهم 👩\u200d👧"),
    ],
)
def test_normalise_gives(before, after):
    assert only_text(normalise.apply(document(before))) == after


def test_normalise_returns_a_clean_document_as_it_is():
    tidy = document("plain\ntext", facts=(Fact("a", 0, 0, 5),))
    assert normalise.apply(tidy) is tidy


@given(any_text | odd_text)
def test_normalising_twice_changes_nothing_more(text):
    once = normalise.apply(document(text))
    assert normalise.apply(once) == once
    assert unicodedata.is_normalized("NFC", only_text(once))


@given(st.lists(any_text | odd_text, min_size=1, max_size=3), st.data())
def test_facts_move_with_their_text(texts, data):
    facts = []
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.integers(0, len(texts) - 1))
        start = data.draw(st.integers(0, len(texts[part])))
        facts.append(Fact("x", part, start, data.draw(st.integers(start, len(texts[part])))))
    try:
        result = normalise.apply(document(*texts, facts=tuple(facts)))
    except RecordError as error:
        assert error.reason == "bad_fact"
        return
    assert isinstance(result, Document)
    for old, new in zip(facts, result.facts, strict=True):
        stretch = result.parts[new.part]
        assert isinstance(stretch, Text)
        assert stretch.text[new.start : new.stop] == clean(texts[old.part][old.start : old.stop])


def test_a_fact_behind_removed_characters_moves():
    text = "\ufeffone\r\ntwo cafe\u0301 red"
    at = text.index("red")
    moved = normalise.apply(document("first\x00", text, facts=(Fact("colour", 1, at, at + 3),)))
    assert isinstance(moved, Document)
    assert moved.facts == (Fact("colour", 1, 13, 16),)


@pytest.mark.parametrize(
    "fact", [Fact("x", 0, 0, 4), Fact("x", 0, 5, 6), Fact("x", 0, 0, 99), Fact("x", 3, 0, 1), Fact("x", 0, -1, 2)]
)
def test_facts_that_cannot_move_are_refused(fact):
    with pytest.raises(RecordError) as caught:
        normalise.apply(document("cafe\u0301\u200b", facts=(fact,)))
    assert caught.value.reason == "bad_fact"


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(RecordError) as caught:
        normalise.apply(document("a\udc00"))
    assert caught.value.reason == "lone_surrogate"


@pytest.mark.parametrize("mark", ["\u0301\u0316", "\u0301\u200b\u0316", "\u0301\x00\x00\u0316"])
def test_a_tower_of_combining_marks_is_refused_at_once(mark):
    began = time.process_time()
    with pytest.raises(RecordError) as caught:
        normalise.apply(document("a" + mark * 200_000))
    assert caught.value.reason == "combining_marks"
    assert time.process_time() - began < 2


def test_lengths_count_characters_not_words():
    short = TooShort(kind="too_short", min_characters=8)
    assert short.apply(document("ab  cd\n\n ef")) == Drop("too_short", 6)
    assert isinstance(short.apply(document("人人生而自由在尊严")), Document)
    assert TooLong(kind="too_long", max_characters=5).apply(document("abcdef")) == Drop("too_long", 6)
    assert isinstance(TooLong(kind="too_long", max_characters=6).apply(document("abcdef")), Document)


def test_an_op_concerns_only_its_domains():
    op = TooShort(kind="too_short", min_characters=8, domains=("web", "knowledge"))
    assert isinstance(op.apply(document("red", domain="caption")), Document)
    assert isinstance(op.apply(document("red", domain="web")), Drop)


def test_repeated_lines_are_counted_in_lines_and_in_characters():
    op = RepeatedLines(kind="repeated_lines")
    assert op.apply(document("menu\n\nmenu\nmenu\na\nb\nc")) == Drop("repeated_lines", 2 / 6)
    long = "one long line that comes again and again"
    assert op.apply(document(f"{long}\n{long}\n" + "\n".join("abcdefghijkl"))) == Drop("repeated_lines", 40 / 92)
    assert isinstance(op.apply(document("a\nb\nc\nd\na")), Document)
    assert isinstance(op.apply(document("")), Document)


def test_rulers_and_padding_are_repeated_characters():
    op = RepeatedCharacters(kind="repeated_characters")
    assert op.apply(document("ab" + "=" * 18)) == Drop("repeated_characters", 0.9)
    assert isinstance(op.apply(document("wow!!! " + "=" * 9 + " ok" + " " * 40)), Document)


def test_words_without_letters_are_few_letters():
    op = FewLetters(kind="few_letters")
    assert op.apply(document("a 1 2 3")) == Drop("few_letters", 0.25)
    assert isinstance(op.apply(document("été 中文 право 4th 5")), Document)


def test_binary_read_as_text_is_garbled():
    op = Garbled(kind="garbled")
    noise = bytes(range(256)).decode("utf-8", errors="replace")
    dropped = op.apply(document(noise))
    assert isinstance(dropped, Drop)
    assert dropped.reason == "garbled" and dropped.score is not None and dropped.score > 0.5
    assert isinstance(op.apply(document("tabs\tand\r\nlines, 👩‍👧, naïve, \u200f")), Document)


def test_filters_look_at_all_texts_of_a_document_and_keep_it_as_it_is():
    picture = Media(digest("x"), "image", "png", 9, 9)
    mixed = Document("0" * 32, "t", "1", "web", (Text("abcd"), picture, Text("efgh")))
    assert TooShort(kind="too_short", min_characters=8).apply(mixed) is mixed
