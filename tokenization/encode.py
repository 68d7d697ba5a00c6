"""Encoding of a document as a sample: ids, runs with loss, offsets for cutting a long document, facts as spans of ids.

The node `tokenize` calls it on curated documents; plans and packs are made from the samples. Samples are *unexpanded*:
a medium is one placeholder (an image with its wrapper, a video without), so another size limit needs no new
tokenization.

Sources. The image wrapper and the video placeholder are the released prompt form. Inferred, because nothing is
published
about it: a document ends with [EOS] and has no [BOS] (the released chat form has none either, and attention stays
    inside
a sample, so its start needs no mark); parts follow each other without separators; loss falls on all text and on [EOS],
never on a wrapper or placeholder, and never on the first id, which has no predecessor.
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
    """Encode a document as an unexpanded sample.

    Raises:
        RecordError: `lone_surrogate` for text that is not Unicode, `bad_fact` for a fact outside its text, `bad_shape`
            for an entry of `notes.shapes` that is no shape on an image.
    """
    facts = facts_by_part(document)
    pieces: list[np.ndarray] = []
    length = 0
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
                offsets = TokenOffsets(part.text, vocabulary.byte_lengths[piece])
                spans += [offsets.span(fact, length) for fact in facts[index]]
            loss.append((length, length + len(piece)))
            texts.append((length, length + len(piece), part.text))
        else:
            medium_ids = placeholder(part, vocabulary)
            piece = np.array(medium_ids, np.uint32)
            media.append(replace(part, payload=None))
            media_starts.append(length)
            mark = vocabulary.video_placeholder_id if part.kind == "video" else vocabulary.media_pad_id
            places.append(length + medium_ids.index(mark))
        pieces.append(piece)
        length += len(piece)
    loss.append((length, length + 1))
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
    """Return the ids of a medium in an unexpanded sample."""
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
    """Return the encoded parts, with adjacent texts joined and empty ones left out.

    Raises:
        ValueError: ids and media disagree.
    """
    ids = sample.ids.astype(np.int64)
    if not len(ids) or ids[-1] != vocabulary.eos_id:
        raise ValueError(f"sample {sample.id} does not end with [EOS]")
    return tuple(_parts(sample, ids[:-1], vocabulary))


def decode_sample(sample: Sample, vocabulary: Vocabulary) -> str:
    """Return a sample as text to read: media as marks like `[image 640x480]`, special tokens by name, without [EOS]."""
    ids = sample.ids.astype(np.int64)
    ended = len(ids) and ids[-1] == vocabulary.eos_id
    return "".join(
        part.text if isinstance(part, Text) else f"[{part.kind} {part.width_px}x{part.height_px}]"
        for part in _parts(sample, ids[:-1] if ended else ids, vocabulary)
    )


def _parts(sample: Sample, ids: np.ndarray, vocabulary: Vocabulary) -> Iterator[Part]:
    done = 0
    marks = (vocabulary.special["<|media_begin|>"], vocabulary.video_placeholder_id)
    starts = np.flatnonzero(np.isin(ids, marks))
    if len(starts) != len(sample.media):
        raise ValueError(f"sample {sample.id} has {len(starts)} placeholders for {len(sample.media)} media")
    for start, medium in zip(starts.tolist(), sample.media, strict=True):
        expected = placeholder(medium, vocabulary)
        if ids[start : start + len(expected)].tolist() != expected:
            raise ValueError(f"sample {sample.id}: expected the placeholder of a {medium.kind} at id {start}")
        if start > done:
            yield Text(vocabulary.decode(ids[done:start]))
        yield medium
        done = start + len(expected)
    if done < len(ids):
        yield Text(vocabulary.decode(ids[done:]))


class TokenOffsets:
    """Byte offsets of the tokens of one text, to map characters to tokens."""

    def __init__(self, text: str, token_bytes: np.ndarray) -> None:
        """
        Args:
            token_bytes: (n,) int32, length of each token of `text` in bytes of UTF-8.
        """
        self.text = text
        self.token_bytes = token_bytes

    def span(self, fact: Fact, offset: int) -> Span:
        """Return the tokens that share at least one byte with the fact. `offset`: index of this text's first id."""
        if not 0 <= fact.start < fact.stop <= len(self.text):
            covered = f"characters {fact.start} to {fact.stop} of {len(self.text)}"
            raise RecordError("bad_fact", f"fact {fact.name!r} covers {covered}")
        before, length = len(self.text[: fact.start].encode()), len(self.text[fact.start : fact.stop].encode())
        first = np.searchsorted(self._ends, before, side="right")
        stop = np.searchsorted(self._ends - self.token_bytes, before + length, side="left")
        return Span(fact.name, offset + int(first), offset + int(stop))

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.token_bytes, dtype=np.int64)


def cut_quality(ids: np.ndarray, texts: Sequence[tuple[int, int, str]], vocabulary: Vocabulary) -> np.ndarray:
    """(n,) uint8: quality of a cut before each id, by the constants of `split_loops.py`.

    Args:
        ids: (n,) uint32.
        texts: (first id, end, text) of each text among them. A cut at any other id has quality 0.
    """
    from tokenization import split_loops  # imports numba, which readers of samples do not need

    quality = np.full(len(ids), split_loops.NEVER, np.uint8)
    for start, stop, text in texts:
        text_bytes = np.frombuffer(text.encode(), np.uint8)
        split_loops.judge(text_bytes, ids[start:stop], vocabulary.byte_lengths, quality[start:stop])
    return quality


def _splits(
    ids: np.ndarray, texts: Sequence[tuple[int, int, str]], media_starts: Sequence[int], vocabulary: Vocabulary
) -> np.ndarray:
    from tokenization import split_loops

    edges = np.array(sorted({0, *media_starts, len(ids)}), np.int64)
    splits = np.empty(len(ids) // split_loops.SPLIT_MIN + len(edges), np.int64)
    return splits[: split_loops.choose(cut_quality(ids, texts, vocabulary), edges, splits)].copy()


def facts_by_part(document: Document) -> dict[int, list[Fact]]:
    """Group the facts of a document by the index of their text part.

    Raises:
        RecordError: `bad_fact` for a fact of a part that is no text.
    """
    facts: defaultdict[int, list[Fact]] = defaultdict(list)
    for fact in document.facts:
        if not 0 <= fact.part < len(document.parts) or not isinstance(document.parts[fact.part], Text):
            raise RecordError("bad_fact", f"fact {fact.name!r} names part {fact.part}, which is no text")
        facts[fact.part].append(fact)
    return facts


def join_runs(runs: list[tuple[int, int]]) -> np.ndarray:
    """(R, 2) int64: runs with adjacent ones joined, and without empty ones and the first id of a sample."""
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
"""Allowed numbers of corners by kind of shape."""


def shapes_of(document: Document) -> dict[int, tuple[Shape, ...]]:
    """Read the shapes of each image from `notes.shapes`.

    Each entry is a map of `media` (number of the image), `kind`, `name` and `corners`, a list of [x, y].

    Raises:
        RecordError: `bad_shape` for an entry that is no shape on an image.
    """
    shapes: dict[int, list[Shape]] = defaultdict(list)
    for raw in document.notes.get("shapes", ()):
        try:
            ordinal, kind, name = raw["media"], raw["kind"], raw["name"]
            corners = tuple((float(x), float(y)) for x, y in raw["corners"])
            medium = document.media[ordinal]
            valid = len(corners) in CORNERS[kind] and all(math.isfinite(x + y) for x, y in corners)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RecordError("bad_shape", f"{type(error).__name__}: {error}") from None
        if not valid or medium.kind != "image" or not isinstance(name, str):
            raise RecordError("bad_shape", f"{kind} {name!r} of {len(corners)} corners on the {medium.kind} {ordinal}")
        shapes[ordinal].append(Shape(kind, name, corners))
    return {ordinal: tuple(on_medium) for ordinal, on_medium in sorted(shapes.items())}
