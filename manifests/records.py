"""Records that travel between rooms; they are the data path in types.

    file -> Document -> Sample -> (plan) -> Pack -> batch

All are frozen; arrays inside are read-only by convention. `stores/shards/kinds.py` turns records into tar members;
`manifests/geometry.py` has the arithmetic from pixels to slots.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

Json = Any
"""Result of `json.loads`."""

TextDomain = Literal["web", "code", "math", "knowledge"]
TEXT_DOMAINS = get_args(TextDomain)
VISION_DOMAINS = ("caption", "interleaved", "ocr", "knowledge", "perception", "video", "agent")
"""Domains of the Kimi K2.5 report, App. B. Every document has one domain; `pipelines/ingest/README.md` lists the
choice."""

DOMAINS = tuple(dict.fromkeys((*TEXT_DOMAINS, *VISION_DOMAINS)))

MediaKind = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Location:
    """Byte range of a medium in one shard."""

    shard: str
    """Content digest of the tar, its file name without `.tar`. In a record that is not stored yet, "" means the tar
    that its unit adopts."""
    offset: int
    """Offset of the first payload byte, after the tar header."""
    length: int
    """Payload bytes."""


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a video in its original encoding, identified by the digest of those bytes."""

    digest: str
    """SHA-256 of the encoded bytes, 64 hex digits."""
    kind: MediaKind
    format: str
    """File ending without a dot, as in tar members: jpg, png, webp, gif, mp4, webm ..."""
    width_px: int
    """Width when upright, after EXIF orientation or the video's rotation."""
    height_px: int
    frame_times_us: tuple[int, ...] = ()
    """Presentation times of *all* frames that decode, relative to the first frame, ascending; empty for images."""
    container_fps: float | None = None
    """Average frame rate that the container of a video declares; None if it declares none, and for images."""
    payload: bytes | None = field(default=None, repr=False, compare=False)
    """Encoded bytes, present only between ingest and the writer."""
    location: Location | None = field(default=None, compare=False)
    """Set when the record is read from a store."""


Point = tuple[float, float]
"""(x, y) in pixels of the upright image; (0, 0) is the outer corner of the first pixel."""

ShapeKind = Literal["point", "box", "polygon"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Named point, box or polygon on an image."""

    kind: ShapeKind
    name: str
    """Name of the object at that place."""
    corners: tuple[Point, ...]
    """One corner of a point, left top and right bottom of a box, three or more of a polygon; its edges don't cross."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text part of a document."""

    text: str


Part = Text | Media


@dataclass(frozen=True, slots=True)
class Fact:
    """Named range of characters in a text part whose value is known to be true: an attribute, an answer, a count."""

    name: str
    """color, shape, count, value, answer ..."""
    part: int
    """Index of the text part."""
    start: int
    """First character in that part; `stop` is exclusive."""
    stop: int


@dataclass(frozen=True, slots=True)
class Document:
    """One raw or curated record: ordered text and media, with provenance."""

    id: str
    """32 hex digits: `record_id(source, locator)` at ingest, `derived_id(...)` where a node makes new records."""
    source: str
    """Name of the ingest node."""
    locator: str
    """Place in the source, stable between runs: relative path, and `#record` inside a file."""
    domain: str
    """One of `TEXT_DOMAINS` and `VISION_DOMAINS`."""
    parts: tuple[Part, ...]
    facts: tuple[Fact, ...] = ()
    notes: Mapping[str, Json] = field(default_factory=dict)
    """Other verifiable facts: answers, timed events, and `shapes`, the points, boxes and polygons on images, which
    samples and packs carry as well (docs/loader.md)."""
    parents: tuple[str, ...] = ()
    license: str = ""
    """SPDX identifier if there is one. This and the next two are "" if unknown, and columns of every store."""
    origin: str = ""
    """URL, or another name of the record's origin before it was a file here."""
    consent: str = ""
    """Consent of its authors, in the words of the source: `opt-in`, `opt-out`, `public-domain` ..."""

    @property
    def text(self) -> str:
        """All text parts, joined by blank lines, as text filters read them."""
        return "\n\n".join(p.text for p in self.parts if isinstance(p, Text))

    @property
    def media(self) -> tuple[Media, ...]:
        """Images and videos in the order of the parts."""
        return tuple(p for p in self.parts if isinstance(p, Media))


@dataclass(frozen=True, slots=True)
class Drop:
    """Decision of an op to drop a record. It is stored as a column, so drops can be browsed like any view."""

    reason: str
    """Stable code, e.g. `too_short`."""
    score: float | None = None
    """Number that was compared with the threshold, if there is one."""


@dataclass(frozen=True, slots=True)
class Span:
    """Named range of a sample's *unexpanded* ids: a `Fact` after tokenization."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A tokenized document, unexpanded: one placeholder id per medium, so another size limit needs no new
    tokenization."""

    id: str
    """Id of the document; a document gives one sample."""
    source: str
    domain: str
    ids: np.ndarray
    """(T,) uint32. An image is begin, "image", content, one pad, end; a video is one video placeholder."""
    loss_runs: np.ndarray
    """(R, 2) int64, half-open runs of `ids` that the model learns to predict. Placeholders are never inside."""
    media: tuple[Media, ...] = ()
    """Media in the order of their placeholders, without payload."""
    splits: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(S,) int64: ascending offsets in `ids` at which a long document may be cut; never inside a medium."""
    spans: tuple[Span, ...] = ()
    places: tuple[int, ...] = ()
    """Per medium the offset in `ids` of its placeholder. A column of the index, so plans need not read ids."""
    shapes: Mapping[int, tuple[Shape, ...]] = field(default_factory=dict)
    """Shapes by number of the medium, for media that have any."""
    whole: bool = False
    """Never cut: a plan refuses and counts a conversation that is longer than a pack."""


@dataclass(frozen=True, slots=True)
class Item:
    """Unit of the vision encoder, whose patches attend to each other: an image, or a chunk of frames."""

    grid: tuple[int, int, int]
    """(t, h, w) in 14-px patches, h and w even."""
    slot: int
    """Position of its first slot in the row; it fills `h * w // 4` consecutive slots."""
    frames: tuple[int, ...] = ()
    """Ordinals of the frames in the video; empty for an image."""


@dataclass(frozen=True, slots=True)
class PackedMedia:
    """One medium of a pack with all its items."""

    media: Media
    size_px: tuple[int, int]
    """(width, height) after resizing and before padding, fixed by the plan's limits."""
    items: tuple[Item, ...]
    shapes: tuple[Shape, ...] = ()
    """Shapes on the upright original."""
    fact_names: tuple[str, ...] = ()
    """Names of the facts in its sample's text, ascending; they have to stay true of the pixels."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A sample, or a piece of one, in a pack. Attention and positions stay inside it."""

    sample: str
    source: str
    start: int
    """First token of the piece in the *expanded* sample; > 0 marks a continuation."""
    length: int
    padding: int = 0
    """Pad tokens behind it, up to the next multiple of `segment_align`. Attention counts them as part of it."""


@dataclass(frozen=True, slots=True)
class PlanBlock:
    """Consecutive packs of a plan, with the pieces of samples in each; see `packing/plan/planner.py`."""

    header: Mapping[str, Json]
    """Small values, among them `block` (its number) and `first_pack` (number of its first pack in training order)."""
    arrays: Mapping[str, np.ndarray]
    """Named one-dimensional integer arrays."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One fixed-length row with everything needed to train on it."""

    ids: np.ndarray
    """(L,) uint32, padded at the end with the pad id; media slots hold the media-pad id."""
    loss_mask: np.ndarray
    """(L,) bool: position i is a *target*: the model predicts ids[i] from the ids before it in its segment."""
    segments: tuple[Segment, ...]
    """Segments from position 0 on, each behind the padding of the one before; the rest of the row is padding."""
    media: tuple[PackedMedia, ...] = ()


def segment_ranges(segments: Iterable[Segment]) -> Iterator[tuple[Segment, int, int]]:
    """Yield each segment with its first position in the row and the position after its last token."""
    start = 0
    for segment in segments:
        yield segment, start, start + segment.length
        start += segment.length + segment.padding


FORGOTTEN = ""
"""Source of a forgotten record or segment. Its id and its place are kept, and the length of a segment. No node has this
name."""


def canonical_json(value: Json) -> str:
    """Return the one text of a JSON value for digests: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(*parts: str | bytes) -> str:
    """Return the SHA-256 of length-prefixed parts, 64 hex digits; no two lists of parts share one."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def record_id(source: str, locator: str) -> str:
    """Return the id of an ingested record: 32 hex digits (128 bits)."""
    return digest("record", source, locator)[:32]


def derived_id(parents: Iterable[str], node: str, ordinal: int) -> str:
    """Return the id of a record that a node made from others."""
    return digest("derived", *parents, node, str(ordinal))[:32]
