"""Infeasible plans: the error for a plan that can't keep its schedule, with changes that make it feasible.

`planner.py` asks for the error when the order of pieces ends too early. It names the token at which the plan fails and
changes with numbers in them. A change is tried before it is named: the order of pieces is drawn again with it. Where
there are more than TRIED_PIECES pieces, the first estimate of each change is named, with `about`.
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
from packing.plan.amend import RunPrefix
from packing.plan.legs import NEVER
from packing.plan.supply import Supply

TRIED_PIECES = 3_000_000
MOST_EPOCHS = 1000
"""More epochs are not suggested: then data are missing."""
SHORTER_TRIES = 8
"""Attempts at a shorter horizon."""
LESS, MORE = (0.9, 0.75, 0.5, 0.25, 0.0), (1.1, 1.25, 1.5, 2.0, 4.0)
"""Multiples of an estimated share that are tried if the estimate fails."""

OrderEnd = tuple[int, bool | None]
"""(tokens after which an order ends; the pieces that a plan of it lacks: rich (True), poor (False) or none (None))."""


def goal_tokens(mixture: Mixture) -> int:
    """Tokens that the order has to give: the horizon and one global batch, so that whole packs can reach it."""
    if mixture.horizon_tokens is None:
        return NEVER
    return mixture.horizon_tokens + mixture.global_batch_packs * mixture.max_pack_tokens


@dataclass(frozen=True)
class _SideTotals:
    """Totals of all sources within their epochs, on one side of the share."""

    tokens: int
    slots: int
    sources: tuple[Source, ...]
    """Sources that have pieces on this side."""


@dataclass(frozen=True)
class Remedies:
    """Changes of a mixture that make an infeasible plan feasible.

    Each of the methods from `shorter_horizon` to `share_after_amendment` returns one change as it would be written in a
    manifest, or None if it finds none.
    """

    mixture: Mixture
    sources: Sequence[Supply]
    prefix: RunPrefix
    tokens: int
    """Tokens after which the order ended."""
    threshold: int
    """Share that divided rich from poor pieces there, in millionths."""
    end_with: Callable[[Mixture], OrderEnd] | None
    """End of the order of the same samples with another mixture; None to try nothing."""

    def error(self, rich_missing: bool) -> ManifestError:
        """The error for an order that ended because rich (True) or poor pieces ran out."""
        mixture, tokens = self.mixture, self.tokens
        lacking = f"{'more' if rich_missing else 'less'} vision than the share {self.threshold / MILLION:g}"
        pack = tokens // mixture.max_pack_tokens
        batch = pack // mixture.global_batch_packs
        wanted = "" if mixture.horizon_tokens is None else f" of {mixture.horizon_tokens:,}"
        message = (
            f"the plan fails after {tokens:,}{wanted} tokens, about pack {pack:,} of global batch {batch:,}: "
            f"within max_epochs there is no piece left with {lacking}"
        )
        candidates = (self.shorter_horizon(), self.other_share(rich_missing), self.more_epochs(rich_missing))
        changes = [change for change in candidates if change]
        if len(changes) < 2:
            others = (self.all_data_once(), self.all_data_repeated(), self.share_after_amendment())
            changes += [change for change in others if change][: 2 - len(changes)]
        changes.append(f"sources with {lacking}: {' and '.join(self.missing_data(rich_missing))}")
        return ManifestError(message, where="mixture", fix="; or ".join(changes))

    def too_few(self, packs: int) -> ManifestError:
        """The error for sources that fill less than one global batch."""
        batch = self.mixture.global_batch_packs
        epochs = self.more_epochs_of_all(-(-(batch + 1) // max(1, packs)))
        changes = [f"global_batch_packs: {max(1, packs)}", *([epochs] if epochs else []), "more data"]
        message = f"the sources fill {packs} packs, one global batch needs {batch}"
        return ManifestError(message, where="mixture", fix="; or ".join(changes))

    def shorter_horizon(self) -> str | None:
        """A horizon that the data reach."""
        if self.mixture.horizon_tokens is None:
            return None
        at: int | None = self.tokens
        for _ in range(SHORTER_TRIES):
            horizon = (at or 0) - self.mixture.global_batch_packs * self.mixture.max_pack_tokens
            if horizon <= self.prefix.tokens:
                return None
            at = self._fails(dataclasses.replace(self.mixture, horizon_tokens=horizon))
            if at is None:
                return self._qualified(f"horizon_tokens: {horizon}")
        return None

    def other_share(self, rich_missing: bool) -> str | None:
        """A vision share that the data can keep up to the horizon."""
        for share in self._shares(rich_missing):
            if self._fails(dataclasses.replace(self.mixture, vision_share=share)) is None:
                return self._qualified(f"vision_share: {_as_yaml(share)}")
        return None

    def more_epochs(self, rich_missing: bool) -> str | None:
        """A larger `max_epochs` for the sources in short supply, or for all."""
        short = self._rich if rich_missing else self._poor
        if not short.sources:
            return None
        first = self._times(rich_missing)
        for times in (first, 2 * first, 4 * first):
            for raised in (short.sources, self.mixture.sources):
                changed, text = self._with_epochs(times, raised)
                if changed is not None and self._fails(changed) is None:
                    return self._qualified(text)
        return None

    def more_epochs_of_all(self, times: int) -> str | None:
        """`max_epochs` of all sources, multiplied by `times`, twice or four times that."""
        for factor in (times, 2 * times, 4 * times):
            changed, text = self._with_epochs(factor, self.mixture.sources)
            if changed is not None and self._fails(changed) is None:
                return self._qualified(text)
        return None

    def _with_epochs(self, times: int, raised: Sequence[Source]) -> tuple[Mixture | None, str]:
        """(mixture with `times` as many epochs of the sources `raised`, its YAML); None if that is too many."""
        most = {source.name: times * source.max_epochs for source in raised}
        if max(most.values()) > MOST_EPOCHS:
            return None, ""
        changed = tuple(
            dataclasses.replace(source, max_epochs=most.get(source.name, source.max_epochs))
            for source in self.mixture.sources
        )
        text = f"max_epochs: {', '.join(f'{n} for {name}' for name, n in most.items())}"
        return dataclasses.replace(self.mixture, sources=changed), text

    def all_data_once(self) -> str | None:
        """The data's own share, up to the tokens that they have."""
        if self.mixture.horizon_tokens is None or self._rich.tokens + self._poor.tokens >= goal_tokens(self.mixture):
            return None
        share = self._own_share
        for batch in sorted({self.mixture.global_batch_packs, 1}, reverse=True):
            smaller = f" and global_batch_packs: {batch}" if batch < self.mixture.global_batch_packs else ""
            for part in (1.0, *LESS):
                horizon = int(part * (self._rich.tokens + self._poor.tokens)) - batch * self.mixture.max_pack_tokens
                changed = dataclasses.replace(
                    self.mixture,
                    vision_share=share,
                    horizon_tokens=self.prefix.tokens + max(1, horizon),
                    global_batch_packs=batch,
                )
                if self._fails(changed) is None:
                    text = f"vision_share: {_as_yaml(share)} and horizon_tokens: {changed.horizon_tokens}{smaller}"
                    return self._qualified(text)
        return None

    def all_data_repeated(self) -> str | None:
        """The data's own share, with as many epochs as the horizon needs."""
        if self.mixture.horizon_tokens is None:
            return None
        share = self._own_share
        goal = goal_tokens(self.mixture) - self.prefix.tokens
        changed = dataclasses.replace(self.mixture, vision_share=share)
        available = self._rich.tokens + self._poor.tokens
        epochs = dataclasses.replace(self, mixture=changed).more_epochs_of_all(-(-goal // available) + 1)
        return f"vision_share: {_as_yaml(share)} and {epochs}" if epochs else None

    def share_after_amendment(self) -> str | None:
        """The data's own share first, and the wanted share after the goal, from data that an amendment adds."""
        own, wanted = self._own_share.constant or 0.0, self.mixture.vision_share
        after = goal_tokens(self.mixture)
        if after == NEVER:
            after = self.prefix.tokens + self._rich.tokens + self._poor.tokens + self.mixture.max_pack_tokens
        elif wanted.constant is None:
            return None
        if wanted.piecewise is None:
            steps = wanted.steps or ((0, wanted.constant or 0.0),)
            share = VisionShare(steps=((0, own), *((after + place, value) for place, value in steps)))
        else:
            ramps = ((after + place, value) for place, value in wanted.piecewise)
            share = VisionShare(piecewise=((0, own), (after, own), *ramps))
        if self._fails(dataclasses.replace(self.mixture, vision_share=share)) is None:
            return self._qualified(f"vision_share: {_as_yaml(share)}")
        return None

    def missing_data(self, rich_missing: bool) -> list[str]:
        """Kinds of data to add. Both, if after adding the one kind the other would run out at another share."""
        kinds, curve = {True: "images or video", False: "text"}, self.mixture.curve
        missing = {rich_missing}
        for threshold in self.sources[0].thresholds.tolist():
            rich, poor = (
                any(source.totals_of_side(threshold, side)[0] for source in self.sources) for side in (True, False)
            )
            missing |= {True} if threshold and not rich else set()
            missing |= {False} if not poor else set()
        if (goal := goal_tokens(self.mixture)) < NEVER:
            wanted = curve.slots_until(goal) - curve.slots_until(self.prefix.tokens)
            slots = self._rich.slots + self._poor.slots
            if wanted > slots:
                missing.add(True)
            if goal - self.prefix.tokens - wanted > self._rich.tokens + self._poor.tokens - slots:
                missing.add(False)
        return [kinds[kind] for kind in sorted(missing, reverse=True)]

    def _fails(self, changed: Mixture) -> int | None:
        """Tokens after which a plan of the changed mixture fails; None if it does not, or if nothing is tried."""
        if self._tried is None:
            return None
        tokens, missing = self._tried(changed)
        packs = -(-(tokens - self.prefix.tokens) // changed.max_pack_tokens)  # or more
        return tokens if missing is not None or packs < changed.global_batch_packs else None

    @property
    def _tried(self) -> Callable[[Mixture], OrderEnd] | None:
        """`end_with`, unless there are too many pieces to try anything."""
        return self.end_with if sum(source.pieces for source in self.sources) <= TRIED_PIECES else None

    def _qualified(self, change: str) -> str:
        """A change, marked as an estimate if it was not tried."""
        return f"about {change}" if self._tried is None else change

    @cached_property
    def _rich(self) -> _SideTotals:
        return self._side_totals(True)

    @cached_property
    def _poor(self) -> _SideTotals:
        return self._side_totals(False)

    def _side_totals(self, rich: bool) -> _SideTotals:
        tokens = slots = 0
        giving = []
        for source, supply in zip(self.mixture.sources, self.sources, strict=True):
            pieces, epoch_tokens, epoch_slots = supply.totals_of_side(self.threshold, rich)
            if pieces:
                giving.append(source)
                tokens += epoch_tokens * source.max_epochs
                slots += epoch_slots * source.max_epochs
        return _SideTotals(tokens, slots, tuple(giving))

    @cached_property
    def _own_share(self) -> VisionShare:
        """Share of all data together, in millionths: rounded more, pieces that are all alike would soon fail it."""
        slots, tokens = self._rich.slots + self._poor.slots, self._rich.tokens + self._poor.tokens
        return VisionShare(constant=min(MILLION - 1, MILLION * slots // tokens) / MILLION)

    def _times(self, rich_missing: bool) -> int:
        """Estimated factor for the epochs of the missing side."""
        goal = goal_tokens(self.mixture)
        if goal == NEVER:
            return 2
        wanted = self.mixture.curve.slots_until(goal)
        if rich_missing:
            return max(2, math.ceil(wanted / max(1, self._rich.slots)))
        return max(2, math.ceil((goal - wanted) / max(1, self._poor.tokens - self._poor.slots)))

    def _shares(self, rich_missing: bool) -> Iterator[VisionShare]:
        """Candidates: the schedule with all shares scaled so that the data about reach the horizon; then a constant."""
        goal = goal_tokens(self.mixture)
        share = self.mixture.vision_share
        if goal < NEVER and self._rich.tokens + self._poor.tokens + self.prefix.tokens >= goal:
            wanted = self.mixture.curve.slots_until(goal)
            slots = self._slots_given(goal, rich_missing)
            scale = slots / wanted if wanted else Fraction(1)
            for further in (1.0, *(LESS if rich_missing else MORE)):
                if (scaled := _scaled(share, scale * Fraction(str(further)))) is not None and scaled != share:
                    yield scaled
        yield self._own_share

    def _slots_given(self, goal: int, rich_missing: bool) -> Fraction:
        """Slots up to the goal if all pieces of the missing side are drawn; an estimate, as pieces may change sides."""
        rich, poor = self._rich, self._poor
        if rich_missing or not rich.tokens:
            return Fraction(rich.slots + poor.slots)
        return poor.slots + Fraction(rich.slots * (goal - poor.tokens), rich.tokens)


def _scaled(share: VisionShare, scale: Fraction) -> VisionShare | None:
    """A schedule with all shares scaled, rounded down to millionths, a constant to thousandths; None if one exceeds
    1."""

    def scaled(value: float, parts: int = MILLION) -> float:
        return int(Fraction(str(value)) * scale * parts) / parts

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


def _as_yaml(share: VisionShare) -> str:
    """A share as a manifest writes it."""
    ((kind, value),) = share.declared.items()
    if isinstance(value, float):
        return f"{{{kind}: {value:g}}}"
    text = re.sub(r"(?<=\d)[.]0(?=[],])", "", json.dumps(value))  # tokens are whole
    return f"{{{kind}: {text}}}"
