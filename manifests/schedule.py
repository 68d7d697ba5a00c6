"""The vision share as a function of tokens seen, in exact integers.

    vision_share: {constant: 0.10}                                 # early fusion, the default
    vision_share: {steps: [[0, 0.0], [0.5, 0.20]]}                 # none at first, a fifth from the middle on
    vision_share: {linear: [0.05, 0.25]}                           # from the first token to the horizon
    vision_share: {piecewise: [[0, 0.0], [2e9, 0.1], [8e9, 0.1]]}  # straight lines between points, then as at the last

A position is a fraction of `horizon_tokens` where it is at most 1, rounded down to a whole token, and a number of
tokens above; one schedule has one kind of them. It counts from the first token of the run. Of two points of `piecewise`
at one position the second is where the curve jumps to. Shares are decimals of at most six digits: a curve is then made
of integers (millionths), and no block of a plan ever rounds differently.

A schedule answers one question: after `tokens` non-padding tokens, how many of them should have been vision slots?
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from manifests.load import schema

MILLION = 1_000_000
LONGEST_RAMP_TOKENS = 1 << 44
"""17 trillion: what the compiled loop of a plan can square in 64 bits."""

SharePoint = tuple[float, float]
"""(position, share)."""


@schema
class VisionShare:
    """Vision slots over non-padding tokens, said in one of four ways. A constant 0.10 won the K2.5 report's ablation
    (Table 1)."""

    constant: float | None = None
    steps: tuple[SharePoint, ...] | None = None
    """The share from each position on."""
    linear: tuple[float, float] | None = None
    """The first share and the share at the horizon."""
    piecewise: tuple[SharePoint, ...] | None = None

    def __post_init__(self) -> None:
        said = self.said
        if not said:
            object.__setattr__(self, "constant", 0.10)
        if len(said) > 1:
            raise ValueError(
                f"a vision share is said in one way, not as {' and '.join(said)}; --set replaces all of it"
            )
        points = self.steps if self.steps is not None else self.piecewise
        shares = (self.constant,) if self.constant is not None else self.linear or [share for _, share in points or ()]
        for share in shares:
            if not 0 <= share < 1:
                raise ValueError(f"a vision share lies in [0, 1), got {share}")
            if (Fraction(str(share)) * MILLION).denominator > 1:
                raise ValueError(f"a vision share has at most six decimals, got {share}")
        if points is not None:
            _check_positions([position for position, _ in points], repeated=self.piecewise is not None)

    @property
    def said(self) -> dict[str, object]:
        """What stands in the manifest."""
        values = {name: getattr(self, name) for name in ("constant", "steps", "linear", "piecewise")}
        return {name: value for name, value in values.items() if value is not None}

    def over(self, horizon_tokens: int | None) -> Curve:
        """Raises ValueError where a position is a fraction of a horizon that is not known."""
        if self.constant is not None:
            return Curve.of([(0, self.constant, self.constant)])
        points = self.steps or self.piecewise or ()
        if self.linear is not None:
            points = ((0, self.linear[0]), (1, self.linear[1]))
        placed = [(_token(position, horizon_tokens), share) for position, share in points]
        if self.steps is not None:
            return Curve.of([(place, share, share) for place, share in placed])
        ramps = [(place, share, following) for (place, share), (_, following) in pairwise(placed)]
        return Curve.of([*ramps, (*placed[-1], placed[-1][1])])


def _check_positions(positions: Sequence[float], repeated: bool) -> None:
    if not positions or positions[0] != 0:
        raise ValueError(f"the positions of a vision share begin at 0, got {list(positions)}")
    steps = [after - before for before, after in pairwise(positions)]
    if any(step < 0 or step == 0 and not repeated for step in steps):
        raise ValueError(f"the positions of a vision share ascend, got {list(positions)}")
    fractions = [position for position in positions if 0 < position <= 1]
    tokens = [position for position in positions if position > 1]
    if fractions and tokens:
        raise ValueError(
            f"{fractions[0]:g} is a fraction of the horizon and {tokens[0]:g} a number of tokens: "
            "give all positions of a vision share in one of them"
        )
    if any(position != int(position) for position in tokens):
        raise ValueError(f"tokens are whole, got {tokens}; fractions of the horizon are at most 1")


def _token(position: float, horizon_tokens: int | None) -> int:
    if position == 0 or position > 1:
        return int(position)
    if horizon_tokens is None:
        raise ValueError("a vision share over fractions of the horizon needs horizon_tokens")
    return int(Fraction(str(position)) * horizon_tokens)


@dataclass(frozen=True)
class Curve:
    """A schedule over tokens: straight pieces, the last one level and without an end."""

    starts: tuple[int, ...]
    """First token of each piece; the first is 0."""
    first: tuple[int, ...]
    """Share at the start of each piece, in millionths."""
    last: tuple[int, ...]
    """And at its end."""

    @classmethod
    def of(cls, pieces: Iterable[Sequence[float]]) -> Curve:
        """Of (first token, share there, share at the end of the piece), as `rows` gives them. Empty pieces drop out."""
        rows = [
            (int(start), int(Fraction(str(a)) * MILLION), int(Fraction(str(b)) * MILLION)) for start, a, b in pieces
        ]
        kept = [row for row, after in pairwise(rows) if row[0] < after[0]] + rows[-1:]
        for row, after in pairwise(kept):
            if row[1] != row[2] and after[0] - row[0] >= LONGEST_RAMP_TOKENS:
                raise ValueError(f"a vision share changes steadily over {after[0] - row[0]:,} tokens, 2^44 is the most")
        starts, first, last = zip(*kept, strict=True)
        return cls(starts, first, last)

    @property
    def rows(self) -> list[list[float]]:
        """[first token, share there, share at the end] of each piece; JSON."""
        return [
            [start, a / MILLION, b / MILLION] for start, a, b in zip(self.starts, self.first, self.last, strict=True)
        ]

    @property
    def highest(self) -> Fraction:
        return Fraction(max(*self.first, *self.last), MILLION)

    @property
    def breaks(self) -> tuple[int, ...]:
        """Tokens at which the share changes at once, or from which on vision is wanted, or wanted no longer."""
        level = [a == b == 0 for a, b in zip(self.first, self.last, strict=True)]
        pairs = zip(self.starts[1:], pairwise(level), self.last, self.first[1:], strict=False)
        return tuple(start for start, (none, none_after), a, b in pairs if none != none_after or a != b)

    def at(self, tokens: int) -> Fraction:
        """The share wanted from token number `tokens` on."""
        piece = bisect_right(self.starts, tokens) - 1
        rise = self.last[piece] - self.first[piece]
        if not rise:
            return Fraction(self.first[piece], MILLION)
        length = self.starts[piece + 1] - self.starts[piece]
        return Fraction(self.first[piece] * length + rise * (tokens - self.starts[piece]), length * MILLION)

    def slots_until(self, tokens: int) -> Fraction:
        """Vision slots wanted among the first `tokens` tokens: the integral of `at`."""
        doubled = Fraction(0)  # in millionths
        for piece, start in enumerate(self.starts):
            if tokens <= start:
                break
            end = self.starts[piece + 1] if piece + 1 < len(self.starts) else None
            inside = (tokens if end is None else min(tokens, end)) - start
            rise = self.last[piece] - self.first[piece]
            doubled += 2 * self.first[piece] * inside
            if rise and end is not None:
                doubled += Fraction(rise * inside * inside, end - start)
        return doubled / (2 * MILLION)
