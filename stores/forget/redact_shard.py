"""The content of single records taken out of a shard, with everything else left where it is.

`forget/command.py` says which records. A blanked shard is a tar of the same length with the same members: of a
forgotten document or sample the id is left and of a forgotten segment its place and length; text, tokens and media are
overwritten, and so are their rows of the index. No other byte moves, so every offset that samples or packs know stays
true, and the shard keeps its name (`ShardEntry.shard`); only the file that lies there now has another (`blanked`). Of
media in an adopted tar, which is not ours to change, the rows of the index alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping
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
from stores.shards.index import checksum, record_ranges
from stores.shards.kinds import KINDS, Encoded, to_line
from stores.shards.reader import ShardIndex
from stores.shards.tar import naming_hash
from stores.tombstones import NameMatcher
from stores.writer import shard_counts

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Redaction:
    """What is left of one record."""

    line: Mapping[str, Json]
    facts: Mapping[str, Any]
    """Of the core table."""
    media: tuple[bool, ...]
    """Which of its media stay, in their order."""
    arrays: Mapping[str, bytes] = field(default_factory=dict)
    """What overwrites them, as long as they were."""
    read_arrays: bool = True
    """Whether the index still gives the arrays; else it says that they are empty."""
    forgotten: int = 1
    """How much this takes away: one record, or so many segments."""


def redact_document(files: Files, known: ShardIndex, row: int) -> Redaction:
    """Nothing but its id. Its line keeps its types: `datasets` wants those of a shard to agree."""
    name = known.core.column("id")[row].as_py().hex()
    blank = KINDS["documents"].encode(Document(name, FORGOTTEN, "", "", ()))
    scalars = {key: value for key, value in blank.line.items() if not isinstance(value, list)}
    line = _hollow(read_line(files, known, row)) | scalars
    return Redaction(line, _facts("documents", blank), (False,) * len(known.media_of(row)))


def _hollow(value: Json) -> Json:
    """The same types with nothing in them; of lists one element."""
    match value:
        case dict():
            return {key: _hollow(inside) for key, inside in value.items()}
        case list():
            return [_hollow(inside) for inside in value[:1]]
        case str():
            return ""
        case _:
            return 0


def redact_sample(files: Files, known: ShardIndex, row: int) -> Redaction:
    """Nothing but its id. Its line still says how many numbers of KEY.ids.npy are its, zeros now: whoever reads the tar
    without the index finds the next sample by that."""
    name = known.core.column("id")[row].as_py().hex()
    blank = KINDS["samples"].encode(Sample(name, FORGOTTEN, "", np.zeros(0, np.uint32), np.zeros((0, 2), np.int64)))
    length = record_ranges(known.ranges, row)["ids"][1]
    line = json.loads(to_line(blank.line)) | {"tokens": length // 4}
    media = (False,) * len(known.media_of(row))
    return Redaction(line, _facts("samples", blank), media, {"ids": bytes(length)}, read_arrays=False)


def _facts(kind: str, encoded: Encoded) -> dict[str, Any]:
    return dict(zip(KINDS[kind].FACTS.names, encoded.facts, strict=True))


REDACT: dict[str, Callable[[Files, ShardIndex, int], Redaction]] = {
    "documents": redact_document,
    "samples": redact_sample,
}


def read_line(files: Files, known: ShardIndex, row: int) -> dict[str, Json]:
    """The line of a record as it stands in the tar. Raises StoreError where it does not."""
    return json.loads(_part(files, known, row, "line"))


def read_lines(files: Files, known: ShardIndex) -> list[dict[str, Json]]:
    """The lines of all records of a shard, in few requests. Raises StoreError where one is not what was committed."""
    ranges = [record_ranges(known.ranges, row)["line"] for row in range(known.core.num_rows)]
    try:
        parts = files.read_ranges(f"shards/{known.entry.tar}.tar", ranges)
    except FileNotFoundError:
        raise _missing(files, known) from None
    return [json.loads(_checked(files, known, row, "line", part)) for row, part in enumerate(parts)]


def named_segments(line: Mapping[str, Json], named: NameMatcher) -> list[int]:
    """Which segments of a pack are of samples, or show media, that are named and not forgotten yet."""
    pairs = zip(line["media"], media_segments(line), strict=True)
    showing = {segment for one, segment in pairs if named("media", one["digest"])}
    return [
        number
        for number, (name, source, *_) in enumerate(line["segments"])
        if source != FORGOTTEN and (number in showing or named("ids", name))
    ]


def redact_pack(files: Files, known: ShardIndex, row: int, gone: Container[int], pad_id: int) -> Redaction:
    """The pack with its segments `gone` (ordinals) turned to padding without loss; segments keep id and length."""
    line = read_line(files, known, row)
    stays = tuple(segment not in gone for segment in media_segments(line))
    media = [one for one, kept in zip(line["media"], stays, strict=True) if kept]
    ids = np.frombuffer(_part(files, known, row, "ids"), "<u4").copy()
    loss_mask = np.frombuffer(_part(files, known, row, "loss_mask"), np.bool_).copy()
    told: list[Json] = []
    at = 0
    for number, (name, source, start, *room) in enumerate(line["segments"]):
        if number in gone:
            ids[at : at + room[0]] = pad_id
            loss_mask[at : at + room[0]] = False
            source = FORGOTTEN
        told.append([name, source, start, *room])
        at += sum(room)
    videos = sum(one["kind"] == "video" for one in media)
    facts = {
        "slots": sum(grid[1] * grid[2] for one in media for grid, _, _ in one["items"]) // MERGE**2,
        "loss_tokens": int(loss_mask.sum()),
        "images": len(media) - videos,
        "videos": videos,
    }
    left = {"segments": told, "media": media}
    arrays = {"ids": ids.tobytes(), "loss_mask": loss_mask.tobytes()}
    count = sum(number in gone for number in range(len(told)))
    return Redaction(left, facts, stays, arrays, forgotten=count)


def media_segments(line: Mapping[str, Json]) -> list[int]:
    """The ordinal of the segment in which each medium of a pack lies."""
    ends = list(accumulate(sum(room) for _, _, _, *room in line["segments"]))  # length, and padding where there is any
    return [int(np.searchsorted(ends, one["items"][0][1], side="right")) for one in line["media"]]


def publish_redacted(files: Files, known: ShardIndex, edits: Mapping[int, Redaction]) -> ShardEntry:
    """Publish the shard with `edits`, by row; its entry. Nothing refers to it before a root does."""
    entry = known.entry
    core, patches = known.core.to_pylist(), []
    kept = {row: iter(edit.media) for row, edit in edits.items()}
    rows = known.media.to_pylist() if known.media is not None else []
    media = [told for told in rows if next(kept.get(told["record"], iter(())), True)]
    for row, edit in edits.items():
        core[row] |= edit.facts
        ranges = record_ranges(known.ranges, row)
        parts = {"line": _fitted(edit.line, _part(files, known, row, "line"), known.digest), **edit.arrays}
        patches += [(ranges[name][0], part) for name, part in parts.items()]
        read = {name: part if name == "line" or edit.read_arrays else b"" for name, part in parts.items()}
        core[row] |= {f"{name}.bytes": len(part) for name, part in read.items()}
        core[row] |= {f"{name}.xxh3": checksum(part) for name, part in read.items()}
    if entry.media_url is None:  # else they lie in an adopted tar, which is not ours to change
        lying, left = (
            {(one["offset"], one["length"]) for one in some if one["shard"] is None} for some in (rows, media)
        )
        patches += [(offset, bytes(length)) for offset, length in lying - left]
    tables = {"core": index.table_of(core, known.core.schema)}
    if known.media is not None:
        tables["media"] = index.table_of(media, known.media.schema)
    if known.extra_columns is not None:
        tables["columns"] = index.without_values(known.extra_columns, edits)
    stored = {}
    for name, table in tables.items():
        data = index.to_parquet(table)
        stored[name] = sha256(data).hexdigest()
        publish_bytes(files, data, index.path(name, stored[name]))
    aside, digest = _patched(files, f"shards/{entry.tar}.tar", sorted(patches))
    files.publish(aside, f"shards/{digest}.tar")
    already = entry.counts.get("forgotten", 0)
    counts = shard_counts(tables["core"]) | {"forgotten": already + sum(edit.forgotten for edit in edits.values())}
    logical = index.logical_digest(tables)
    return replace(entry, files=stored, counts=counts, redacted_tar=digest, redacted_index=logical)


def _part(files: Files, known: ShardIndex, row: int, name: str) -> bytes:
    at, length = record_ranges(known.ranges, row)[name]
    try:
        part = files.read_range(f"shards/{known.entry.tar}.tar", at, length)
    except FileNotFoundError:
        raise _missing(files, known) from None
    return _checked(files, known, row, name, part)


def _checked(files: Files, known: ShardIndex, row: int, name: str, part: bytes) -> bytes:
    if checksum(part) != int(known.ranges[f"{name}.xxh3"][row]):
        where = f"{files.url}/shards/{known.entry.tar}.tar[{row}]"
        raise StoreError("its bytes changed since they were written", where=where, fix="repair the store, then forget")
    return part


def _missing(files: Files, known: ShardIndex) -> StoreError:
    where = f"{files.url}/shards/{known.entry.tar}.tar"
    return StoreError("the shard is missing", where=where, fix="restore it from a copy, then forget")


def _fitted(line: Mapping[str, Json], old: bytes, shard: str) -> bytes:
    """JSON may be followed by blanks: exactly as long as what it overwrites."""
    end = b"\n" if old.endswith(b"\n") else b""
    new = to_line(line)
    if len(new) + len(end) > len(old):
        raise StoreError(f"what is left of a record is longer than it was: {len(new)} of {len(old)} bytes", where=shard)
    return new.ljust(len(old) - len(end)) + end


def _patched(files: Files, path: str, patches: list[tuple[int, bytes]]) -> tuple[Path, str]:
    """A copy aside with bytes overwritten, and its digest. `patches` ascend and are apart."""
    aside, state = files.temporary_path(), naming_hash(path)
    with aside.open("wb") as out:
        for at, chunk in _chunks(files, path):
            for offset, data in patches:
                first, stop = max(at, offset), min(at + len(chunk), offset + len(data))
                if first < stop:
                    chunk[first - at : stop - at] = data[first - offset : stop - offset]
            state.update(chunk)
            out.write(chunk)
    return aside, state.hexdigest()


def _chunks(files: Files, path: str) -> Iterator[tuple[int, bytearray]]:
    at = 0
    while chunk := bytearray(files.read_range(path, at, CHUNK_BYTES)):
        yield at, chunk
        at += len(chunk)
