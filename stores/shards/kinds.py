"""Kinds of records that a store can hold, and their encoding.

    record -> `encode` -> Encoded -> `layout.py` -> tar members and index rows
    line, arrays, media of one record -> `decode` -> record

A record is stored in three forms. Its *line* is JSON and holds everything without a fixed shape. Its *arrays* hold long
numeric data. Its *facts* are a row of the index, so that planning, filtering and reports need not read the tar. A new
kind is one more class here and one more entry of `KINDS`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from json.encoder import encode_basestring as quoted
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pyarrow as pa

from manifests.errors import RecordError
from manifests.geometry import MERGE
from manifests.records import (
    FORGOTTEN,
    Document,
    Fact,
    Item,
    Json,
    Media,
    Pack,
    PackedMedia,
    Part,
    PlanBlock,
    Sample,
    Segment,
    Shape,
    Span,
    Text,
    canonical_json,
)
from stores.shards.index import NAMES

R = TypeVar("R")

MEDIALESS_LINE_BYTES = 160
"""Approximate size of the line of a sample without media."""

STORED: dict[type[np.generic], np.dtype] = {np.uint32: np.dtype("<u4"), np.bool_: np.dtype(bool)}
"""Type of an array in memory -> its type in a shard."""


@dataclass(slots=True)
class Encoded:
    """The encoded form of one record, input of a shard builder (`layout.py`)."""

    line: dict[str, Json]
    """JSON. `line["media"]` has one map per entry of `media`, to which the builder adds the location of the bytes."""
    facts: tuple[Any, ...]
    """Row of the core table, in the order of the kind's FACTS."""
    media: tuple[Media, ...] = ()
    """Media with payload, which the builder stores in this shard, or with the location of bytes stored before."""
    places: tuple[int, ...] = ()
    """Offset of each medium's placeholder in the unexpanded ids of a sample; -1 for media of other kinds of records."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """One-dimensional contiguous arrays by name."""


@dataclass(slots=True)
class EncodedBatch:
    """The encoded form of many records without media. Encoding them one by one takes four times as long."""

    lines: list[bytes]
    """JSON of each record with a line feed at the end."""
    facts: Sequence[Sequence[Any]]
    """Columns of the core table."""
    arrays: Mapping[str, Sequence[np.ndarray]]


class RecordKind(Generic[R]):
    """Encoding of one kind of record, and the properties that decide its layout in a shard."""

    FACTS: ClassVar[pa.Schema]
    """Columns of the core table that describe a record."""
    IN_BLOCKS: ClassVar[bool]
    """Whether a tar sample holds many records. Otherwise it holds one, with its media as members of their own."""
    FIXED_ROWS: ClassVar[bool]
    """Whether the arrays of all records in a shard are equally long and stacked to (records, length)."""
    ARRAYS: ClassVar[tuple[str, ...] | None] = None
    """Names of the arrays, if all records have the same ones of the same types: any of them may share a shard."""
    POOLS_MEDIA: ClassVar[bool]
    """Whether a block has its media in one member, KEY.media.bin."""

    def encode(self, record: R) -> Encoded:
        """Encode one record. Raises RecordError for one that JSON can't hold."""
        raise NotImplementedError

    def batch_bytes(self, record: R) -> int | None:
        """Estimate the bytes that the record takes in `encode_batch`; None if it must go through `encode`."""
        return None

    def encode_batch(self, records: Sequence[R]) -> EncodedBatch:
        """Encode records for which `batch_bytes` is a number, to the same bytes as `encode`. Never fails."""
        raise NotImplementedError

    def decode(self, line: dict[str, Json], arrays: Mapping[str, bytes], media: Sequence[Media]) -> R:
        """Return the record. `media` are its media in order, located and without payload."""
        raise NotImplementedError


class DocumentKind(RecordKind[Document]):
    """Documents: KEY.json with everything but the media; KEY is the record's id.

    `datasets` requires one type per field. Therefore `notes`, which is free in form, is a string of JSON, the `media`
    of a text part is -1, and an unknown `container_fps` is 0.0.
    """

    FACTS: ClassVar[pa.Schema] = pa.schema(
        [
            ("id", pa.binary(16)),
            ("source", NAMES),
            ("domain", NAMES),
            ("locator", pa.string()),
            ("characters", pa.int64()),
            ("images", pa.int32()),
            ("videos", pa.int32()),
            ("license", NAMES),
            ("origin", pa.string()),
            ("consent", NAMES),
        ]
    )
    IN_BLOCKS: ClassVar[bool] = False
    FIXED_ROWS: ClassVar[bool] = False
    POOLS_MEDIA: ClassVar[bool] = False

    def encode(self, record: Document) -> Encoded:
        media = record.media
        ordinals = iter(range(len(media)))
        line = {
            "id": record.id,
            "source": record.source,
            "domain": record.domain,
            "locator": record.locator,
            "parts": [
                {"text": part.text, "media": -1} if isinstance(part, Text) else {"text": "", "media": next(ordinals)}
                for part in record.parts
            ],
            "media": [
                _media_line(medium)
                | {"frame_times_us": list(medium.frame_times_us), "container_fps": float(medium.container_fps or 0)}
                for medium in media
            ],
            "facts": [{"name": f.name, "part": f.part, "start": f.start, "stop": f.stop} for f in record.facts],
            "parents": list(record.parents),
            "license": record.license,
            "origin": record.origin,
            "consent": record.consent,
            "notes": _notes(record),
        }
        facts = (
            bytes.fromhex(record.id),
            record.source,
            record.domain,
            record.locator,
            sum([len(part.text) for part in record.parts if isinstance(part, Text)]),
            *_media_counts(media),
            record.license,
            record.origin,
            record.consent,
        )
        return Encoded(line, facts, media, (-1,) * len(media))

    def decode(self, line: dict[str, Json], arrays: Mapping[str, bytes], media: Sequence[Media]) -> Document:
        if line["source"] == FORGOTTEN:
            return Document(line["id"], FORGOTTEN, "", "", ())
        parts: list[Part] = [
            Text(part["text"]) if part["media"] < 0 else media[part["media"]] for part in line["parts"]
        ]
        return Document(
            id=line["id"],
            source=line["source"],
            locator=line["locator"],
            domain=line["domain"],
            parts=tuple(parts),
            facts=tuple(Fact(**fact) for fact in line["facts"]),
            notes=json.loads(line["notes"]),
            parents=tuple(line["parents"]),
            license=line["license"],
            origin=line["origin"],
            consent=line["consent"],
        )


class SampleKind(RecordKind[Sample]):
    """Samples: blocks of KEY.json, KEY.records.jsonl (one line per sample, with its splits as differences) and
    KEY.ids.npy (uint32, the ids of all samples end to end)."""

    FACTS: ClassVar[pa.Schema] = pa.schema(
        [
            ("id", pa.binary(16)),
            ("source", NAMES),
            ("domain", NAMES),
            ("tokens", pa.int64()),  # unexpanded
            ("loss_tokens", pa.int64()),
            ("images", pa.int32()),
            ("videos", pa.int32()),
            ("splits", pa.list_(pa.int64())),
            ("whole", pa.bool_()),
        ]
    )
    IN_BLOCKS: ClassVar[bool] = True
    FIXED_ROWS: ClassVar[bool] = False
    ARRAYS: ClassVar[tuple[str, ...] | None] = ("ids",)
    POOLS_MEDIA: ClassVar[bool] = False

    def encode(self, record: Sample) -> Encoded:
        if len(record.places) != len(record.media):
            raise ValueError(f"sample {record.id} has {len(record.places)} places for {len(record.media)} media")
        runs, splits = record.loss_runs.tolist(), record.splits.tolist()
        facts = (
            bytes.fromhex(record.id),
            record.source,
            record.domain,
            len(record.ids),
            sum([stop - start for start, stop in runs]),
            *_media_counts(record.media),
            splits,
            record.whole,
        )
        line = {
            "id": record.id,
            "source": record.source,
            "domain": record.domain,
            "tokens": len(record.ids),
            "loss_runs": runs,
            "split_steps": np.diff(record.splits, prepend=0).tolist(),
            "whole": record.whole,
            "spans": [[span.name, span.start, span.stop] for span in record.spans],
            "media": [
                _media_line(medium) | {"place": place} | _shapes_line(record.shapes.get(ordinal, ()))
                for ordinal, (medium, place) in enumerate(zip(record.media, record.places, strict=True))
            ],
        }
        return Encoded(line, facts, record.media, record.places, {"ids": _typed(record.ids, np.uint32)})

    def batch_bytes(self, record: Sample) -> int | None:
        ids = record.ids
        if record.media or record.spans or record.places or record.whole:
            return None
        if not _origin(record.source, record.domain).isascii():
            return None
        if ids.dtype != STORED[np.uint32] or ids.ndim != 1 or not ids.flags.c_contiguous:
            return None
        return ids.nbytes + MEDIALESS_LINE_BYTES

    def encode_batch(self, records: Sequence[Sample]) -> EncodedBatch:
        ids = [record.ids for record in records]
        runs = [record.loss_runs for record in records]
        splits, steps = _splits(records)
        lengths = list(map(len, ids))
        origins = [_origin(record.source, record.domain) for record in records]
        lines = [
            f'{{"id":{quoted(record.id)},{origin},"tokens":{length},"loss_runs":{loss_runs},'
            f'"split_steps":{split},"whole":false,"spans":[],"media":[]}}\n'.encode()
            for record, origin, length, loss_runs, split in zip(
                records, origins, lengths, _runs_text(runs), map(_text, steps), strict=True
            )
        ]
        zeros = [0] * len(records)
        facts = (
            [bytes.fromhex(record.id) for record in records],
            [record.source for record in records],
            [record.domain for record in records],
            lengths,
            _loss_tokens(runs),
            zeros,
            zeros,
            splits,
            [False] * len(records),
        )
        return EncodedBatch(lines, facts, {"ids": ids})

    def decode(self, line: dict[str, Json], arrays: Mapping[str, bytes], media: Sequence[Media]) -> Sample:
        return Sample(
            id=line["id"],
            source=line["source"],
            domain=line["domain"],
            ids=np.frombuffer(arrays["ids"], "<u4"),
            loss_runs=np.array(line["loss_runs"], np.int64).reshape(-1, 2),
            media=tuple(media),
            splits=np.cumsum(line["split_steps"], dtype=np.int64),
            spans=tuple(Span(*span) for span in line["spans"]),
            places=tuple(medium["place"] for medium in line["media"]),
            shapes={i: _shapes(medium) for i, medium in enumerate(line["media"]) if "shapes" in medium},
            whole=line["whole"],
        )


class PlanKind(RecordKind[PlanBlock]):
    """Plan blocks: blocks of KEY.json, KEY.records.jsonl (headers) and one KEY.NAME.npy per array, in which the arrays
    of all plan blocks lie end to end."""

    FACTS: ClassVar[pa.Schema] = pa.schema([("block", pa.int64()), ("first_pack", pa.int64())])
    IN_BLOCKS: ClassVar[bool] = True
    FIXED_ROWS: ClassVar[bool] = False
    POOLS_MEDIA: ClassVar[bool] = False

    def encode(self, record: PlanBlock) -> Encoded:
        arrays = {name: np.asarray(array) for name, array in sorted(record.arrays.items())}
        bad = [name for name, array in arrays.items() if array.ndim != 1 or array.dtype.kind not in "iu"]
        if bad:
            raise ValueError(f"arrays of a plan block must be 1-D integers, unlike {', '.join(bad)}")
        arrays = {name: array.astype(array.dtype.newbyteorder("<")) for name, array in arrays.items()}
        line = {
            "header": dict(record.header),
            "arrays": {name: [array.dtype.str, len(array)] for name, array in arrays.items()},
            "media": [],
        }
        facts = (record.header["block"], record.header["first_pack"])
        return Encoded(line, facts, arrays=arrays)

    def decode(self, line: dict[str, Json], arrays: Mapping[str, bytes], media: Sequence[Media]) -> PlanBlock:
        kinds = line["arrays"]
        return PlanBlock(line["header"], {name: np.frombuffer(raw, kinds[name][0]) for name, raw in arrays.items()})


class PackKind(RecordKind[Pack]):
    """Packs: blocks of KEY.json, KEY.records.jsonl, KEY.ids.npy (B, L) uint32, KEY.loss_mask.npy (B, L) bool and
    KEY.media.bin.

    KEY.media.bin holds each medium of the block once, in its original encoding. The media of a line give start and
    length of their bytes in it.
    """

    FACTS: ClassVar[pa.Schema] = pa.schema(
        [
            ("tokens", pa.int64()),  # without padding
            ("slots", pa.int64()),
            ("loss_tokens", pa.int64()),
            ("segments", pa.int32()),
            ("images", pa.int32()),
            ("videos", pa.int32()),
        ]
    )
    IN_BLOCKS: ClassVar[bool] = True
    FIXED_ROWS: ClassVar[bool] = True
    POOLS_MEDIA: ClassVar[bool] = True

    def encode(self, record: Pack) -> Encoded:
        line = {
            "segments": [[s.sample, s.source, s.start, s.length, *_padding(s)] for s in record.segments],
            "media": [
                _media_line(packed.media)
                | {
                    "size_px": list(packed.size_px),
                    "items": [[list(item.grid), item.slot, list(item.frames)] for item in packed.items],
                }
                | _shapes_line(packed.shapes)
                | ({"fact_names": list(packed.fact_names)} if packed.fact_names else {})
                for packed in record.media
            ],
        }
        media = tuple(packed.media for packed in record.media)
        grids = [item.grid for packed in record.media for item in packed.items]
        facts = (
            sum([segment.length for segment in record.segments]),
            sum([rows * cols for _, rows, cols in grids]) // MERGE**2,
            int(np.count_nonzero(record.loss_mask)),
            len(record.segments),
            *_media_counts(media),
        )
        arrays = {"ids": _typed(record.ids, np.uint32), "loss_mask": _typed(record.loss_mask, np.bool_)}
        return Encoded(line, facts, media, (-1,) * len(media), arrays)

    def decode(self, line: dict[str, Json], arrays: Mapping[str, bytes], media: Sequence[Media]) -> Pack:
        return Pack(
            ids=np.frombuffer(arrays["ids"], "<u4"),
            loss_mask=np.frombuffer(arrays["loss_mask"], np.bool_),
            segments=tuple(Segment(*segment) for segment in line["segments"]),
            media=tuple(
                PackedMedia(
                    media=medium,
                    size_px=tuple(described["size_px"]),
                    items=tuple(Item(tuple(grid), slot, tuple(frames)) for grid, slot, frames in described["items"]),
                    shapes=_shapes(described),
                    fact_names=tuple(described.get("fact_names", ())),
                )
                for medium, described in zip(media, line["media"], strict=True)
            ),
        )


KINDS: dict[str, RecordKind] = {
    "documents": DocumentKind(),
    "samples": SampleKind(),
    "plan": PlanKind(),
    "packs": PackKind(),
}
"""Kinds of stores that hold records; a `view` holds only columns about the records of another store."""


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_line(line: Mapping[str, Json]) -> bytes:
    """Return a line as UTF-8 JSON.

    Raises:
        RecordError: `lone_surrogate` for text that is not Unicode, `not_json` for other values that JSON can't hold.
    """
    try:
        return _JSON.encode(line).encode()
    except UnicodeEncodeError as error:
        raise RecordError("lone_surrogate", f"text is not Unicode: {error.reason} at {error.start}") from None
    except (TypeError, ValueError) as error:
        raise RecordError("not_json", f"can't be stored as JSON: {error}") from None


@lru_cache(1024)
def _origin(source: str, domain: str) -> str:
    """Return the JSON of two fields of a line; few pairs of values occur."""
    return f'"source":{quoted(source)},"domain":{quoted(domain)}'


def _splits(records: Sequence[Sample]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the splits of each record, and their differences, which take fewer characters in a line."""
    joined = np.concatenate([record.splits for record in records])
    ends = np.cumsum([len(record.splits) for record in records])
    steps = np.diff(joined, prepend=0)
    firsts = np.concatenate([[0], ends[:-1]])
    firsts = firsts[firsts < ends]
    steps[firsts] = joined[firsts]
    bounds = list(pairwise([0, *ends.tolist()]))
    splits, differences = joined.tolist(), steps.tolist()
    return [splits[a:b] for a, b in bounds], [differences[a:b] for a, b in bounds]


def _runs_text(runs: Sequence[np.ndarray]) -> Iterable[str]:
    """Return the JSON of the loss runs, (n, 2) each, of every record."""
    if all(len(record_runs) == 1 for record_runs in runs):
        return [f"[[{start},{stop}]]" for start, stop in np.concatenate(runs).tolist()]
    return map(_text, [record_runs.tolist() for record_runs in runs])


def _text(numbers: list[Any]) -> str:
    """Return the JSON of a list of numbers, or of a list of such lists."""
    return str(numbers).replace(" ", "")


def _loss_tokens(runs: Sequence[np.ndarray]) -> list[int]:
    """Return the number of tokens with loss in each record, from its loss runs, (n, 2) each."""
    lengths = np.diff(np.concatenate(runs).reshape(-1, 2)).ravel()
    until = np.concatenate([[0], np.cumsum(lengths)])
    stops = np.cumsum([len(record_runs) for record_runs in runs])
    return np.diff(until[stops], prepend=0).tolist()


def _notes(record: Document) -> str:
    if not record.notes:
        return "{}"
    try:
        return canonical_json(dict(record.notes))
    except (TypeError, ValueError) as error:
        raise RecordError("not_json", f"notes can't be stored as JSON: {error}") from None


def _media_line(media: Media) -> dict[str, Json]:
    return {
        "digest": media.digest,
        "kind": media.kind,
        "format": media.format,
        "width_px": media.width_px,
        "height_px": media.height_px,
    }


def _shapes_line(shapes: Sequence[Shape]) -> dict[str, Json]:
    """Return the entry `shapes` of a medium's map; empty for a medium without shapes, as most are."""
    listed = [[shape.kind, shape.name, [list(corner) for corner in shape.corners]] for shape in shapes]
    return {"shapes": listed} if listed else {}


def _shapes(medium: Mapping[str, Json]) -> tuple[Shape, ...]:
    listed = medium.get("shapes", ())
    return tuple(Shape(kind, name, tuple((x, y) for x, y in corners)) for kind, name, corners in listed)


def _media_counts(media: Sequence[Media]) -> tuple[int, int]:
    """Return the numbers of images and of videos."""
    videos = sum([medium.kind == "video" for medium in media]) if media else 0
    return len(media) - videos, videos


def _padding(segment: Segment) -> list[int]:
    """Return the fifth field of a segment, absent if it has no padding: most plans align nothing."""
    return [segment.padding] if segment.padding else []


def _typed(array: np.ndarray, kind: type[np.generic]) -> np.ndarray:
    """Return an array in its stored type, little endian. Raises ValueError for another type or more dimensions."""
    stored = STORED[kind]
    if array.dtype == stored and array.ndim == 1 and array.flags.c_contiguous:
        return array
    if array.ndim != 1 or array.dtype != kind:
        raise ValueError(f"expected (n,) {np.dtype(kind)}, got {array.shape} {array.dtype}")
    return np.ascontiguousarray(array, stored)
