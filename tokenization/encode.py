"""Document to sample: ids, the runs that carry loss, where a long document may be cut, facts as spans of ids.

Before this stands ingest and filtering, after it the plan. Samples are *unexpanded*: a medium is one placeholder (an
image in its wrapper, a video alone), so that other limits of size never re-tokenise anything.

Sources. The image wrapper and the video placeholder are the released prompt form. Inferred, as nothing is published
about it: a document ends with [EOS] and has no [BOS] (the released chat form emits none either, and attention stays
inside a sample, so its start needs no mark); parts follow each other without separators; loss falls on all text and
on [EOS], never on a wrapper or placeholder, and never on the first id, which nothing precedes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from manifests.errors import RecordError
from manifests.records import Document, Fact, Media, Part, Sample, Shape, ShapeKind, Span, Text
from tokenization.vocabulary import Vocabulary


def encode(document: Document, vocabulary: Vocabulary) -> Sample:
    """Raises RecordError: `lone_surrogate` for text that is not Unicode, `bad_fact` for a fact outside its text,
    `bad_shape` for what `notes.shapes` can't mean."""
    facts = facts_by_part(document)
    pieces: list[np.ndarray] = []
    at = 0
    texts: list[tuple[int, int, str]] = []
    loss: list[tuple[int, int]] = []
    spans: list[Span] = []
    media: list[Media] = []
    media_starts: list[int] = []
    places: list[int] = []
    for index, part in enumerate(document.parts):
        if isinstance(part, Text):
            piece = vocabulary.encode_array(part.text)
            if index in facts:
                layout = TokenOffsets(part.text, vocabulary.byte_lengths[piece])
                spans += [layout.span(fact, at) for fact in facts[index]]
            loss.append((at, at + len(piece)))
            texts.append((at, at + len(piece), part.text))
        else:
            stands = placeholder(part, vocabulary)
            piece = np.array(stands, np.uint32)
            media.append(replace(part, payload=None))
            media_starts.append(at)
            mark = vocabulary.video_placeholder_id if part.kind == "video" else vocabulary.media_pad_id
            places.append(at + stands.index(mark))
        pieces.append(piece)
        at += len(piece)
    loss.append((at, at + 1))
    pieces.append(np.array([vocabulary.eos_id], np.uint32))
    ids = np.concatenate(pieces)
    return Sample(
        id=document.id,
        source=document.source,
        domain=document.domain,
        ids=ids,
        loss_runs=join_runs(loss),
        media=tuple(media),
        splits=_splits(ids, texts, media_starts, vocabulary),
        spans=tuple(spans),
        places=tuple(places),
        shapes=shapes_of(document),
    )


def placeholder(media: Media, vocabulary: Vocabulary) -> list[int]:
    """The ids that stand for a medium until a plan fixes how many slots it gets."""
    if media.kind == "video":
        return [vocabulary.video_placeholder_id]
    special = vocabulary.special
    return [
        special["<|media_begin|>"],
        *vocabulary.encode("image"),
        special["<|media_content|>"],
        special["<|media_pad|>"],
        special["<|media_end|>"],
    ]


def decode(sample: Sample, vocabulary: Vocabulary) -> tuple[Part, ...]:
    """The parts that were encoded: neighbouring texts joined, empty ones gone.

    Raises ValueError where ids and media disagree.
    """
    ids = sample.ids.astype(np.int64)
    if not len(ids) or ids[-1] != vocabulary.eos_id:
        raise ValueError(f"sample {sample.id} does not end with [EOS]")
    return tuple(_parts(sample, ids[:-1], vocabulary))


def decode_sample(sample: Sample, vocabulary: Vocabulary) -> str:
    """One text for people, with a mark like `[image 640x480]` where a medium stands, and [EOS] left out. What marks the
    messages of a conversation stands there by name."""
    ids = sample.ids.astype(np.int64)
    ended = len(ids) and ids[-1] == vocabulary.eos_id
    return "".join(
        part.text if isinstance(part, Text) else f"[{part.kind} {part.width_px}x{part.height_px}]"
        for part in _parts(sample, ids[:-1] if ended else ids, vocabulary)
    )


def _parts(sample: Sample, ids: np.ndarray, vocabulary: Vocabulary) -> Iterator[Part]:
    at = 0
    marks = (vocabulary.special["<|media_begin|>"], vocabulary.video_placeholder_id)
    starts = np.flatnonzero(np.isin(ids, marks))
    if len(starts) != len(sample.media):
        raise ValueError(f"sample {sample.id} has {len(starts)} placeholders for {len(sample.media)} media")
    for start, medium in zip(starts.tolist(), sample.media, strict=True):
        expected = placeholder(medium, vocabulary)
        if ids[start : start + len(expected)].tolist() != expected:
            raise ValueError(f"sample {sample.id}: id {start} does not begin the placeholder of its {medium.kind}")
        if start > at:
            yield Text(vocabulary.decode(ids[at:start]))
        yield medium
        at = start + len(expected)
    if at < len(ids):
        yield Text(vocabulary.decode(ids[at:]))


class TokenOffsets:
    """Where the tokens of one text begin and end, in bytes of UTF-8."""

    def __init__(self, text: str, token_bytes: np.ndarray) -> None:
        """`token_bytes` (n,) int32: length of each token."""
        self.text = text
        self.token_bytes = token_bytes

    def span(self, fact: Fact, offset: int) -> Span:
        """The tokens that share at least a byte with the fact; `offset` is the sample's id where this text begins."""
        if not 0 <= fact.start < fact.stop <= len(self.text):
            where = f"characters {fact.start} to {fact.stop} of {len(self.text)}"
            raise RecordError("bad_fact", f"fact {fact.name!r} covers {where}")
        before, covered = len(self.text[: fact.start].encode()), len(self.text[fact.start : fact.stop].encode())
        first = np.searchsorted(self._ends, before, side="right")
        stop = np.searchsorted(self._ends - self.token_bytes, before + covered, side="left")
        return Span(fact.name, offset + int(first), offset + int(stop))

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.token_bytes, dtype=np.int64)


def cut_quality(ids: np.ndarray, texts: Sequence[tuple[int, int, str]], vocabulary: Vocabulary) -> np.ndarray:
    """(n,) uint8: how good it is to cut before each id, see `split_loops.py`; `texts` say which ids stand for which
    text, and between others it is never good."""
    from tokenization import split_loops  # numba is loaded by who cuts text, and by nobody else

    quality = np.full(len(ids), split_loops.NEVER, np.uint8)
    for start, stop, text in texts:
        read = np.frombuffer(text.encode(), np.uint8)
        split_loops.judge(read, ids[start:stop], vocabulary.byte_lengths, quality[start:stop])
    return quality


def _splits(
    ids: np.ndarray, texts: Sequence[tuple[int, int, str]], media_starts: Sequence[int], vocabulary: Vocabulary
) -> np.ndarray:
    from tokenization import split_loops

    edges = np.array(sorted({0, *media_starts, len(ids)}), np.int64)
    splits = np.empty(len(ids) // split_loops.SPLIT_MIN + len(edges), np.int64)
    return splits[: split_loops.choose(cut_quality(ids, texts, vocabulary), edges, splits)].copy()


def facts_by_part(document: Document) -> dict[int, list[Fact]]:
    found: defaultdict[int, list[Fact]] = defaultdict(list)
    for fact in document.facts:
        if not 0 <= fact.part < len(document.parts) or not isinstance(document.parts[fact.part], Text):
            raise RecordError("bad_fact", f"fact {fact.name!r} points at part {fact.part}, which is no text")
        found[fact.part].append(fact)
    return found


def join_runs(runs: list[tuple[int, int]]) -> np.ndarray:
    """(R, 2) int64: neighbouring runs made one, empty ones and the very first id left out."""
    joined: list[list[int]] = []
    for start, stop in runs:
        start = max(start, 1)
        if start >= stop:
            continue
        if joined and joined[-1][1] == start:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    return np.array(joined, np.int64).reshape(-1, 2)


CORNERS: dict[ShapeKind, range] = {"point": range(1, 2), "box": range(2, 3), "polygon": range(3, 100_000)}
"""How many each kind of shape has."""


def shapes_of(document: Document) -> dict[int, tuple[Shape, ...]]:
    """By medium, from `notes.shapes`: maps of `media` (ordinal), `kind`, `name` and `corners`, a list of [x, y]."""
    found: dict[int, list[Shape]] = defaultdict(list)
    for told in document.notes.get("shapes", ()):
        try:
            ordinal, kind, name = told["media"], told["kind"], told["name"]
            corners = tuple((float(x), float(y)) for x, y in told["corners"])
            medium = document.media[ordinal]
            whole = len(corners) in CORNERS[kind] and all(math.isfinite(x + y) for x, y in corners)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RecordError("bad_shape", f"{type(error).__name__}: {error}") from None
        if not whole or medium.kind != "image" or not isinstance(name, str):
            raise RecordError("bad_shape", f"{kind} {name!r} of {len(corners)} corners on the {medium.kind} {ordinal}")
        found[ordinal].append(Shape(kind, name, corners))
    return {ordinal: tuple(shapes) for ordinal, shapes in sorted(found.items())}
