"""Parquet, Arrow, folders saved by `datasets`, and zstd: rows like those of JSON, images in cells, damaged files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from manifests.errors import RecordError
from manifests.records import Json, Media
from pipelines.ingest.formats.file import FilePiece
from pipelines.ingest.formats.rows import read_rows
from tests.pipelines.ingest.ingested import documents, ingest, quarantined
from tests.pipelines.small_data import image

TEXTS = [{"text": f"Row {i} of the mill.", "url": f"https://mill.example/{i}"} for i in range(200)]


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=70)
    elif path.suffix == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as sink:
            sink.write_table(table, max_chunksize=70)
    else:
        with pa.ipc.new_file(path, table.schema) as sink:
            sink.write_table(table, max_chunksize=70)


def rows(path: Path) -> list[Json]:
    """Rows of a file, and reasons instead of refused rows."""
    results: list[Json] = []
    for _, parse in read_rows(path, path.suffix, FilePiece(0, path.stat().st_size, 1, "")):
        try:
            results.append(parse())
        except RecordError as error:
            results.append(error.reason)
    return results


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_columnar_rows_become_documents_like_json_rows(tmp_path: Path, suffix: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(data / f"own{suffix}", pa.Table.from_pylist(TEXTS))
    by_locator = documents(ingest(data, tmp_path / "store"))
    assert len(by_locator) == 200
    last = by_locator[f"own{suffix}#2.59"]
    assert (last.text, last.origin, last.domain) == ("Row 199 of the mill.", "https://mill.example/199", "knowledge")


def test_images_in_cells_become_media(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "other.png").write_bytes(image(2))
    cells = [
        {"image": {"bytes": image(1), "path": None}, "text": "A mill.", "score": float("nan")},
        {"image": {"bytes": None, "path": "other.png"}, "text": "A wheel.", "score": 1.0},
        {"image": {"bytes": b"no image", "path": "x.png"}, "text": "Nothing.", "score": 1.0},
    ]
    write(data / "own.parquet", pa.Table.from_pylist(cells))
    snapshot = ingest(data, tmp_path / "store")
    by_locator = documents(snapshot)
    assert sorted(by_locator) == ["own.parquet#0.0", "own.parquet#0.1"]
    payloads = [part.payload for document in by_locator.values() for part in document.parts if isinstance(part, Media)]
    assert len(payloads) == 2 and {document.domain for document in by_locator.values()} == {"caption"}
    assert list(quarantined(snapshot)) == ["own.parquet#0.2"]


def test_the_json_files_of_saved_datasets_are_skipped(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    saved = datasets.Dataset.from_list(TEXTS[:5])
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "data"))
    snapshot = ingest(tmp_path / "data", tmp_path / "store")
    assert len(documents(snapshot)) == 5 and quarantined(snapshot) == {}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_damaged_columnar_files_give_reasons_and_never_raise(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"own{suffix}"
    write(path, pa.Table.from_pylist(TEXTS))
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:at])
        results = rows(path)
        assert len(results) <= 201 and isinstance(results[-1], str), at
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        assert rows(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_zstd_files_are_read_and_bombs_refused(tmp_path: Path, suffix: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    plain = {".jsonl": json.dumps({"text": "A mill."}), ".csv": "text\nA mill.\n", ".txt": "A mill."}[suffix]
    packed = zstandard.compress(plain.encode())
    (data / f"own{suffix}.zst").write_bytes(packed)
    (data / f"two{suffix}.zst").write_bytes(packed[:-3])
    snapshot = ingest(data, tmp_path / "store")
    assert [document.text for document in documents(snapshot).values()][:1] == ["A mill."]
    bomb = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(bomb, closefd=False) as sink:
        for _ in range(40):
            sink.write(b" " * (1 << 20))
    (data / f"own{suffix}.zst").write_bytes(bomb.getvalue())
    refused = quarantined(ingest(data, tmp_path / "again"))
    assert "decompression_bomb" in {reason for at, reason in refused.items() if at.startswith("own")}
