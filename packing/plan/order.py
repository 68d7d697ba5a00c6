"""Order in which the pieces of all sources are drawn: keyed permutations and exact integer credits, no random state.

`supply.py` gives the pieces of each source in the order of an epoch; `planner.py` cuts the drawn order into blocks. A
rich piece (more vision than the share of the leg) comes where slots are missing, else a poor one; among each, sources
take turns by weight. A permutation depends on (seed, epoch, source name, key) alone, so that it is the same however a
store is sharded and on whatever machine; credits and errors are integers, so that nothing ever rounds differently. The
loop over pieces is `order_loops.merge`; `reference.order` is its slow version.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from manifests.records import Json
from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture
from packing.plan.amend import NO_PREFIX, RunPrefix
from packing.plan.epochs import END, Drawn, SortKey, order_hashes, sort_key
from packing.plan.legs import NEVER, legs_of, next_checkpoint
from packing.plan.supply import Supply

Segments = dict[str, np.ndarray]
"""Columns of equal length, named and typed as in COLUMNS; a block of packs has `pack_offsets` as well."""

COLUMNS = {
    "source": np.int32,
    "ordinal": np.int64,
    "start": np.int64,
    "length": np.int32,
    "slots": np.int32,
    "epoch": np.int32,
}
"""Columns of segments, and of pieces before they share a pack."""

LIMIT_COLUMNS = {"patches": np.int32, "media_in": np.int32}
"""Columns of pieces that `Mixture.pack_limits` need."""

DRAWN_COLUMNS = ("ordinal", "start", "length", "slots")
WINDOW_PIECES = 8192
"""Pieces of each stream that the compiled loop has at a time."""
WEIGHT_PARTS = 1 << 30
"""Weights are rounded to these parts of their sum: a credit of 2^30 * 2^18 tokens * 70 streams fits 64 bits."""


def permutation(seed: int, epoch: int, source: str, keys: np.ndarray) -> np.ndarray:
    """(N,) int64 indexes that order a source's pieces in one epoch, by a hash of each (N,) uint64 key."""
    return np.argsort(order_hashes(seed, epoch, source, keys), kind="stable")


def start_position(curve: Curve, prefix: RunPrefix) -> tuple[int, int, int, int]:
    """Position of `order_loops` at the start of a plan. The prefix's error is taken whole; on a ramp its fraction
    starts with the ramp's."""
    piece = bisect_right(curve.starts, prefix.tokens) - 1
    x = prefix.tokens - curve.starts[piece]
    rise = abs(curve.last[piece] - curve.first[piece])
    return piece, x, prefix.error, rise * x * x % (curve.starts[piece + 1] - curve.starts[piece]) if rise else 0


@dataclass(frozen=True)
class OrderState:
    """State of an order at a checkpoint: everything that the rest of it depends on."""

    tokens: int
    position: tuple[int, ...]
    """Position of `order_loops`."""
    leg: int
    """Index of the leg that comes next."""
    drawn: list[Drawn]
    """Per source."""
    spent: list[dict[bool, int | None]]
    """Per source: tokens after which all its rich (True) and poor (False) pieces were drawn; None while some are
    left."""

    def as_json(self) -> Json:
        """JSON values for a checkpoint file."""
        return {
            "tokens": self.tokens,
            "position": list(self.position),
            "leg": self.leg,
            "drawn": [drawn.reached for drawn in self.drawn],
            "spent": [[spent[False], spent[True]] for spent in self.spent],
        }

    @classmethod
    def from_json(cls, values: Json) -> OrderState:
        """The inverse of `as_json`."""
        drawn = [Drawn([[(key[0], key[1], key[2]) for key in epoch] for epoch in source]) for source in values["drawn"]]
        spent: list[dict[bool, int | None]] = [{False: poor, True: rich} for poor, rich in values["spent"]]
        return cls(values["tokens"], tuple(values["position"]), values["leg"], drawn, spent)


class Order:
    """All pieces of a plan in drawing order, as chunks of columns.

    Iterate once; `tokens`, `threshold`, `missing` and `spent` then describe how it ended.
    """

    def __init__(
        self,
        mixture: Mixture,
        sources: Sequence[Supply],
        goal: int = NEVER,
        prefix: RunPrefix = NO_PREFIX,
        state: OrderState | None = None,
    ) -> None:
        """
        Args:
            goal: tokens after which drawing stops.
            prefix: the run before this plan.
            state: checkpoint to resume from; None starts after the prefix.
        """
        self._mixture, self._sources = mixture, sources
        self._curve = mixture.curve
        if state is None:
            drawn = [Drawn.nothing(source.source.max_epochs, len(source.by_class)) for source in sources]
            unspent: list[dict[bool, int | None]] = [{True: None, False: None} for _ in sources]
            state = OrderState(prefix.tokens, start_position(self._curve, prefix), 0, drawn, unspent)
        state = deepcopy(state)
        self.begin = state
        self.drawn = state.drawn
        self._goal, self._prefix = goal, prefix
        self.tokens = state.tokens
        """Tokens drawn, counted from the beginning of the run."""
        self.threshold = 0
        """Threshold of the last leg, in millionths."""
        self.missing: bool | None = None
        """Side that ran out before the goal: True for rich pieces, False for poor ones."""
        self.spent = state.spent
        """Per source and side: tokens after which all its pieces were drawn."""
        self.checkpoints: dict[int, OrderState] = {}
        """By the token at which each begins."""

    def __iter__(self) -> Iterator[Segments]:
        from packing.plan import order_loops  # compiled code costs time and memory to load

        curve = [np.array(values, np.int64) for values in (self._curve.starts, self._curve.first, self._curve.last)]
        position = np.array(self.begin.position, np.int64)
        state = np.zeros(order_loops.STATE, np.int64)
        longest = self._mixture.max_pack_tokens
        state[order_loops.TOKENS], state[order_loops.GOAL] = self.begin.tokens, self._goal
        state[order_loops.BOUND] = max(self._prefix.bound, 2 * int(self._curve.highest * MILLION) * longest)
        out = np.zeros((WINDOW_PIECES, 4), np.int64)
        legs = legs_of(self._curve, longest)
        ends = [leg.start for leg in legs[1:]] + [NEVER]
        for number, (leg, end) in enumerate(zip(legs, ends, strict=True)):
            if number < self.begin.leg:
                continue
            state[order_loops.VISION], self.threshold = leg.vision, leg.threshold
            while state[order_loops.TOKENS] < end:
                stop = min(end, next_checkpoint(self.tokens))
                state[order_loops.LEG_STOP] = stop
                state[order_loops.EARLY_FROM] = leg.early_from if stop == end < NEVER else NEVER
                yield from self._draw(curve, position, state, out)
                if state[order_loops.STATUS] not in (order_loops.LEG_END, order_loops.EARLY):
                    return
                if self.tokens >= stop == next_checkpoint(stop - 1):
                    following = number + (self.tokens >= end)
                    at = OrderState(self.tokens, tuple(position.tolist()), following, self.drawn, self.spent)
                    self.checkpoints[self.tokens] = deepcopy(at)
                if state[order_loops.STATUS] == order_loops.EARLY:
                    break

    def _draw(
        self, curve: Sequence[np.ndarray], position: np.ndarray, state: np.ndarray, out: np.ndarray
    ) -> Iterator[Segments]:
        """Pieces up to the end of a leg, to a checkpoint, or to the end of the order; the status in `state` says
        which."""
        from packing.plan import order_loops

        streams = _Streams(self, self.threshold)
        while True:
            order_loops.merge(*curve, position, state, *streams.arrays, out)
            self.tokens = int(state[order_loops.TOKENS])
            if state[order_loops.WRITTEN]:
                yield streams.columns(out[: state[order_loops.WRITTEN]])
            if state[order_loops.STATUS] in (order_loops.LEG_END, order_loops.EARLY):
                streams.close()
                return
            if state[order_loops.STATUS] == order_loops.MISSING and (streams.any_open or self._goal < NEVER):
                self.missing = bool(state[order_loops.WANTED])
            if state[order_loops.STATUS] in (order_loops.MISSING, order_loops.REACHED):
                return
            if state[order_loops.STREAM] >= 0:
                streams.refill(int(state[order_loops.STREAM]))


class _Window:
    """The next pieces of one stream."""

    def __init__(self, epoch: int, rows: np.ndarray, hashes: np.ndarray) -> None:
        self.epoch, self._rows, self._hashes = epoch, rows, hashes

    def fill(self, columns: Segments, stream: int) -> int:
        """Copy the pieces into the row of a stream; returns their number."""
        for name, column in columns.items():
            column[stream, : len(self._rows)] = self._rows[name]
        return len(self._rows)

    def sort_key(self, number: int) -> SortKey:
        return sort_key(self._rows[number], self._hashes[number])


class _Streams:
    """Pieces of one leg in the arrays that `order_loops.merge` reads.

    Source i has two streams: 2 i of its poor pieces, 2 i + 1 of its rich ones.
    """

    def __init__(self, order: Order, threshold: int) -> None:
        self._order, self._threshold = order, threshold
        sources = order._sources
        streams = 2 * len(sources)
        group_of = order._mixture.groups_of_sources
        groups = {name: number for number, name in enumerate(dict.fromkeys(group_of))}
        window = min(WINDOW_PIECES, max(source.pieces for source in sources))
        limited = list(LIMIT_COLUMNS) if order._mixture.pack_limits.any else []
        self._columns = {name: np.zeros((streams, window), np.int64) for name in (*DRAWN_COLUMNS, *limited)}
        self._numbers = np.broadcast_to(np.arange(window), (streams, window)).copy()
        """Index of each piece in its window."""
        self._at, self._filled, self._open, self._weights, self._credit, self._group = np.zeros((6, streams), np.int64)
        self._epochs = np.zeros(streams, np.int64)
        self._group_open, self._group_weights, self._group_credit = np.zeros((3, 2 * len(groups)), np.int64)
        self._upcoming: list[Iterator[_Window]] = []
        self._windows: list[_Window | None] = [None] * streams
        exact = [Fraction(0)] * streams
        weights = order._mixture.weights
        for index, source in enumerate(sources):
            for side in (0, 1):
                stream = 2 * index + side
                _, tokens, _ = source.totals_of_side(threshold, bool(side))
                exact[stream] = weights[index] * Fraction(tokens, source.tokens)
                self._group[stream] = 2 * groups[group_of[index]] + side
                self._upcoming.append(self._in_windows(stream))
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
        """Arguments of `order_loops.merge` from `piece_of` to `group_credit`."""
        pieces = (self._numbers, self._columns["length"], self._columns["slots"])
        streams = (self._at, self._filled, self._open, self._weights, self._credit, self._group)
        return (*pieces, *streams, self._group_open, self._group_weights, self._group_credit)

    @property
    def any_open(self) -> bool:
        """Whether any stream has pieces left."""
        return bool(self._open.any())

    def columns(self, drawn: np.ndarray) -> Segments:
        """Columns of pieces that `merge` drew: (N, 4) of stream, piece, length, slots."""
        stream, number, length, slots = drawn.T
        made = {"source": stream // 2, "epoch": self._epochs[stream], "length": length, "slots": slots}
        for name in COLUMNS | LIMIT_COLUMNS:
            if name not in made and name in self._columns:
                made[name] = self._columns[name][stream, number]
        return {name: made[name].astype(kind) for name, kind in (COLUMNS | LIMIT_COLUMNS).items() if name in made}

    def refill(self, stream: int) -> None:
        """Load the next window of a stream. Where the stream ends, the others of its group start with equal credit."""
        self._next(stream)
        source = self._order._sources[stream // 2]
        source.epochs.release(*min(self._next_key(stream), self._next_key(stream ^ 1)))
        if self._open[stream]:
            return
        self._order.spent[stream // 2][bool(stream % 2)] = self._order.tokens
        same_group = self._group == self._group[stream]
        self._credit[same_group] = 0
        if not self._open[same_group].any():
            self._group_open[self._group[stream]] = 0
            self._group_credit[stream % 2 :: 2] = 0

    def close(self) -> None:
        """Record what was drawn; the next leg draws the rest."""
        for stream in range(len(self._open)):
            self._order.drawn[stream // 2].advance(self._side(stream), *self._next_key(stream))
        self._upcoming.clear()  # the iterators hold partitions and this object

    def _next_key(self, stream: int) -> tuple[int, SortKey]:
        """(epoch, sort key) of the next piece."""
        window = self._windows[stream]
        if window is None:
            return self._order._sources[stream // 2].source.max_epochs - 1, END
        return window.epoch, window.sort_key(int(self._at[stream]))

    def _side(self, stream: int) -> range:
        return self._order._sources[stream // 2].side(self._threshold, bool(stream % 2))

    def _in_windows(self, stream: int) -> Iterator[_Window]:
        index = stream // 2
        source = self._order._sources[index]
        for epoch, rows, hashes in source.undrawn(self._side(stream), self._order.drawn[index], WINDOW_PIECES):
            yield _Window(epoch, rows, hashes)

    def _next(self, stream: int) -> None:
        """Load the next window, or close the stream if there is none."""
        window = self._windows[stream] = next(self._upcoming[stream], None)
        count = 0
        if window is not None:
            count = window.fill(self._columns, stream)
            self._epochs[stream] = window.epoch
        self._at[stream], self._filled[stream], self._open[stream] = 0, count, count > 0
