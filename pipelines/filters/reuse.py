"""Ops whose results of the previous run are still valid, and these results row by row.

`filter` asks before it reads a shard. A result is valid if the record was kept by the same inputs and the op's
parameters, other than its limits, are as in the previous run. The previous columns come from `pipelines/previous.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from manifests.records import Drop, Json
from pipelines.filters.op import Measured, Op, column
from pipelines.node import UnitTask
from pipelines.previous import PreviousView
from stores.store import ShardRef, Snapshot

MEDIA_LIBRARIES = ("pillow", "simplejpeg", "av")
"""Packages whose version changes the numbers of ops that read media."""

OpResult = Mapping[str, float | str] | str | None
"""Result of one op for one record: scores and labels of a `Measured` op; the drop reason of another op; None for a
record outside the op's domains and for one that another op keeps."""

ReusedResults = Mapping[int, OpResult]
"""Results for one record by position of the op in its filter."""


def reusable_ops(ops: Sequence[Op], previous: PreviousView | None) -> frozenset[int]:
    """Return the positions of ops whose numbers can't have changed since the node last ran."""
    before = previous.made_of_then() if previous is not None else None
    if previous is None or before is None:
        return frozenset()
    kinds = {op.kind: type(op) for op in ops}
    now, then = _recipes(previous.made_of_now, kinds), _recipes(before, kinds)
    return frozenset(place for place, op in enumerate(ops) if op.kind in now and now[op.kind] == then.get(op.kind))


class PreviousResults:
    """Valid results of the previous run for the records of one shard."""

    def __init__(
        self, task: UnitTask, ops: Sequence[Op], reusable: frozenset[int], snapshot: Snapshot, shard: ShardRef
    ) -> None:
        """Read the previous columns of the shard; `reusable` are positions of `ops`."""
        previous = task.previous.measured(snapshot, shard) if reusable and task.previous is not None else None
        self._holds = np.zeros(shard.records, bool) if previous is None else previous.valid
        self._by_place: dict[int, list[OpResult]] = {}
        if previous is not None:
            for place in reusable:
                self._by_place[place] = _op_results(ops[place], task.node, previous.columns, previous.domains)

    def of_row(self, row: int) -> ReusedResults:
        """Return the results for one row of the shard; empty if the row has to be measured."""
        return {place: results[row] for place, results in self._by_place.items()} if self._holds[row] else {}


def _op_results(op: Op, node: str, columns: pa.Table, domains: Sequence[str]) -> list[OpResult]:
    """Return one op's results by row, from the columns that the node wrote."""
    concerned = [not op.domains or domain in op.domains for domain in domains]
    if not isinstance(op, Measured):
        reasons = columns.column(column(node, op.kind, "reason")).to_pylist()
        return [reason if mine else None for reason, mine in zip(reasons, concerned, strict=True)]
    names = [*(limit.score for limit in op.LIMITS), *(choice.label for choice in op.CHOICES)]
    rows = zip(*(columns.column(column(node, op.kind, name)).to_pylist() for name in names), strict=True)
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None} if mine else None
        for row, mine in zip(rows, concerned, strict=True)
    ]


def judge(op: Op, result: OpResult) -> Drop | None:
    """Apply the op's present limits to a stored result."""
    if isinstance(op, Measured):
        return op.judge(result) if isinstance(result, Mapping) else None
    return Drop(result) if isinstance(result, str) else None


def _recipes(made_of: Mapping[str, Json], kinds: Mapping[str, type[Op]]) -> dict[str, list[Json]]:
    """Return, by kind of op, everything that decides its numbers: parameters other than limits, versions, libraries
    and digests of files. A kind is left out if its ops would write different numbers into one column."""
    facts = made_of["facts"]
    recipes: dict[str, list[Json]] = {}
    for parameters in made_of["parameters"]["ops"]:
        kind = parameters["kind"]
        op = kinds.get(kind)
        if op is None:
            continue
        libraries, limits = list(MEDIA_LIBRARIES if op.READS_MEDIA else ()), set()
        if issubclass(op, Measured):
            libraries += op.LIBRARIES
            limits = {limit.parameter for limit in op.LIMITS} | {choice.parameter for choice in op.CHOICES}
        measuring = {name: value for name, value in parameters.items() if name not in limits}
        library_versions = {library: facts.get(library) for library in libraries}
        op_versions = [version for name, version in facts["ops"] if name == kind]
        files = [file for file in facts.get("files", ()) if file[0] == kind]
        recipes.setdefault(kind, []).append([measuring, op_versions, library_versions, files])
    return {kind: of_kind for kind, of_kind in recipes.items() if _share_columns(kinds[kind], of_kind)}


def _share_columns(op: type[Op], recipes: Sequence[Json]) -> bool:
    """Return whether all ops of one kind write the same numbers, so that only their domains differ."""
    if len(recipes) > 1 and not issubclass(op, Measured):
        return False
    measuring = [{name: value for name, value in recipe.items() if name != "domains"} for recipe, *_ in recipes]
    return all(parameters == measuring[0] for parameters in measuring)
