"""Where in a schedule does a piece count as vision? Parts of it in which no piece changes sides.

A *stretch* is a part of the schedule in which pieces stay on one side: rich ones hold more vision than the share at its
start, poor ones do not. It ends where the share jumps or bends; a ramp is cut into 32. At its end all that was not yet
drawn is divided anew. So it is at the end of a *leg*, where a plan that was killed can go on: all that counts there is
how far each class of pieces was drawn, and the error.
"""

from __future__ import annotations

from dataclasses import dataclass

from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture

RAMP_STRETCHES = 32
NEVER = (1 << 63) - 1
LEG_TOKENS = 1 << 36
"""About 130 million samples. Every leg costs one sort of what is at hand, and cuts a block."""


def end_of_leg(token: int) -> int:
    """Of that in which the token is; a plan's legs end at multiples of `LEG_TOKENS`."""
    return (token // LEG_TOKENS + 1) * LEG_TOKENS


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


def thresholds(mixture: Mixture) -> list[int]:
    """Shares that divide rich pieces from poor ones somewhere in the schedule; in millionths, ascending."""
    return sorted({part.threshold for part in stretches(mixture.curve, mixture.max_pack_tokens)})
