"""Schedule of the vision share: a function of the tokens seen, in exact integers.

    vision_share: {constant: 0.10}                                 # early fusion, the default
    vision_share: {steps: [[0, 0.0], [0.5, 0.20]]}                 # none at first, 20 % from the middle on
    vision_share: {linear: [0.05, 0.25]}                           # from the first token to the horizon
    vision_share: {piecewise: [[0, 0.0], [2e9, 0.1], [8e9, 0.1]]}  # straight lines between points, then constant
    vision_share: {from_data: true}                                # share of all samples, for any data

Mixtures hold a schedule (`packing/mixture.py`), and the planner asks it one question: after n non-padding tokens, how
many of them should have been vision slots?

A position up to 1 is a fraction of `horizon_tokens`, rounded down to a whole token; a larger one is a number of tokens.
All positions of a schedule are of one kind, counted from the first token of the run. With two points of `piecewise` at
one position, the curve jumps to the second. Shares are decimals of at most six digits, so a curve consists of integers
(millionths) and every block of a plan rounds alike.
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
"""17.6 trillion; the compiled loop of a plan squares it in 64 bits."""

SharePoint = tuple[float, float]
"""(position, share)."""


@schema
class VisionShare:
    """Vision slots over non-padding tokens, given in one of five ways.

    The default is a constant 0.10, the best of the ablation in the K2.5 report (Table 1).
    """

    constant: float | None = None
    """The same share over the whole run."""
    steps: tuple[SharePoint, ...] | None = None
    """Share from each position on."""
    linear: tuple[float, float] | None = None
    """Share at the first token, share at the horizon."""
    piecewise: tuple[SharePoint, ...] | None = None
    """Points of a curve of straight lines."""
    from_data: bool = False
    """Constant share of all samples of the mixture, rounded down to ten-thousandths, so that text alone or pictures
    alone can be planned. The planner computes it."""

    def __post_init__(self) -> None:
        declared = self.declared
        if not declared:
            object.__setattr__(self, "constant", 0.10)
        if len(declared) > 1:
            raise ValueError(
                f"expected one form of vision share, got {' and '.join(declared)}; --set replaces all of it"
            )
        points = self.steps if self.steps is not None else self.piecewise
        shares = (self.constant,) if self.constant is not None else self.linear or [share for _, share in points or ()]
        for share in shares:
            if not 0 <= share < 1:
                raise ValueError(f"expected a vision share in [0, 1), got {share}")
            if (Fraction(str(share)) * MILLION).denominator > 1:
                raise ValueError(f"expected a vision share of at most six decimals, got {share}")
        if points is not None:
            _check_positions([position for position, _ in points], repeated=self.piecewise is not None)

    @property
    def declared(self) -> dict[str, object]:
        """Form and value as in the manifest."""
        values = {name: getattr(self, name) for name in ("constant", "steps", "linear", "piecewise")}
        given = {name: value for name, value in values.items() if value is not None}
        return given | ({"from_data": True} if self.from_data else {})

    def over(self, horizon_tokens: int | None) -> Curve:
        """Return the curve over tokens.

        Raises:
            ValueError: a position is a fraction, and `horizon_tokens` is None; or the share is `from_data`, which the
                planner has to replace first.
        """
        if self.from_data:
            raise ValueError("a vision share from the data is not known before they are read")
        if self.constant is not None:
            return Curve.of([(0, self.constant, self.constant)])
        points = self.steps or self.piecewise or ()
        if self.linear is not None:
            points = ((0, self.linear[0]), (1, self.linear[1]))
        shares = [(_token(position, horizon_tokens), share) for position, share in points]
        if self.steps is not None:
            return Curve.of([(token, share, share) for token, share in shares])
        ramps = [(token, share, following) for (token, share), (_, following) in pairwise(shares)]
        return Curve.of([*ramps, (*shares[-1], shares[-1][1])])


def _check_positions(positions: Sequence[float], repeated: bool) -> None:
    if not positions or positions[0] != 0:
        raise ValueError(f"expected positions of a vision share from 0 on, got {list(positions)}")
    steps = [after - before for before, after in pairwise(positions)]
    if any(step < 0 or step == 0 and not repeated for step in steps):
        raise ValueError(f"expected ascending positions of a vision share, got {list(positions)}")
    fractions = [position for position in positions if 0 < position <= 1]
    tokens = [position for position in positions if position > 1]
    if fractions and tokens:
        raise ValueError(
            f"{fractions[0]:g} is a fraction of the horizon and {tokens[0]:g} a number of tokens: "
            "give all positions of a vision share in one of them"
        )
    if any(position != int(position) for position in tokens):
        raise ValueError(f"expected whole numbers of tokens, got {tokens}; fractions of the horizon are at most 1")


def _token(position: float, horizon_tokens: int | None) -> int:
    """Return the token at a position."""
    if position == 0 or position > 1:
        return int(position)
    if horizon_tokens is None:
        raise ValueError("a vision share over fractions of the horizon needs horizon_tokens")
    return int(Fraction(str(position)) * horizon_tokens)


@dataclass(frozen=True)
class Curve:
    """Schedule over tokens: straight pieces, the last one level and without an end."""

    starts: tuple[int, ...]
    """First token of each piece; the first is 0."""
    first: tuple[int, ...]
    """Share at the start of each piece, in millionths."""
    last: tuple[int, ...]
    """Share at the end of each piece, in millionths."""

    @classmethod
    def of(cls, pieces: Iterable[Sequence[float]]) -> Curve:
        """Build a curve from pieces (first token, share there, share at its end), as `rows` gives them. Empty pieces
        drop out."""
        rows = [
            (int(start), int(Fraction(str(a)) * MILLION), int(Fraction(str(b)) * MILLION)) for start, a, b in pieces
        ]
        kept = [row for row, after in pairwise(rows) if row[0] < after[0]] + rows[-1:]
        for row, after in pairwise(kept):
            if row[1] != row[2] and after[0] - row[0] >= LONGEST_RAMP_TOKENS:
                raise ValueError(f"expected a ramp of less than 2^44 tokens, got {after[0] - row[0]:,}")
        starts, first, last = zip(*kept, strict=True)
        return cls(starts, first, last)

    @property
    def rows(self) -> list[list[float]]:
        """[first token, share there, share at the end] of each piece, as JSON."""
        return [
            [start, a / MILLION, b / MILLION] for start, a, b in zip(self.starts, self.first, self.last, strict=True)
        ]

    @property
    def highest(self) -> Fraction:
        """Largest share of the curve."""
        return Fraction(max(*self.first, *self.last), MILLION)

    @property
    def breaks(self) -> tuple[int, ...]:
        """Tokens at which the share jumps, or a piece of share 0 begins or ends."""
        level = [a == b == 0 for a, b in zip(self.first, self.last, strict=True)]
        pairs = zip(self.starts[1:], pairwise(level), self.last, self.first[1:], strict=False)
        return tuple(start for start, (none, none_after), a, b in pairs if none != none_after or a != b)

    def at(self, tokens: int) -> Fraction:
        """Return the share from token number `tokens` on."""
        piece = bisect_right(self.starts, tokens) - 1
        rise = self.last[piece] - self.first[piece]
        if not rise:
            return Fraction(self.first[piece], MILLION)
        length = self.starts[piece + 1] - self.starts[piece]
        return Fraction(self.first[piece] * length + rise * (tokens - self.starts[piece]), length * MILLION)

    def slots_until(self, tokens: int) -> Fraction:
        """Return the scheduled vision slots among the first `tokens` tokens: the integral of `at`."""
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
