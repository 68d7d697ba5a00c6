"""Summary of a plan for its meta: tokens by source, fill, vision share per window against the schedule, what ran out.

It counts the arrays of the finished blocks, not the planner's intentions. `planner.py` adds blocks as they are made;
`packing/proof.py` later checks the same figures against the bytes of the packs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from manifests.records import Json
from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture
from packing.plan.amend import RunPrefix
from packing.plan.supply import Supply

WINDOWS = 64
"""Windows of a plan whose vision share is listed, at most."""
ROWS = 1 << 20
"""Rows of per-pack sums kept in memory; in a plan with more packs, neighboring rows are added up, and again."""

Columns = Mapping[str, np.ndarray]


def per_pack(block: Columns, name: str) -> np.ndarray:
    """Sum of a segment column over each pack of a block, (packs,) int64."""
    return np.add.reduceat(block[name], block["pack_offsets"][:-1], dtype=np.int64)


class PlanTotals:
    """Totals of a plan, added up pack by pack, with the largest error after any pack and the bound on it."""

    def __init__(self) -> None:
        self.packs = self._tokens = self._slots = self._most_slots = self._largest_error = 0
        self._used = {"patches": 0, "media": 0, "attention": 0}
        self._packs_per_row = 1
        self._sums = np.zeros((ROWS, 2), np.int64)
        """Tokens and slots of consecutive packs, `_packs_per_row` to a row."""

    def add(self, tokens: np.ndarray, slots: np.ndarray, errors: np.ndarray) -> None:
        """Add the next packs.

        Args:
            tokens, slots: (packs,) int64 of each pack.
            errors: (packs,) int64 |slots given - slots wanted| after each pack, in half-millionths of a slot.
        """
        self._tokens, self._slots = self._tokens + int(tokens.sum()), self._slots + int(slots.sum())
        self._most_slots = max(self._most_slots, int(slots.max()))
        self._largest_error = max(self._largest_error, int(errors.max()))
        rows = np.stack([tokens, slots], 1)
        while len(rows):
            if self.packs == ROWS * self._packs_per_row:
                self._sums[: ROWS // 2] = self._sums[::2] + self._sums[1::2]
                self._sums[ROWS // 2 :] = 0
                self._packs_per_row *= 2
            here = rows[: ROWS * self._packs_per_row - self.packs]
            np.add.at(self._sums, (self.packs + np.arange(len(here))) // self._packs_per_row, here)
            self.packs += len(here)
            rows = rows[len(here) :]

    def add_limited(self, block: Columns) -> None:
        """Add the use of a block's packs of the quantities that `pack_limits` bound."""
        self._used["attention"] += int((block["length"].astype(np.int64) ** 2).sum())
        for limit, column in (("patches", "patches"), ("media", "media_in")):
            if column in block:
                self._used[limit] += int(block[column].sum(dtype=np.int64))

    def fill_by_limit(self, mixture: Mixture) -> dict[str, float]:
        """Use of all packs over their room, for tokens and for each of `pack_limits` that is set."""
        limits = dataclasses.asdict(mixture.pack_limits)
        room = {name: self.packs * most for name, most in limits.items() if most is not None}
        filled = {name: self._used[name] / most for name, most in room.items()}
        return {"tokens": self._tokens / (self.packs * mixture.max_pack_tokens)} | filled

    def as_json(self, mixture: Mixture, prefix: RunPrefix) -> dict[str, Json]:
        """Entries for the meta of the plan."""
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
                    Fraction(prefix.bound, 2 * MILLION),
                )
            ),
            "largest_error_slots": float(Fraction(self._largest_error, 2 * MILLION)),
            "windows": self._windows(curve, prefix.tokens),
        }

    def as_state(self) -> dict[str, Any]:
        """JSON values and arrays for a checkpoint file."""
        counts = [self.packs, self._tokens, self._slots, self._most_slots, self._largest_error, self._packs_per_row]
        rows = -(-self.packs // self._packs_per_row)
        return {"counts": counts, "used": dict(self._used), "sums": self._sums[:rows].copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state that `as_state` returned."""
        (self.packs, self._tokens, self._slots, self._most_slots, self._largest_error, self._packs_per_row) = state[
            "counts"
        ]
        self._used = dict(state["used"])
        self._sums[: len(state["sums"])] = state["sums"]

    def _windows(self, curve: Curve, before: int) -> list[dict[str, Json]]:
        """Tokens and slots of consecutive windows of about equally many packs, and the slots that the schedule wants.

        Args:
            before: tokens of the run before the plan.
        """
        rows = -(-self.packs // self._packs_per_row)
        count = min(WINDOWS, rows)
        bounds = [rows * k // count for k in range(count + 1)]
        ends, slots = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(self._sums[:rows], axis=0)]).T
        ends += before
        return [
            {
                "first_pack": a * self._packs_per_row,
                "packs": min(b * self._packs_per_row, self.packs) - a * self._packs_per_row,
                "tokens": int(ends[b] - ends[a]),
                "slots": int(slots[b] - slots[a]),
                "wanted_slots": float(curve.slots_until(int(ends[b])) - curve.slots_until(int(ends[a]))),
            }
            for a, b in pairwise(bounds)
        ]


def source_rows(
    mixture: Mixture,
    sources: Sequence[Supply],
    given: Sequence[Sequence[int]],
    spent: Sequence[Mapping[bool, int | None]],
) -> list[dict[str, Json]]:
    """Entry `sources` of the meta: per source its content, the part that the plan takes, refused and withheld pieces.

    `epochs` counts over the whole run, as `max_epochs` does, including plans before this one.

    Args:
        given: (tokens, slots) that the plan takes of each source.
        spent: per source, tokens after which all its rich (True) and poor (False) pieces were drawn, None if not all.
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
