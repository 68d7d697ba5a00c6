"""Rows of JSON lines, JSON files and CSV: places, damaged files, limits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest.annotations import fields
from pipelines.ingest.formats import rows
from pipelines.ingest.formats.file import FilePiece


def rows_of(path: Path, suffix: str) -> list[tuple[str, Json]]:
    """(place, row) of each row, with a reason instead of a refused row."""
    results = []
    for at, parse in rows.read_rows(path, suffix, FilePiece(0, path.stat().st_size, 1, "")):
        try:
            results.append((at, parse()))
        except RecordError as error:
            results.append((at, error.reason))
    return results


def test_a_bad_line_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = b'{"text": "good"}'
    deep = b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path.write_bytes(
        b"\n".join([good, b"{bad", b'{"x": NaN}', deep, b"\xff\xfe\xfd", b"", b'{"x": ' + b"9" * 5000 + b"}", good])
    )
    assert rows_of(path, ".jsonl") == [
        ("#1", {"text": "good"}),
        ("#2", "bad_json"),
        ("#3", "not_a_number"),
        ("#4", "too_deep"),
        ("#5", "bad_encoding"),
        ("#7", "bad_json"),
        ("#8", {"text": "good"}),
    ]


def test_an_endless_line_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_ROW_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * 5_000_000 + b'\n{"text": "b"}')
    assert rows_of(path, ".jsonl") == [("#1", {"text": "a"}), ("#2", "too_large"), ("#3", {"text": "b"})]


def test_a_truncated_gzip_gives_the_rows_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"text": "%d %s"}\n' % (i, bytes([97 + i % 26]) * (i % 50)) for i in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    results = rows_of(path, ".jsonl.gz")
    assert results[0] == ("#1", {"text": "0 "}) and len(results) > 100
    assert [reason for _, reason in results if isinstance(reason, str)] == ["damaged_gzip"]


def test_a_decompression_bomb_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FREE_GZIP_BYTES", 1 << 20)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "first"}\n' + b" " * (64 << 20)))
    assert rows_of(path, ".jsonl.gz") == [("#1", {"text": "first"}), ("#2", "decompression_bomb")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"text": "a"}, {"text": "b"}]', [("#0", {"text": "a"}), ("#1", {"text": "b"})]),
        ('{"text": "a"}\n{"text": "b"}\n', [("#1", {"text": "a"}), ("#2", {"text": "b"})]),
        ('{\n "text": "a"\n}', [("", {"text": "a"})]),
        ('{"7": {"text": "a"}, "9": {"text": "b"}}', [("#7", {"text": "a"}), ("#9", {"text": "b"})]),
        ("[1, 2", [("", "bad_json")]),
    ],
)
def test_every_layout_of_a_json_file_gives_rows(tmp_path: Path, content: str, expected: list[tuple[str, Json]]) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert rows_of(path, ".json") == expected


def test_tables_keep_line_ends_inside_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('file_name,text\na.jpg,"two\nlines"\nb.jpg,one\n')
    assert rows_of(path, ".csv") == [
        ("#1", {"file_name": "a.jpg", "text": "two\nlines"}),
        ("#2", {"file_name": "b.jpg", "text": "one"}),
    ]


def test_utf16_rows_and_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "å"}\n'.encode("utf-16"))
    assert rows_of(path, ".jsonl") == [("#1", {"text": "å"})]
    path.write_bytes(b"\x89PNG\0\0\0")
    assert rows_of(path, ".jsonl") == [("", "binary")]


def test_a_lone_surrogate_in_json_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "\ud800 bad"}) + "\n" + json.dumps({"text": "good"}))
    reasons = []
    for _, parse in rows.read_rows(path, ".jsonl", FilePiece(0, path.stat().st_size, 1, "")):
        try:
            reasons.append(fields.find_text(parse()).text)
        except RecordError as error:
            reasons.append(error.reason)
    assert reasons == ["lone_surrogate", "good"]
