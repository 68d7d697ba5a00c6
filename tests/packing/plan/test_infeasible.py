"""Infeasible plans name at least three changes, and each of them makes the plan feasible."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from manifests.errors import ManifestError
from manifests.schedule import VisionShare
from packing.mixture import Mixture, Source
from packing.plan import infeasible
from packing.plan.pieces import SourcePieces
from packing.plan.planner import arrange
from tests.packing.plan.test_planner import CAPTIONS, TEXT, make_mixture, pieces
from tests.packing.plan.test_schedules import SCHEDULES, extremes, made

Case = tuple[Mixture, Sequence[SourcePieces]]


def tuples(value: Any) -> Any:
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def changed(change: str, mixture: Mixture, sources: Sequence[SourcePieces]) -> Case:
    """The case with a change applied."""
    if change.startswith("sources with"):
        kinds = change.split(": ")[1]
        extra = pieces("extra", [(60, 60)] * 1500 * ("images" in kinds) + [(60, 0)] * 1500 * ("text" in kinds))
        added = (*mixture.sources, Source(name="extra", input="", weight=1.0, max_epochs=9))
        return dataclasses.replace(mixture, sources=added), [*sources, extra]
    for part in change.split(" and "):
        key, value = part.split(": ", 1)
        if key == "vision_share":
            share = {kind: tuples(points) for kind, points in yaml.safe_load(value).items()}
            mixture = dataclasses.replace(mixture, vision_share=VisionShare(**share))
        elif key == "max_epochs":
            most = {name: int(n) for n, name in (entry.split(" for ") for entry in value.split(", "))}
            raised = (dataclasses.replace(s, max_epochs=most.get(s.name, s.max_epochs)) for s in mixture.sources)
            mixture = dataclasses.replace(mixture, sources=tuple(raised))
        else:
            mixture = dataclasses.replace(mixture, **{key: int(value)})  # type: ignore[arg-type]
    return mixture, sources


def changes_named(mixture: Mixture, sources: Sequence[SourcePieces]) -> list[str]:
    """Changes that the error names; empty if the plan is feasible."""
    try:
        arrange(mixture, sources, "v")
    except ManifestError as error:
        return error.fix.split("; or ")
    return []


def test_every_change_that_an_error_names_makes_the_plan_feasible() -> None:
    """Extreme corpora under all kinds of schedules, with a horizon and without one."""
    rng = random.Random(1)
    refused = 0
    for schedule in SCHEDULES[::2]:
        for name, corpus in extremes(rng).items():
            mixture, sources = made(schedule, corpus, rng)
            in_tokens = not any(0 < place <= 1 for place, _ in mixture.vision_share.steps or ())
            if mixture.vision_share.linear is None and mixture.vision_share.piecewise is None and in_tokens:
                mixture = dataclasses.replace(mixture, horizon_tokens=rng.choice([None, mixture.horizon_tokens]))
            changes = changes_named(mixture, sources)
            if not changes:
                continue
            refused += 1
            enough = sum(int(source.length.sum()) for source in sources) > 20 * mixture.max_pack_tokens
            assert len(changes) >= 3 or not enough, (name, schedule, changes)
            for change in changes:
                if change != "more data":
                    assert not changes_named(*changed(change, mixture, sources)), (name, schedule, change)
    assert refused > 20


@pytest.mark.parametrize("sizes", [TEXT * 99, CAPTIONS * 99])
@pytest.mark.parametrize("horizon", [None, 3000, 10**6])
def test_data_on_one_side_of_the_share_have_three_changes(sizes: list[tuple[int, int]], horizon: int | None) -> None:
    only = [pieces("only", sizes)]
    mixture = make_mixture(only, 0.1, horizon_tokens=horizon)
    changes = changes_named(mixture, only)
    assert len(changes) >= 3
    for change in changes[:-1]:
        assert not changes_named(*changed(change, mixture, only)), change


def test_less_than_one_global_batch_has_three_changes() -> None:
    only = [pieces("only", TEXT)]
    mixture = make_mixture(only, 0.0, global_batch_packs=8)
    batch, epochs, _ = changes_named(mixture, only)
    assert batch == "global_batch_packs: 2"
    assert not changes_named(*changed(batch, mixture, only)) and not changes_named(*changed(epochs, mixture, only))


def test_changes_that_were_not_tried_are_marked_as_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infeasible, "TRIED_PIECES", 10)
    only = [pieces("only", TEXT * 99 + CAPTIONS * 3)]
    changes = changes_named(make_mixture(only, 0.1, horizon_tokens=2500), only)
    assert len(changes) == 4 and all(change.startswith("about ") for change in changes[:-1])
