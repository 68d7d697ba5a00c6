"""The node `transform` and its ops: edits of texts, and the facts, media and columns that come along."""

from __future__ import annotations

import time
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.load import schema
from manifests.records import Document, Fact, Media, Text, record_id
from pipelines.dag.unit import StoreTask, run_unit
from pipelines.edits.edit import Editor, FactInTheWay, TextEdit, edited
from pipelines.edits.pii import KINDS, MaskPrivate
from pipelines.edits.repair import C4Lines, RepairUnicode
from pipelines.edits.transform import Transform
from pipelines.node import Product, UnitTask
from stores.store import Snapshot, Store

mask = MaskPrivate(kind="mask_private")
repair = RepairUnicode(kind="repair_unicode")
lines = C4Lines(kind="c4_lines")


def document(text: str, *facts: Fact, media: tuple[Media, ...] = (), locator: str = "1") -> Document:
    return Document(record_id("t", locator), "t", locator, "web", (Text(text), *media), facts)


def masked(text: str) -> str:
    return edited(document(text), mask)[0].text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail jane.doe+x@mail.example.org.", "mail <EMAIL>."),
        ("'jane@example.org' or <joe_9@example.co.uk>", "'<EMAIL>' or <<EMAIL>>"),
        ("@decorator, a@b and user@localhost stay", "@decorator, a@b and user@localhost stay"),
        ("from 8.8.8.8 to 192.168.0.1 and 127.0.0.1", "from <IP_ADDRESS> to 192.168.0.1 and 127.0.0.1"),
        ("version 1.2.3.4.5, 999.1.1.1", "version 1.2.3.4.5, 999.1.1.1"),
        ("at 2606:4700:4700::1111, fe80::1, std::cout, 12:34:56", "at <IP_ADDRESS>, fe80::1, std::cout, 12:34:56"),
        ("call +49 30 901820 or +1 (415) 555-2671 now", "call <PHONE_NUMBER> or <PHONE_NUMBER> now"),
        ("(415) 555-2671, 415-555-2671", "<PHONE_NUMBER>, <PHONE_NUMBER>"),
        ("in 1999-2003, 3 + 4567890 is 12-345-6789", "in 1999-2003, 3 + 4567890 is 12-345-6789"),
        ("4111 1111 1111 1111 and 4111 1111 1111 1112", "<CREDIT_CARD> and 4111 1111 1111 1112"),
        ("5500-0000-0000-0004!", "<CREDIT_CARD>!"),
        ("DE89 3704 0044 0532 0130 00 is one", "<IBAN> is one"),
        ("GB82WEST12345698765432, DE88 3704 0044 0532 0130 00", "<IBAN>, DE88 3704 0044 0532 0130 00"),
        ("GB82 WEST 1234 5698 7654 32 OK", "<IBAN> OK"),
    ],
)
def test_private_data_is_masked_and_similar_text_stays(text: str, expected: str):
    assert masked(text) == expected


def test_only_the_kinds_in_the_manifest_are_masked():
    only_ip = MaskPrivate(kind="mask_private", what=("ip",))
    assert edited(document("a@example.org 8.8.8.8"), only_ip)[0].text == "a@example.org <IP_ADDRESS>"


PRIVATE = ["a@example.org", "8.8.8.8", "+4930901820", "4111111111111111", "DE89370400440532013000"]
soup = st.lists(st.sampled_from([*PRIVATE, " ", "-", ".", "@", "1", "x"]), max_size=12).map("".join)


@given(soup)
def test_edits_are_in_order_and_never_overlap(text: str):
    edits = mask.edits(text)
    assert all(a.stop <= b.start for a, b in pairwise(edits))
    assert {edit.reason for edit in edits} <= set(KINDS)


@schema
class Planned(Editor):
    """An op that returns the edits of its field `planned`."""

    REASONS = ("x",)
    kind: Literal["planned"] = "planned"
    planned: tuple[TextEdit, ...]

    def edits(self, text: str) -> tuple[TextEdit, ...]:
        return self.planned


@given(st.data())
def test_facts_cover_the_same_words_after_edits(data: st.DataObject):
    pieces = data.draw(st.lists(st.tuples(st.sampled_from(["keep", "fact", "edit"]), st.text(min_size=1, max_size=5))))
    text, at, facts, edits = "", 0, [], []
    for kind, piece in pieces:
        if kind == "fact":
            facts.append(Fact("answer", 0, at, at + len(piece)))
        elif kind == "edit":
            edits.append(TextEdit(at, at + len(piece), data.draw(st.text(max_size=4)), "x"))
        text, at = text + piece, at + len(piece)
    changed, counts = edited(document(text, *facts), Planned(planned=tuple(edits)))
    new = changed.parts[0]
    assert isinstance(new, Text) and counts["x"] == len(edits)
    assert [new.text[f.start : f.stop] for f in changed.facts] == [text[f.start : f.stop] for f in facts]


def test_an_edit_inside_a_fact_is_refused():
    with pytest.raises(FactInTheWay):
        edited(document("ask a@example.org", Fact("answer", 0, 0, 5)), mask)


def test_broken_encodings_are_repaired_and_other_text_stays():
    text = "plain\nThe MÃ¼hle â€” it’s “fine”\nＷＩＤＥ ﬁne &amp; café"
    changed, counts = edited(document(text), repair)
    assert changed.text == "plain\nThe Mühle — it’s “fine”\nＷＩＤＥ ﬁne &amp; café"
    assert counts == {"repaired": 1}


def test_c4_lines_deletes_the_lines_that_c4_deletes():
    text = "Menu\nThis line is a sentence.\n\nPlease enable JavaScript to see it.\nAnd another one ends."
    changed, counts = edited(document(text), lines)
    assert changed.text == "This line is a sentence.\n\nAnd another one ends."
    assert counts == {"no_end_mark": 1, "javascript": 1}


@pytest.mark.parametrize("text", ["a", "1", "1 ", "a@", "1.", "+1", "A1", "::1", "Ã", "é\n", "a.", "4-", "DE12 "])
def test_a_quarter_million_equal_characters_take_under_four_seconds(text: str):
    hostile = text * (250_000 // len(text))
    for op in (mask, repair, lines):
        op.edits("warm é")
        began = time.process_time()
        op.edits(hostile)
        assert time.process_time() - began < 4, op.kind


PICTURE = b"not really a picture"


def transformed(folder: Path, documents: list[Document], node: Transform) -> tuple[Snapshot, dict[str, dict[str, int]]]:
    store = Store.create(str(folder / "raw"), "documents", "raw")
    writer = store.writer("one")
    for each in documents:
        writer.add(each)
    store.commit([writer.finish()], node="raw", units=["one"])
    inputs = {"raw": Product("raw", "documents", str(folder / "raw"), "0" * 64, store.head().number)}  # type: ignore[union-attr]
    made = Store.create(str(folder / "made"), "documents", "made")
    (unit,) = node.survey("made", inputs).units
    task = StoreTask(node, str(folder / "made"), unit.name, UnitTask("made", unit, inputs), 100, 1.0)
    outcome = run_unit(task, frozenset(), lambda ordinal: None)
    head = made.commit([outcome.receipt], node="made", units=[unit.name])
    return head, {"dropped": dict(outcome.counts.dropped), "noted": dict(outcome.counts.noted)}


def test_the_node_keeps_documents_and_media_and_counts_its_edits(tmp_path: Path):
    picture = Media(sha256(PICTURE).hexdigest(), "image", "png", 4, 4, payload=PICTURE)
    documents = [
        document("Write to a@example.org, he said.", media=(picture,), locator="a"),
        document("menu", locator="b"),
        document("His number is 8.8.8.8 for sure.", Fact("answer", 0, 14, 21), locator="c"),
    ]
    again = MaskPrivate(kind="mask_private", what=("phone",))
    node = Transform(kind="transform", input="raw", ops=(mask, lines, again))
    made, counted = transformed(tmp_path, documents, node)
    written = list(made.documents(range(2)))
    assert [each.id for each in written] == [documents[0].id, documents[2].id]
    assert [each.text for each in written] == ["Write to <EMAIL>, he said.", documents[2].text]
    assert [medium.payload for medium in written[0].media] == [PICTURE]
    assert written[1].facts == documents[2].facts
    assert counted == {"dropped": {"nothing_left": 1}, "noted": {"fact_in_the_way": 1}}
    rows = {row["locator"]: row for row in made.table().to_pylist()}
    assert rows["a"]["made.mask_private.email"] == 1 and rows["a"]["made.mask_private.ip"] == 0
    assert rows["c"]["made.mask_private.ip"] == 0


def test_versions_of_ops_and_libraries_are_part_of_the_survey(tmp_path: Path):
    node = Transform(kind="transform", input="raw", ops=(repair,))
    transformed(tmp_path, [document("Mühle")], node)
    inputs = {"raw": Product("raw", "documents", str(tmp_path / "raw"), "0" * 64, 1)}
    facts = node.survey("made", inputs).facts
    assert facts["ops"] == [["repair_unicode", RepairUnicode.VERSION]] and "ftfy" in facts
