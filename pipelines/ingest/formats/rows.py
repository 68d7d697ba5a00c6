"""Files of many records: JSON lines (plain or gzip), whole JSON files, tables. Bytes to rows, bounded everywhere.

Feeds `pipelines/ingest/folder.py`, which makes documents of the rows. A row is drawn as a function that is called
inside the one place that catches: one bad line costs one record, and the rest of the file arrives.
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
from pipelines.ingest.formats import text
from pipelines.ingest.formats.file import FilePiece
from pipelines.ingest.formats.media import child
from pipelines.ingest.formats.suffixes import COLUMNAR, TRAJECTORIES

MOST_ROW_BYTES = 16 << 20
MOST_WHOLE_BYTES = 64 << 20
"""JSON that is one value, UTF-16 files and tables are read whole, up to here."""
MOST_GZIP_RATIO, FREE_GZIP_BYTES = 200, 16 << 20
"""JSON text packs 3 to 20 times; what unpacks further than this, past the first bytes, is a bomb."""
MOST_ZSTD_WINDOW_BYTES = 128 << 20
"""What `zstd --long` asks for by itself."""
MOST_DEPTH = 64
_BLOCK_BYTES = 1 << 20

Row = tuple[str, Callable[[], Json]]
"""Where it stands inside its file, and the function that parses it."""


def read_rows(path: Path, suffix: str, piece: FilePiece) -> Iterator[Row]:
    """The rows of one piece of a file, in order."""
    if suffix in COLUMNAR:
        yield from _columns(path)
        return
    with path.open("rb") as file:
        head = _head(file, suffix)
    if head.startswith(tuple(mark for mark, _ in text.BOMS[1:])):
        yield from _whole_file_lines(path, suffix, piece)
    elif b"\0" in head:
        yield "", partial(_refuse, "binary", "NUL bytes: not text")
    elif suffix.startswith((".csv", ".tsv")):
        yield from _table(path, suffix, "\t" if suffix.startswith(".tsv") else ",", piece)
    elif suffix.startswith(".json.") or suffix in (".json", *TRAJECTORIES):
        yield from _json_or_lines(path, suffix, piece)
    else:
        with path.open("rb") as file:
            file.seek(piece.start)
            yield from _json_lines(_unpack(file, suffix, piece.stop - piece.start), piece.first_line)


def _columns(path: Path) -> Iterator[Row]:
    """Rows of Parquet and Arrow files. What is wrong in a row group costs the rest of that group."""
    try:
        batches = child().call("pipelines.ingest.formats.tables_child:count_batches", str(path))
    except RecordError as error:
        yield _failed(error)
        return
    for batch in range(batches):
        start = 0
        while start >= 0:
            try:
                after, found = child().call("pipelines.ingest.formats.tables_child:batch_rows", str(path), batch, start)
            except RecordError as error:
                yield f"#{batch}.{start}", partial(_refuse, error.reason, error.message)
                break
            for number, row in enumerate(found, start):
                at = f"#{batch}.{number}"
                yield (
                    at,
                    partial(parse_json, row) if row else partial(_refuse, "too_large", "a row with too many bytes"),
                )
            start = after


def parse_json(data: bytes | str) -> Json:
    """JSON as the standard has it. Raises RecordError for everything else, NaN and bottomless nesting included."""
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


def _as_it_is(value: Json) -> Json:
    return value


def _opened(file: BinaryIO, suffix: str) -> BinaryIO | None:
    """What unpacks a file by its ending; None for one that is not packed."""
    if suffix.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if suffix.endswith(".zst"):
        unpacker = zstandard.ZstdDecompressor(max_window_size=MOST_ZSTD_WINDOW_BYTES)
        return unpacker.stream_reader(file, read_across_frames=True, closefd=False)
    return None


def _head(file: BinaryIO, suffix: str) -> bytes:
    try:
        return (_opened(file, suffix) or file).read(4096)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        return b""  # met again, and reported, when the rows are read


class _Cut(Exception):
    """The rest of a packed file can't be had."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def _unpack(file: BinaryIO, suffix: str, size: int) -> Iterator[bytes]:
    """Blocks of at most 1 MiB, `size` bytes of the file in all. Raises _Cut where a packed file ends too early."""
    unpacked = _opened(file, suffix)
    if unpacked is None:
        while size > 0 and (block := file.read(min(1 << 20, size))):
            size -= len(block)
            yield block
        return
    allowed = max(FREE_GZIP_BYTES, size * MOST_GZIP_RATIO)
    done = 0
    read = getattr(unpacked, "read1", unpacked.read)  # what came before a tear is given first
    while True:
        try:
            block = read(_BLOCK_BYTES)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise _Cut(
                "damaged_zstd" if suffix.endswith(".zst") else "damaged_gzip", f"{error}, after {done} bytes of content"
            ) from None
        if not block:
            return
        done += len(block)
        if done > allowed:
            raise _Cut("decompression_bomb", f"{size} bytes unpack to more than {allowed}")
        yield block


def _split(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    """Lines without their end; None for one above the limit, of which nothing is kept."""
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


def _json_lines(blocks: Iterator[bytes], first_line: int) -> Iterator[Row]:
    number = first_line - 1
    lines = _split(blocks)
    while True:
        number += 1
        try:
            line = next(lines)
        except StopIteration:
            return
        except _Cut as cut:
            yield f"#{number}", partial(_refuse, cut.reason, cut.message)
            return
        if line is None:
            yield f"#{number}", partial(_refuse, "too_large", f"a line of more than {MOST_ROW_BYTES} bytes")
        elif line.strip():
            yield f"#{number}", partial(parse_json, line)


def read_unpacked(path: Path, suffix: str, piece: FilePiece) -> bytes:
    """All that a file holds, unpacked. Raises RecordError: too_large, damaged_gzip, decompression_bomb."""
    data: list[bytes] = []
    length = 0
    with path.open("rb") as file:
        try:
            for block in _unpack(file, suffix, piece.stop):
                data.append(block)
                length += len(block)
                if length > MOST_WHOLE_BYTES:
                    raise RecordError("too_large", f"more than {MOST_WHOLE_BYTES} bytes that must be read at once")
        except _Cut as cut:
            raise RecordError(cut.reason, cut.message) from None
    return b"".join(data)


def _whole_text(path: Path, suffix: str, piece: FilePiece) -> str | RecordError:
    try:
        return text.decode_text(read_unpacked(path, suffix, piece))[0]
    except RecordError as error:
        return error


def _failed(error: RecordError) -> Row:
    return "", partial(_refuse, error.reason, error.message)


def _whole_file_lines(path: Path, suffix: str, piece: FilePiece) -> Iterator[Row]:
    content = _whole_text(path, suffix, piece)
    if isinstance(content, RecordError):
        yield _failed(content)
    else:
        yield from _json_lines(iter([content.encode()]), 1)


def _json_or_lines(path: Path, suffix: str, piece: FilePiece) -> Iterator[Row]:
    """A `.json` file is one value, whose items are the rows; or, often enough, JSON lines under another name."""
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
        yield from ((f"#{i}", partial(_as_it_is, item)) for i, item in enumerate(value))
    elif isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        yield from ((f"#{key}", partial(_as_it_is, _named(key, item))) for key, item in value.items())
    else:
        yield "", partial(_as_it_is, value)


def _named(key: str, item: dict[str, Json]) -> Json:
    """ActivityNet names a clip by the key of what happens in it."""
    timed = all(isinstance(item.get(name), list) for name in ("timestamps", "sentences"))
    return {"video": key} | item if timed else item


def _table(path: Path, suffix: str, delimiter: str, piece: FilePiece) -> Iterator[Row]:
    """Rows as maps from the header's names; the row number counts records, as cells may hold line ends."""
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
            yield f"#{number}", partial(_as_it_is, {key: cell for key, cell in row.items() if isinstance(key, str)})
