"""Hypothesis strategies for the records of `manifests/records.py`, and a comparison of records with arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from hypothesis import strategies as st

from manifests.records import (
    Document,
    Fact,
    Item,
    Location,
    Media,
    Pack,
    PackedMedia,
    PlanBlock,
    Sample,
    Segment,
    Shape,
    Span,
    Text,
    record_id,
)

PACK_TOKENS = 32

texts = st.text(max_size=40)
names = st.sampled_from(["color", "shape", "count", "answer"])
sources = st.sampled_from(["scenes", "books", "mdn"])
domains = st.sampled_from(["web", "caption", "video"])
ids = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")
whole = st.integers(-(2**53), 2**53)
json_values = st.recursive(
    st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def token_ids(count: int) -> st.SearchStrategy[np.ndarray]:
    """(count,) uint32 token ids."""
    return st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(0, 2**32, count, np.uint32))


@st.composite
def media(draw: st.DrawFn, with_payload: bool = True) -> Media:
    """A media record of random bytes, with payload or located in another store."""
    kind = draw(st.sampled_from(["image", "video"]))
    payload = draw(st.binary(max_size=700))
    times = draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=8, unique=True)) if kind == "video" else []
    digest = sha256(payload).hexdigest()
    return Media(
        digest=digest,
        kind=kind,
        format=draw(st.sampled_from(["jpg", "png", "webp"] if kind == "image" else ["mp4", "webm"])),
        width_px=draw(st.integers(1, 9000)),
        height_px=draw(st.integers(1, 9000)),
        frame_times_us=tuple(sorted(times)),
        container_fps=draw(st.none() | st.floats(1e-3, 1e6)) if kind == "video" else None,
        payload=payload if with_payload else None,
        location=None if with_payload else Location(digest, draw(st.integers(0, 2**40)), len(payload)),
    )


coordinates = st.floats(-1e4, 1e4, allow_nan=False)
shapes = st.builds(
    Shape,
    st.sampled_from(["point", "box", "polygon"]),
    texts,
    st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=5).map(tuple),
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    source, locator = draw(sources), draw(texts)
    return Document(
        id=record_id(source, locator),
        source=source,
        locator=locator,
        domain=draw(domains),
        parts=tuple(draw(st.lists(texts.map(Text) | media(), max_size=4))),
        facts=tuple(draw(st.lists(st.builds(Fact, names, *[st.integers(0, 99)] * 3), max_size=2))),
        notes=draw(st.dictionaries(texts, json_values, max_size=3)),
        parents=tuple(draw(st.lists(ids, max_size=2))),
    )


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    count = draw(st.integers(0, 60))
    places = draw(st.lists(st.integers(0, count), unique=True, max_size=3).map(sorted))
    edges = draw(st.lists(st.integers(0, count), unique=True, max_size=6).map(sorted))
    return Sample(
        id=draw(ids),
        source=draw(sources),
        domain=draw(domains),
        ids=draw(token_ids(count)),
        loss_runs=np.array(edges[: len(edges) // 2 * 2], np.int64).reshape(-1, 2),
        media=tuple(draw(media(with_payload=False)) for _ in places),
        splits=np.array(draw(st.lists(st.integers(0, count), unique=True).map(sorted)), np.int64),
        spans=tuple(draw(st.lists(st.builds(Span, names, st.integers(0, 9), st.integers(0, 9)), max_size=2))),
        places=tuple(places),
        shapes={i: tuple(draw(st.lists(shapes, min_size=1, max_size=2))) for i in range(len(places)) if i % 2},
        whole=draw(st.booleans()),
    )


@st.composite
def packed_media(draw: st.DrawFn) -> PackedMedia:
    grid = st.tuples(st.integers(1, 4), *[st.integers(1, 8).map(lambda n: 2 * n)] * 2)
    frames = st.lists(st.integers(0, 99), max_size=4).map(tuple)
    items = st.lists(st.builds(Item, grid, st.integers(0, PACK_TOKENS - 1), frames), min_size=1, max_size=2)
    size = draw(st.tuples(st.integers(1, 999), st.integers(1, 999)))
    fact_names = tuple(sorted(draw(st.sets(names))))
    return PackedMedia(draw(media()), size, tuple(draw(items)), tuple(draw(st.lists(shapes, max_size=2))), fact_names)


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    segments = st.builds(Segment, ids, sources, st.integers(0, 99), st.integers(1, PACK_TOKENS))
    mask = draw(st.lists(st.booleans(), min_size=PACK_TOKENS, max_size=PACK_TOKENS))
    return Pack(
        ids=draw(token_ids(PACK_TOKENS)),
        loss_mask=np.array(mask, bool),
        segments=tuple(draw(st.lists(segments, max_size=3))),
        media=tuple(draw(st.lists(packed_media(), max_size=2))),
    )


@st.composite
def plan_blocks(draw: st.DrawFn) -> PlanBlock:
    header = draw(st.dictionaries(texts, json_values, max_size=2))
    kinds = st.sampled_from([np.int64, np.int32, np.uint8])
    arrays = {
        name: np.array(draw(st.lists(st.integers(0, 100), max_size=5)), draw(kinds))
        for name in draw(st.lists(st.sampled_from(["start", "length", "source"]), unique=True))
    }
    return PlanBlock(header | {"block": draw(st.integers(0, 9)), "first_pack": draw(st.integers(0, 99))}, arrays)


RECORDS: dict[str, st.SearchStrategy[Any]] = {
    "documents": st.lists(documents(), max_size=8, unique_by=lambda record: record.id),
    "samples": st.lists(samples(), max_size=8, unique_by=lambda record: record.id),
    "plan": st.lists(plan_blocks(), max_size=4),
    "packs": st.lists(packs(), max_size=4),
}
"""Kind of store -> lists of records of one unit."""


def same(a: Any, b: Any) -> bool:
    """Compare records: arrays by dtype, shape and value; payload and location of media are ignored."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if dataclasses.is_dataclass(a):
        fields = [field.name for field in dataclasses.fields(a) if field.compare]
        return type(a) is type(b) and all(same(getattr(a, name), getattr(b, name)) for name in fields)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b
