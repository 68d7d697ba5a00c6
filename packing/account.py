"""What a plan says about itself: tokens by source, vision share per window against the schedule, fill, what is missing.

Reads the arrays of the finished plan, not the intentions behind them. `proof.py` checks these claims against bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from manifests.records import Json
from manifests.schedule import MILLION, Curve
from packing.amend import Begun
from packing.mixture import Mixture
from packing.pieces import SourcePieces

WINDOWS = 64
"""At most so many stretches of a plan have their vision share shown apart."""

Columns = Mapping[str, np.ndarray]


def per_pack(block: Columns, name: str) -> np.ndarray:
    """(packs,) int64: sum of a segment column over each pack of a block."""
    return np.add.reduceat(block[name], block["pack_offsets"][:-1], dtype=np.int64)


def account(
    mixture: Mixture, begun: Begun, tokens: np.ndarray, slots: np.ndarray, errors: np.ndarray
) -> dict[str, Json]:
    """Totals; the largest distance from the schedule after any pack, and the bound on it; the share per window.

    Args:
        tokens, slots: (packs,) int64, of each pack.
        errors: (packs,) int64: |slots given - slots wanted| after each, in half-millionths of a slot.
    """
    curve = mixture.curve
    return {
        "packs": len(tokens),
        "tokens": int(tokens.sum()),
        "slots": int(slots.sum()),
        "fill": float(tokens.sum() / (len(tokens) * mixture.max_pack_tokens)),
        "one_pack_slots": float(
            max(
                Fraction(int(slots.max())),
                curve.highest * mixture.max_pack_tokens,
                Fraction(begun.bound, 2 * MILLION),
            )
        ),
        "largest_error_slots": float(Fraction(int(errors.max()), 2 * MILLION)),
        "windows": windows(curve, begun.tokens, tokens, slots),
    }


def windows(curve: Curve, before: int, tokens: np.ndarray, slots: np.ndarray) -> list[dict[str, Json]]:
    """Consecutive stretches of about equally many packs: what they hold and what the schedule wants of them."""
    count = min(WINDOWS, len(tokens))
    bounds = [len(tokens) * k // count for k in range(count + 1)]
    ends = before + np.concatenate([[0], np.cumsum(tokens)])
    return [
        {
            "first_pack": a,
            "packs": b - a,
            "tokens": int(ends[b] - ends[a]),
            "slots": int(slots[a:b].sum()),
            "wanted_slots": float(curve.slots_until(int(ends[b])) - curve.slots_until(int(ends[a]))),
        }
        for a, b in pairwise(bounds)
    ]


def by_source(
    mixture: Mixture,
    sources: Sequence[SourcePieces],
    given: Sequence[Sequence[int]],
    spent: Sequence[Mapping[bool, int | None]],
    allowed: Sequence[np.ndarray],
) -> list[dict[str, Json]]:
    """Per source: what it has, what the plan takes of it, what it refuses, and what the limit of exposures of media
    withholds of its epochs.

    Args:
        given: (tokens, slots) of each.
        spent: after how many tokens its rich (True) and its poor pieces were all drawn, if they were.
        allowed: how often each piece may be seen, where exposures of media are limited.
    """
    withheld = [
        int((np.maximum(0, source.max_epochs - times) * pieces.length).sum())
        for source, pieces, times in zip(mixture.sources, sources, allowed, strict=bool(allowed))
    ] or [0] * len(sources)
    return [
        {
            "name": source.name,
            "content_root": pieces.content_root,
            "weight": source.weight,
            "group": source.group,
            "max_epochs": source.max_epochs,
            "samples": pieces.samples,
            "pieces": len(pieces.length),
            "tokens": int(pieces.length.sum(dtype=np.int64)),
            "slots": int(pieces.slots.sum(dtype=np.int64)),
            "given_tokens": tokens,
            "given_slots": slots,
            "epochs": tokens / int(pieces.length.sum(dtype=np.int64)),
            "withheld_tokens": kept_back,
            "spent_after_tokens": {"rich": over[True], "poor": over[False]},
            "cut_samples": pieces.cut_samples,
            "refused": pieces.refused,
            "media": pieces.media,
            "shrunk_media": pieces.shrunk_media,
        }
        for source, pieces, (tokens, slots), over, kept_back in zip(
            mixture.sources, sources, given, spent, withheld, strict=True
        )
    ]
