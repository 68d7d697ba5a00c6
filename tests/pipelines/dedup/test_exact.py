"""The node `dedup_exact`: the same survivors for any order of documents and any cut into shards."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.records import Document, Media, Part, Text, digest, record_id
from pipelines.dedup.exact import DECISIONS, KEYS, REASON, content_key, decide, keys


def document(name: str, *parts: Part) -> Document:
    return Document(record_id("t", name), "t", name, "web", parts)


def image(name: str) -> Media:
    return Media(digest(name), "image", "png", 9, 9)


@st.composite
def corpora(draw: st.DrawFn) -> list[list[Document]]:
    """Units of documents, many of them the same."""
    contents = st.lists(st.sampled_from([Text("a"), Text("b  c"), image("x"), image("y")]), max_size=3).map(tuple)
    parts = draw(st.lists(contents, max_size=20))
    documents = [document(str(i), *p) for i, p in enumerate(parts)]
    cuts = sorted(draw(st.lists(st.integers(0, len(documents)), max_size=3)))
    return [documents[a:b] for a, b in zip([0, *cuts], [*cuts, len(documents)], strict=True)]


def run(units: list[list[Document]]) -> dict[str, tuple[bool, str | None, str | None]]:
    """id -> (keep, reason, duplicate_of)."""
    result = {}
    for unit, decisions in zip(units, decide([keys(unit) for unit in units]), strict=True):
        assert decisions.schema == DECISIONS
        rows = zip(*decisions.to_pydict().values(), strict=True)
        result |= {d.id: row for d, row in zip(unit, rows, strict=True)}
    return result


def reference(documents: list[Document]) -> dict[str, tuple[bool, str | None, str | None]]:
    """The slow version: compare every document with every other."""
    result: dict[str, tuple[bool, str | None, str | None]] = {}
    for each in documents:
        first = min(other.id for other in documents if content_key(other) == content_key(each))
        result[each.id] = (True, None, None) if first == each.id else (False, REASON, first)
    return result


@given(corpora())
def test_decisions_equal_a_comparison_of_all_pairs(units):
    assert run(units) == reference([d for unit in units for d in unit])


@given(corpora(), st.randoms(use_true_random=False))
def test_decisions_depend_on_neither_order_nor_shards(units, random):
    shuffled = [d for unit in units for d in unit]
    random.shuffle(shuffled)
    assert run([shuffled[:3], shuffled[3:]]) == run(units)


@given(corpora())
def test_a_second_pass_over_the_survivors_drops_nothing(units):
    first = run(units)
    survivors = [[d for d in unit if first[d.id][0]] for unit in units]
    assert all(keep for keep, _, _ in run(survivors).values())


@given(corpora())
def test_no_group_is_emptied_and_every_duplicate_names_a_survivor(units):
    result = run(units)
    by_id = {d.id: d for unit in units for d in unit}
    for name, (keep, _, survivor) in result.items():
        if not keep:
            assert survivor is not None
            assert result[survivor][0]
            assert content_key(by_id[survivor]) == content_key(by_id[name])
    kept = {content_key(by_id[i]) for i, row in result.items() if row[0]}
    assert kept == {content_key(d) for d in by_id.values()}


def test_white_space_and_the_cut_into_text_parts_are_ignored():
    assert content_key(document("1", Text("a  b\n"))) == content_key(document("2", Text(" a"), Text("b")))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((Text("a"),), (Text("b"),)),
        ((Text("ab"),), (Text("a b"),)),
        ((Text("A"),), (Text("a"),)),
        ((image("x"),), (image("y"),)),
        ((image("x"), Text("a")), (Text("a"), image("x"))),
        ((image("x"),), (Text(digest("x")),)),
        ((image("x"),), (image("x"), image("x"))),
        ((Text("a"), image("x"), Text("b")), (Text("a b"), image("x"))),
    ],
)
def test_different_documents_have_different_keys(one, other):
    assert content_key(document("1", *one)) != content_key(document("2", *other))


def test_source_domain_and_notes_are_ignored():
    first = document("1", Text("a"), image("x"))
    second = replace(first, id=record_id("u", "9"), source="u", domain="code", notes={"a": 1})
    assert content_key(first) == content_key(second)


def test_a_record_that_occurs_twice_is_kept_once():
    table = keys([document("1", Text("a"))])
    first, second = decide([table, table])
    assert first["keep"].to_pylist() + second["keep"].to_pylist() == [True, False]


def test_empty_tables_are_decided():
    assert decide([]) == []
    assert [len(t) for t in decide([KEYS.empty_table(), keys([document("1", Text("a"))])])] == [0, 1]
    assert isinstance(decide([KEYS.empty_table()])[0], pa.Table)
