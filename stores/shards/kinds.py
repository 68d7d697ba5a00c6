"""The kinds of records a store can hold, and what of each stands in line, arrays, media and index.

    record -> `encode` -> Encoded -> layout.py -> tar members and index rows
    line, arrays, media of one record -> `decode` -> record

The *line* is JSON and holds whatever has no fixed shape; *arrays* hold what is long and numeric; facts that planning,
filtering or reports need stand in the index as well. A new kind is a class beside its siblings and a line in `KINDS`.
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

PLAIN_LINE_BYTES = 160
"""About, of a sample without media."""

STORED: dict[type[np.generic], np.dtype] = {np.uint32: np.dtype("<u4"), np.bool_: np.dtype(bool)}


@dataclass(slots=True)
class Encoded:
    """One record on its way into a shard."""

    line: dict[str, Json]
    """`line["media"]` has one map per entry of `media`; the layout adds to it where the bytes lie."""
    facts: tuple[Any, ...]
    """The row of the core table, in the order of the kind's FACTS."""
    media: tuple[Media, ...] = ()
    """With payload, which is then stored in this shard, or located elsewhere."""
    places: tuple[int, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """One-dimensional and contiguous."""


@dataclass(slots=True)
class Plain:
    """Many records without media, encoded in one go: one by one takes four times as long."""

    lines: list[bytes]
    """Each ends with a line feed."""
    facts: Sequence[Sequence[Any]]
    """Columns of the core table."""
    arrays: Mapping[str, Sequence[np.ndarray]]


class Kind(Generic[R]):
    FACTS: ClassVar[pa.Schema]
    IN_BLOCKS: ClassVar[bool]
    """Many records per tar sample; otherwise one, with its media as members of their own."""
    FIXED_ROWS: ClassVar[bool]
    """Arrays of all records in a shard are equally long and are stacked to (records, length)."""
    ARRAYS: ClassVar[tuple[str, ...] | None] = None
    """Those of every record, where all have the same ones of the same types: any records may share a shard."""
    POOLS_MEDIA: ClassVar[bool]
    """A block has its media in one member, KEY.media.bin."""

    def encode(self, record: R) -> Encoded:
        raise NotImplementedError

    def plain_bytes(self, record: R) -> int | None:
        """About how many bytes `encode_plain` makes of it; None where it does not take it."""
        return None

    def encode_plain(self, records: Sequence[R]) -> Plain:
        """The same lines, facts and arrays as by `encode`. Does not fail."""
        raise NotImplementedError

    def decode(self, line: dict[str, Json], arrays: Mapping[str, bytes], media: Sequence[Media]) -> R:
        raise NotImplementedError


class Documents(Kind[Document]):
    """KEY.json with all but the media; KEY is the record's id. `datasets` wants one type per field, so whatever is free
    in form (`notes`) is a string of JSON, a text part's `media` is -1, a `container_fps` that is not told 0.0."""

    FACTS: ClassVar[pa.Schema] = pa.schema(
        [
            ("id", pa.binary(16)),
            ("source", NAMES),
            ("domain", NAMES),
            ("locator", pa.string()),
            ("characters", pa.int64()),
            ("images", pa.int32()),
            ("videos", pa.int32()),
            ("licence", NAMES),
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
                _described(one)
                | {"frame_times_us": list(one.frame_times_us), "container_fps": float(one.container_fps or 0)}
                for one in media
            ],
            "facts": [{"name": f.name, "part": f.part, "start": f.start, "stop": f.stop} for f in record.facts],
            "parents": list(record.parents),
            "licence": record.licence,
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
            record.licence,
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
            licence=line["licence"],
            origin=line["origin"],
            consent=line["consent"],
        )


class Samples(Kind[Sample]):
    """Blocks of KEY.json, KEY.records.jsonl (one line per sample; its splits as steps) and KEY.ids.npy (uint32, all
    samples joined)."""

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
                _described(one) | {"place": at} | _shapes_line(record.shapes.get(ordinal, ()))
                for ordinal, (one, at) in enumerate(zip(record.media, record.places, strict=True))
            ],
        }
        return Encoded(line, facts, record.media, record.places, {"ids": _typed(record.ids, np.uint32)})

    def plain_bytes(self, record: Sample) -> int | None:
        ids = record.ids
        if record.media or record.spans or record.places or record.whole:
            return None
        if not _origin(record.source, record.domain).isascii():
            return None
        if ids.dtype != STORED[np.uint32] or ids.ndim != 1 or not ids.flags.c_contiguous:
            return None
        return ids.nbytes + PLAIN_LINE_BYTES

    def encode_plain(self, records: Sequence[Sample]) -> Plain:
        ids = [record.ids for record in records]
        runs = [record.loss_runs for record in records]
        splits, steps = _splits(records)
        lengths = list(map(len, ids))
        origins = [_origin(record.source, record.domain) for record in records]
        lines = [
            f'{{"id":{quoted(record.id)},{origin},"tokens":{length},"loss_runs":{told},'
            f'"split_steps":{split},"whole":false,"spans":[],"media":[]}}\n'.encode()
            for record, origin, length, told, split in zip(
                records, origins, lengths, _runs_text(runs), map(_text, steps), strict=True
            )
        ]
        nothing = [0] * len(records)
        facts = (
            [bytes.fromhex(record.id) for record in records],
            [record.source for record in records],
            [record.domain for record in records],
            lengths,
            _loss_tokens(runs),
            nothing,
            nothing,
            splits,
            [False] * len(records),
        )
        return Plain(lines, facts, {"ids": ids})

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
            places=tuple(one["place"] for one in line["media"]),
            shapes={i: _shapes(told) for i, told in enumerate(line["media"]) if "shapes" in told},
            whole=line["whole"],
        )


class Plans(Kind[PlanBlock]):
    """Blocks of KEY.json, KEY.records.jsonl (headers) and KEY.NAME.npy for every array, all plan blocks joined."""

    FACTS: ClassVar[pa.Schema] = pa.schema([("block", pa.int64()), ("first_pack", pa.int64())])
    IN_BLOCKS: ClassVar[bool] = True
    FIXED_ROWS: ClassVar[bool] = False
    POOLS_MEDIA: ClassVar[bool] = False

    def encode(self, record: PlanBlock) -> Encoded:
        arrays = {name: np.asarray(array) for name, array in sorted(record.arrays.items())}
        bad = [name for name, array in arrays.items() if array.ndim != 1 or array.dtype.kind not in "iu"]
        if bad:
            raise ValueError(f"arrays of a plan block are one-dimensional and of integers, not so: {', '.join(bad)}")
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


class Packs(Kind[Pack]):
    """Blocks of KEY.json, KEY.records.jsonl, KEY.ids.npy (B, L) uint32, KEY.loss_mask.npy (B, L) bool, KEY.media.bin.

    A line's media say where in KEY.media.bin their bytes begin: the original encoding, once per block.
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
                _described(packed.media)
                | {
                    "size_px": list(packed.size_px),
                    "items": [[list(item.grid), item.slot, list(item.frames)] for item in packed.items],
                }
                | _shapes_line(packed.shapes)
                | ({"told": list(packed.fact_names)} if packed.fact_names else {})
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
                    media=one,
                    size_px=tuple(told["size_px"]),
                    items=tuple(Item(tuple(grid), slot, tuple(frames)) for grid, slot, frames in told["items"]),
                    shapes=_shapes(told),
                    fact_names=tuple(told.get("told", ())),
                )
                for one, told in zip(media, line["media"], strict=True)
            ),
        )


KINDS: dict[str, Kind] = {"documents": Documents(), "samples": Samples(), "plan": Plans(), "packs": Packs()}
"""Kinds of stores whose records have bytes of their own; a `view` has only columns over another store's."""


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_line(line: Mapping[str, Json]) -> bytes:
    """UTF-8 JSON. Raises RecordError for what JSON can't hold."""
    try:
        return _JSON.encode(line).encode()
    except UnicodeEncodeError as error:
        raise RecordError("lone_surrogate", f"text is not Unicode: {error.reason} at {error.start}") from None
    except (TypeError, ValueError) as error:
        raise RecordError("not_json", f"can't be stored as JSON: {error}") from None


@lru_cache(1024)
def _origin(source: str, domain: str) -> str:
    """Two fields of a line whose values are few."""
    return f'"source":{quoted(source)},"domain":{quoted(domain)}'


def _splits(records: Sequence[Sample]) -> tuple[list[list[int]], list[list[int]]]:
    """Of each record, and how far each lies behind the one before it, which is short to write."""
    joined = np.concatenate([record.splits for record in records])
    ends = np.cumsum([len(record.splits) for record in records])
    steps = np.diff(joined, prepend=0)
    firsts = np.concatenate([[0], ends[:-1]])
    firsts = firsts[firsts < ends]
    steps[firsts] = joined[firsts]
    bounds = list(pairwise([0, *ends.tolist()]))
    told, told_steps = joined.tolist(), steps.tolist()
    return [told[a:b] for a, b in bounds], [told_steps[a:b] for a, b in bounds]


def _runs_text(runs: Sequence[np.ndarray]) -> Iterable[str]:
    """JSON of each."""
    if all(len(one) == 1 for one in runs):
        return [f"[[{start},{stop}]]" for start, stop in np.concatenate(runs).tolist()]
    return map(_text, [one.tolist() for one in runs])


def _text(numbers: list[Any]) -> str:
    """JSON of a list of numbers or of lists of them."""
    return str(numbers).replace(" ", "")


def _loss_tokens(runs: Sequence[np.ndarray]) -> list[int]:
    """In the runs of each."""
    lengths = np.diff(np.concatenate(runs).reshape(-1, 2)).ravel()
    until = np.concatenate([[0], np.cumsum(lengths)])
    stops = np.cumsum([len(one) for one in runs])
    return np.diff(until[stops], prepend=0).tolist()


def _notes(record: Document) -> str:
    if not record.notes:
        return "{}"
    try:
        return canonical_json(dict(record.notes))
    except (TypeError, ValueError) as error:
        raise RecordError("not_json", f"notes can't be stored as JSON: {error}") from None


def _described(media: Media) -> dict[str, Json]:
    return {
        "digest": media.digest,
        "kind": media.kind,
        "format": media.format,
        "width_px": media.width_px,
        "height_px": media.height_px,
    }


def _shapes_line(shapes: Sequence[Shape]) -> dict[str, Json]:
    """Most media have none, and then say nothing."""
    told = [[shape.kind, shape.name, [list(corner) for corner in shape.corners]] for shape in shapes]
    return {"shapes": told} if told else {}


def _shapes(told: Mapping[str, Json]) -> tuple[Shape, ...]:
    return tuple(Shape(kind, name, tuple((x, y) for x, y in corners)) for kind, name, corners in told.get("shapes", ()))


def _media_counts(media: Sequence[Media]) -> tuple[int, int]:
    """Images and videos."""
    videos = sum([one.kind == "video" for one in media]) if media else 0
    return len(media) - videos, videos


def _padding(segment: Segment) -> list[int]:
    """Most plans align nothing, and then segments say nothing."""
    return [segment.padding] if segment.padding else []


def _typed(array: np.ndarray, kind: type[np.generic]) -> np.ndarray:
    """Little endian, and refused rather than changed where the type is another."""
    stored = STORED[kind]
    if array.dtype == stored and array.ndim == 1 and array.flags.c_contiguous:
        return array
    if array.ndim != 1 or array.dtype != kind:
        raise ValueError(f"expected (n,) {np.dtype(kind)}, got {array.shape} {array.dtype}")
    return np.ascontiguousarray(array, stored)
