"""In which order are pieces drawn? Keyed permutations and exact integer accounts, no random state anywhere.

Before this `pieces.py` lists what a source has, after it `plan.py` cuts the order into blocks. A permutation depends on
(seed, epoch, source, names) only, so it is the same however a store is sharded and whoever computes it; the accounts
are integers, so that no block ever rounds differently. The loop over pieces is in `merging.py`; `reference.py` has a
slow and obvious one.

A *stretch* is a part of the schedule in which pieces stay on one side: rich ones hold more vision than the share at its
start, poor ones do not. It ends where the share jumps or bends; a ramp is cut into 32. At its end all that was not yet
drawn is divided anew.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from manifests.schedule import MILLION, Curve
from packing.amend import BEGINNING, Begun
from packing.mixture import Mixture
from packing.pieces import SourcePieces, mixed

Segments = dict[str, np.ndarray]
"""Equally long columns, see COLUMNS; a block of packs also has `pack_offsets`."""

COLUMNS = {
    "source": np.int32,
    "ordinal": np.int64,
    "start": np.int64,
    "length": np.int32,
    "slots": np.int32,
    "epoch": np.int32,
}
"""Of segments, and of pieces before they share a pack."""

FOR_LIMITS = {"patches": np.int32, "media_in": np.int32}
"""Of pieces only: what `Mixture.pack_limits` count."""

RAMP_STRETCHES = 32
WINDOW_PIECES = 8192
"""Of each stream that are at hand in the compiled loop."""
WEIGHT_PARTS = 1 << 30
"""Weights are rounded to these parts of their sum: an account of 2^30 * 2^18 tokens * 70 streams fits 64 bits."""
NEVER = (1 << 63) - 1


def permutation(seed: int, epoch: int, source: str, keys: np.ndarray) -> np.ndarray:
    """(N,) int64: the order in which a source's pieces come in one epoch, by a hash of each (N,) uint64 key."""
    salt = hashlib.blake2b(f"{seed}/{epoch}/{source}".encode(), digest_size=8).digest()
    return np.argsort(mixed(keys ^ np.uint64(int.from_bytes(salt, "little"))), kind="stable")


@dataclass(frozen=True)
class Stretch:
    start: int
    """In tokens."""
    threshold: int
    """In millionths: what holds a larger share is rich."""
    vision: bool
    """Whether any is wanted."""
    early_from: int
    """From which token on it may end before the next one starts: from there a piece can reach beyond its end."""


def stretches(curve: Curve, longest: int) -> list[Stretch]:
    """Of a whole schedule; `longest` is the most tokens of a piece."""
    found = []
    for piece, (start, a, b) in enumerate(zip(curve.starts, curve.first, curve.last, strict=True)):
        end = curve.starts[piece + 1] if piece + 1 < len(curve.starts) else NEVER
        if a == b:
            found.append(Stretch(start, a, a > 0, max(start, end - longest) if end < NEVER else NEVER))
        else:
            places = sorted({start + (end - start) * k // RAMP_STRETCHES for k in range(RAMP_STRETCHES)})
            found += [Stretch(place, int(curve.at(place) * MILLION), True, 0) for place in places]
    return found


def position_at(curve: Curve, begun: Begun) -> tuple[int, int, int, int]:
    """As `merging.py` counts: the error is carried whole, and along a ramp its fraction begins here."""
    piece = bisect_right(curve.starts, begun.tokens) - 1
    x = begun.tokens - curve.starts[piece]
    rise = abs(curve.last[piece] - curve.first[piece])
    return piece, x, begun.error, rise * x * x % (curve.starts[piece + 1] - curve.starts[piece]) if rise else 0


class Order:
    """All pieces of a plan in the order in which they are drawn, as chunks of columns. Iterated once; then `tokens`,
    `missing` and `spent` say how it ended."""

    def __init__(
        self, mixture: Mixture, sources: Sequence[SourcePieces], goal: int = NEVER, begun: Begun = BEGINNING
    ) -> None:
        """
        Args:
            goal: tokens after which nothing more is drawn.
            begun: where it begins.
        """
        self._mixture, self._sources = mixture, sources
        self._curve = mixture.curve
        self._uses = [np.zeros(len(pieces.ordinal), np.uint16) for pieces in sources]
        """How often each piece was drawn."""
        for uses, before in zip(self._uses, begun.uses, strict=False):
            uses[: len(before)] = before
        self._permutations: dict[int, tuple[int, np.ndarray]] = {}
        self.allowed = self._allowed()
        """Per source how often each piece may be seen in all, where exposures of media are limited."""
        self._goal, self._begun = goal, begun
        self.tokens = begun.tokens
        self.missing: bool | None = None
        """What ran out before the goal: True for rich pieces, False for poor ones."""
        self.spent: list[dict[bool, int | None]] = [{True: None, False: None} for _ in sources]
        """Per source and side: after how many tokens it gave all it had."""

    def __iter__(self) -> Iterator[Segments]:
        from packing import merging  # costs time and memory that nobody pays who makes no plan

        curve = [np.array(values, np.int64) for values in (self._curve.starts, self._curve.first, self._curve.last)]
        position = np.array(position_at(self._curve, self._begun), np.int64)
        state = np.zeros(merging.STATE, np.int64)
        longest = self._mixture.max_pack_tokens
        state[merging.TOKENS], state[merging.GOAL] = self._begun.tokens, self._goal
        state[merging.BOUND] = max(self._begun.bound, 2 * int(self._curve.highest * MILLION) * longest)
        out = np.zeros((WINDOW_PIECES, 4), np.int64)
        parts = stretches(self._curve, longest)
        following = [part.start for part in parts[1:]] + [NEVER]
        for part, end in zip(parts, following, strict=True):
            if state[merging.TOKENS] >= end:
                continue
            state[merging.VISION], state[merging.NEXT_STRETCH] = part.vision, end
            state[merging.EARLY_FROM] = part.early_from if end < NEVER else NEVER
            streams = _Streams(self, part.threshold)
            while True:
                merging.merge(*curve, position, state, *streams.arrays, out)
                self.tokens = int(state[merging.TOKENS])
                if state[merging.WRITTEN]:
                    drawn = out[: state[merging.WRITTEN]]
                    yield self._columns(drawn, streams.epochs, count=len(parts) > 1)
                if state[merging.STATUS] in (merging.STRETCH, merging.EARLY):
                    break
                if state[merging.STATUS] == merging.MISSING:
                    if streams.any_open or self._goal < NEVER:
                        self.missing = bool(state[merging.WANTED])
                    return
                if state[merging.STATUS] == merging.REACHED:
                    return
                if state[merging.STREAM] >= 0:
                    streams.refill(int(state[merging.STREAM]))

    def _columns(self, drawn: np.ndarray, epochs: np.ndarray, count: bool) -> Segments:
        stream, piece, length, slots = drawn.T
        made = {name: np.zeros(len(drawn), kind) for name, kind in (COLUMNS | FOR_LIMITS).items()}
        made["source"][:], made["epoch"][:] = stream // 2, epochs[stream]
        made["length"][:], made["slots"][:] = length, slots
        for index in np.unique(made["source"]).tolist():
            mine = np.flatnonzero(made["source"] == index)
            taken = piece[mine]
            for name in ("ordinal", "start", *FOR_LIMITS):
                made[name][mine] = getattr(self._sources[index], name)[taken]
            if count:
                np.add.at(self._uses[index], taken, 1)
        return made

    def _epochs(self, index: int, mine: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, pieces) as they come, of those `mine` that were not yet drawn as often as they may be."""
        uses = self._uses[index]
        for epoch in range(self._mixture.sources[index].max_epochs):
            left = mine & (uses <= epoch)
            if self.allowed:
                left &= self.allowed[index] > epoch
            if not left.any():
                continue
            order = self._permuted(index, epoch)
            for first in range(0, len(order), WINDOW_PIECES):
                rows = order[first : first + WINDOW_PIECES]
                rows = rows[left[rows]]
                if len(rows):
                    yield epoch, rows

    def _allowed(self) -> list[np.ndarray]:
        """Whoever comes first shows a medium: epoch by epoch, source by source as the mixture names them, each source
        in its order. What the run saw before counts first. That fixes a medium's exposures whatever is drawn when."""
        most = self._mixture.max_media_exposures
        if most is None:
            return []
        from packing import merging

        of_source = np.cumsum([len(pieces.media_keys) for pieces in self._sources])[:-1]
        known, numbers = np.unique(np.concatenate([p.media_keys for p in self._sources]), return_inverse=True)
        media = np.split(numbers.astype(np.int64), of_source)
        shown = np.zeros(len(known), np.int64)
        uses = [one.astype(np.int64) for one in self._uses]
        for pieces, mine, before in zip(self._sources, media, uses, strict=True):
            np.add.at(shown, mine, np.repeat(before, np.diff(pieces.media_offsets)))
        allowed = [one.copy() for one in uses]
        for epoch in range(max(source.max_epochs for source in self._mixture.sources)):
            for index, (source, pieces) in enumerate(zip(self._mixture.sources, self._sources, strict=True)):
                if epoch < source.max_epochs:
                    order = permutation(self._mixture.seed, epoch, source.name, pieces.keys)
                    offsets = pieces.media_offsets
                    merging.show(order, offsets, media[index], uses[index], shown, most, epoch, allowed[index])
        return allowed

    def _permuted(self, index: int, epoch: int) -> np.ndarray:
        """Kept for one epoch of each source: most stretches begin in that in which the one before ended."""
        known = self._permutations.get(index)
        if known is None or known[0] != epoch:
            source, keys = self._mixture.sources[index], self._sources[index].keys
            order = permutation(self._mixture.seed, epoch, source.name, keys)
            known = epoch, order.astype(np.uint32 if len(keys) < 1 << 32 else np.int64)
            self._permutations[index] = known
        return known[1]


class _Streams:
    """The pieces of one stretch: for source i, stream 2 i of its poor ones and 2 i + 1 of its rich ones."""

    def __init__(self, order: Order, threshold: int) -> None:
        self._order = order
        sources = order._sources
        streams = 2 * len(sources)
        group_of = order._mixture.groups_of_sources
        groups = {name: number for number, name in enumerate(dict.fromkeys(group_of))}
        self.epochs = np.zeros(streams, np.int64)
        window = min(WINDOW_PIECES, max(len(pieces.length) for pieces in sources))
        self._pieces, self._lengths, self._slots = np.zeros((3, streams, window), np.int64)
        self._at, self._filled, self._open, self._weights, self._owed, self._group = np.zeros((6, streams), np.int64)
        self._group_open, self._group_weights, self._group_owed = np.zeros((3, 2 * len(groups)), np.int64)
        self._chunks: list[Iterator[tuple[int, np.ndarray]]] = []
        exact = [Fraction(0)] * streams
        weights = order._mixture.weights
        for index, pieces in enumerate(sources):
            rich = pieces.richer_than(Fraction(threshold, MILLION))
            tokens = int(pieces.length.sum(dtype=np.int64))
            for side, mine in ((0, ~rich), (1, rich)):
                stream = 2 * index + side
                exact[stream] = weights[index] * Fraction(int(pieces.length[mine].sum(dtype=np.int64)), tokens)
                self._group[stream] = 2 * groups[group_of[index]] + side
                self._chunks.append(order._epochs(index, mine))
        for side in (0, 1):
            whole = sum(exact[side::2])
            for stream in range(side, streams, 2):
                if exact[stream]:
                    self._weights[stream] = max(1, round(exact[stream] / whole * WEIGHT_PARTS))
                    self._group_weights[self._group[stream]] += self._weights[stream]
        for stream in range(streams):
            self._next(stream)
            if self._open[stream]:
                order.spent[stream // 2][bool(stream % 2)] = None
                self._group_open[self._group[stream]] = 1

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """As `merging.merge` takes them."""
        streams = (self._at, self._filled, self._open, self._weights, self._owed, self._group)
        return (self._pieces, self._lengths, self._slots, *streams, self._group_open, self._group_weights,
                self._group_owed)  # fmt: skip

    @property
    def any_open(self) -> bool:
        return bool(self._open.any())

    def refill(self, stream: int) -> None:
        """Where a stream ends, those beside it open new accounts among themselves."""
        self._next(stream)
        if self._open[stream]:
            return
        self._order.spent[stream // 2][bool(stream % 2)] = self._order.tokens
        beside = self._group == self._group[stream]
        self._owed[beside] = 0
        if not self._open[beside].any():
            self._group_open[self._group[stream]] = 0
            self._group_owed[stream % 2 :: 2] = 0

    def _next(self, stream: int) -> None:
        epoch, rows = next(self._chunks[stream], (0, np.zeros(0, np.int64)))
        pieces = self._order._sources[stream // 2]
        self.epochs[stream] = epoch
        self._pieces[stream, : len(rows)] = rows
        self._lengths[stream, : len(rows)] = pieces.length[rows]
        self._slots[stream, : len(rows)] = pieces.slots[rows]
        self._at[stream], self._filled[stream], self._open[stream] = 0, len(rows), len(rows) > 0
