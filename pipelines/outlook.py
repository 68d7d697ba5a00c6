"""`millrace run --dry-run`: the nodes in order, what is there already, what would run, why, and what that takes.

Reads manifests, stores, receipts, the run log and the digests of raw files, and touches nothing. Behind the first node
that would run, identities are not known yet, because they are made of what that node will make.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from manifests import runlog
from manifests.records import Json
from pipelines import dag
from pipelines.dag import Graph
from pipelines.node import Node, Product
from pipelines.out import Out
from pipelines.products import finished, store_head
from pipelines.receipts import Receipts

MOST_SHOWN = 4
"""Changed values, and units, named on the terminal; `--json` names all."""


def outlook(graph: Graph, out: Out, as_json: bool) -> int:
    """Print it to stdout; the exit code."""
    products: dict[str, Product] = {}
    rows = [_row(graph, out, name, products) for name in graph.order]
    if as_json:
        print(json.dumps({"name": graph.name, "manifest": graph.manifest.digest, "out": out.stores, "nodes": rows}))
        return 0
    print(f"{graph.name}  manifest {graph.manifest.digest[:12]}  -> {out.stores}")
    for row in rows:
        last = row is rows[-1]
        read = f" <- {', '.join(row['reads'])}" if row["reads"] else ""
        digest = row["digest"] or row["identity"] or row["recipe"]
        print(f"{'└─' if last else '├─'} {row['node'] + read:<44} {row['kind']:<14} {digest[:12]}  {row['state']}")
        for line in _details(row):
            print(f"{'  ' if last else '│ '}    {line}")
    missing = sum(row["digest"] == "" for row in rows)
    print(f"{len(rows) - missing} nodes are committed, {missing} would run")
    return 0


def _details(row: dict[str, Json]) -> Iterator[str]:
    if row["why"]:
        yield "because " + _few(row["why"], "; ")
    if row["seconds_of_all"] is not None:
        yield f"about {row['seconds_of_all']:,.1f} s if all of it runs, by the last run; only units that change will"
    if row["units"]:
        cost = [f"reads {row['bytes'] / 1e6:,.1f} MB"] if row["bytes"] else []
        cost += [f"about {row['seconds']:,.1f} s, by the last run"] if row["seconds"] is not None else []
        yield "; ".join([_few([unit["unit"] for unit in row["units"]], ", "), *cost])


def _few(words: Sequence[str], between: str) -> str:
    more = [f"{len(words) - MOST_SHOWN} more"] if len(words) > MOST_SHOWN else []
    return between.join([*words[:MOST_SHOWN], *more])


def _row(graph: Graph, out: Out, name: str, products: dict[str, Product]) -> dict[str, Json]:
    node = graph.node(name)
    row: dict[str, Json] = {
        "node": name,
        "kind": node.kind,
        "reads": list(node.reads()),
        "recipe": dag.recipe(name, node),
        "identity": "",
        "digest": "",
        "why": [],
        "units": [],
        "bytes": 0,
        "seconds": None,
        "seconds_of_all": None,
    }
    before = _Before.of(out, name, node)
    waits = [wanted for wanted in node.reads() if wanted not in products]
    if waits:
        own = {key: value for key, value in before.made_of.items() if key in dag.made_by(node)}
        changed = list(_changes(own, dag.made_by(node))) if own else []
        seconds = _seconds(out, name, len(before.units)) if before.units else None
        return row | {"state": f"would run after {', '.join(waits)}", "why": changed, "seconds_of_all": seconds}
    inputs = {wanted: products[wanted] for wanted in node.reads()}
    survey = node.survey(name, inputs)
    row["identity"] = dag.identity(name, node, inputs, survey)
    found = finished(out, name, node, inputs, row["identity"])
    if found:
        products[name] = found[0]
        return row | {"digest": found[0].digest, "state": "committed"}
    if node.PRODUCT == "folder":
        wanted_units = {unit.name: unit for unit in survey.units}
        done = frozenset(Receipts(out.folder).parts(name, row["identity"]))
    else:
        wanted_units, done = dag.unit_names(name, node, survey), before.units
    todo = [unit for stored, unit in wanted_units.items() if stored not in done]
    old = {_plain(stored) for stored in before.units}
    gone = old - {unit.name for unit in survey.units}
    return row | {
        "state": f"would run: {len(todo)} of {len(wanted_units)} units",
        "why": list(_why(before.made_of, dag.made_of(node, inputs, survey), len(gone))),
        "units": [{"unit": unit.name, "why": "changed" if unit.name in old else "new"} for unit in todo],
        "bytes": sum(unit.size_bytes for unit in todo),
        "seconds": _seconds(out, name, len(todo)),
    }


@dataclass(frozen=True)
class _Before:
    """What earlier runs left of a node."""

    made_of: Mapping[str, Json]
    """Empty where there is nothing."""
    units: frozenset[str]
    """As they are stored; none of a folder."""

    @classmethod
    def of(cls, out: Out, name: str, node: Node) -> _Before:
        if node.PRODUCT == "folder":
            receipt = Receipts(out.folder).last(name)
            return cls(receipt.made_of if receipt else {}, frozenset())
        head = store_head(out, name)
        return cls(head.meta.get("made_of", {}), frozenset(head.units)) if head else cls({}, frozenset())


def _why(before: Mapping[str, Json], now: Mapping[str, Json], gone: int) -> Iterator[str]:
    if not before:
        yield "nothing is there yet"
        return
    changed = list(_changes(before, now))
    yield from changed
    if gone:
        yield f"{gone} units are gone"
    if not changed and not gone:
        yield "a run was stopped, or some of what it reads has changed"


def _changes(before: Json, now: Json, place: str = "") -> Iterator[str]:
    """Each value that differs, by its place: `parameters.ops.1.min_characters 8 -> 1`."""
    if isinstance(before, list) and isinstance(now, list):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield f"{place} changed" if place.startswith("inputs.") else f"{place} {_short(before)} -> {_short(now)}"
        return
    for key in {**before, **now}:
        yield from _changes(before.get(key), now.get(key), f"{place}.{key}" if place else str(key))


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _seconds(out: Out, name: str, units: int) -> float | None:
    """That so many units took in the last run that did some of this node."""
    begun = 0
    rate = None
    for row in runlog.read(out.folder / "log.jsonl"):
        if row.get("node") == name and row["event"] == "node_start":
            begun = row["units"] - row["committed"]
        elif row.get("node") == name and row["event"] == "node_commit" and begun:
            rate = row["seconds"] / begun
    return None if rate is None else round(rate * units, 1)


def _plain(stored: str) -> str:
    """A unit's name without the digest that it is stored under."""
    return stored.rpartition(".")[0]
