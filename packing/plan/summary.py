"""What a plan says about itself: tokens by source, vision share per window against the schedule, fill, what is missing.

Reads the arrays of the finished plan, not the intentions behind them. `proof.py` checks these claims against bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from manifests.records import Json
from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture
from packing.plan.amend import Begun
from packing.plan.supply import Supply

WINDOWS = 64
"""At most so many stretches of a plan have their vision share shown apart."""
ROWS = 1 << 20
"""Kept of a plan while it is made; of one with more packs two and two are added up, and again."""

Columns = Mapping[str, np.ndarray]


def per_pack(block: Columns, name: str) -> np.ndarray:
    """(packs,) int64: sum of a segment column over each pack of a block."""
    return np.add.reduceat(block[name], block["pack_offsets"][:-1], dtype=np.int64)


class Account:
    """Totals of a plan, pack by pack; the largest distance from the schedule after any, and the bound on it."""

    def __init__(self) -> None:
        self.packs = self._tokens = self._slots = self._most_slots = self._largest_error = 0
        self._used = {"patches": 0, "media": 0, "attention": 0}
        self._each = 1
        """So many packs are one row of `_sums`."""
        self._sums = np.zeros((ROWS, 2), np.int64)
        """Tokens and slots."""

    def add(self, tokens: np.ndarray, slots: np.ndarray, errors: np.ndarray) -> None:
        """The next packs.

        Args:
            tokens, slots: (packs,) int64, of each pack.
            errors: (packs,) int64: |slots given - slots wanted| after each, in half-millionths of a slot.
        """
        self._tokens, self._slots = self._tokens + int(tokens.sum()), self._slots + int(slots.sum())
        self._most_slots = max(self._most_slots, int(slots.max()))
        self._largest_error = max(self._largest_error, int(errors.max()))
        told = np.stack([tokens, slots], 1)
        while len(told):
            if self.packs == ROWS * self._each:
                self._sums[: ROWS // 2] = self._sums[::2] + self._sums[1::2]
                self._sums[ROWS // 2 :] = 0
                self._each *= 2
            here = told[: ROWS * self._each - self.packs]
            np.add.at(self._sums, (self.packs + np.arange(len(here))) // self._each, here)
            self.packs += len(here)
            told = told[len(here) :]

    def add_limited(self, block: Columns) -> None:
        """What the packs of a block use of what `pack_limits` count."""
        self._used["attention"] += int((block["length"].astype(np.int64) ** 2).sum())
        for limit, column in (("patches", "patches"), ("media", "media_in")):
            if column in block:
                self._used[limit] += int(block[column].sum(dtype=np.int64))

    def fill_by_limit(self, mixture: Mixture) -> dict[str, float]:
        """Of tokens and of each of `pack_limits` that is set: what all packs use over what they might."""
        limits = dataclasses.asdict(mixture.pack_limits)
        room = {name: self.packs * most for name, most in limits.items() if most is not None}
        filled = {name: self._used[name] / most for name, most in room.items()}
        return {"tokens": self._tokens / (self.packs * mixture.max_pack_tokens)} | filled

    def told(self, mixture: Mixture, begun: Begun) -> dict[str, Json]:
        curve = mixture.curve
        return {
            "packs": self.packs,
            "tokens": self._tokens,
            "slots": self._slots,
            "fill": float(self._tokens / (self.packs * mixture.max_pack_tokens)),
            "one_pack_slots": float(
                max(
                    Fraction(self._most_slots),
                    curve.highest * mixture.max_pack_tokens,
                    Fraction(begun.bound, 2 * MILLION),
                )
            ),
            "largest_error_slots": float(Fraction(self._largest_error, 2 * MILLION)),
            "windows": self._windows(curve, begun.tokens),
        }

    def _windows(self, curve: Curve, before: int) -> list[dict[str, Json]]:
        """Consecutive stretches of about equally many packs: what they hold and what the schedule wants of them."""
        rows = -(-self.packs // self._each)
        count = min(WINDOWS, rows)
        bounds = [rows * k // count for k in range(count + 1)]
        ends, slots = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(self._sums[:rows], axis=0)]).T
        ends += before
        return [
            {
                "first_pack": a * self._each,
                "packs": min(b * self._each, self.packs) - a * self._each,
                "tokens": int(ends[b] - ends[a]),
                "slots": int(slots[b] - slots[a]),
                "wanted_slots": float(curve.slots_until(int(ends[b])) - curve.slots_until(int(ends[a]))),
            }
            for a, b in pairwise(bounds)
        ]


def by_source(
    mixture: Mixture,
    sources: Sequence[Supply],
    given: Sequence[Sequence[int]],
    spent: Sequence[Mapping[bool, int | None]],
) -> list[dict[str, Json]]:
    """Per source: what it has, what the plan takes of it, what it refuses, and what the limit of exposures of media
    withholds of its epochs. `epochs` are of the whole run, as `max_epochs` are: of the plans before this one, too.

    Args:
        given: (tokens, slots) of each.
        spent: after how many tokens its rich (True) and its poor pieces were all drawn, if they were.
    """
    return [
        {
            "name": source.name,
            "content_root": supply.content_root,
            "weight": source.weight,
            "group": source.group,
            "max_epochs": source.max_epochs,
            "samples": supply.samples,
            "pieces": supply.pieces,
            "tokens": supply.tokens,
            "slots": supply.slots,
            "given_tokens": tokens,
            "given_slots": slots,
            "seen_before_tokens": supply.seen_before_tokens,
            "epochs": (supply.seen_before_tokens + tokens) / supply.tokens,
            "withheld_tokens": supply.withheld_tokens,
            "spent_after_tokens": {"rich": over[True], "poor": over[False]},
            "cut_samples": supply.cut_samples,
            "refused": dict(supply.refused),
            "media": supply.media,
            "shrunk_media": supply.shrunk_media,
        }
        for source, supply, (tokens, slots), over in zip(mixture.sources, sources, given, spent, strict=True)
    ]
