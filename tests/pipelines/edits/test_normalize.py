"""Unicode normal form of documents, and facts that move along."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import Document, Fact, Text, record_id
from manifests.unicode_form import clean
from pipelines.edits.normalize import normalize

ODD = [
    "e\u0301", "\r\n", "\r", "\n", "\u200b", "\ufeff", "a", " ", "\x00", "Å", "A\u030a", "\u1100\u1161",
    "\u2029", "👩‍👩‍👧",
]  # fmt: skip
odd_text = st.lists(st.sampled_from(ODD), max_size=12).map("".join)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def document(*texts: str, facts: tuple[Fact, ...] = ()) -> Document:
    return Document(record_id("t", "1"), "t", "1", "web", tuple(Text(t) for t in texts), facts)


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
def test_normalize_gives(before, after):
    assert normalize(document(before)).text == after


def test_a_clean_document_is_returned_as_it_is():
    tidy = document("plain\ntext", facts=(Fact("a", 0, 0, 5),))
    assert normalize(tidy) is tidy


@given(any_text | odd_text)
def test_a_second_normalization_changes_nothing(text):
    once = normalize(document(text))
    assert normalize(once) == once
    assert unicodedata.is_normalized("NFC", once.text)


@given(st.lists(any_text | odd_text, min_size=1, max_size=3), st.data())
def test_facts_move_with_their_text(texts, data):
    facts = []
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.integers(0, len(texts) - 1))
        start = data.draw(st.integers(0, len(texts[part])))
        facts.append(Fact("x", part, start, data.draw(st.integers(start, len(texts[part])))))
    try:
        result = normalize(document(*texts, facts=tuple(facts)))
    except RecordError as error:
        assert error.reason == "bad_fact"
        return
    for old, new in zip(facts, result.facts, strict=True):
        part = result.parts[new.part]
        assert isinstance(part, Text)
        assert part.text[new.start : new.stop] == clean(texts[old.part][old.start : old.stop])


def test_a_fact_after_removed_characters_moves():
    text = "\ufeffone\r\ntwo cafe\u0301 red"
    at = text.index("red")
    moved = normalize(document("first\x00", text, facts=(Fact("color", 1, at, at + 3),)))
    assert moved.facts == (Fact("color", 1, 13, 16),)


@pytest.mark.parametrize(
    "fact", [Fact("x", 0, 0, 4), Fact("x", 0, 5, 6), Fact("x", 0, 0, 99), Fact("x", 3, 0, 1), Fact("x", 0, -1, 2)]
)
def test_a_fact_that_cannot_move_is_refused(fact):
    with pytest.raises(RecordError) as caught:
        normalize(document("cafe\u0301\u200b", facts=(fact,)))
    assert caught.value.reason == "bad_fact"


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(RecordError) as caught:
        normalize(document("a\udc00"))
    assert caught.value.reason == "lone_surrogate"


@pytest.mark.parametrize("mark", ["\u0301\u0316", "\u0301\u200b\u0316", "\u0301\x00\x00\u0316"])
def test_a_tower_of_combining_marks_is_refused_within_two_seconds(mark):
    began = time.process_time()
    with pytest.raises(RecordError) as caught:
        normalize(document("a" + mark * 200_000))
    assert caught.value.reason == "combining_marks"
    assert time.process_time() - began < 2
