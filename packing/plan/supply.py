"""What a source can give: how many pieces there are on each side of a share, and those of a side that are left.

Before this `plan/pieces.py` lists pieces as they lie in the store and `plan/epochs.py` has them in order, after it
`plan/order.py` draws. What was drawn is not noted piece by piece: a stretch of the schedule draws all pieces of one
side up to some place in an epoch, so that a place for each class of pieces says it all. Pieces are of one class that
are on the same side in every stretch.
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
from packing.plan.amend import BEGINNING, Begun
from packing.plan.epochs import END, Drawn, Epochs, Place, place_of
from packing.plan.legs import thresholds
from packing.plan.pieces import NEVER, TOO_LONG, TOO_MANY_PATCHES, SourcePieces, pieces_by_shard
from stores.spill import Scratch
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary


class _Sorted(NamedTuple):
    """A partition in the order of an epoch."""

    rows: np.ndarray
    hashes: np.ndarray
    classes: np.ndarray


class Supply:
    def __init__(
        self,
        mixture: Mixture,
        number: int,
        content_root: str,
        scratch: Scratch,
        records: int,
        begun: Begun = BEGINNING,
        tokens: int = 0,
    ) -> None:
        """
        Args:
            number: of the source in the mixture.
            content_root: of its samples.
            records: how many samples there are, with those that give no pieces.
            tokens: of all of them, about.
        Raises:
            ManifestError: other samples of this source were seen before.
        """
        self.source: Source = mixture.sources[number]
        self.content_root, self.records = content_root, records
        self._before = begun.seen.get(self.source.name)
        if self._before is not None:
            self._before.begin(content_root)
        self._mixture = mixture
        self._limited, self._exposed = mixture.pack_limits.any, mixture.max_media_exposures is not None
        self._kind = row_type(mixture, records, self._before is not None)
        pieces = records + tokens // mixture.max_piece_tokens
        self.epochs = Epochs(mixture, number, scratch, self._kind, pieces)
        """Of all its pieces, but for those that are withheld."""
        self._at_hand: list[tuple[tuple[int, int], _Sorted]] = []
        """At most two partitions, by epoch and number."""
        self.thresholds = np.array(thresholds(mixture), np.int64)
        """Shares that divide pieces, in millionths, ascending."""
        self.by_class = np.zeros((len(self.thresholds) + 1, 3), np.int64)
        """(classes, 3): pieces, tokens and slots. Class c is over c of the thresholds."""
        self.samples = self.cut_samples = self.media = self.shrunk_media = 0
        self.refused = Counter[str]()
        self._least_refused = NEVER
        self.withheld_tokens = 0
        """Of its epochs, because a medium was shown often enough."""

    # ------------------------------------------------------------------ what comes in

    @classmethod
    def of(
        cls,
        mixture: Mixture,
        number: int,
        pieces: SourcePieces,
        scratch: Scratch,
        begun: Begun = BEGINNING,
    ) -> Supply:
        """All pieces of a source at once."""
        records = int(pieces.ordinal.max(initial=-1)) + 1
        made = cls(mixture, number, pieces.content_root, scratch, records, begun)
        made.add(pieces)
        made.complete()
        return made

    def add(self, pieces: SourcePieces) -> None:
        """Those of some samples; samples come in store order."""
        rows = np.zeros(len(pieces.keys), self._kind)
        for name, column in (("key", pieces.keys), ("ordinal", pieces.ordinal), ("start", pieces.start),
                             ("length", pieces.length), ("slots", pieces.slots)):  # fmt: skip
            rows[name] = column
        if self._limited:
            rows["patches"], rows["media_in"] = pieces.patches, pieces.media_in
        if self._exposed:
            rows["media"] = np.diff(pieces.media_offsets)
        if self._before is not None:
            rows["seen"] = self._before.times(pieces.ordinal, pieces.start, pieces.length)
        self.samples, self.cut_samples = self.samples + pieces.samples, self.cut_samples + pieces.cut_samples
        self.media, self.shrunk_media = self.media + pieces.media, self.shrunk_media + pieces.shrunk_media
        self.refused.update(pieces.refused)
        self._least_refused = min(self._least_refused, pieces.least_refused)
        self._count_classes(rows)
        self.epochs.deal(0, rows, pieces.media_keys)

    def complete(self) -> None:
        """All is added. Raises ManifestError where that is nothing, or not what was seen before."""
        if self._before is not None:
            self._before.all_found()
        if not self.pieces:
            wanted = self.samples + self.refused.total()
            raise ManifestError(
                f"source {self.source.name} has no sample that can be packed: {self.records} in the store, "
                f"{wanted} of the domains and lengths wanted, refused {dict(self.refused)}",
                where=self.source.name,
                fix="; or ".join(self._ways_in()),
            )

    def _ways_in(self) -> list[str]:
        """What would let some of its samples into packs."""
        if not self.refused:
            return ["check its `domains`, `min_tokens` and `max_tokens`", "give it more data", "drop the source"]
        ways, mixture = [], self._mixture
        if mixture.max_piece_tokens < self._least_refused < NEVER and mixture.pack_limits.attention is None:
            ways.append(f"max_pack_tokens: {-(-self._least_refused // mixture.segment_align) * mixture.segment_align}")
        if mixture.pack_limits.any:
            ways.append("pack_limits: {}")
        if self.refused[TOO_LONG] or self.refused[TOO_MANY_PATCHES]:
            fit = limits_that_fit(mixture)
            told = ("max_image_patches", "max_frame_patches", "max_video_frames")
            ways.append(f"limits: {{{', '.join(f'{name}: {getattr(fit, name)}' for name in told)}}}")
        return [*ways, f"drop source {self.source.name}"]

    def divide_by(self, thresholds: Sequence[int]) -> None:
        """Into classes by other thresholds, where they are others."""
        if self.thresholds.tolist() == list(thresholds):
            return
        self._at_hand.clear()
        self.thresholds = np.array(thresholds, np.int64)
        self.by_class = np.zeros((len(thresholds) + 1, 3), np.int64)
        for rows, _ in self.epochs.parts(0):
            self._count_classes(rows)

    def _count_classes(self, rows: np.ndarray) -> None:
        classes = self._classes(rows)
        for column, weights in enumerate((None, rows["length"], rows["slots"])):
            self.by_class[:, column] += np.bincount(classes, weights, len(self.by_class)).astype(np.int64)

    def _classes(self, rows: np.ndarray) -> np.ndarray:
        """(N,): over how many of the thresholds each is."""
        from packing.plan.order_loops import classes

        return classes(rows["length"].astype(np.int64), rows["slots"].astype(np.int64), self.thresholds)

    # ------------------------------------------------------------------ what it has

    @property
    def pieces(self) -> int:
        return int(self.by_class[:, 0].sum())

    @property
    def tokens(self) -> int:
        return int(self.by_class[:, 1].sum())

    @property
    def seen_before_tokens(self) -> int:
        """By the plans that this one amends."""
        return 0 if self._before is None else self._before.tokens

    @property
    def slots(self) -> int:
        return int(self.by_class[:, 2].sum())

    def side(self, threshold: int, rich: bool) -> range:
        """Classes of the rich or of the poor pieces."""
        first_rich = int(np.searchsorted(self.thresholds, threshold)) + 1
        return range(first_rich, len(self.by_class)) if rich else range(first_rich)

    def on_side(self, threshold: int, rich: bool) -> tuple[int, int, int]:
        """Pieces, tokens and slots on one side of a share in millionths, one of the thresholds."""
        side = self.side(threshold, rich)
        pieces, tokens, slots = self.by_class[side.start : side.stop].sum(0).tolist()
        return pieces, tokens, slots

    # ------------------------------------------------------------------ in order

    def seen(self, rows: np.ndarray) -> np.ndarray:
        """(N,): how often each of its rows was seen before."""
        return rows["seen"] if self._before is not None else np.zeros(len(rows), np.uint16)

    def left(self, classes: range, drawn: Drawn, together: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(epoch, rows, hashes) of these classes in order, of what was not drawn; at most so many `together`."""
        some = [one for one in classes if self.by_class[one, 0]]
        for epoch in range(self.source.max_epochs if some else 0):
            places = drawn.places[epoch]
            first = min(places[one] for one in some)
            if first == END:
                continue
            for number in range(self.epochs.number_at(epoch, first), len(self.epochs)):
                part = self._sorted(epoch, number)
                mine = np.flatnonzero(self._left(part, some, places) & (self.seen(part.rows) <= epoch))
                for at in range(0, len(mine), together):
                    here = mine[at : at + together]
                    yield epoch, part.rows[here], part.hashes[here]

    def _sorted(self, epoch: int, number: int) -> _Sorted:
        """Those that were asked for last are at hand: both sides, and the next stretch, ask for the same."""
        for place, (key, known) in enumerate(self._at_hand):
            if key == (epoch, number):
                self._at_hand.append(self._at_hand.pop(place))
                return known
        rows, hashes = self.epochs.in_order(epoch, number)
        found = _Sorted(rows, hashes, self._classes(rows).astype(np.int16))
        self._at_hand = [*self._at_hand[-1:], ((epoch, number), found)]
        return found

    def _left(self, part: _Sorted, some: Sequence[int], places: Sequence[Place]) -> np.ndarray:
        """(N,) bool: which are of the classes `some` and were not drawn."""
        least = np.full(len(self.by_class), np.iinfo(np.uint64).max, np.uint64)
        open_ = np.zeros(len(self.by_class), bool)
        for one in some:
            if places[one] != END:
                least[one], open_[one] = places[one][0], True
        hashes, least = part.hashes, least[part.classes]
        mine = open_[part.classes] & (hashes >= least)
        for row in np.flatnonzero(mine & (hashes == least)).tolist():  # at the place itself, and what shares its hash
            mine[row] = place_of(part.rows[row], hashes[row]) >= places[part.classes[row]]
        return mine

    # ------------------------------------------------------------------ what may not be seen

    def withhold(self, epoch: int, number: int, rows: np.ndarray, media: np.ndarray, kept: np.ndarray) -> None:
        """Of these rows of a partition of an epoch, and their media, only those `kept` are seen in it or later."""
        showing = np.repeat(kept, rows["media"])
        gone = rows["length"][~kept].sum(dtype=np.int64)
        self.withheld_tokens += (self.source.max_epochs - epoch) * int(gone)
        rows, media = rows[kept], media[showing]
        if not kept.all():
            self.epochs.replace(epoch, number, rows, media)
        if epoch + 1 < self.source.max_epochs:
            self.epochs.deal(epoch + 1, rows, media)


def supplies_of(
    mixture: Mixture,
    samples: Mapping[str, Snapshot],
    vocabulary: Vocabulary,
    scratch: Scratch,
    begun: Begun = BEGINNING,
) -> list[Supply]:
    """Of all sources, read from the indexes of their samples."""
    found = []
    for number, source in enumerate(mixture.sources):
        there = samples[source.name]
        records = there.counts["records"]
        tokens = there.counts.get("tokens", 0)
        supply = Supply(mixture, number, there.content_root, scratch, records, begun, tokens)
        for pieces in pieces_by_shard(there, source, mixture, vocabulary):
            supply.add(pieces)
        supply.complete()
        found.append(supply)
    return found


def limits_that_fit(mixture: Mixture) -> MediaLimits:
    """With which every image takes about half of a pack at most, and every video, as up to 24 chunks that share it."""
    tokens, patches = mixture.max_piece_tokens, mixture.pack_limits.patches
    chunks = max(1, min(24, tokens // 128))
    image, frame = 2 * tokens, 2 * (tokens // chunks - 24)
    if patches is not None:
        image, frame = min(image, patches // 2), min(frame, patches // (2 * CHUNK_FRAMES * chunks))
    own = mixture.limits
    return dataclasses.replace(
        own,
        max_image_patches=max(MERGE**2, min(image, own.max_image_patches)),
        max_frame_patches=max(MERGE**2, min(frame, own.max_frame_patches)),
        max_video_frames=min(CHUNK_FRAMES * chunks, own.max_video_frames or CHUNK_FRAMES * chunks),
    )


def row_type(mixture: Mixture, records: int, amended: bool) -> np.dtype[Any]:
    """As narrow as the mixture allows: a plan of 10^9 samples has so many of them."""
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
