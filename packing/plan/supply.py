"""Inventory of a source: counts of its pieces on each side of a vision share, and the pieces not yet drawn.

`pieces.py` lists pieces in store order, `epochs.py` sorts them, and `order.py` draws from here. A piece is *rich* if
its vision slots exceed the share (threshold) of the leg, else *poor*. Pieces that are on the same side in every leg of
the schedule form a *class*. Each leg draws all pieces of one side up to some sort key of an epoch, so one sort key per
class and epoch records what was drawn; nothing is noted per piece.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from manifests.errors import ManifestError
from manifests.geometry import CHUNK_FRAMES, MERGE, MediaLimits
from packing.mixture import Mixture, Source
from packing.plan.amend import NO_PREFIX, RunPrefix
from packing.plan.epochs import END, Drawn, Epochs, SortKey, sort_key
from packing.plan.legs import thresholds
from packing.plan.pieces import TOO_LONG, TOO_MANY_PATCHES, UNLIMITED, SourcePieces, pieces_by_shard
from stores.spill import Scratch
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary


class _SortedPart(NamedTuple):
    """A partition in the order of an epoch; equally long columns."""

    rows: np.ndarray
    hashes: np.ndarray
    classes: np.ndarray


class Supply:
    """Pieces of one source of a mixture. Fill it with `add`, then call `complete`."""

    def __init__(
        self,
        mixture: Mixture,
        number: int,
        content_root: str,
        scratch: Scratch,
        records: int,
        prefix: RunPrefix = NO_PREFIX,
        tokens: int = 0,
    ) -> None:
        """
        Args:
            number: index of the source in the mixture.
            content_root: of its samples.
            records: number of its samples, including those without pieces.
            prefix: the run before this plan.
            tokens: estimate of the tokens of all samples.
        Raises:
            ManifestError: the run saw other samples of this source.
        """
        self.source: Source = mixture.sources[number]
        self.content_root, self.records = content_root, records
        self._seen_pieces = prefix.seen.get(self.source.name)
        if self._seen_pieces is not None:
            self._seen_pieces.begin(content_root)
        self._mixture = mixture
        self._limited, self._exposed = mixture.pack_limits.any, mixture.max_media_exposures is not None
        self._kind = row_type(mixture, records, self._seen_pieces is not None)
        pieces = records + tokens // mixture.max_piece_tokens
        self.epochs = Epochs(mixture, number, scratch, self._kind, pieces)
        """All pieces that may be drawn, epoch by epoch."""
        self._sorted_parts: list[tuple[tuple[int, int], _SortedPart]] = []
        """The two partitions used last, with (epoch, number)."""
        self.thresholds = np.array(thresholds(mixture), np.int64)
        """Shares that divide pieces into classes, in millionths, ascending."""
        self.by_class = np.zeros((len(self.thresholds) + 1, 3), np.int64)
        """(classes, 3): pieces, tokens and slots. Class c exceeds c of the thresholds."""
        self.samples = self.cut_samples = self.media = self.shrunk_media = 0
        self.refused = Counter[str]()
        """Samples without pieces, by reason."""
        self._least_refused = UNLIMITED
        self.withheld_tokens = 0
        """Tokens of all epochs that are not drawn because of `max_media_exposures`."""

    # ------------------------------------------------------------------ fill

    @classmethod
    def from_pieces(
        cls,
        mixture: Mixture,
        number: int,
        pieces: SourcePieces,
        scratch: Scratch,
        prefix: RunPrefix = NO_PREFIX,
    ) -> Supply:
        """A complete supply out of all pieces of a source."""
        records = int(pieces.ordinal.max(initial=-1)) + 1
        supply = cls(mixture, number, pieces.content_root, scratch, records, prefix)
        supply.add(pieces)
        supply.complete()
        return supply

    def add(self, pieces: SourcePieces) -> None:
        """Add the pieces of some samples; calls follow the order of the store."""
        rows = np.zeros(len(pieces.keys), self._kind)
        for name, column in (("key", pieces.keys), ("ordinal", pieces.ordinal), ("start", pieces.start),
                             ("length", pieces.length), ("slots", pieces.slots)):  # fmt: skip
            rows[name] = column
        if self._limited:
            rows["patches"], rows["media_in"] = pieces.patches, pieces.media_in
        if self._exposed:
            rows["media"] = np.diff(pieces.media_offsets)
        if self._seen_pieces is not None:
            rows["seen"] = self._seen_pieces.times(pieces.ordinal, pieces.start, pieces.length)
        self.samples, self.cut_samples = self.samples + pieces.samples, self.cut_samples + pieces.cut_samples
        self.media, self.shrunk_media = self.media + pieces.media, self.shrunk_media + pieces.shrunk_media
        self.refused.update(pieces.refused)
        self._least_refused = min(self._least_refused, pieces.least_refused)
        self._count_classes(rows)
        self.epochs.deal(0, rows, pieces.media_keys)

    def complete(self) -> None:
        """Check the supply after the last `add`.

        Raises:
            ManifestError: it has no pieces, or the run saw pieces of the source that it doesn't have now.
        """
        if self._seen_pieces is not None:
            self._seen_pieces.check_all_matched()
        if not self.pieces:
            wanted = self.samples + self.refused.total()
            raise ManifestError(
                f"source {self.source.name} has no sample that can be packed: {self.records} in the store, "
                f"{wanted} of the domains and lengths wanted, refused {dict(self.refused)}",
                where=self.source.name,
                fix="; or ".join(self._changes_that_admit()),
            )

    def _changes_that_admit(self) -> list[str]:
        """Changes of the mixture that would admit some of the samples, as YAML where they have a value."""
        if not self.refused:
            return ["check its `domains`, `min_tokens` and `max_tokens`", "give it more data", "drop the source"]
        changes, mixture = [], self._mixture
        if mixture.max_piece_tokens < self._least_refused < UNLIMITED and mixture.pack_limits.attention is None:
            changes.append(
                f"max_pack_tokens: {-(-self._least_refused // mixture.segment_align) * mixture.segment_align}"
            )
        if mixture.pack_limits.any:
            changes.append("pack_limits: {}")
        if self.refused[TOO_LONG] or self.refused[TOO_MANY_PATCHES]:
            limits = limits_that_fit(mixture)
            names = ("max_image_patches", "max_frame_patches", "max_video_frames")
            changes.append(f"media_limits: {{{', '.join(f'{name}: {getattr(limits, name)}' for name in names)}}}")
        return [*changes, f"drop source {self.source.name}"]

    def set_thresholds(self, thresholds: Sequence[int]) -> None:
        """Divide the pieces into classes by these thresholds, in millionths, ascending."""
        if self.thresholds.tolist() == list(thresholds):
            return
        self._sorted_parts.clear()
        self.thresholds = np.array(thresholds, np.int64)
        self.by_class = np.zeros((len(thresholds) + 1, 3), np.int64)
        for rows, _ in self.epochs.parts(0):
            self._count_classes(rows)

    def _count_classes(self, rows: np.ndarray) -> None:
        classes = self._classes(rows)
        for column, weights in enumerate((None, rows["length"], rows["slots"])):
            self.by_class[:, column] += np.bincount(classes, weights, len(self.by_class)).astype(np.int64)

    def _classes(self, rows: np.ndarray) -> np.ndarray:
        """(N,) class of each row: the number of thresholds that its share of slots exceeds."""
        from packing.plan.order_loops import classes

        return classes(rows["length"].astype(np.int64), rows["slots"].astype(np.int64), self.thresholds)

    # ------------------------------------------------------------------ totals

    @property
    def pieces(self) -> int:
        """Number of pieces."""
        return int(self.by_class[:, 0].sum())

    @property
    def tokens(self) -> int:
        """Tokens of all pieces, in one epoch."""
        return int(self.by_class[:, 1].sum())

    @property
    def seen_before_tokens(self) -> int:
        """Tokens that the plans before this one gave of the source."""
        return 0 if self._seen_pieces is None else self._seen_pieces.tokens

    @property
    def slots(self) -> int:
        """Vision slots of all pieces, in one epoch."""
        return int(self.by_class[:, 2].sum())

    def side(self, threshold: int, rich: bool) -> range:
        """Classes of the rich or of the poor pieces at one of the thresholds."""
        first_rich = int(np.searchsorted(self.thresholds, threshold)) + 1
        return range(first_rich, len(self.by_class)) if rich else range(first_rich)

    def totals_of_side(self, threshold: int, rich: bool) -> tuple[int, int, int]:
        """(pieces, tokens, slots) of the rich or of the poor pieces at one of the thresholds, in one epoch."""
        side = self.side(threshold, rich)
        pieces, tokens, slots = self.by_class[side.start : side.stop].sum(0).tolist()
        return pieces, tokens, slots

    # ------------------------------------------------------------------ draw

    def times_seen(self, rows: np.ndarray) -> np.ndarray:
        """(N,) number of times that the run saw each row before this plan."""
        return rows["seen"] if self._seen_pieces is not None else np.zeros(len(rows), np.uint16)

    def undrawn(self, classes: range, drawn: Drawn, most_rows: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Pieces of these classes that were not drawn, in order.

        Args:
            most_rows: rows per item at most.
        Yields:
            (epoch, rows, hashes).
        """
        filled = [class_ for class_ in classes if self.by_class[class_, 0]]
        for epoch in range(self.source.max_epochs if filled else 0):
            reached = drawn.reached[epoch]
            first = min(reached[class_] for class_ in filled)
            if first == END:
                continue
            for number in range(self.epochs.number_at(epoch, first), len(self.epochs)):
                part = self._sorted_part(epoch, number)
                mine = np.flatnonzero(self._not_reached(part, filled, reached) & (self.times_seen(part.rows) <= epoch))
                for at in range(0, len(mine), most_rows):
                    here = mine[at : at + most_rows]
                    yield epoch, part.rows[here], part.hashes[here]

    def _sorted_part(self, epoch: int, number: int) -> _SortedPart:
        """A sorted partition. The last two are cached: both sides, and the next leg, ask for the same."""
        for place, (key, cached) in enumerate(self._sorted_parts):
            if key == (epoch, number):
                self._sorted_parts.append(self._sorted_parts.pop(place))
                return cached
        rows, hashes = self.epochs.sorted_part(epoch, number)
        part = _SortedPart(rows, hashes, self._classes(rows).astype(np.int16))
        self._sorted_parts = [*self._sorted_parts[-1:], ((epoch, number), part)]
        return part

    def _not_reached(self, part: _SortedPart, classes: Sequence[int], reached: Sequence[SortKey]) -> np.ndarray:
        """(N,) bool: rows of `classes` that drawing has not reached."""
        least = np.full(len(self.by_class), np.iinfo(np.uint64).max, np.uint64)
        open_ = np.zeros(len(self.by_class), bool)
        for class_ in classes:
            if reached[class_] != END:
                least[class_], open_[class_] = reached[class_][0], True
        hashes, least = part.hashes, least[part.classes]
        mine = open_[part.classes] & (hashes >= least)
        for row in np.flatnonzero(mine & (hashes == least)).tolist():  # the row at the sort key, and equal hashes
            mine[row] = sort_key(part.rows[row], hashes[row]) >= reached[part.classes[row]]
        return mine

    # ------------------------------------------------------------------ exposures of media

    def withhold(self, epoch: int, number: int, rows: np.ndarray, media: np.ndarray, kept: np.ndarray) -> None:
        """Remove rows of a partition from this epoch and all later ones.

        Args:
            rows, media: content of the partition.
            kept: (N,) bool, False for the rows to remove.
        """
        showing = np.repeat(kept, rows["media"])
        removed = rows["length"][~kept].sum(dtype=np.int64)
        self.withheld_tokens += (self.source.max_epochs - epoch) * int(removed)
        rows, media = rows[kept], media[showing]
        if not kept.all():
            self.epochs.replace(epoch, number, rows, media)
        if epoch + 1 < self.source.max_epochs:
            self.epochs.deal(epoch + 1, rows, media)


def read_supplies(
    mixture: Mixture,
    samples: Mapping[str, Snapshot],
    vocabulary: Vocabulary,
    scratch: Scratch,
    prefix: RunPrefix = NO_PREFIX,
) -> list[Supply]:
    """Supplies of all sources of a mixture, read from the indexes of their samples (snapshots by source name)."""
    supplies = []
    for number, source in enumerate(mixture.sources):
        snapshot = samples[source.name]
        records = snapshot.counts["records"]
        tokens = snapshot.counts.get("tokens", 0)
        supply = Supply(mixture, number, snapshot.content_root, scratch, records, prefix, tokens)
        for pieces in pieces_by_shard(snapshot, source, mixture, vocabulary):
            supply.add(pieces)
        supply.complete()
        supplies.append(supply)
    return supplies


def limits_that_fit(mixture: Mixture) -> MediaLimits:
    """Media limits under which any image takes half of a pack at most, and any video up to 24 chunks that fit a
    pack."""
    tokens, patches = mixture.max_piece_tokens, mixture.pack_limits.patches
    chunks = max(1, min(24, tokens // 128))
    image, frame = 2 * tokens, 2 * (tokens // chunks - 24)
    if patches is not None:
        image, frame = min(image, patches // 2), min(frame, patches // (2 * CHUNK_FRAMES * chunks))
    own = mixture.media_limits
    return dataclasses.replace(
        own,
        max_image_patches=max(MERGE**2, min(image, own.max_image_patches)),
        max_frame_patches=max(MERGE**2, min(frame, own.max_frame_patches)),
        max_video_frames=min(CHUNK_FRAMES * chunks, own.max_video_frames or CHUNK_FRAMES * chunks),
    )


def row_type(mixture: Mixture, records: int, amended: bool) -> np.dtype[Any]:
    """Dtype of a row of a piece, as narrow as the mixture allows: a plan of 10^9 samples holds as many rows.

    Args:
        records: number of samples of the source.
        amended: whether the plan continues a run that saw the source.
    """
    wide = mixture.max_pack_tokens >= 1 << 16
    fields: list[tuple[str, Any]] = [
        ("key", np.uint64),
        ("ordinal", np.int64 if records >= 1 << 32 else np.uint32),
        ("start", np.int32),
        ("length", np.int32 if wide else np.uint16),
        ("slots", np.int32 if wide else np.uint16),
    ]
    if mixture.pack_limits.any:
        fields += [("patches", np.int32), ("media_in", np.int32)]
    if mixture.max_media_exposures is not None:
        fields.append(("media", np.uint32))
    if amended:
        fields.append(("seen", np.uint16))
    return np.dtype(fields)
