"""In which order are pieces drawn? Keyed permutations and exact integer accounts, no random state anywhere.

Before this `plan/supply.py` gives the pieces of each source in the order of an epoch, after it `plan/planner.py` cuts
the order into blocks. A permutation depends on (seed, epoch, source, names) only, so it is the same however a store is
sharded and whoever computes it; the accounts are integers, so that no block ever rounds differently. The loop over
pieces is in `plan/order_loops.py`; `reference.py` has a slow and obvious one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture
from packing.plan.amend import BEGINNING, Begun
from packing.plan.epochs import END, Drawn, Place, place_of, salted
from packing.plan.legs import NEVER, end_of_leg, stretches
from packing.plan.supply import Supply

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

COLUMNS_DRAWN = ("ordinal", "start", "length", "slots")
WINDOW_PIECES = 8192
"""Of each stream that are at hand in the compiled loop."""
WEIGHT_PARTS = 1 << 30
"""Weights are rounded to these parts of their sum: an account of 2^30 * 2^18 tokens * 70 streams fits 64 bits."""


def permutation(seed: int, epoch: int, source: str, keys: np.ndarray) -> np.ndarray:
    """(N,) int64: the order in which a source's pieces come in one epoch, by a hash of each (N,) uint64 key."""
    return np.argsort(salted(seed, epoch, source, keys), kind="stable")


def position_at(curve: Curve, begun: Begun) -> tuple[int, int, int, int]:
    """As `plan/order_loops.py` counts: the error is carried whole, and along a ramp its fraction begins here."""
    piece = bisect_right(curve.starts, begun.tokens) - 1
    x = begun.tokens - curve.starts[piece]
    rise = abs(curve.last[piece] - curve.first[piece])
    return piece, x, begun.error, rise * x * x % (curve.starts[piece + 1] - curve.starts[piece]) if rise else 0


@dataclass(frozen=True)
class Standing:
    """Where an order is at the beginning of a leg: all that its rest depends on."""

    tokens: int
    position: tuple[int, ...]
    """As `plan/order_loops.py` counts."""
    stretch: int
    drawn: list[Drawn]
    spent: list[dict[bool, int | None]]


class Order:
    """All pieces of a plan in the order in which they are drawn, as chunks of columns. Iterated once; then `tokens`,
    `threshold`, `missing` and `spent` say how it ended."""

    def __init__(
        self,
        mixture: Mixture,
        sources: Sequence[Supply],
        goal: int = NEVER,
        begun: Begun = BEGINNING,
        standing: Standing | None = None,
    ) -> None:
        """
        Args:
            goal: tokens after which nothing more is drawn.
            begun: where it begins.
            standing: where it goes on, if not there.
        """
        self._mixture, self._sources = mixture, sources
        self._curve = mixture.curve
        if standing is None:
            drawn = [Drawn.nothing(one.source.max_epochs, len(one.by_class)) for one in sources]
            unspent: list[dict[bool, int | None]] = [{True: None, False: None} for _ in sources]
            standing = Standing(begun.tokens, position_at(self._curve, begun), 0, drawn, unspent)
        standing = deepcopy(standing)
        self.begin = standing
        self.drawn = standing.drawn
        self._goal, self._begun = goal, begun
        self.tokens = standing.tokens
        self.threshold = 0
        """What divided rich pieces from poor ones at last, in millionths."""
        self.missing: bool | None = None
        """What ran out before the goal: True for rich pieces, False for poor ones."""
        self.spent = standing.spent
        """Per source and side: after how many tokens it gave all it had."""
        self.standings: dict[int, Standing] = {}
        """At the beginning of each leg, by its first token."""

    def __iter__(self) -> Iterator[Segments]:
        from packing.plan import order_loops  # costs time and memory that nobody pays who makes no plan

        curve = [np.array(values, np.int64) for values in (self._curve.starts, self._curve.first, self._curve.last)]
        position = np.array(self.begin.position, np.int64)
        state = np.zeros(order_loops.STATE, np.int64)
        longest = self._mixture.max_pack_tokens
        state[order_loops.TOKENS], state[order_loops.GOAL] = self.begin.tokens, self._goal
        state[order_loops.BOUND] = max(self._begun.bound, 2 * int(self._curve.highest * MILLION) * longest)
        out = np.zeros((WINDOW_PIECES, 4), np.int64)
        parts = stretches(self._curve, longest)
        following = [part.start for part in parts[1:]] + [NEVER]
        for number, (part, end) in enumerate(zip(parts, following, strict=True)):
            if number < self.begin.stretch:
                continue
            state[order_loops.VISION], self.threshold = part.vision, part.threshold
            while state[order_loops.TOKENS] < end:
                stop = min(end, end_of_leg(self.tokens))
                state[order_loops.NEXT_STRETCH] = stop
                state[order_loops.EARLY_FROM] = part.early_from if stop == end < NEVER else NEVER
                yield from self._stretch(curve, position, state, out)
                if state[order_loops.STATUS] not in (order_loops.STRETCH, order_loops.EARLY):
                    return
                if self.tokens >= stop == end_of_leg(stop - 1):
                    after = number + (self.tokens >= end)
                    standing = Standing(self.tokens, tuple(position.tolist()), after, self.drawn, self.spent)
                    self.standings[self.tokens] = deepcopy(standing)
                if state[order_loops.STATUS] == order_loops.EARLY:
                    break

    def _stretch(
        self, curve: Sequence[np.ndarray], position: np.ndarray, state: np.ndarray, out: np.ndarray
    ) -> Iterator[Segments]:
        """What comes up to the end of a stretch or leg, or all that comes; `state` says which."""
        from packing.plan import order_loops

        streams = _Streams(self, self.threshold)
        while True:
            order_loops.merge(*curve, position, state, *streams.arrays, out)
            self.tokens = int(state[order_loops.TOKENS])
            if state[order_loops.WRITTEN]:
                yield streams.columns(out[: state[order_loops.WRITTEN]])
            if state[order_loops.STATUS] in (order_loops.STRETCH, order_loops.EARLY):
                streams.close()
                return
            if state[order_loops.STATUS] == order_loops.MISSING and (streams.any_open or self._goal < NEVER):
                self.missing = bool(state[order_loops.WANTED])
            if state[order_loops.STATUS] in (order_loops.MISSING, order_loops.REACHED):
                return
            if state[order_loops.STREAM] >= 0:
                streams.refill(int(state[order_loops.STREAM]))


class _Window:
    """Some pieces of one stream."""

    def __init__(self, epoch: int, rows: np.ndarray, hashes: np.ndarray) -> None:
        self.epoch, self._rows, self._hashes = epoch, rows, hashes

    def fill(self, columns: Segments, stream: int) -> int:
        """How many there are; their columns go into the row of the stream."""
        for name, column in columns.items():
            column[stream, : len(self._rows)] = self._rows[name]
        return len(self._rows)

    def place(self, number: int) -> Place:
        return place_of(self._rows[number], self._hashes[number])


class _Streams:
    """The pieces of one stretch: for source i, stream 2 i of its poor ones and 2 i + 1 of its rich ones."""

    def __init__(self, order: Order, threshold: int) -> None:
        self._order, self._threshold = order, threshold
        sources = order._sources
        streams = 2 * len(sources)
        group_of = order._mixture.groups_of_sources
        groups = {name: number for number, name in enumerate(dict.fromkeys(group_of))}
        window = min(WINDOW_PIECES, max(source.pieces for source in sources))
        limited = list(FOR_LIMITS) if order._mixture.pack_limits.any else []
        self._columns = {name: np.zeros((streams, window), np.int64) for name in (*COLUMNS_DRAWN, *limited)}
        self._numbers = np.broadcast_to(np.arange(window), (streams, window)).copy()
        """Of the pieces in a window."""
        self._at, self._filled, self._open, self._weights, self._owed, self._group = np.zeros((6, streams), np.int64)
        self._epochs = np.zeros(streams, np.int64)
        self._group_open, self._group_weights, self._group_owed = np.zeros((3, 2 * len(groups)), np.int64)
        self._ahead: list[Iterator[_Window]] = []
        self._windows: list[_Window | None] = [None] * streams
        exact = [Fraction(0)] * streams
        weights = order._mixture.weights
        for index, source in enumerate(sources):
            for side in (0, 1):
                stream = 2 * index + side
                _, tokens, _ = source.on_side(threshold, bool(side))
                exact[stream] = weights[index] * Fraction(tokens, source.tokens)
                self._group[stream] = 2 * groups[group_of[index]] + side
                self._ahead.append(self._in_windows(stream))
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
        pieces = (self._numbers, self._columns["length"], self._columns["slots"])
        streams = (self._at, self._filled, self._open, self._weights, self._owed, self._group)
        return (*pieces, *streams, self._group_open, self._group_weights, self._group_owed)

    @property
    def any_open(self) -> bool:
        return bool(self._open.any())

    def columns(self, drawn: np.ndarray) -> Segments:
        """What `merging.merge` drew."""
        stream, number, length, slots = drawn.T
        made = {"source": stream // 2, "epoch": self._epochs[stream], "length": length, "slots": slots}
        for name in COLUMNS | FOR_LIMITS:
            if name not in made and name in self._columns:
                made[name] = self._columns[name][stream, number]
        return {name: made[name].astype(kind) for name, kind in (COLUMNS | FOR_LIMITS).items() if name in made}

    def refill(self, stream: int) -> None:
        """Where a stream ends, those beside it open new accounts among themselves."""
        self._next(stream)
        source = self._order._sources[stream // 2]
        source.epochs.passed(*min(self._place(stream), self._place(stream ^ 1)))
        if self._open[stream]:
            return
        self._order.spent[stream // 2][bool(stream % 2)] = self._order.tokens
        beside = self._group == self._group[stream]
        self._owed[beside] = 0
        if not self._open[beside].any():
            self._group_open[self._group[stream]] = 0
            self._group_owed[stream % 2 :: 2] = 0

    def close(self) -> None:
        """What was not drawn is left for the next stretch."""
        for stream in range(len(self._open)):
            self._order.drawn[stream // 2].until(self._side(stream), *self._place(stream))
        self._ahead.clear()  # they hold partitions, and this

    def _place(self, stream: int) -> tuple[int, Place]:
        """(epoch, place) of the next piece."""
        window = self._windows[stream]
        if window is None:
            return self._order._sources[stream // 2].source.max_epochs - 1, END
        return window.epoch, window.place(int(self._at[stream]))

    def _side(self, stream: int) -> range:
        return self._order._sources[stream // 2].side(self._threshold, bool(stream % 2))

    def _in_windows(self, stream: int) -> Iterator[_Window]:
        index = stream // 2
        source = self._order._sources[index]
        for epoch, rows, hashes in source.left(self._side(stream), self._order.drawn[index], WINDOW_PIECES):
            yield _Window(epoch, rows, hashes)

    def _next(self, stream: int) -> None:
        window = self._windows[stream] = next(self._ahead[stream], None)
        count = 0
        if window is not None:
            count = window.fill(self._columns, stream)
            self._epochs[stream] = window.epoch
        self._at[stream], self._filled[stream], self._open[stream] = 0, count, count > 0
