"""A plan that can't keep its schedule is refused: where it would fail, and the ways out with numbers in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from manifests.errors import ManifestError
from packing.mixture import Mixture
from packing.pieces import SourcePieces


@dataclass(frozen=True)
class _Supply:
    """What all sources together give within their epochs, on one side of the share."""

    tokens: int
    slots: int
    names: tuple[str, ...]
    """Of the sources that have any."""


def refusal(mixture: Mixture, sources: Sequence[SourcePieces], tokens: int, rich_missing: bool) -> ManifestError:
    """The error for a plan whose order ended after `tokens` tokens because rich or poor pieces ran out."""
    share = mixture.vision_share.at(0)
    rich, poor = (_supply(mixture, sources, side) for side in (True, False))
    missing = rich if rich_missing else poor
    what = f"{'more' if rich_missing else 'less'} vision than the share {float(share):g}"
    pack = tokens // mixture.max_pack_tokens
    batch = pack // mixture.global_batch_packs
    wanted = "" if mixture.horizon_tokens is None else f" of {mixture.horizon_tokens:,}"
    message = (
        f"the plan fails after {tokens:,}{wanted} tokens, about pack {pack:,} of global batch {batch:,}: "
        f"within max_epochs there is no piece left with {what}"
    )
    ways = []
    shorter = tokens - mixture.global_batch_packs * mixture.max_pack_tokens
    if mixture.horizon_tokens is not None and shorter > 0:
        ways.append(f"horizon_tokens: {shorter}")
    if (other := _other_share(mixture, rich, poor, rich_missing)) is not None:
        ways.append(f"vision_share: {{constant: {other:g}}}")
    if missing.names:
        ways.append(f"a larger max_epochs for {', '.join(missing.names)}")
    ways.append(f"sources with {what}: {'images or video' if rich_missing else 'text'}")
    return ManifestError(message, where="mixture", fix="; or ".join(ways))


def _supply(mixture: Mixture, sources: Sequence[SourcePieces], rich: bool) -> _Supply:
    tokens = slots = 0
    names = []
    for source, pieces in zip(mixture.sources, sources, strict=True):
        mine = pieces.richer_than(mixture.vision_share.at(0)) == rich
        if mine.any():
            names.append(source.name)
            tokens += int(pieces.length[mine].sum()) * source.max_epochs
            slots += int(pieces.slots[mine].sum()) * source.max_epochs
    return _Supply(tokens, slots, tuple(names))


def _other_share(mixture: Mixture, rich: _Supply, poor: _Supply, rich_missing: bool) -> float | None:
    """A share, in thousandths, at which the supplies reach the horizon, if there is one.

    A higher share is an estimate: pieces near the share may change sides.
    """
    if mixture.horizon_tokens is None:
        return 0.0 if rich_missing and not rich.slots else None
    tokens = mixture.horizon_tokens + mixture.global_batch_packs * mixture.max_pack_tokens
    if rich.tokens + poor.tokens < tokens:
        return None
    if rich_missing:
        return 1000 * (rich.slots + poor.slots) // tokens / 1000
    from_rich = tokens - poor.tokens
    slots = poor.slots + Fraction(rich.slots * from_rich, rich.tokens)
    return math.ceil(1000 * slots / tokens) / 1000
