"""The vision share as a function of tokens seen, in exact integers.

A schedule answers one question: after `tokens` non-padding tokens, how many of them should have been vision slots?
Integers all the way (shares are fractions of decimals), so that no block of a plan ever rounds differently.
"""

from __future__ import annotations

from fractions import Fraction

from manifests.load import schema


@schema
class VisionShare:
    """Vision slots over non-padding tokens. A constant 0.10 won the K2.5 report's ablation (Table 1)."""

    constant: float = 0.10

    def __post_init__(self) -> None:
        if not 0 <= self.constant < 1:
            raise ValueError(f"a vision share lies in [0, 1), got {self.constant}")

    def at(self, tokens: int) -> Fraction:
        """The share wanted from token number `tokens` on."""
        return Fraction(str(self.constant))

    def slots_until(self, tokens: int) -> Fraction:
        """Vision slots wanted among the first `tokens` tokens: the integral of `at`."""
        return Fraction(str(self.constant)) * tokens
