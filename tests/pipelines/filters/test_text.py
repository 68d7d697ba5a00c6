"""Ops for text: the documents that they drop, and the number that was compared."""

from __future__ import annotations

from manifests.records import Document, Drop, Media, Text, digest, record_id
from pipelines.filters.text_rules import FewLetters, Garbled, RepeatedCharacters, RepeatedLines, TooLong, TooShort


def document(*texts: str, domain: str = "web") -> Document:
    return Document(record_id("t", "1"), "t", "1", domain, tuple(Text(t) for t in texts))


def test_lengths_count_characters_not_words():
    short = TooShort(kind="too_short", min_characters=8)
    assert short.apply(document("ab  cd\n\n ef")) == Drop("too_short", 6)
    assert isinstance(short.apply(document("人人生而自由在尊严")), Document)
    assert TooLong(kind="too_long", max_characters=5).apply(document("abcdef")) == Drop("too_long", 6)
    assert isinstance(TooLong(kind="too_long", max_characters=6).apply(document("abcdef")), Document)


def test_an_op_drops_only_in_its_domains():
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


def test_an_op_reads_all_texts_of_a_document_and_returns_it_unchanged():
    picture = Media(digest("x"), "image", "png", 9, 9)
    mixed = Document("0" * 32, "t", "1", "web", (Text("abcd"), picture, Text("efgh")))
    assert TooShort(kind="too_short", min_characters=8).apply(mixed) is mixed
