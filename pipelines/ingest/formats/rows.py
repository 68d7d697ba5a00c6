"""Rows of JSON lines, JSON files, CSV, TSV, Parquet and Arrow, plain or compressed, within limits of size and depth.

`ingest/readers/row_files.py` makes documents of the rows. A row is a function that parses it. The reader calls it where
errors are caught, so that a bad row costs one record and the rest of the file is read.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import zstandard

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest.formats.file import FilePiece
from pipelines.ingest.formats.media import child
from pipelines.ingest.formats.suffixes import COLUMNAR, TRAJECTORIES
from pipelines.ingest.formats.text import BOMS, decode_text

MOST_ROW_BYTES = 16 << 20
MOST_WHOLE_BYTES = 64 << 20
"""Limit of the files that are read as a whole: JSON files of one value, UTF-16 files, CSV and TSV."""
MOST_GZIP_RATIO, FREE_GZIP_BYTES = 200, 16 << 20
"""A file may decompress to 200 times its size, or to 16 MiB. JSON compresses 3 to 20 times; more is a bomb."""
MOST_ZSTD_WINDOW_BYTES = 128 << 20
"""Window of `zstd --long`."""
MOST_DEPTH = 64
"""Levels of nesting of a JSON value."""
_BLOCK_BYTES = 1 << 20

Row = tuple[str, Callable[[], Json]]
"""(place inside the file, function that parses the row)."""


def read_rows(path: Path, suffix: str, piece: FilePiece) -> Iterator[Row]:
    """Yield the rows of one piece of a file, in order. `suffix` is that of `FolderFile`, e.g. `.jsonl.gz`."""
    if suffix in COLUMNAR:
        yield from _columnar_rows(path)
        return
    with path.open("rb") as file:
        head = _head(file, suffix)
    if head.startswith(tuple(mark for mark, _ in BOMS[1:])):
        yield from _wide_lines(path, suffix, piece)
    elif b"\0" in head:
        yield "", partial(_refuse, "binary", "NUL bytes: not text")
    elif suffix.startswith((".csv", ".tsv")):
        yield from _delimited_rows(path, suffix, "\t" if suffix.startswith(".tsv") else ",", piece)
    elif suffix.startswith(".json.") or suffix in (".json", *TRAJECTORIES):
        yield from _json_file_rows(path, suffix, piece)
    else:
        with path.open("rb") as file:
            file.seek(piece.start)
            yield from _json_lines(_decompressed(file, suffix, piece.stop - piece.start), piece.first_line)


def parse_json(data: bytes | str) -> Json:
    """Parse standard JSON. Raises RecordError: `bad_encoding`, `bad_json`, `too_deep`, `not_a_number` (NaN)."""
    try:
        value = json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RecordError("bad_encoding", f"not UTF-8 at offset {error.start}") from None
    except RecursionError:
        raise RecordError("too_deep", "nested too deeply") from None
    except ValueError as error:
        raise RecordError("bad_json", str(error)) from None
    if _deeper_than(value, MOST_DEPTH):
        raise RecordError("too_deep", f"nested more than {MOST_DEPTH} levels")
    return value


def _no_constant(name: str) -> None:
    raise RecordError("not_a_number", f"{name} is not JSON")


def _deeper_than(value: Json, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            item
            for box in layer
            if isinstance(box, dict | list)
            for item in (box.values() if isinstance(box, dict) else box)
            if isinstance(item, dict | list)
        ]
        if not layer:
            return False
    return True


def _refuse(reason: str, message: str) -> Json:
    raise RecordError(reason, message)


def _identity(value: Json) -> Json:
    return value


# --------------------------------------------------------------------------------------------------- compressed files


class _TruncatedError(Exception):
    """The rest of a compressed file can't be read."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def read_unpacked(path: Path, suffix: str, piece: FilePiece) -> bytes:
    """Return the content of a whole file, decompressed.

    Raises RecordError: `too_large`, `damaged_gzip`, `damaged_zstd`, `decompression_bomb`.
    """
    data: list[bytes] = []
    length = 0
    with path.open("rb") as file:
        try:
            for block in _decompressed(file, suffix, piece.stop):
                data.append(block)
                length += len(block)
                if length > MOST_WHOLE_BYTES:
                    raise RecordError("too_large", f"more than {MOST_WHOLE_BYTES} bytes that must be read at once")
        except _TruncatedError as error:
            raise RecordError(error.reason, error.message) from None
    return b"".join(data)


def _decompressor(file: BinaryIO, suffix: str) -> BinaryIO | None:
    """Stream of the decompressed content; None for a file that is not compressed."""
    if suffix.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if suffix.endswith(".zst"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=MOST_ZSTD_WINDOW_BYTES)
        return decompressor.stream_reader(file, read_across_frames=True, closefd=False)
    return None


def _head(file: BinaryIO, suffix: str) -> bytes:
    """The first 4096 bytes of the content; b"" if it is damaged."""
    try:
        return (_decompressor(file, suffix) or file).read(4096)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        return b""  # the same error is reported when the rows are read


def _decompressed(file: BinaryIO, suffix: str, size: int) -> Iterator[bytes]:
    """Blocks of at most 1 MiB, from `size` bytes of the file. Raises _TruncatedError where the content ends early."""
    stream = _decompressor(file, suffix)
    if stream is None:
        while size > 0 and (block := file.read(min(1 << 20, size))):
            size -= len(block)
            yield block
        return
    allowed = max(FREE_GZIP_BYTES, size * MOST_GZIP_RATIO)
    done = 0
    read = getattr(stream, "read1", stream.read)  # read1 returns the bytes before the damage first
    while True:
        try:
            block = read(_BLOCK_BYTES)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            reason = "damaged_zstd" if suffix.endswith(".zst") else "damaged_gzip"
            raise _TruncatedError(reason, f"{error}, after {done} bytes of content") from None
        if not block:
            return
        done += len(block)
        if done > allowed:
            raise _TruncatedError("decompression_bomb", f"{size} bytes decompress to more than {allowed}")
        yield block


# ---------------------------------------------------------------------------------------------------------- JSON lines


def _json_lines(blocks: Iterator[bytes], first_line: int) -> Iterator[Row]:
    """One row per line; the place is `#LINE`. Empty lines are no rows."""
    number = first_line - 1
    lines = _split(blocks)
    while True:
        number += 1
        try:
            line = next(lines)
        except StopIteration:
            return
        except _TruncatedError as error:
            yield f"#{number}", partial(_refuse, error.reason, error.message)
            return
        if line is None:
            yield f"#{number}", partial(_refuse, "too_large", f"a line of more than {MOST_ROW_BYTES} bytes")
        elif line.strip():
            yield f"#{number}", partial(parse_json, line)


def _split(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    """Lines without their ends; None for a line above the limit, which is not held in memory."""
    kept: list[bytes] = []
    length = 0
    for block in blocks:
        pieces = block.split(b"\n")
        for i, piece in enumerate(pieces):
            length += len(piece)
            if length <= MOST_ROW_BYTES:
                kept.append(piece)
            else:
                kept.clear()
            if i < len(pieces) - 1:
                yield b"".join(kept) if length <= MOST_ROW_BYTES else None
                kept, length = [], 0
    if length:
        yield b"".join(kept) if length <= MOST_ROW_BYTES else None


# --------------------------------------------------------------------------------------------- files read as a whole


def _whole_text(path: Path, suffix: str, piece: FilePiece) -> str | RecordError:
    try:
        return decode_text(read_unpacked(path, suffix, piece))[0]
    except RecordError as error:
        return error


def _failed(error: RecordError) -> Row:
    """The only row of a file that can't be read."""
    return "", partial(_refuse, error.reason, error.message)


def _wide_lines(path: Path, suffix: str, piece: FilePiece) -> Iterator[Row]:
    """JSON lines in UTF-16 or UTF-32."""
    content = _whole_text(path, suffix, piece)
    if isinstance(content, RecordError):
        yield _failed(content)
    else:
        yield from _json_lines(iter([content.encode()]), 1)


def _json_file_rows(path: Path, suffix: str, piece: FilePiece) -> Iterator[Row]:
    """Rows of a `.json` file: the items of its one value. Some such files hold JSON lines instead.

    The place is `#INDEX` in a list, `#KEY` in a map of maps, "" for a value that is one row.
    """
    content = _whole_text(path, suffix, piece)
    if isinstance(content, RecordError):
        yield _failed(content)
        return
    first = next((line for line in content.splitlines() if line.strip()), "")
    try:
        value = parse_json(first)
    except RecordError:
        value = None
    if isinstance(value, dict) and len(first) < len(content.strip()):
        yield from _json_lines(iter([content.encode()]), 1)
        return
    try:
        value = parse_json(content)
    except RecordError as error:
        yield _failed(error)
        return
    if isinstance(value, list):
        yield from ((f"#{i}", partial(_identity, item)) for i, item in enumerate(value))
    elif isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        yield from ((f"#{key}", partial(_identity, _with_video(key, item))) for key, item in value.items())
    else:
        yield "", partial(_identity, value)


def _with_video(key: str, item: dict[str, Json]) -> Json:
    """In ActivityNet Captions, the key of timed sentences is the name of their video."""
    timed = all(isinstance(item.get(name), list) for name in ("timestamps", "sentences"))
    return {"video": key} | item if timed else item


def _delimited_rows(path: Path, suffix: str, delimiter: str, piece: FilePiece) -> Iterator[Row]:
    """Rows of CSV or TSV as maps from the header's names. The place counts records, because a cell may hold line
    ends."""
    content = _whole_text(path, suffix, piece)
    if isinstance(content, RecordError):
        yield _failed(content)
        return
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter)
    number = 0
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"#{number}", partial(_refuse, "bad_table", str(error))
        else:
            yield f"#{number}", partial(_identity, {key: cell for key, cell in row.items() if isinstance(key, str)})


def _columnar_rows(path: Path) -> Iterator[Row]:
    """Rows of Parquet and Arrow files, by the sandbox; the place is `#BATCH.ROW`. An error costs the rest of its
    batch."""
    try:
        batches = child().call("pipelines.ingest.formats.tables_child:count_batches", str(path))
    except RecordError as error:
        yield _failed(error)
        return
    for batch in range(batches):
        start = 0
        while start >= 0:
            try:
                after, rows = child().call("pipelines.ingest.formats.tables_child:batch_rows", str(path), batch, start)
            except RecordError as error:
                yield f"#{batch}.{start}", partial(_refuse, error.reason, error.message)
                break
            for number, row in enumerate(rows, start):
                refused = partial(_refuse, "too_large", "a row with too many bytes")
                yield f"#{batch}.{number}", partial(parse_json, row) if row else refused
            start = after
