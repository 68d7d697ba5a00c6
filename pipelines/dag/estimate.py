"""Estimate of a whole run from a sample of its units, with intervals; for `millrace run --estimate`.

    units of the sources, in the order of a hash -> up to GROUPS groups -> each group runs through the DAG by itself
    -> totals by group -> sums of all groups, divided by the sampled share, with a 90 % jackknife interval

The groups run in a temporary folder, so none of their results can be taken for the run's. Only nodes that make
documents, views and samples run, and the nodes they need. No endpoint is asked: synthesis makes nothing, and scores of
endpoints drop nothing. The share of a source that a group stands for is counted in bytes if the sizes of all units are
known, else in units; further down, in documents of each input. Costs that grow faster than their input are
underestimated; and a sample holds fewer duplicates than the whole.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path

from manifests.errors import ManifestError
from manifests.records import digest
from pipelines.dag.destination import Destination
from pipelines.dag.execute import Execution
from pipelines.dag.graph import Graph
from pipelines.dag.progress import QuietConsole
from pipelines.dag.unit import Outcome
from pipelines.engines.engine import Engine
from pipelines.engines.local import LocalEngine
from pipelines.node import Inputs, Node, Survey, Unit
from pipelines.scoring.budget import ChosenDocuments

GROUPS = 8
STUDENT_90 = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89)
"""Student's t, two-sided 90 %, by degrees of freedom from 1."""
MEASURES = ("documents", "tokens", "bytes", "worker_s")


@dataclass(frozen=True)
class Estimate:
    value: float
    margin: float | None
    """Half of the 90 % interval; None if there is only one group."""


def expected(totals: Sequence[float], parts: Sequence[float]) -> Estimate:
    """Return the ratio of sums over all groups, with its jackknife error.

    Args:
        totals: of one measure, by group.
        parts: share of the whole, by group.
    """
    value, share, count = sum(totals) / sum(parts), sum(parts), len(totals)
    if share >= 1 - 1e-9:
        return Estimate(value, 0.0)
    if count < 2:
        return Estimate(value, None)
    without = [(sum(totals) - total) / (share - part) for total, part in zip(totals, parts, strict=True)]
    spread = sum((ratio - statistics.fmean(without)) ** 2 for ratio in without)
    return Estimate(value, STUDENT_90[count - 2] * sqrt((count - 1) / count * spread * (1 - share)))


def estimate(graph: Graph, share: float, workers: int, as_json: bool) -> int:
    """Run the groups and print the estimate to stdout; returns the exit code.

    Args:
        share: of the sources' units, 0 to 1.
    """
    if not 0 < share <= 1:
        raise ManifestError(
            f"expected a share above 0 and at most 1, got {share:g}", where="--estimate", fix="leave it out"
        )
    order = _sampled_nodes(graph)
    sources = {name: graph.node(name).survey(name, {}) for name in order if not graph.node(name).reads()}
    fewest = min((len(survey.units) for survey in sources.values()), default=0)
    if not fewest:
        raise ManifestError("no node here makes documents", where=graph.name, fix="run a manifest with sources")
    count = min(GROUPS, fewest) if share < 1 else 1
    groups = [SampleGroup(sources, share, number, count) for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="millrace-estimate-") as scratch, LocalEngine(workers) as engine:
        for number, group in enumerate(groups):
            folder = Path(scratch) / str(number)
            SampleExecution(replace(graph, order=order), Destination.of(str(folder), folder), engine, group).work()
    parts = [group.parts(graph, order) for group in groups]
    rows = {name: _row(name, groups, [of_nodes[name] for of_nodes in parts]) for name in order}
    shares = [min(of_nodes.values()) for of_nodes in parts]
    seconds = [
        least * sum(group.totals[name]["worker_s"] / of_nodes[name] for name in order)
        for group, of_nodes, least in zip(groups, parts, shares, strict=True)
    ]
    hours = expected([value / max(workers, 1) / 3600 for value in seconds], shares)
    part = sum(shares)
    left_out = [name for name in graph.order if name not in order]
    if as_json:
        nodes = [{"node": name, **{key: asdict(value) for key, value in row.items()}} for name, row in rows.items()]
        summary = {"name": graph.name, "share": part, "groups": count, "nodes": nodes, "hours": asdict(hours)}
        print(json.dumps(summary | {"workers": workers, "not_sampled": left_out}))
        return 0
    _print_table(rows)
    factor, unit = (1, "hours") if hours.value >= 1 else (60, "minutes") if hours.value >= 1 / 60 else (3600, "seconds")
    time = f"{_text(_times(hours, factor), 1)} {unit}"
    print(f"whole run: {time} with {workers} workers; measured on {part:.1%} of the units; groups: {count}; ± is 90 %")
    if left_out:
        print(f"not sampled: {', '.join(left_out)}")
    return 0


def _print_table(rows: Mapping[str, Mapping[str, Estimate]]) -> None:
    lines: list[tuple[str, ...]] = [("node", *MEASURES[:-1], "worker seconds")]
    lines += [(name, *(_text(row[key]) if key in row else "" for key in MEASURES)) for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        print("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip())


def _sampled_nodes(graph: Graph) -> tuple[str, ...]:
    """Return the nodes that make documents, views and samples, and the folders that these read."""
    stores = {name for name in graph.order if graph.node(name).PRODUCT in ("documents", "view", "samples")}
    read = {wanted for name in stores for wanted in graph.node(name).reads()}
    return tuple(name for name in graph.order if name in stores | read)


class SampleGroup:
    """A few units of every source, and the totals of a run over them."""

    def __init__(self, sources: Mapping[str, Survey], share: float, number: int, count: int) -> None:
        """
        Args:
            share: of all units, for all `count` groups together; this is group `number`.
        """
        self.sources = sources
        self.chosen = {name: _chosen(name, survey.units, share, number, count) for name, survey in sources.items()}
        self.totals: defaultdict[str, dict[str, float]] = defaultdict(lambda: {"worker_s": 0.0})
        """By node and measure."""

    def parts(self, graph: Graph, order: Sequence[str]) -> dict[str, float]:
        """Return, after the run, the share of the whole that each node of `order` has read."""
        parts: dict[str, float] = {}
        for name in order:
            inputs = graph.node(name).reads()
            documents = [self.totals[source].get("documents", 0.0) for source in inputs]
            weights = documents if any(documents) else [1.0] * len(inputs)
            wholes = [weight / parts[source] for weight, source in zip(weights, inputs, strict=True)]
            parts[name] = sum(weights) / sum(wholes) if inputs else self._part(name)
        return parts

    def _part(self, source: str) -> float:
        whole, mine = self.sources[source].units, self.chosen[source]
        if all(unit.size_bytes for unit in whole):
            return sum(unit.size_bytes for unit in mine) / sum(unit.size_bytes for unit in whole)
        return len(mine) / len(whole)


def _chosen(source: str, units: Sequence[Unit], share: float, number: int, count: int) -> tuple[Unit, ...]:
    """Return the units of one group, in store order."""
    shuffled = sorted(units, key=lambda unit: digest("estimate", source, unit.name))
    names = {unit.name for unit in shuffled[: max(count, round(share * len(units)))][number::count]}
    return tuple(unit for unit in units if unit.name in names)


def _without_requests(unit: Unit) -> Unit:
    """Return the unit; if its node asks an endpoint, one that asks for no document."""
    return replace(unit, data=unit.data.empty()) if isinstance(unit.data, ChosenDocuments) else unit


class SampleExecution(Execution):
    """Runs one group."""

    def __init__(self, graph: Graph, out: Destination, engine: Engine, group: SampleGroup) -> None:
        super().__init__(graph, out, engine, engine, QuietConsole())
        self.group = group

    def _survey(self, name: str, node: Node, inputs: Inputs) -> Survey:
        if node.reads():
            survey = super()._survey(name, node, inputs)
            return replace(survey, units=tuple(map(_without_requests, survey.units)))
        return replace(self.group.sources[name], units=self.group.chosen[name])

    def _log_outcome(self, node: str, unit: str, outcome: Outcome) -> None:
        super()._log_outcome(node, unit, outcome)
        self.group.totals[node]["worker_s"] += outcome.seconds

    def work(self) -> None:
        super().work()
        for name, product in self.products.items():
            totals = self.group.totals[name]
            if product.kind == "folder":
                totals["worker_s"] = next(result.seconds for result in self.results if result.node == name)
                continue
            counts = product.snapshot.counts
            totals["documents"] = len(product.snapshot.kept()) if product.kind == "view" else counts["records"]
            if product.kind != "view":
                totals["bytes"] = counts["bytes"]
            if "tokens" in counts:
                totals["tokens"] = counts["tokens"]


def _row(name: str, groups: Sequence[SampleGroup], parts: Sequence[float]) -> dict[str, Estimate]:
    measures = [measure for measure in MEASURES if measure in groups[0].totals[name]]
    return {measure: expected([group.totals[name][measure] for group in groups], parts) for measure in measures}


def _times(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, None if estimate.margin is None else estimate.margin * factor)


def _text(estimate: Estimate, digits: int = 0) -> str:
    if estimate.margin is None:
        return f"{estimate.value:,.{digits}f} ± ?"
    return f"{estimate.value:,.{digits}f} ± {estimate.margin:,.{digits}f}"
