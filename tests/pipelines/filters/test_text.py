"""Ops for text: the documents that they drop, and the number that was compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.errors import ManifestError
from manifests.load import load
from manifests.records import Document, Drop, Media, Text, digest, record_id
from pipelines.filters.filter import Filter
from pipelines.filters.text_rules import FewLetters, Garbled, RepeatedCharacters, RepeatedLines, TextLength


def document(*texts: str, domain: str = "web") -> Document:
    return Document(record_id("t", "1"), "t", "1", domain, tuple(Text(t) for t in texts))


def test_lengths_count_characters_not_words():
    op = TextLength(kind="text_length", min_characters=8, max_characters=9)
    assert op.apply(document("ab  cd\n\n ef")) == Drop("too_short", 6)
    assert isinstance(op.apply(document("人人生而自由在尊严")), Document)
    assert op.apply(document("abcde fghij")) == Drop("too_long", 10)
    assert isinstance(op.apply(document("abcd fghij")), Document)


def test_an_op_drops_only_in_its_domains():
    op = TextLength(kind="text_length", min_characters=8, domains=("web", "knowledge"))
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
    assert TextLength(kind="text_length", min_characters=8).apply(mixed) is mixed


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("too_short", "text_length"),
        ("too_long", "text_length"),
        ("video_too_short", "video_duration"),
        ("video_too_long", "video_duration"),
        ("static_video", "video_motion"),
        ("cut_heavy", "video_motion"),
    ],
)
def test_a_former_kind_of_op_is_refused_and_the_present_one_named(tmp_path: Path, former: str, present: str):
    manifest = tmp_path / "filter.yaml"
    manifest.write_text(f"kind: filter\ninput: a\nops:\n  - {{kind: {former}}}\n")
    with pytest.raises(ManifestError, match=f"{former} does not exist any more") as caught:
        load(Filter, [manifest])
    assert present in caught.value.fix and caught.value.where.endswith("filter.yaml:4")
