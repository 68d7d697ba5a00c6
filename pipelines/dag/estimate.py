"""`millrace run --estimate`: a sample first, then what the whole would give and take, with intervals.

    units of the sources, in the order of a hash -> GROUPS groups -> each runs through the DAG by itself
    -> its totals -> sums over all groups, times (whole / sample), and a 90 % interval from how the groups differ

The groups lie in a folder of their own that is gone afterwards, so nothing of them can be taken for the run's. Only
nodes that make documents, views and samples are run, and what they need; no endpoint is asked, so what is synthesised
counts as nothing, and scores from endpoints drop nothing. A group stands for a source by the bytes of its units where
they are known, else by their number, and for what several sources come together in by the documents that came of each.
What grows faster than its input is not seen: of duplicates, a sample finds fewer than the whole has.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manifests.errors import ManifestError
from manifests.records import digest
from pipelines.dag.destination import Out
from pipelines.dag.execute import Execution
from pipelines.dag.graph import Graph
from pipelines.dag.progress import PAPER_WIDTH, Show
from pipelines.dag.unit import Outcome
from pipelines.engines.engine import Engine
from pipelines.engines.local import LocalEngine
from pipelines.node import Inputs, Node, Survey, Unit
from pipelines.scoring.budget import Chosen

GROUPS = 8
STUDENT_90 = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89)
"""Student's t, two-sided 90 %, by degrees of freedom from 1."""
MEASURES = ("documents", "tokens", "bytes", "worker_s")


@dataclass(frozen=True)
class Estimate:
    value: float
    margin: float | None
    """Half of the 90 % interval; None where one group is all there is."""


def expected(totals: Sequence[float], parts: Sequence[float]) -> Estimate:
    """The ratio of sums over all groups, with the jackknife's error.

    Args:
        totals: of a measure, by group.
        parts: of the whole that each group is.
    """
    value, share, count = sum(totals) / sum(parts), sum(parts), len(totals)
    if share >= 1 - 1e-9:
        return Estimate(value, 0.0)
    if count < 2:
        return Estimate(value, None)
    without = [(sum(totals) - total) / (share - part) for total, part in zip(totals, parts, strict=True)]
    spread = sum((one - statistics.fmean(without)) ** 2 for one in without)
    return Estimate(value, STUDENT_90[count - 2] * sqrt((count - 1) / count * spread * (1 - share)))


def estimate(graph: Graph, share: float, workers: int, as_json: bool) -> int:
    """Print it to stdout; the exit code."""
    if not 0 < share <= 1:
        raise ManifestError(f"{share} is no share", where="--estimate", fix="a number above 0, at most 1")
    order = _sampled(graph)
    sources = {name: graph.node(name).survey(name, {}) for name in order if not graph.node(name).reads()}
    fewest = min((len(survey.units) for survey in sources.values()), default=0)
    if not fewest:
        raise ManifestError("no node here makes documents", where=graph.name, fix="run a manifest with sources")
    count = min(GROUPS, fewest) if share < 1 else 1
    groups = [Group(sources, share, number, count) for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="millrace-estimate-") as scratch, LocalEngine(workers) as engine:
        for number, group in enumerate(groups):
            folder = Path(scratch) / str(number)
            Sampling(replace(graph, order=order), Out.of(str(folder), folder), engine, group).work()
    parts = [group.parts(graph, order) for group in groups]
    rows = {name: _row(name, groups, [some[name] for some in parts]) for name in order}
    shares = [min(some.values()) for some in parts]
    seconds = [
        share * sum(group.seen[name]["worker_s"] / some[name] for name in order)
        for group, some, share in zip(groups, parts, shares, strict=True)
    ]
    hours = expected([one / max(workers, 1) / 3600 for one in seconds], shares)
    part = sum(shares)
    left_out = [name for name in graph.order if name not in order]
    if as_json:
        nodes = [{"node": name, **{what: asdict(one) for what, one in row.items()}} for name, row in rows.items()]
        told = {"name": graph.name, "share": part, "groups": count, "nodes": nodes, "hours": asdict(hours)}
        print(json.dumps(told | {"workers": workers, "not_sampled": left_out}))
        return 0
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("node", *MEASURES):
        grid.add_column(title, justify="left" if title == "node" else "right")
    for name, row in rows.items():
        grid.add_row(name, *(_spoken(row[what]) if what in row else "" for what in MEASURES))
    Console(width=None if sys.stdout.isatty() else PAPER_WIDTH).print(grid)
    spent = f"{_spoken(hours, 1)} hours" if hours.value >= 1 else f"{_spoken(_times(hours, 60), 1)} minutes"
    print(f"{spent} with {workers} workers; from {part:.1%} in {count} groups, 90 % intervals")
    if left_out:
        print(f"not sampled: {', '.join(left_out)}")
    return 0


def _sampled(graph: Graph) -> tuple[str, ...]:
    """Nodes that make documents, views and samples, and folders that these read."""
    stores = {name for name in graph.order if graph.node(name).PRODUCT in ("documents", "view", "samples")}
    read = {wanted for name in stores for wanted in graph.node(name).reads()}
    return tuple(name for name in graph.order if name in stores | read)


class Group:
    """Some units of every source, and what came of them."""

    def __init__(self, sources: Mapping[str, Survey], share: float, number: int, count: int) -> None:
        self.sources = sources
        self.chosen = {name: _chosen(name, survey.units, share, number, count) for name, survey in sources.items()}
        self.seen: defaultdict[str, dict[str, float]] = defaultdict(lambda: {"worker_s": 0.0})
        """Totals by node and measure."""

    def parts(self, graph: Graph, order: Sequence[str]) -> dict[str, float]:
        """Of the whole that each node of `order` would read, once this group has run."""
        found: dict[str, float] = {}
        for name in order:
            inputs = graph.node(name).reads()
            came = [self.seen[one].get("documents", 0.0) for one in inputs]
            weights = came if any(came) else [1.0] * len(inputs)
            wholes = [weight / found[one] for weight, one in zip(weights, inputs, strict=True)]
            found[name] = sum(weights) / sum(wholes) if inputs else self._part(name)
        return found

    def _part(self, source: str) -> float:
        whole, mine = self.sources[source].units, self.chosen[source]
        if all(unit.size_bytes for unit in whole):
            return sum(unit.size_bytes for unit in mine) / sum(unit.size_bytes for unit in whole)
        return len(mine) / len(whole)


def _chosen(source: str, units: Sequence[Unit], share: float, number: int, count: int) -> tuple[Unit, ...]:
    """In store order."""
    shuffled = sorted(units, key=lambda unit: digest("estimate", source, unit.name))
    names = {unit.name for unit in shuffled[: max(count, round(share * len(units)))][number::count]}
    return tuple(unit for unit in units if unit.name in names)


def _unasked(unit: Unit) -> Unit:
    """Of a node that asks an endpoint, one that asks nothing."""
    return replace(unit, data=unit.data.nobody()) if isinstance(unit.data, Chosen) else unit


class Sampling(Execution):
    """Runs one group, quietly."""

    def __init__(self, graph: Graph, out: Out, engine: Engine, group: Group) -> None:
        super().__init__(graph, out, engine, engine, Quiet())
        self.group = group

    def _survey(self, name: str, node: Node, inputs: Inputs) -> Survey:
        if node.reads():
            survey = super()._survey(name, node, inputs)
            return replace(survey, units=tuple(map(_unasked, survey.units)))
        return replace(self.group.sources[name], units=self.group.chosen[name])

    def _log_outcome(self, node: str, unit: str, outcome: Outcome) -> None:
        super()._log_outcome(node, unit, outcome)
        self.group.seen[node]["worker_s"] += outcome.seconds

    def work(self) -> None:
        super().work()
        for name, product in self.products.items():
            seen = self.group.seen[name]
            if product.kind == "folder":
                seen["worker_s"] = next(one.seconds for one in self.results if one.node == name)
                continue
            counts = product.snapshot.counts
            seen["documents"] = len(product.snapshot.kept()) if product.kind == "view" else counts["records"]
            if product.kind != "view":
                seen["bytes"] = counts["bytes"]
            if "tokens" in counts:
                seen["tokens"] = counts["tokens"]


class Quiet(Show):
    def say(self, text: str) -> None:
        """Nothing: a group's nodes are nobody's progress."""


def _row(name: str, groups: Sequence[Group], parts: Sequence[float]) -> dict[str, Estimate]:
    measures = [what for what in MEASURES if what in groups[0].seen[name]]
    return {what: expected([group.seen[name][what] for group in groups], parts) for what in measures}


def _times(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, None if estimate.margin is None else estimate.margin * factor)


def _spoken(estimate: Estimate, digits: int = 0) -> str:
    if estimate.margin is None:
        return f"{estimate.value:,.{digits}f} ± ?"
    return f"{estimate.value:,.{digits}f} ± {estimate.margin:,.{digits}f}"
