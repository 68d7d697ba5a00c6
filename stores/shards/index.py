"""The index of a shard: one fixed-width row per record, one row per medium, as parquet tables beside the tar.

`shards/kinds.py` says which facts of a record stand here. What planning, filtering and reports need must be among them,
so that none of them reads a payload. Two digests: the *file* digest names the parquet file; the *logical* digest is
taken over names, types and values, so that another parquet writer gives the same content root.

Columns whose name has a dot say where the line and each array of a record lie, and what they hash to (`line.at`,
`ids.bytes`, `ids.xxh3`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.records import Location, Media

NAMES = pa.dictionary(pa.int32(), pa.string())
"""A column of few different words."""

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
        ("container_fps", pa.float64()),  # null for images, and where the container tells none
        ("shard", pa.binary(32)),  # null: the shard that this index belongs to
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("xxh3", pa.uint64()),  # of the bytes; null where they lie in another shard or in a foreign tar
    ]
)


def path(name: str, digest: str) -> str:
    """Of a table's parquet file in its store."""
    return f"index/{digest}.{name}.parquet"


def is_fact(column: str) -> bool:
    """Whether a column of the core table says something about the record, rather than where its bytes are."""
    return "." not in column


def media_row(
    record: int, media: Media, place: int, location: tuple[str | None, int, int], xxh3: int | None
) -> dict[str, Any]:
    """Row of the media table.

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
    """The medium of a row of the index of `shard`, located and without payload."""
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
    return pa.table([pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names], schema)


def table_of_columns(columns: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def constant(word: str, count: int) -> pa.Array:
    """The same word `count` times."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([word]))


def joined(rows: Sequence[pa.Table]) -> pa.Table:
    """One table of tables of one row; a column that says nothing is left out, of words only those that are said."""
    if not rows:
        return pa.table({})
    table = pa.concat_tables(rows, promote_options="default").combine_chunks()
    table = table.select([name for name in table.column_names if table.column(name).null_count < table.num_rows])
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            words = table.column(place).cast(field.type.value_type).dictionary_encode()
            table = table.set_column(place, field.name, words)
    return table


def silenced(table: pa.Table, rows: Iterable[int], stay: Sequence[str] = ()) -> pa.Table:
    """The table with nothing in these rows, but for the columns that stay."""
    gone = set(rows)
    for place, field in enumerate(table.schema):
        if field.name not in stay:
            values = [None if row in gone else value for row, value in enumerate(table.column(place).to_pylist())]
            table = table.set_column(place, field.name, pa.array(values, field.type))
    return table


def to_parquet(table: pa.Table) -> bytes:
    """Integers in lists (frame times, split offsets) are delta encoded: neighbours differ by little."""
    deltas = {f"{f.name}.list.element": "DELTA_BINARY_PACKED" for f in table.schema if pa.types.is_list(f.type)}
    names = [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=names, column_encoding=deltas or None)
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Of `columns` those that are there. Raises pyarrow.ArrowException or OSError for bytes that are no such file."""
    return pq.ParquetFile(pa.BufferReader(data)).read(columns=columns, use_threads=False)


def words(column: pa.ChunkedArray) -> np.ndarray:
    """(N, bytes / 8) of a column of binary values that are equally long and not null."""
    size = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], "<u8", len(chunk) * size // 8, chunk.offset * size) for chunk in column.chunks
    ]
    return np.concatenate([np.zeros(0, "<u8"), *parts]).reshape(-1, size // 8)


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Of a column without nulls; `to_numpy` imports pandas where there is one, 40 MB."""
    parts = [np.from_dlpack(chunk) for chunk in column.chunks]
    return (
        parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, column.type.to_pandas_dtype())
    )


def places(data: bytes) -> pa.Table:
    """The columns of a core table that say where things lie. Opening the file costs as much as reading them."""
    file = pq.ParquetFile(pa.BufferReader(data))
    return file.read(columns=[name for name in file.schema_arrow.names if not is_fact(name)], use_threads=False)


def in_hex(table: pa.Table) -> pa.Table:
    """Ids and digests as records have them: hex digits instead of binary."""
    for place, field in enumerate(table.schema):
        if pa.types.is_fixed_size_binary(field.type):
            words = [value if value is None else value.hex() for value in table.column(place).to_pylist()]
            table = table.set_column(place, field.name, pa.array(words, pa.string()))
    return table


def logical_digest(tables: Mapping[str, pa.Table]) -> str:
    """SHA-256 over the tables by name, their columns in order: names, types, nulls and values; not how they lie."""
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
    """Of the values: dictionaries are a way to store words, and parquet renames the insides of lists."""
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    return f"list of {_type_name(kind.value_type)}" if pa.types.is_list(kind) else str(kind)


def _plain(column: pa.ChunkedArray | pa.Array) -> Iterable[bytes]:
    """Byte strings that say exactly what a column holds."""
    import pyarrow.compute as pc  # 8 MB that readers of single records do without

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
