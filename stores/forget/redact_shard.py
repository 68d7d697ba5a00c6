"""Redaction of single records in a shard, with every other byte left in its place.

Called by `redact_store.py`. A redacted shard is a tar of the same length with the same members. Of a forgotten document
or sample the id is left, of a forgotten segment of a pack its id, position and length. Text, tokens and media are
overwritten, and so are their rows of the index. No other byte moves, so that every offset in samples and packs stays
valid. The shard keeps its name (`ShardEntry.shard`); only the name of its file changes (`ShardEntry.redacted_tar`).
Media in an adopted tar are not ours to change: their rows of the index go, their bytes stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import StoreError
from manifests.geometry import MERGE
from manifests.records import FORGOTTEN, Document, Json, Sample
from stores.files.protocol import Files, publish_bytes
from stores.shards import index
from stores.shards.entry import ShardEntry
from stores.shards.index import Range, checksum
from stores.shards.kinds import KINDS, Encoded, to_line
from stores.shards.reader import ShardIndex
from stores.shards.tar import naming_hash
from stores.tombstones import NameMatcher
from stores.writer import shard_counts

CHUNK_BYTES = 8 << 20
"""Bytes of one read while a tar is copied."""


@dataclass(frozen=True)
class Redaction:
    """Redaction of one record: the content that is left of it."""

    line: Mapping[str, Json]
    facts: Mapping[str, Any]
    """Changed columns of the core table."""
    media: tuple[bool, ...]
    """Whether each medium of the record stays, in their order."""
    arrays: Mapping[str, bytes] = field(default_factory=dict)
    """New bytes of the arrays, as long as the old ones."""
    keep_arrays: bool = True
    """Whether the index still has the arrays; otherwise it gives them a length of 0."""
    forgotten: int = 1
    """Number of records or, in a pack, segments that are forgotten."""


def redact_document(files: Files, shard: ShardIndex, row: int) -> Redaction:
    """Return the redaction of a document to its id. Its line keeps its types, since `datasets` requires the lines of a
    shard to agree."""
    record = shard.core.column("id")[row].as_py().hex()
    blank = KINDS["documents"].encode(Document(record, FORGOTTEN, "", "", ()))
    scalars = {key: value for key, value in blank.line.items() if not isinstance(value, list)}
    line = _emptied(read_line(files, shard, row)) | scalars
    return Redaction(line, _facts("documents", blank), (False,) * len(shard.media_of(row)))


def _emptied(value: Json) -> Json:
    """Return a value of the same types without content; a list keeps one element."""
    match value:
        case dict():
            return {key: _emptied(item) for key, item in value.items()}
        case list():
            return [_emptied(item) for item in value[:1]]
        case str():
            return ""
        case _:
            return 0


def redact_sample(files: Files, shard: ShardIndex, row: int) -> Redaction:
    """Return the redaction of a sample to its id.

    Its ids become zeros, and its line keeps their number: a reader of the tar without the index finds the next sample
    in KEY.ids.npy by that.
    """
    record = shard.core.column("id")[row].as_py().hex()
    blank = KINDS["samples"].encode(Sample(record, FORGOTTEN, "", np.zeros(0, np.uint32), np.zeros((0, 2), np.int64)))
    length = shard.part_ranges(row)["ids"][1]
    line = json.loads(to_line(blank.line)) | {"tokens": length // 4}
    media = (False,) * len(shard.media_of(row))
    return Redaction(line, _facts("samples", blank), media, {"ids": bytes(length)}, keep_arrays=False)


def _facts(kind: str, encoded: Encoded) -> dict[str, Any]:
    return dict(zip(KINDS[kind].FACTS.names, encoded.facts, strict=True))


REDACT: dict[str, Callable[[Files, ShardIndex, int], Redaction]] = {
    "documents": redact_document,
    "samples": redact_sample,
}
"""Function that makes the redaction of a record, by kind of store."""


def read_line(files: Files, shard: ShardIndex, row: int) -> dict[str, Json]:
    """Read the line of a record from the tar. Raises StoreError if it is missing or damaged."""
    return json.loads(_part(files, shard, row, "line"))


def read_lines(files: Files, shard: ShardIndex) -> list[dict[str, Json]]:
    """Read the lines of all records of a shard, in few requests. Raises StoreError if one is missing or damaged."""
    ranges = [shard.part_ranges(row)["line"] for row in range(shard.core.num_rows)]
    try:
        parts = files.read_ranges(shard.path, ranges)
    except FileNotFoundError:
        raise _missing(files, shard) from None
    return [json.loads(_checked(files, shard, row, "line", part)) for row, part in enumerate(parts)]


def named_segments(line: Mapping[str, Json], named: NameMatcher) -> list[int]:
    """Return the ordinals of the segments of a pack that must be forgotten and are not yet: those of a named sample, or
    with a named medium."""
    pairs = zip(line["media"], media_segments(line), strict=True)
    with_medium = {segment for medium, segment in pairs if named("media", medium["digest"])}
    return [
        number
        for number, (sample, source, *_) in enumerate(line["segments"])
        if source != FORGOTTEN and (number in with_medium or named("ids", sample))
    ]


def redact_pack(files: Files, shard: ShardIndex, row: int, segments: Container[int], pad_id: int) -> Redaction:
    """Return the redaction of a pack: `segments` (ordinals) become padding without loss and keep id and length."""
    line = read_line(files, shard, row)
    stays = tuple(segment not in segments for segment in media_segments(line))
    media = [medium for medium, kept in zip(line["media"], stays, strict=True) if kept]
    ids = np.frombuffer(_part(files, shard, row, "ids"), "<u4").copy()
    loss_mask = np.frombuffer(_part(files, shard, row, "loss_mask"), np.bool_).copy()
    redacted: list[Json] = []
    start = 0
    for number, (sample, source, first, *lengths) in enumerate(line["segments"]):
        if number in segments:
            ids[start : start + lengths[0]] = pad_id
            loss_mask[start : start + lengths[0]] = False
            source = FORGOTTEN
        redacted.append([sample, source, first, *lengths])
        start += sum(lengths)
    videos = sum(medium["kind"] == "video" for medium in media)
    facts = {
        "slots": sum(grid[1] * grid[2] for medium in media for grid, _, _ in medium["items"]) // MERGE**2,
        "loss_tokens": int(loss_mask.sum()),
        "images": len(media) - videos,
        "videos": videos,
    }
    arrays = {"ids": ids.tobytes(), "loss_mask": loss_mask.tobytes()}
    count = sum(number in segments for number in range(len(redacted)))
    return Redaction({"segments": redacted, "media": media}, facts, stays, arrays, forgotten=count)


def media_segments(line: Mapping[str, Json]) -> list[int]:
    """Return the ordinal of the segment of each medium of a pack."""
    ends = list(accumulate(sum(lengths) for _, _, _, *lengths in line["segments"]))  # lengths: tokens, maybe padding
    return [int(np.searchsorted(ends, medium["items"][0][1], side="right")) for medium in line["media"]]


def publish_redacted(files: Files, shard: ShardIndex, redactions: Mapping[int, Redaction]) -> ShardEntry:
    """Publish tar and tables of a shard with the redactions, by row. Returns the new entry, which a root must name."""
    entry = shard.entry
    core, patches = shard.core.to_pylist(), []
    stays = {row: iter(redaction.media) for row, redaction in redactions.items()}
    old_media = shard.media.to_pylist() if shard.media is not None else []
    media = [medium for medium in old_media if next(stays.get(medium["record"], iter(())), True)]
    for row, redaction in redactions.items():
        core[row] |= redaction.facts
        ranges = shard.part_ranges(row)
        line = _padded(redaction.line, _part(files, shard, row, "line"), shard.digest)
        parts = {"line": line, **redaction.arrays}
        patches += [(ranges[name][0], part) for name, part in parts.items()]
        indexed = {name: part if name == "line" or redaction.keep_arrays else b"" for name, part in parts.items()}
        core[row] |= {f"{name}.bytes": len(part) for name, part in indexed.items()}
        core[row] |= {f"{name}.xxh3": checksum(part) for name, part in indexed.items()}
    if entry.media_url is None:  # otherwise they are in an adopted tar, which is not ours to change
        patches += [(offset, bytes(length)) for offset, length in _own_media(old_media) - _own_media(media)]
    tables = {"core": index.table_of(core, shard.core.schema)}
    if shard.media is not None:
        tables["media"] = index.table_of(media, shard.media.schema)
    if shard.extra_columns is not None:
        tables["columns"] = index.without_values(shard.extra_columns, redactions)
    stored = {}
    for name, table in tables.items():
        data = index.to_parquet(table)
        stored[name] = sha256(data).hexdigest()
        publish_bytes(files, data, index.path(name, stored[name]))
    path, digest = _patched_copy(files, shard.path, sorted(patches))
    files.publish(path, f"shards/{digest}.tar")
    forgotten = entry.counts.get("forgotten", 0) + sum(redaction.forgotten for redaction in redactions.values())
    counts = shard_counts(tables["core"]) | {"forgotten": forgotten}
    logical = index.logical_digest(tables)
    return replace(entry, files=stored, counts=counts, redacted_tar=digest, redacted_index=logical)


def _own_media(rows: Iterable[Mapping[str, Any]]) -> set[Range]:
    """Return the byte ranges of the media that a shard holds itself, from rows of its media table."""
    return {(row["offset"], row["length"]) for row in rows if row["shard"] is None}


def _part(files: Files, shard: ShardIndex, row: int, name: str) -> bytes:
    """Read the line or an array of a record. Raises StoreError if it is missing or damaged."""
    offset, length = shard.part_ranges(row)[name]
    try:
        part = files.read_range(shard.path, offset, length)
    except FileNotFoundError:
        raise _missing(files, shard) from None
    return _checked(files, shard, row, name, part)


def _checked(files: Files, shard: ShardIndex, row: int, name: str, part: bytes) -> bytes:
    if checksum(part) != int(shard.ranges[f"{name}.xxh3"][row]):
        where = f"{files.url}/{shard.path}[{row}]"
        raise StoreError("its bytes changed since they were written", where=where, fix="repair the store, then forget")
    return part


def _missing(files: Files, shard: ShardIndex) -> StoreError:
    where = f"{files.url}/{shard.path}"
    return StoreError("the shard is missing", where=where, fix="restore it from a copy, then forget")


def _padded(line: Mapping[str, Json], old: bytes, shard: str) -> bytes:
    """Return the JSON of a line, padded with blanks to the length of the old one."""
    end = b"\n" if old.endswith(b"\n") else b""
    new = to_line(line)
    if len(new) + len(end) > len(old):
        raise StoreError(f"a redacted line is longer than the old one: {len(new)} of {len(old)} bytes", where=shard)
    return new.ljust(len(old) - len(end)) + end


def _patched_copy(files: Files, path: str, patches: list[tuple[int, bytes]]) -> tuple[Path, str]:
    """Write a temporary copy of a file with patches (offset, bytes), ascending and apart. Returns its path and
    digest."""
    copy, hashed = files.temporary_path(), naming_hash(path)
    with copy.open("wb") as out:
        for start, chunk in _chunks(files, path):
            for offset, data in patches:
                first, stop = max(start, offset), min(start + len(chunk), offset + len(data))
                if first < stop:
                    chunk[first - start : stop - start] = data[first - offset : stop - offset]
            hashed.update(chunk)
            out.write(chunk)
    return copy, hashed.hexdigest()


def _chunks(files: Files, path: str) -> Iterator[tuple[int, bytearray]]:
    """Yield a file in pieces with their offsets."""
    offset = 0
    while chunk := bytearray(files.read_range(path, offset, CHUNK_BYTES)):
        yield offset, chunk
        offset += len(chunk)
