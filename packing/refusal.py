"""A plan that can't keep its schedule is refused: where it would fail, and the ways out with numbers in them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from manifests.errors import ManifestError
from manifests.schedule import MILLION, VisionShare
from packing.mixture import Mixture, Source
from packing.supply import Supply


@dataclass(frozen=True)
class _Side:
    """What all sources together give within their epochs, on one side of the share."""

    tokens: int
    slots: int
    sources: tuple[Source, ...]
    """Those that have any."""


def refusal(
    mixture: Mixture, sources: Sequence[Supply], tokens: int, threshold: int, rich_missing: bool
) -> ManifestError:
    """The error for a plan whose order ended after `tokens` tokens because rich or poor pieces ran out, which
    `threshold`, in millionths, divided."""
    share = Fraction(threshold, MILLION)
    rich, poor = (_side(mixture, sources, threshold, side) for side in (True, False))
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
        ways.append(f"vision_share: {other}")
    if missing.sources:
        times = _times(mixture, rich, poor, rich_missing)
        enough = ", ".join(f"{times * source.max_epochs} for {source.name}" for source in missing.sources)
        ways.append(f"max_epochs: {enough}")
    ways.append(f"sources with {what}: {'images or video' if rich_missing else 'text'}")
    return ManifestError(message, where="mixture", fix="; or ".join(ways))


def _side(mixture: Mixture, sources: Sequence[Supply], threshold: int, rich: bool) -> _Side:
    tokens = slots = 0
    giving = []
    for source, supply in zip(mixture.sources, sources, strict=True):
        pieces, of_one, slots_of_one = supply.on_side(threshold, rich)
        if pieces:
            giving.append(source)
            tokens += of_one * source.max_epochs
            slots += slots_of_one * source.max_epochs
    return _Side(tokens, slots, tuple(giving))


def _goal(mixture: Mixture) -> int | None:
    """Tokens that the order has to give."""
    if mixture.horizon_tokens is None:
        return None
    return mixture.horizon_tokens + mixture.global_batch_packs * mixture.max_pack_tokens


def _times(mixture: Mixture, rich: _Side, poor: _Side, rich_missing: bool) -> int:
    """How many times as many epochs of what is missing would about be enough."""
    goal = _goal(mixture)
    if goal is None:
        return 2
    wanted = mixture.curve.slots_until(goal)
    if rich_missing:
        return max(2, math.ceil(wanted / max(1, rich.slots)))
    return max(2, math.ceil((goal - wanted) / max(1, poor.tokens - poor.slots)))


def _other_share(mixture: Mixture, rich: _Side, poor: _Side, rich_missing: bool) -> str | None:
    """The schedule with all shares changed alike so that the supplies reach the horizon, if there is one; a constant
    in thousandths.

    A higher share is an estimate: pieces near the share may change sides.
    """
    goal = _goal(mixture)
    if goal is None:  # all that there is lies on one side of the share; on its own share it does not
        own = math.floor(Fraction(1000 * (rich.slots + poor.slots), rich.tokens + poor.tokens)) / 1000
        return f"{{constant: {own:g}}}"
    if rich.tokens + poor.tokens < goal:
        return None
    if rich_missing:
        slots = Fraction(rich.slots + poor.slots)
    elif not rich.tokens:
        return None
    else:
        slots = poor.slots + Fraction(rich.slots * (goal - poor.tokens), rich.tokens)
    if mixture.vision_share.constant is not None:
        round_ = math.floor if rich_missing else math.ceil
        return f"{{constant: {round_(1000 * slots / goal) / 1000:g}}}"
    wanted = mixture.curve.slots_until(goal)
    return _scaled(mixture.vision_share, slots / wanted) if wanted else None


def _scaled(share: VisionShare, by: Fraction) -> str | None:
    """The schedule as it stands in a manifest with all its shares times `by`, rounded down to millionths."""

    def scaled(value: float) -> float:
        return int(Fraction(str(value)) * by * MILLION) / MILLION

    if share.linear is not None:
        values = [scaled(value) for value in share.linear]
        return f"{{linear: {json.dumps(values)}}}" if max(values) < 1 else None
    kind, points = ("steps", share.steps) if share.steps is not None else ("piecewise", share.piecewise or ())
    changed = [[position, scaled(value)] for position, value in points]
    return f"{{{kind}: {json.dumps(changed)}}}" if max(value for _, value in changed) < 1 else None
