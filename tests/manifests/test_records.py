"""Identities of records: one text per JSON value, one digest per list of parts."""

from __future__ import annotations

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError, MillraceError, RecordError, ResumeError, StoreError
from manifests.records import Document, Media, Text, canonical_json, derived_id, digest, record_id

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=json_values)
def test_canonical_json_is_json_and_the_same_for_any_key_order(value: object) -> None:
    def reordered(value: object) -> object:
        if isinstance(value, dict):
            return {key: reordered(value[key]) for key in reversed(list(value))}
        return [reordered(item) for item in value] if isinstance(value, list) else value

    assert json.loads(canonical_json(value)) == value
    assert canonical_json(reordered(value)) == canonical_json(value)


def test_canonical_json_refuses_infinity() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json(math.inf)


parts = st.lists(st.binary(max_size=4), max_size=4)


@given(one=parts, other=parts)
def test_lists_of_parts_share_a_digest_only_if_they_are_equal(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_digests_and_ids_are_the_recorded_ones() -> None:
    """Every store holds them: a change would make all of them invalid."""
    assert digest() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing
    assert digest("a", b"bc") == digest(b"a", "bc")
    assert record_id("scenes", "train/000001.json") == "1f089b2e37a9bdee0455a41d6d98a766"
    assert derived_id(["a" * 32], "split", 3) == "4cb15ebf142daf55e9c26b3df3f628f2"


@given(source=st.text(), locator=st.text(), ordinal=st.integers(0))
def test_ids_are_128_bits_in_hex(source: str, locator: str, ordinal: int) -> None:
    for id in (record_id(source, locator), derived_id([source], locator, ordinal)):
        assert len(id) == 32 and int(id, 16) >= 0


def test_a_document_separates_its_text_and_media() -> None:
    picture = Media("0" * 64, "image", "png", 3, 2)
    document = Document("0" * 32, "s", "l", "web", (Text("one"), picture, Text("two")))
    assert document.text == "one\n\ntwo" and document.media == (picture,)


@pytest.mark.parametrize(
    ("error", "code"), [(RecordError("r"), 1), (StoreError("s"), 1), (ManifestError("m"), 2), (ResumeError("r"), 3)]
)
def test_errors_carry_the_exit_code_of_the_command_line(error: MillraceError, code: int) -> None:
    assert error.exit_code == code


def test_errors_print_place_problem_and_fix() -> None:
    error = ManifestError("weight is -3", where="m.yaml:14", fix="use 0")
    assert str(error) == "m.yaml:14: weight is -3\n  fix: use 0"


def test_a_record_error_can_be_pickled() -> None:
    error = RecordError("truncated_image", "ends after 18 KB", where="shard[3]")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, copy.message) == (error.reason, error.message)
