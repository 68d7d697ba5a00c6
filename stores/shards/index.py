"""Index of a shard: Parquet tables with one row per record (`core`) and one row per medium (`media`).

`kinds.py` defines the facts of a record, which are columns of the core table. Planning, filtering and reports read only
these. `layout.py` adds the byte ranges of its line and arrays. Their columns have a dot in the name: `line.at`,
`ids.bytes` and `ids.xxh3` are an offset, a length and a checksum. Two digests exist. The file digest is the SHA-256 of
the Parquet file and names it. The logical digest covers names, types and values, so that content roots don't depend on
the Parquet writer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from manifests.records import Location, Media

Range = tuple[int, int]
"""(offset, length) in bytes of a part of a tar."""

checksum = xxhash.xxh3_64_intdigest
"""XXH3 with 64 bits: checksum of a line, an array or a medium, so that each can be read and checked alone. It finds
flipped bytes at the speed of memory. Names are cryptographic digests, which can't be forged and take three to seven
times as long."""

NAMES = pa.dictionary(pa.int32(), pa.string())
"""Type of a column with few different strings."""

MEDIA = pa.schema(
    [
        ("record", pa.int64()),  # row of the core table; ascending
        ("place", pa.int64()),  # in a sample: offset of its placeholder in the unexpanded ids; else -1
        ("digest", pa.binary(32)),
        ("kind", NAMES),
        ("format", NAMES),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("frame_times_us", pa.list_(pa.int64())),
        ("container_fps", pa.float64()),  # null for images, and for videos whose container gives none
        ("shard", pa.binary(32)),  # null: the shard that this index belongs to, or the tar that it adopted
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("xxh3", pa.uint64()),  # of the bytes; null if they are in another shard or in an adopted tar
    ]
)
"""Columns of the media table."""


def path(name: str, digest: str) -> str:
    """Return the path of a table's Parquet file in its store."""
    return f"index/{digest}.{name}.parquet"


def is_fact(column: str) -> bool:
    """Whether a column of the core table describes the record, and is not about its byte ranges."""
    return "." not in column


def media_row(
    record: int, media: Media, place: int, location: tuple[str | None, int, int], xxh3: int | None
) -> dict[str, Any]:
    """Return a row of the media table.

    Args:
        location: (shard, offset, length); the shard is None for this one and "" for a tar that it adopts.
        xxh3: checksum of a medium in this shard, else None.
    """
    shard, offset, length = location
    return {
        "record": record,
        "place": place,
        "digest": bytes.fromhex(media.digest),
        "kind": media.kind,
        "format": media.format,
        "width_px": media.width_px,
        "height_px": media.height_px,
        "frame_times_us": media.frame_times_us,
        "container_fps": media.container_fps,
        "shard": bytes.fromhex(shard) if shard else None,
        "offset": offset,
        "length": length,
        "xxh3": xxh3,
    }


def media_of(row: Mapping[str, Any], shard: str) -> Media:
    """Return the medium in a row of the media table of `shard`, located and without payload."""
    home = shard if row["shard"] is None else row["shard"].hex()
    return Media(
        digest=row["digest"].hex(),
        kind=row["kind"],
        format=row["format"],
        width_px=row["width_px"],
        height_px=row["height_px"],
        frame_times_us=tuple(row["frame_times_us"]),
        container_fps=row["container_fps"],
        location=Location(home, row["offset"], row["length"]),
    )


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return a table of rows, given as column name -> value."""
    return pa.table([pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names], schema)


def table_of_columns(columns: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return a table of columns, given in the order of the schema."""
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def constant(word: str, count: int) -> pa.Array:
    """Return a column with the same string `count` times."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([word]))


def joined(rows: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables of one row. Columns without values are left out, and so are unused dictionary entries."""
    if not rows:
        return pa.table({})
    table = pa.concat_tables(rows, promote_options="default").combine_chunks()
    table = table.select([name for name in table.column_names if table.column(name).null_count < table.num_rows])
    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            strings = table.column(number).cast(field.type.value_type).dictionary_encode()
            table = table.set_column(number, field.name, strings)
    return table


def without_values(table: pa.Table, rows: Iterable[int], keep: Sequence[str] = ()) -> pa.Table:
    """Return the table with nulls in these rows, except in the columns `keep`."""
    cleared = set(rows)
    for number, field in enumerate(table.schema):
        if field.name not in keep:
            values = [None if row in cleared else value for row, value in enumerate(table.column(number).to_pylist())]
            table = table.set_column(number, field.name, pa.array(values, field.type))
    return table


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as a Parquet file. Integers in lists (frame times, split offsets) are delta encoded, since
    neighbors differ by little."""
    deltas = {f"{f.name}.list.element": "DELTA_BINARY_PACKED" for f in table.schema if pa.types.is_list(f.type)}
    names = [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=names, column_encoding=deltas or None)
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file, with those of `columns` that it has.

    Raises:
        pyarrow.ArrowException, OSError: the bytes are no Parquet file.
    """
    return pq.ParquetFile(pa.BufferReader(data)).read(columns=columns, use_threads=False)


def uint64_words(column: pa.ChunkedArray) -> np.ndarray:
    """Return the values of a binary column of fixed width w without nulls as (N, w / 8) uint64."""
    size = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], "<u8", len(chunk) * size // 8, chunk.offset * size) for chunk in column.chunks
    ]
    return np.concatenate([np.zeros(0, "<u8"), *parts]).reshape(-1, size // 8)


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return the values of a numeric column without nulls. `to_numpy` would import pandas (40 MB)."""
    parts = [np.from_dlpack(chunk) for chunk in column.chunks]
    return (
        parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, column.type.to_pandas_dtype())
    )


def range_columns(data: bytes) -> dict[str, np.ndarray]:
    """Return the byte range columns of the Parquet file of a core table. Opening the file costs as much as reading
    them."""
    file = pq.ParquetFile(pa.BufferReader(data))
    table = file.read(columns=[name for name in file.schema_arrow.names if not is_fact(name)], use_threads=False)
    return {name: numbers(table.column(name)) for name in table.column_names}


def in_hex(table: pa.Table) -> pa.Table:
    """Return the table with ids and digests in hex digits, as records have them, instead of binary."""
    for number, field in enumerate(table.schema):
        if pa.types.is_fixed_size_binary(field.type):
            digits = [value if value is None else value.hex() for value in table.column(number).to_pylist()]
            table = table.set_column(number, field.name, pa.array(digits, pa.string()))
    return table


def logical_digest(tables: Mapping[str, pa.Table]) -> str:
    """Return the SHA-256 over all tables by name: names, types, nulls and values of their columns in order, and nothing
    of the file format."""
    state = hashlib.sha256()
    for name, table in sorted(tables.items()):
        state.update(f"table {name} {table.num_rows} {table.num_columns}\n".encode())
        for field in table.schema:
            state.update(f"column {field.name} {_type_name(field.type)}\n".encode())
            for piece in _plain(table.column(field.name)):
                state.update(len(piece).to_bytes(8, "little"))
                state.update(piece)
    return state.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """Return the type of a column's values: a dictionary is only storage, and Parquet renames the items of lists."""
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    return f"list of {_type_name(kind.value_type)}" if pa.types.is_list(kind) else str(kind)


def _plain(column: pa.ChunkedArray | pa.Array) -> Iterable[bytes]:
    """Yield byte strings that determine the values of a column."""
    import pyarrow.compute as pc  # 8 MB that readers of single records don't need

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    yield np.packbits(_numpy(column.is_valid())).tobytes()
    if pa.types.is_list(kind):
        yield _numpy(pc.fill_null(pc.list_value_length(column), 0)).astype("<i8").tobytes()
        yield from _plain(pc.list_flatten(column))
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        values = column.cast(pa.large_binary()).drop_null()
        yield _numpy(pc.binary_length(values)).astype("<i8").tobytes()
        yield b"".join(values.to_pylist())
    else:
        numbers = _numpy(column.drop_null())
        yield numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()


def _numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
