"""What a plan says about itself: tokens by source, vision share per window against the schedule, fill, what is missing.

Reads the arrays of the finished plan, not the intentions behind them. `proof.py` checks these claims against bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from manifests.records import Json
from manifests.schedule import VisionShare
from packing.mixture import Mixture
from packing.pieces import SourcePieces, richer

WINDOWS = 64
"""At most so many stretches of a plan have their vision share shown apart."""

Columns = Mapping[str, np.ndarray]


def per_pack(block: Columns, name: str) -> np.ndarray:
    """(packs,) int64: sum of a segment column over each pack of a block."""
    return np.add.reduceat(block[name], block["pack_offsets"][:-1], dtype=np.int64)


def account(mixture: Mixture, blocks: Sequence[Columns]) -> dict[str, Json]:
    """Totals; the largest distance from the schedule after any pack, and the bound on it; the share per window."""
    tokens = np.concatenate([per_pack(block, "length") for block in blocks])
    slots = np.concatenate([per_pack(block, "slots") for block in blocks])
    return {
        "packs": len(tokens),
        "tokens": int(tokens.sum()),
        "slots": int(slots.sum()),
        "fill": float(tokens.sum() / (len(tokens) * mixture.max_pack_tokens)),
        "one_pack_slots": float(max(Fraction(int(slots.max())), mixture.vision_share.at(0) * mixture.max_pack_tokens)),
        "largest_error_slots": float(largest_error(mixture.vision_share, tokens, slots)),
        "windows": windows(mixture.vision_share, tokens, slots),
    }


def largest_error(share: VisionShare, tokens: np.ndarray, slots: np.ndarray) -> Fraction:
    """Of |slots given - slots wanted| after any pack; `tokens` and `slots` are (packs,) int64."""
    pairs = zip(np.cumsum(tokens).tolist(), np.cumsum(slots).tolist(), strict=True)
    return max(abs(given - share.slots_until(until)) for until, given in pairs)


def windows(share: VisionShare, tokens: np.ndarray, slots: np.ndarray) -> list[dict[str, Json]]:
    """Consecutive stretches of about equally many packs: what they hold and what the schedule wants of them."""
    count = min(WINDOWS, len(tokens))
    bounds = [len(tokens) * k // count for k in range(count + 1)]
    ends = np.concatenate([[0], np.cumsum(tokens)])
    return [
        {
            "first_pack": a,
            "packs": b - a,
            "tokens": int(ends[b] - ends[a]),
            "slots": int(slots[a:b].sum()),
            "wanted_slots": float(share.slots_until(int(ends[b])) - share.slots_until(int(ends[a]))),
        }
        for a, b in pairwise(bounds)
    ]


def by_source(
    mixture: Mixture, sources: Sequence[SourcePieces], order: Columns, blocks: Sequence[Columns]
) -> list[dict[str, Json]]:
    """Per source: what it has, what the plan takes of it, and what it refuses.

    Args:
        order: all pieces in the order in which they were drawn, `blocks` what became of them.
    """
    ends = np.cumsum(order["length"], dtype=np.int64)
    share = mixture.vision_share.at(0)
    drawn_rich = richer(order["slots"].astype(np.int64), order["length"].astype(np.int64), share)
    rows = []
    for index, (source, pieces) in enumerate(zip(mixture.sources, sources, strict=True)):
        mine = [block["source"] == index for block in blocks]
        given = {
            name: sum(int(block[name][rows].sum()) for block, rows in zip(blocks, mine, strict=True))
            for name in ("length", "slots")
        }
        available = int(pieces.length.sum())
        drawn_here = order["source"] == index
        rich = pieces.richer_than(share)
        spent: dict[str, int | None] = {}
        for name, has, drawn in (("rich", rich, drawn_rich), ("poor", ~rich, ~drawn_rich)):
            places = np.flatnonzero(drawn_here & drawn)
            all_drawn = len(places) == int(has.sum()) * source.max_epochs
            spent[name] = int(ends[places[-1]]) if len(places) and all_drawn else None
        rows.append(
            {
                "name": source.name,
                "content_root": pieces.content_root,
                "weight": source.weight,
                "max_epochs": source.max_epochs,
                "samples": pieces.samples,
                "pieces": len(pieces.length),
                "tokens": available,
                "slots": int(pieces.slots.sum()),
                "given_tokens": given["length"],
                "given_slots": given["slots"],
                "epochs": given["length"] / available,
                "spent_after_tokens": spent,
                "cut_samples": pieces.cut_samples,
                "refused": pieces.refused,
                "media": pieces.media,
                "shrunk_media": pieces.shrunk_media,
            }
        )
    return rows
