"""A plan that is refused names three ways out, and each of them works when it is taken."""

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
from tests.packing.plan.test_planner import CAPTIONS, TEXT, mixture, pieces
from tests.packing.plan.test_schedules import SCHEDULES, extremes, made

Case = tuple[Mixture, Sequence[SourcePieces]]


def tuples(value: Any) -> Any:
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def taken(way: str, one: Mixture, sources: Sequence[SourcePieces]) -> Case:
    """The case with a way out applied."""
    if way.startswith("sources with"):
        kinds = way.split(": ")[1]
        extra = pieces("extra", [(60, 60)] * 1500 * ("images" in kinds) + [(60, 0)] * 1500 * ("text" in kinds))
        added = (*one.sources, Source(name="extra", store="", weight=1.0, max_epochs=9))
        return dataclasses.replace(one, sources=added), [*sources, extra]
    for change in way.split(" and "):
        key, value = change.split(": ", 1)
        if key == "vision_share":
            said = {kind: tuples(points) for kind, points in yaml.safe_load(value).items()}
            one = dataclasses.replace(one, vision_share=VisionShare(**said))
        elif key == "max_epochs":
            most = {name: int(n) for n, name in (told.split(" for ") for told in value.split(", "))}
            raised = (dataclasses.replace(s, max_epochs=most.get(s.name, s.max_epochs)) for s in one.sources)
            one = dataclasses.replace(one, sources=tuple(raised))
        else:
            one = dataclasses.replace(one, **{key: int(value)})  # type: ignore[arg-type]
    return one, sources


def ways_out(one: Mixture, sources: Sequence[SourcePieces]) -> list[str]:
    """Empty where the plan is not refused."""
    try:
        arrange(one, sources, "v")
    except ManifestError as error:
        return error.fix.split("; or ")
    return []


def test_every_way_out_of_every_refusal_leads_to_a_plan() -> None:
    """Extreme corpora under all kinds of schedules, with a horizon and without one."""
    some = random.Random(1)
    refused = 0
    for schedule in SCHEDULES[::2]:
        for name, corpus in extremes(some).items():
            one, sources = made(schedule, corpus, some)
            in_tokens = not any(0 < place <= 1 for place, _ in one.vision_share.steps or ())
            if one.vision_share.linear is None and one.vision_share.piecewise is None and in_tokens:
                one = dataclasses.replace(one, horizon_tokens=some.choice([None, one.horizon_tokens]))
            ways = ways_out(one, sources)
            if not ways:
                continue
            refused += 1
            enough = sum(int(source.length.sum()) for source in sources) > 20 * one.max_pack_tokens
            assert len(ways) >= 3 or not enough, (name, schedule, ways)
            for way in ways:
                assert way == "more data" or not ways_out(*taken(way, one, sources)), (name, schedule, way)
    assert refused > 20


@pytest.mark.parametrize("sizes", [TEXT * 99, CAPTIONS * 99])
@pytest.mark.parametrize("horizon", [None, 3000, 10**6])
def test_data_on_one_side_of_the_share_have_three_ways_out(sizes: list[tuple[int, int]], horizon: int | None) -> None:
    only = [pieces("only", sizes)]
    one = mixture(only, 0.1, horizon_tokens=horizon)
    ways = ways_out(one, only)
    assert len(ways) >= 3
    for way in ways[:-1]:
        assert not ways_out(*taken(way, one, only)), way


def test_less_than_one_global_batch_has_three_ways_out() -> None:
    only = [pieces("only", TEXT)]
    one = mixture(only, 0.0, global_batch_packs=8)
    batch, epochs, _ = ways_out(one, only)
    assert batch == "global_batch_packs: 2"
    assert not ways_out(*taken(batch, one, only)) and not ways_out(*taken(epochs, one, only))


def test_where_there_are_too_many_pieces_to_try_ways_out_are_called_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infeasible, "TRIED_PIECES", 10)
    only = [pieces("only", TEXT * 99 + CAPTIONS * 3)]
    ways = ways_out(mixture(only, 0.1, horizon_tokens=2500), only)
    assert len(ways) == 4 and all(way.startswith("about ") for way in ways[:-1])
