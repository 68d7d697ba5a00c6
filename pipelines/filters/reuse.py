"""What ops of a filter said when it last ran: with other limits it is decided again, and nothing is measured twice.

columns of the view as it was (`pipelines/previous.py`) -> what each op said of each row -> the limits of now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from manifests.records import Drop, Json
from pipelines.filters.op import Measured, Op, column
from pipelines.node import Task
from pipelines.previous import Earlier
from stores.store import ShardRef, Snapshot

MEDIA_LIBRARIES = ("pillow", "simplejpeg", "av")
"""Whose version decides what is measured of pictures and clips."""

Said = Mapping[str, float | str] | str | None
"""Of one record by one op: what it measured, or the reason of one that does not measure and drops."""

Known = Mapping[int, Said]
"""By place of the op in its filter."""


def measured_alike(ops: Sequence[Op], earlier: Earlier | None) -> frozenset[int]:
    """Places of ops that would say what they said when the node last ran: all but their limits is as then."""
    then = earlier.was_made_of() if earlier is not None else None
    if earlier is None or then is None:
        return frozenset()
    kinds = {op.kind: type(op) for op in ops}
    now, before = _recipes(earlier.made_of, kinds), _recipes(then, kinds)
    return frozenset(place for place, op in enumerate(ops) if op.kind in now and now[op.kind] == before.get(op.kind))


class Told:
    """What ops said of the records of one shard when the node last ran."""

    def __init__(
        self, task: Task, ops: Sequence[Op], alike: frozenset[int], snapshot: Snapshot, shard: ShardRef
    ) -> None:
        known = task.earlier.known(snapshot, shard) if alike and task.earlier is not None else None
        self._holds = known.holds if known is not None else np.zeros(shard.records, bool)
        self._by_place = (
            {}
            if known is None
            else {place: _said(ops[place], task.node, known.columns, known.domains) for place in alike}
        )

    def of(self, row: int) -> Known:
        return {place: said[row] for place, said in self._by_place.items()} if self._holds[row] else {}


def _said(op: Op, node: str, columns: pa.Table, domains: Sequence[str]) -> list[Said]:
    """By row."""
    concerned = [not op.domains or domain in op.domains for domain in domains]
    if not isinstance(op, Measured):
        reasons = columns.column(column(node, op.kind, "reason")).to_pylist()
        return [reason if mine else None for reason, mine in zip(reasons, concerned, strict=True)]
    names = [*(limit.score for limit in op.LIMITS), *(choice.label for choice in op.CHOICES)]
    values = zip(*(columns.column(column(node, op.kind, name)).to_pylist() for name in names), strict=True)
    return [
        {name: one for name, one in zip(names, row, strict=True) if one is not None} if mine else None
        for row, mine in zip(values, concerned, strict=True)
    ]


def judged(op: Op, said: Said) -> Drop | None:
    if isinstance(op, Measured):
        return op.judge(said) if isinstance(said, Mapping) else None
    return Drop(said) if isinstance(said, str) else None


def _recipes(made_of: Mapping[str, Json], kinds: Mapping[str, type[Op]]) -> dict[str, list[Json]]:
    """By kind of op what decides its numbers: all but limits, with versions, libraries and files. A kind is left out
    whose ops would write different numbers into the same column."""
    facts = made_of["facts"]
    found: dict[str, list[Json]] = {}
    for parameters in made_of["parameters"]["ops"]:
        kind = parameters["kind"]
        op = kinds.get(kind)
        if op is None:
            continue
        libraries, limits = list(MEDIA_LIBRARIES if op.READS_MEDIA else ()), set()
        if issubclass(op, Measured):
            libraries += op.LIBRARIES
            limits = {limit.parameter for limit in op.LIMITS} | {choice.parameter for choice in op.CHOICES}
        recipe = {name: value for name, value in parameters.items() if name not in limits}
        known = {library: facts.get(library) for library in libraries}
        versions = [version for name, version in facts["ops"] if name == kind]
        files = [file for file in facts.get("files", ()) if file[0] == kind]
        found.setdefault(kind, []).append([recipe, versions, known, files])
    return {kind: recipes for kind, recipes in found.items() if _agree(kinds[kind], recipes)}


def _agree(op: type[Op], recipes: Sequence[Json]) -> bool:
    if len(recipes) > 1 and not issubclass(op, Measured):
        return False
    apart = [{name: value for name, value in recipe.items() if name != "domains"} for recipe, *_ in recipes]
    return all(one == apart[0] for one in apart)
