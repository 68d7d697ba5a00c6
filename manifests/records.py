"""The records that travel between rooms. Who knows these knows the data path.

    file -> Document -> Sample -> (plan) -> Pack -> batch

All are frozen; arrays inside are read-only by convention. How a record becomes tar members is `stores/shards/kinds.py`;
the arithmetic from pixels to slots is `manifests/geometry.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

Json = Any
"""What `json.loads` gives."""

TextDomain = Literal["web", "code", "math", "knowledge"]
TEXT_DOMAINS = get_args(TextDomain)
VISION_DOMAINS = ("caption", "interleaved", "ocr", "knowledge", "perception", "video", "agent")
"""K2.5 report, App. B. Every document is of one of these; which one, `pipelines/ingest/README.md` says."""

DOMAINS = tuple(dict.fromkeys((*TEXT_DOMAINS, *VISION_DOMAINS)))

MediaKind = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Location:
    """Where the bytes of a medium lie: a byte range of one shard."""

    shard: str
    """Content digest of the tar (its file name without `.tar`)."""
    offset: int
    """Of the first payload byte, after the tar header."""
    length: int


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a video in its original encoding, known by the digest of those bytes."""

    digest: str
    """SHA-256 of the encoded bytes, 64 hex digits."""
    kind: MediaKind
    format: str
    """File ending without a dot, as in tar members: jpg, png, webp, gif, mp4, webm ..."""
    width_px: int
    """Upright, that is after EXIF orientation or the video's rotation."""
    height_px: int
    frame_times_us: tuple[int, ...] = ()
    """Presentation time of *every* frame that really decodes, from the first frame, ascending; empty for images."""
    container_fps: float | None = None
    """The average rate that the container tells of a video; None where it tells none, and for images."""
    payload: bytes | None = field(default=None, repr=False, compare=False)
    """The encoded bytes, only between ingest and the writer."""
    location: Location | None = field(default=None, compare=False)
    """Set by whoever reads the record from a store."""


Point = tuple[float, float]
"""(x, y) in pixels of the upright picture; (0, 0) is the outer corner of the first one."""

ShapeKind = Literal["point", "box", "polygon"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Where something lies on an image."""

    kind: ShapeKind
    name: str
    """What lies there."""
    corners: tuple[Point, ...]
    """Of a point one, of a box left top and right bottom, of a polygon three or more, whose edges don't cross."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str


Part = Text | Media


@dataclass(frozen=True, slots=True)
class Fact:
    """A named stretch of one text part whose truth is known: an attribute, an answer, a value."""

    name: str
    """colour, shape, count, value, answer ..."""
    part: int
    """Index of the text part."""
    start: int
    """In characters of that part; `stop` is exclusive."""
    stop: int


@dataclass(frozen=True, slots=True)
class Document:
    """One curated or raw record: ordered text and media, with where it came from."""

    id: str
    """32 hex digits: `record_id(source, locator)` at ingest, `derived_id(...)` where a node makes new records."""
    source: str
    """Name of the ingest node."""
    locator: str
    """Where in the source, stable between runs: relative path, and `#record` inside a file."""
    domain: str
    """One of `TEXT_DOMAINS` and `VISION_DOMAINS`."""
    parts: tuple[Part, ...]
    facts: tuple[Fact, ...] = ()
    notes: Mapping[str, Json] = field(default_factory=dict)
    """Whatever else is known and can be checked: answers, timed events, and `shapes`, points, boxes and polygons on
    images, of which samples and packs know, too (docs/loader.md)."""
    parents: tuple[str, ...] = ()
    licence: str = ""
    """SPDX identifier where there is one; these three are "" where nothing is known, and columns of every store."""
    origin: str = ""
    """URL, or what else says where the record came from before it was a file here."""
    consent: str = ""
    """What its makers agreed to, in the words of the source: `opt-in`, `opt-out`, `public-domain` ..."""

    @property
    def text(self) -> str:
        """All text parts, joined by blank lines: what text filters look at."""
        return "\n\n".join(p.text for p in self.parts if isinstance(p, Text))

    @property
    def media(self) -> tuple[Media, ...]:
        return tuple(p for p in self.parts if isinstance(p, Media))


@dataclass(frozen=True, slots=True)
class Drop:
    """What an op returns instead of a record. Kept as a column, so that drops can be browsed like any view."""

    reason: str
    """Stable code, e.g. `too_short`."""
    score: float | None = None
    """The number that was compared with the threshold, where there is one."""


@dataclass(frozen=True, slots=True)
class Span:
    """A named stretch of a sample's *unexpanded* ids: a `Fact` after tokenisation."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A tokenised document, unexpanded: one placeholder id per medium, so that no other limit ever re-tokenises it."""

    id: str
    """The document's id: one document, one sample."""
    source: str
    domain: str
    ids: np.ndarray
    """(T,) uint32. An image is begin, "image", content, one pad, end; a video is one video placeholder."""
    loss_runs: np.ndarray
    """(R, 2) int64, half-open runs of `ids` that the model is asked to predict. Placeholders are never inside."""
    media: tuple[Media, ...] = ()
    """In the order of their placeholders, without payload."""
    splits: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Ascending offsets into `ids` at which a long document may be cut; never inside a medium."""
    spans: tuple[Span, ...] = ()
    places: tuple[int, ...] = ()
    """One per medium: offset in `ids` of the id that stands for it. Stands in the index, so that plans read no ids."""
    shapes: Mapping[int, tuple[Shape, ...]] = field(default_factory=dict)
    """By ordinal of the medium, where there are any."""
    whole: bool = False
    """Never cut: a conversation that is longer than a pack is refused by the plan, and counted."""


@dataclass(frozen=True, slots=True)
class Item:
    """What the encoder sees as one unit, its patches attending to each other: an image, or a chunk of frames."""

    grid: tuple[int, int, int]
    """(t, h, w) in 14-px patches, h and w even."""
    slot: int
    """Position of its first slot in the pack's row; it fills `h * w // 4` consecutive slots."""
    frames: tuple[int, ...] = ()
    """Ordinals of the frames in the video; empty for an image."""


@dataclass(frozen=True, slots=True)
class PackedMedia:
    """One medium of a pack with all its items."""

    media: Media
    size_px: tuple[int, int]
    """(width, height) after resizing, before padding: fixed by the plan's limits."""
    items: tuple[Item, ...]
    shapes: tuple[Shape, ...] = ()
    """On the upright original."""
    fact_names: tuple[str, ...] = ()
    """Names of the facts in its sample's text, ascending: what has to stay true of the pixels."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A sample's piece inside a pack. Attention and positions stay inside it."""

    sample: str
    source: str
    start: int
    """First token of the piece, in the *expanded* sample; > 0 marks a continuation."""
    length: int
    padding: int = 0
    """Pad tokens behind it, up to where `segment_align` lets the next one begin. Attention counts them to it."""


@dataclass(frozen=True, slots=True)
class PlanBlock:
    """Consecutive packs of a plan, and the pieces of samples that each holds; see `packing/plan/planner.py`."""

    header: Mapping[str, Json]
    """Small facts, among them `block` (its number) and `first_pack` (its place in training order)."""
    arrays: Mapping[str, np.ndarray]
    """Named, one-dimensional, of integers."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One fixed-length row with everything needed to train on it."""

    ids: np.ndarray
    """(L,) uint32, padded at the end with the pad id; media slots hold the media-pad id."""
    loss_mask: np.ndarray
    """(L,) bool: position i is a *target*: the model predicts ids[i] from what precedes it in its segment."""
    segments: tuple[Segment, ...]
    """From position 0 on, each behind the last one's padding; what follows all of them is padding."""
    media: tuple[PackedMedia, ...] = ()


def starts(segments: Iterable[Segment]) -> Iterator[tuple[Segment, int, int]]:
    """Each segment with its first position in the row and the one after its last token."""
    at = 0
    for segment in segments:
        yield segment, at, at + segment.length
        at += segment.length + segment.padding


FORGOTTEN = ""
"""Source of a record or segment whose content was forgotten: its id, its place and, of a segment, its length are left.
No node is named so."""


def canonical_json(value: Json) -> str:
    """One text for one value: sorted keys, no blanks. What digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(*parts: str | bytes) -> str:
    """SHA-256 over length-prefixed parts, 64 hex digits, so that no two lists of parts share one."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def record_id(source: str, locator: str) -> str:
    """Identity of an ingested record, 32 hex digits (128 bits)."""
    return digest("record", source, locator)[:32]


def derived_id(parents: Iterable[str], node: str, ordinal: int) -> str:
    """Identity of a record that a node made out of others."""
    return digest("derived", *parents, node, str(ordinal))[:32]
