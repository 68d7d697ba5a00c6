"""Parquet and Arrow files to rows, as JSON. Runs in the limited child process.

`lines.py` calls `batches` and `rows` through `stores/media/sandbox.py`, as the readers are native code on bytes from
strangers. A cell that holds a picture ({bytes, path}, as `datasets` writes them, or bytes in a field of `fields.MEDIA`)
becomes a data URI, or its path where there are no bytes; other bytes become nothing.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest.formats.suffixes import MEDIA_FIELDS

MOST_ROW_BYTES = 48 << 20
"""As JSON, pictures in it."""
MOST_ANSWER_BYTES = 64 << 20
ROWS_AT_ONCE = 64
"""That are decoded together; a batch or row group may hold any number."""


def count_batches(path: str) -> int:
    """How many row groups or record batches a file has. Raises RecordError `bad_table`."""
    try:
        return _open(path, Path(path).stat().st_mtime_ns)[1]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise RecordError("bad_table", _short(error)) from None


def batch_rows(path: str, batch: int, start: int) -> tuple[int, list[bytes]]:
    """(row to go on from or -1, rows as JSON from `start` of a batch; nothing for one that is too large).

    Raises RecordError `bad_table`.
    """
    kind, _, source = _open(path, Path(path).stat().st_mtime_ns)
    found: list[bytes] = []
    size = 0
    at = 0
    try:
        for table in _slices(kind, source, batch, start):
            for row in table.to_pylist():
                told = json.dumps({name: _plain(value, name) for name, value in row.items()}).encode()
                found.append(told if len(told) <= MOST_ROW_BYTES else b"")
                size += len(found[-1])
            at += table.num_rows
            if size > MOST_ANSWER_BYTES // 4 or at >= 4096:
                return start + at, found
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if found:
            return start + at, found[:at]  # what is wrong is met again, alone
        raise RecordError("bad_table", _short(error)) from None
    return -1, found


@lru_cache(maxsize=1)
def _open(path: str, mtime_ns: int) -> tuple[str, int, Any]:
    """(kind, number of batches, opened file)."""
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(b"PAR1"):
        parquet = pq.ParquetFile(path, memory_map=False)
        return "parquet", parquet.num_row_groups, parquet
    if head.startswith(b"ARROW1"):
        opened = pa.ipc.open_file(path)
        return "file", opened.num_record_batches, opened
    read: list[pa.RecordBatch | RecordError] = []
    stream = pa.ipc.open_stream(pa.memory_map(path))
    while True:
        try:
            read.append(stream.read_next_batch())
        except StopIteration:
            break
        except (pa.ArrowException, OSError) as error:
            read.append(RecordError("bad_table", _short(error)))  # a truncated file has the batches before
            break
    return "stream", len(read), read


def _slices(kind: str, source: Any, batch: int, start: int) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        passed = 0
        for part in source.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[batch], use_threads=False):
            passed += part.num_rows
            if passed > start:
                yield part.slice(max(0, part.num_rows - (passed - start)))
        return
    whole = source.get_batch(batch) if kind == "file" else source[batch]
    if isinstance(whole, RecordError):
        raise whole
    whole.validate(full=True)
    for at in range(start, whole.num_rows, ROWS_AT_ONCE):
        yield whole.slice(at, ROWS_AT_ONCE)


def _plain(value: Any, name: str) -> Json:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return _uri(value) if name in MEDIA_FIELDS else None
        case {"bytes": bytes(data), "path": _}:
            return _uri(data)
        case {"bytes": None, "path": str(path)}:
            return path
        case dict():
            return {str(key): _plain(one, key) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one, name) for one in value]
    return str(value)


def _uri(data: bytes) -> str:
    return f"data:image/*;base64,{base64.b64encode(data).decode()}"


def _short(error: BaseException) -> str:
    return str(error)[:300] or type(error).__name__
