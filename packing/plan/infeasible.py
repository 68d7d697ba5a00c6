"""A plan that can't keep its schedule is refused: where it would fail, and the ways out with numbers in them.

A way out is tried before it is named: the order of pieces is drawn again with the change. Where there are more than
TRIED_PIECES, the first estimate of each is named, with `about`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from manifests.errors import ManifestError
from manifests.schedule import MILLION, VisionShare
from packing.mixture import Mixture, Source
from packing.plan.amend import Begun
from packing.plan.legs import NEVER
from packing.plan.supply import Supply

TRIED_PIECES = 3_000_000
MOST_EPOCHS = 1000
"""More are not proposed: then data are missing."""
SHORTER = 8
"""So often a horizon is shortened."""
LESS, MORE = (0.9, 0.75, 0.5, 0.25, 0.0), (1.1, 1.25, 1.5, 2.0, 4.0)
"""Where an estimated share does not work, these parts of it are tried."""

End = tuple[int, bool | None]
"""After how many tokens an order ends, and what a plan of it lacks: rich pieces (True), poor ones (False), nothing."""


def goal_of(mixture: Mixture) -> int:
    """Tokens that the order has to give: one global batch more than the horizon, so that whole packs can reach it."""
    if mixture.horizon_tokens is None:
        return NEVER
    return mixture.horizon_tokens + mixture.global_batch_packs * mixture.max_pack_tokens


@dataclass(frozen=True)
class _Supply:
    """What all sources together give within their epochs, on one side of the share."""

    tokens: int
    slots: int
    sources: tuple[Source, ...]
    """Those that have any."""


@dataclass(frozen=True)
class WaysOut:
    """Why there is no plan. The small methods give a change with which there is one, as it stands in a manifest, or
    None if they find none."""

    mixture: Mixture
    sources: Sequence[Supply]
    begun: Begun
    tokens: int
    """After which the order ended."""
    threshold: int
    """What divided rich pieces from poor ones then, in millionths."""
    ends: Callable[[Mixture], End] | None
    """How the same samples end with another mixture."""

    def refusal(self, rich_missing: bool) -> ManifestError:
        """The error for an order that ended because rich or poor pieces ran out."""
        mixture, tokens = self.mixture, self.tokens
        what = f"{'more' if rich_missing else 'less'} vision than the share {self.threshold / MILLION:g}"
        pack = tokens // mixture.max_pack_tokens
        batch = pack // mixture.global_batch_packs
        wanted = "" if mixture.horizon_tokens is None else f" of {mixture.horizon_tokens:,}"
        message = (
            f"the plan fails after {tokens:,}{wanted} tokens, about pack {pack:,} of global batch {batch:,}: "
            f"within max_epochs there is no piece left with {what}"
        )
        found = (self.shorter(), self.other_share(rich_missing), self.more_epochs(rich_missing))
        ways = [way for way in found if way]
        if len(ways) < 2:
            ways += [way for way in (self.what_there_is(), self.repeated(), self.later()) if way][: 2 - len(ways)]
        ways.append(f"sources with {what}: {' and '.join(self.data(rich_missing))}")
        return ManifestError(message, where="mixture", fix="; or ".join(ways))

    def too_few(self, packs: int) -> ManifestError:
        """The error for sources that fill less than one global batch."""
        batch = self.mixture.global_batch_packs
        epochs = self.epochs_of_all(-(-(batch + 1) // max(1, packs)))
        ways = [f"global_batch_packs: {max(1, packs)}", *([epochs] if epochs else []), "more data"]
        message = f"the sources fill {packs} packs, one global batch needs {batch}"
        return ManifestError(message, where="mixture", fix="; or ".join(ways))

    def shorter(self) -> str | None:
        if self.mixture.horizon_tokens is None:
            return None
        at: int | None = self.tokens
        for _ in range(SHORTER):
            horizon = (at or 0) - self.mixture.global_batch_packs * self.mixture.max_pack_tokens
            if horizon <= self.begun.tokens:
                return None
            at = self._fails(dataclasses.replace(self.mixture, horizon_tokens=horizon))
            if at is None:
                return self._named(f"horizon_tokens: {horizon}")
        return None

    def other_share(self, rich_missing: bool) -> str | None:
        for share in self._shares(rich_missing):
            if self._fails(dataclasses.replace(self.mixture, vision_share=share)) is None:
                return self._named(f"vision_share: {_written(share)}")
        return None

    def more_epochs(self, rich_missing: bool) -> str | None:
        """Of the sources that give what is missing, or of all."""
        giving = self._rich if rich_missing else self._poor
        if not giving.sources:
            return None
        first = self._times(rich_missing)
        for times in (first, 2 * first, 4 * first):
            for raised in (giving.sources, self.mixture.sources):
                changed, told = self._raised(times, raised)
                if changed is not None and self._fails(changed) is None:
                    return self._named(told)
        return None

    def epochs_of_all(self, times: int) -> str | None:
        """Times as many, or more."""
        for more in (times, 2 * times, 4 * times):
            changed, told = self._raised(more, self.mixture.sources)
            if changed is not None and self._fails(changed) is None:
                return self._named(told)
        return None

    def _raised(self, times: int, raised: Sequence[Source]) -> tuple[Mixture | None, str]:
        """With more epochs of these sources, and how that is said."""
        most = {source.name: times * source.max_epochs for source in raised}
        if max(most.values()) > MOST_EPOCHS:
            return None, ""
        changed = tuple(
            dataclasses.replace(source, max_epochs=most.get(source.name, source.max_epochs))
            for source in self.mixture.sources
        )
        told = f"max_epochs: {', '.join(f'{n} for {name}' for name, n in most.items())}"
        return dataclasses.replace(self.mixture, sources=changed), told

    def what_there_is(self) -> str | None:
        """All data at their own share, as long as they last."""
        if self.mixture.horizon_tokens is None or self._rich.tokens + self._poor.tokens >= goal_of(self.mixture):
            return None
        share = self._own_share
        for batch in sorted({self.mixture.global_batch_packs, 1}, reverse=True):
            smaller = f" and global_batch_packs: {batch}" if batch < self.mixture.global_batch_packs else ""
            for part in (1.0, *LESS):
                horizon = int(part * (self._rich.tokens + self._poor.tokens)) - batch * self.mixture.max_pack_tokens
                changed = dataclasses.replace(
                    self.mixture,
                    vision_share=share,
                    horizon_tokens=self.begun.tokens + max(1, horizon),
                    global_batch_packs=batch,
                )
                if self._fails(changed) is None:
                    told = f"vision_share: {_written(share)} and horizon_tokens: {changed.horizon_tokens}{smaller}"
                    return self._named(told)
        return None

    def repeated(self) -> str | None:
        """All data at their own share, as often as the horizon needs."""
        if self.mixture.horizon_tokens is None:
            return None
        share = self._own_share
        goal = goal_of(self.mixture) - self.begun.tokens
        changed = dataclasses.replace(self.mixture, vision_share=share)
        there = self._rich.tokens + self._poor.tokens
        epochs = dataclasses.replace(self, mixture=changed).epochs_of_all(-(-goal // there) + 1)
        return f"vision_share: {_written(share)} and {epochs}" if epochs else None

    def later(self) -> str | None:
        """All data at their own share, and then the share that was wanted, from data of an amendment."""
        own, wanted = self._own_share.constant or 0.0, self.mixture.vision_share
        after = goal_of(self.mixture)
        if after == NEVER:
            after = self.begun.tokens + self._rich.tokens + self._poor.tokens + self.mixture.max_pack_tokens
        elif wanted.constant is None:
            return None
        if wanted.piecewise is None:
            steps = wanted.steps or ((0, wanted.constant or 0.0),)
            share = VisionShare(steps=((0, own), *((after + place, value) for place, value in steps)))
        else:
            ramps = ((after + place, value) for place, value in wanted.piecewise)
            share = VisionShare(piecewise=((0, own), (after, own), *ramps))
        if self._fails(dataclasses.replace(self.mixture, vision_share=share)) is None:
            return self._named(f"vision_share: {_written(share)}")
        return None

    def data(self, rich_missing: bool) -> list[str]:
        """What is missing; where it is the one kind now, it may be the other one at another share."""
        kinds, curve = {True: "images or video", False: "text"}, self.mixture.curve
        missing = {rich_missing}
        for threshold in self.sources[0].thresholds.tolist():
            rich, poor = (any(one.on_side(threshold, side)[0] for one in self.sources) for side in (True, False))
            missing |= {True} if threshold and not rich else set()
            missing |= {False} if not poor else set()
        if (goal := goal_of(self.mixture)) < NEVER:
            wanted = curve.slots_until(goal) - curve.slots_until(self.begun.tokens)
            slots = self._rich.slots + self._poor.slots
            if wanted > slots:
                missing.add(True)
            if goal - self.begun.tokens - wanted > self._rich.tokens + self._poor.tokens - slots:
                missing.add(False)
        return [kinds[kind] for kind in sorted(missing, reverse=True)]

    def _fails(self, changed: Mixture) -> int | None:
        """After how many tokens; None where it does not."""
        if self._tried is None:
            return None
        tokens, missing = self._tried(changed)
        packs = -(-(tokens - self.begun.tokens) // changed.max_pack_tokens)  # or more
        return tokens if missing is not None or packs < changed.global_batch_packs else None

    @property
    def _tried(self) -> Callable[[Mixture], End] | None:
        return self.ends if sum(source.pieces for source in self.sources) <= TRIED_PIECES else None

    def _named(self, way: str) -> str:
        return f"about {way}" if self._tried is None else way

    @cached_property
    def _rich(self) -> _Supply:
        return self._supply(True)

    @cached_property
    def _poor(self) -> _Supply:
        return self._supply(False)

    def _supply(self, rich: bool) -> _Supply:
        tokens = slots = 0
        giving = []
        for source, supply in zip(self.mixture.sources, self.sources, strict=True):
            pieces, of_one, slots_of_one = supply.on_side(self.threshold, rich)
            if pieces:
                giving.append(source)
                tokens += of_one * source.max_epochs
                slots += slots_of_one * source.max_epochs
        return _Supply(tokens, slots, tuple(giving))

    @cached_property
    def _own_share(self) -> VisionShare:
        """Of all data. In millionths: rounded more, pieces that are all alike would not keep to it for long."""
        slots, tokens = self._rich.slots + self._poor.slots, self._rich.tokens + self._poor.tokens
        return VisionShare(constant=min(MILLION - 1, MILLION * slots // tokens) / MILLION)

    def _times(self, rich_missing: bool) -> int:
        """How many times as many epochs of what is missing would about be enough."""
        goal = goal_of(self.mixture)
        if goal == NEVER:
            return 2
        wanted = self.mixture.curve.slots_until(goal)
        if rich_missing:
            return max(2, math.ceil(wanted / max(1, self._rich.slots)))
        return max(2, math.ceil((goal - wanted) / max(1, self._poor.tokens - self._poor.slots)))

    def _shares(self, rich_missing: bool) -> Iterator[VisionShare]:
        """Schedules with all shares changed alike, so that the supplies about reach the horizon; then a constant."""
        goal = goal_of(self.mixture)
        share = self.mixture.vision_share
        if goal < NEVER and self._rich.tokens + self._poor.tokens + self.begun.tokens >= goal:
            wanted = self.mixture.curve.slots_until(goal)
            slots = self._slots_given(goal, rich_missing)
            by = slots / wanted if wanted else Fraction(1)
            for further in (1.0, *(LESS if rich_missing else MORE)):
                if (scaled := _scaled(share, by * Fraction(str(further)))) is not None and scaled != share:
                    yield scaled
        yield self._own_share

    def _slots_given(self, goal: int, rich_missing: bool) -> Fraction:
        """Until then, if all is drawn of what is missing. An estimate: pieces near the share may change sides."""
        rich, poor = self._rich, self._poor
        if rich_missing or not rich.tokens:
            return Fraction(rich.slots + poor.slots)
        return poor.slots + Fraction(rich.slots * (goal - poor.tokens), rich.tokens)


def _scaled(share: VisionShare, by: Fraction) -> VisionShare | None:
    """With all its shares times `by`, rounded down to millionths, a constant to thousandths; None if one passes 1."""

    def scaled(value: float, parts: int = MILLION) -> float:
        return int(Fraction(str(value)) * by * parts) / parts

    def points(before: Iterable[tuple[float, float]] | None) -> tuple[tuple[float, float], ...] | None:
        return None if before is None else tuple((place, scaled(value)) for place, value in before)

    try:
        return VisionShare(
            constant=None if share.constant is None else scaled(share.constant, 1000),
            steps=points(share.steps),
            linear=None if share.linear is None else (scaled(share.linear[0]), scaled(share.linear[1])),
            piecewise=points(share.piecewise),
        )
    except ValueError:
        return None


def _written(share: VisionShare) -> str:
    """As it stands in a manifest."""
    ((kind, value),) = share.said.items()
    if isinstance(value, float):
        return f"{{{kind}: {value:g}}}"
    told = re.sub(r"(?<=\d)[.]0(?=[],])", "", json.dumps(value))  # tokens are whole
    return f"{{{kind}: {told}}}"
