"""Fields of rows: text, answer, rights; captions from names."""

from __future__ import annotations

import pytest

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest.annotations import captions, fields
from pipelines.ingest.annotations.fields import RecordRights


@pytest.mark.parametrize(
    ("record", "words", "answer"),
    [
        ({"text": "a", "id": 3}, "a", None),
        ({"question": "1+1?", "answer": "2"}, "1+1?\n2", "2"),
        (
            {"prompt": "def f():\n", "canonical_solution": "    return 1\n"},
            "def f():\n    return 1\n",
            "    return 1\n",
        ),
        ({"instruction": "add", "input": "1 2", "output": 3}, "add\n1 2\n3", "3"),
        ("just text", "just text", None),
    ],
)
def test_the_text_of_a_record_is_found(record: Json, words: str, answer: str | None) -> None:
    result = fields.find_text(record)
    assert result.text == words
    assert (words[slice(*result.answer)] if result.answer else None) == answer


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"x": 1}, "no_text_field"),
        ({"text": {"deep": 1}}, "no_text_field"),
        ({"text": "  "}, "no_text"),
        ({"text": "\ud800"}, "lone_surrogate"),
        ({"text": "a\0b"}, "binary"),
        (3, "no_text_field"),
    ],
)
def test_a_record_without_text_is_refused(record: Json, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        fields.find_text(record)
    assert caught.value.reason == reason


def test_named_fields_are_taken_in_their_order() -> None:
    assert fields.find_text({"a": "1", "b": "2", "text": "no"}, ("b", "a")).text == "2\n1"


def test_names_become_words_without_numbers() -> None:
    assert captions.caption_from_name("pink_sunglasses/02.jpg", "folder_name") == ("pink sunglasses", "folder_name")
    assert captions.caption_from_name("x/gecko-320-213.jpg", "file_name") == ("gecko", "file_name")
    assert captions.caption_from_name("dog3/00.jpg", "file_name") == ("dog", "folder_name")
    assert captions.caption_from_name("gecko.jpg", "folder_name") == ("gecko", "file_name")
    assert captions.caption_from_name("7/00.jpg", "file_name") == ("", "none")
    assert captions.caption_from_name("x/gecko.jpg", "none") == ("", "none")


@pytest.mark.parametrize(
    ("record", "rights"),
    [
        (
            {"license": "MIT", "url": "https://a.example/1", "consent": "opt-in"},
            RecordRights("MIT", "https://a.example/1", "opt-in"),
        ),
        ({"license": " CC0-1.0 ", "licence": "MIT"}, RecordRights("CC0-1.0")),
        ({"licence": "MIT"}, RecordRights("MIT")),
        ({"origin": "archive", "source_url": "x"}, RecordRights("", "archive")),
        ({"consent": True}, RecordRights("", "", "true")),
        ({"license": 7, "url": "x" * 501, "consent": "\ud800"}, RecordRights()),
        ("only text", RecordRights()),
    ],
)
def test_rights_are_read_from_fields_of_a_record(record: Json, rights: RecordRights) -> None:
    assert fields.record_rights(record) == rights


def test_fields_of_a_record_come_before_parameters_of_the_node() -> None:
    assert RecordRights("MIT").or_else(RecordRights("CC0-1.0", "here")) == RecordRights("MIT", "here")
