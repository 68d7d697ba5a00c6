"""Parquet and Arrow files to rows in JSON. Runs in the sandbox.

`rows.py` calls `count_batches` and `batch_rows` through `stores/media/sandbox.py`, because the parsers are native code
on bytes from strangers. A cell with an image ({bytes, path}, as `datasets` writes it, or bytes in one of
`MEDIA_FIELDS`) becomes a `data:` URI, or its path if there are no bytes. Other bytes become null.
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
"""Size of a row as JSON, images included."""
MOST_ANSWER_BYTES = 64 << 20
"""Size of the answer to one call that the sandbox accepts."""
ROWS_AT_ONCE = 64
"""Rows that are decoded together; a batch or row group may hold any number."""


def count_batches(path: str) -> int:
    """Return the number of row groups or record batches of a file. Raises RecordError `bad_table`."""
    try:
        return _open(path, Path(path).stat().st_mtime_ns)[1]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise RecordError("bad_table", _short(error)) from None


def batch_rows(path: str, batch: int, start: int) -> tuple[int, list[bytes]]:
    """Read rows of one batch, from row `start` on.

    Returns:
        (row to continue from, or -1 at the end; rows as JSON, b"" for a row that is too large).
    Raises:
        RecordError: `bad_table`.
    """
    kind, _, source = _open(path, Path(path).stat().st_mtime_ns)
    rows: list[bytes] = []
    size = 0
    count = 0
    try:
        for table in _slices(kind, source, batch, start):
            for row in table.to_pylist():
                written = json.dumps({name: _plain(value, name) for name, value in row.items()}).encode()
                rows.append(written if len(written) <= MOST_ROW_BYTES else b"")
                size += len(rows[-1])
            count += table.num_rows
            if size > MOST_ANSWER_BYTES // 4 or count >= 4096:
                return start + count, rows
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if rows:
            return start + count, rows[:count]  # the next call meets the error first
        raise RecordError("bad_table", _short(error)) from None
    return -1, rows


@lru_cache(maxsize=1)
def _open(path: str, mtime_ns: int) -> tuple[str, int, Any]:
    """(kind, number of batches, open file)."""
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(b"PAR1"):
        parquet = pq.ParquetFile(path, memory_map=False)
        return "parquet", parquet.num_row_groups, parquet
    if head.startswith(b"ARROW1"):
        opened = pa.ipc.open_file(path)
        return "file", opened.num_record_batches, opened
    batches: list[pa.RecordBatch | RecordError] = []
    stream = pa.ipc.open_stream(pa.memory_map(path))
    while True:
        try:
            batches.append(stream.read_next_batch())
        except StopIteration:
            break
        except (pa.ArrowException, OSError) as error:
            batches.append(RecordError("bad_table", _short(error)))  # a truncated file keeps the batches before
            break
    return "stream", len(batches), batches


def _slices(kind: str, source: Any, batch: int, start: int) -> Iterator[pa.RecordBatch]:
    """Slices of one batch, of at most `ROWS_AT_ONCE` rows, from row `start` on."""
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
    """A cell of column `name` as JSON."""
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
            return {str(key): _plain(inner, key) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, name) for inner in value]
    return str(value)


def _uri(data: bytes) -> str:
    return f"data:image/*;base64,{base64.b64encode(data).decode()}"


def _short(error: BaseException) -> str:
    return str(error)[:300] or type(error).__name__
