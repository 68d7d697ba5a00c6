"""Legs of a vision-share schedule: intervals of tokens in which no piece changes between rich and poor.

A piece is *rich* if its vision slots exceed the share at the start of the leg, else *poor*. A leg ends where the share
jumps or bends; a ramp is cut into 32 legs. At the end of a leg `order.py` divides the pieces not yet drawn into rich
and poor anew. It does the same at a *checkpoint*, every 2^36 tokens, where a killed planner can resume: the position of
each class of pieces and the error are all that the rest of the plan depends on there.
"""

from __future__ import annotations

from dataclasses import dataclass

from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture

RAMP_LEGS = 32
NEVER = (1 << 63) - 1
"""A token that no plan reaches."""
CHECKPOINT_TOKENS = 1 << 36
"""Tokens between checkpoints, about 130 million samples. Each costs one sort of the partitions in memory, and a block
ends there."""


def next_checkpoint(token: int) -> int:
    """The first multiple of `CHECKPOINT_TOKENS` after `token`."""
    return (token // CHECKPOINT_TOKENS + 1) * CHECKPOINT_TOKENS


@dataclass(frozen=True)
class Leg:
    """Interval of a schedule from `start` to the start of the next leg."""

    start: int
    """First token."""
    threshold: int
    """Share that divides rich from poor pieces, in millionths."""
    vision: bool
    """Whether the schedule wants any vision here."""
    early_from: int
    """Token from which the leg may end before the next one starts, because a piece drawn there may reach beyond it."""


def legs_of(curve: Curve, longest: int) -> list[Leg]:
    """Legs of a whole schedule, in order.

    Args:
        longest: tokens of the longest piece.
    """
    legs = []
    for piece, (start, a, b) in enumerate(zip(curve.starts, curve.first, curve.last, strict=True)):
        end = curve.starts[piece + 1] if piece + 1 < len(curve.starts) else NEVER
        if a == b:
            legs.append(Leg(start, a, a > 0, max(start, end - longest) if end < NEVER else NEVER))
        else:
            tokens = sorted({start + (end - start) * k // RAMP_LEGS for k in range(RAMP_LEGS)})
            legs += [Leg(token, int(curve.at(token) * MILLION), True, 0) for token in tokens]
    return legs


def thresholds(mixture: Mixture) -> list[int]:
    """Distinct thresholds of all legs, in millionths, ascending; none while the share is `from_data`."""
    if mixture.vision_share.from_data:
        return []
    return sorted({leg.threshold for leg in legs_of(mixture.curve, mixture.max_pack_tokens)})
