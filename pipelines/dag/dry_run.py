"""Dry run: the nodes in order, which are committed, which would run, why, and the cost; for `millrace run --dry-run`.

Reads manifests, stores, receipts, the run log and the digests of raw files; writes nothing. The identities of nodes
behind the first one that would run are not known, as they depend on its result. For these the dry run gives an upper
bound: if a node has the units of its input, at most those that run there; else all of its units; and all of them if its
own parameters have changed. If a node's new result equals the old one, nothing behind it runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from manifests import runlog
from manifests.records import Json
from pipelines.dag import graph as dag
from pipelines.dag.destination import Destination
from pipelines.dag.graph import Graph
from pipelines.dag.products import FolderReceipts, finished, store_head
from pipelines.node import DOCUMENTS, Node, Product, units_below

ITEMS_SHOWN = 4
"""Changed values and units named on the terminal; `--json` names all."""

STATES = ("committed", "would run", "may run")


def dry_run(graph: Graph, out: Destination, as_json: bool) -> int:
    """Print the result to stdout; returns the exit code."""
    state = _State(out, {}, {})
    rows = [_row(graph, state, name) for name in graph.order]
    if as_json:
        print(json.dumps({"name": graph.name, "manifest": graph.manifest.digest, "out": out.stores, "nodes": rows}))
        return 0
    print(f"{graph.name}  manifest {graph.manifest.digest[:12]}  -> {out.stores}")
    for row in rows:
        last = row is rows[-1]
        read = f" <- {', '.join(row['reads'])}" if row["reads"] else ""
        digest = (row["digest"] or row["identity"] or row["recipe"])[:12]
        print(f"{'└─' if last else '├─'} {row['node'] + read}  {row['kind']}  {digest}  {row['state']}")
        for line in _details(row):
            print(f"{'  ' if last else '│ '}    {line}")
    count = Counter(row["state"].split(":")[0].split(" after")[0] for row in rows)
    print(f"nodes: {', '.join(f'{count[state]} {state}' for state in STATES if count[state])}")
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    if seconds:
        print(f"at most about {sum(seconds):,.0f} s at the rates of the last run, plus the nodes that never ran")
    return 0


def _details(row: dict[str, Json]) -> Iterator[str]:
    """Lines below a node: reasons, units, cost."""
    if row["reasons"]:
        yield "because " + _first(row["reasons"], "; ")
    cost = [f"reads {row['bytes'] / 1e6:,.1f} MB"] if row["bytes"] else []
    cost += [f"about {row['seconds']:,.1f} s at the rate of the last run"] if row["seconds"] is not None else []
    units = ["units: " + _first([unit["unit"] for unit in row["units"]], ", ")] if row["units"] else []
    if units or cost:
        yield "; ".join([*units, *cost])


def _first(items: Sequence[str], separator: str) -> str:
    more = [f"{len(items) - ITEMS_SHOWN} more"] if len(items) > ITEMS_SHOWN else []
    return separator.join([*items[:ITEMS_SHOWN], *more])


@dataclass(frozen=True)
class _State:
    """Results for the nodes before the present one."""

    out: Destination
    products: dict[str, Product]
    """Committed nodes."""
    touched: dict[str, frozenset[str] | None]
    """Units that would or may run, by node, without the digests of their stored names; None: nothing exists yet."""


def _row(graph: Graph, state: _State, name: str) -> dict[str, Json]:
    node, out = graph.node(name), state.out
    row: dict[str, Json] = {
        "node": name,
        "kind": node.kind,
        "reads": list(node.reads()),
        "recipe": dag.recipe(name, node),
        "identity": "",
        "digest": "",
        "reasons": [],
        "units": [],
        "bytes": 0,
        "seconds": None,
    }
    before = _Before.of(out, name, node)
    old = {_plain(stored) for stored in before.units}
    if any(wanted not in state.products for wanted in node.reads()):
        return row | _bound(state, name, node, before, old)
    inputs = {wanted: state.products[wanted] for wanted in node.reads()}
    survey = node.survey(name, inputs)
    row["identity"] = dag.identity(name, node, inputs, survey)
    committed = finished(out, name, node, inputs, row["identity"])
    if committed:
        state.products[name] = committed[0]
        return row | {"digest": committed[0].digest, "state": "committed"}
    if node.PRODUCT == "folder":
        wanted_units = {unit.name: unit for unit in survey.units}
        done = frozenset(FolderReceipts(out.folder).parts(name, row["identity"]))
    else:
        wanted_units, done = dag.unit_names(name, node, survey), before.units
    todo = [unit for stored, unit in wanted_units.items() if stored not in done]
    removed = old - {unit.name for unit in survey.units}
    state.touched[name] = frozenset(unit.name for unit in todo) | removed if before.made_of else None
    return row | {
        "state": f"would run: {len(todo)} of {len(wanted_units)} units",
        "reasons": list(_reasons(before.made_of, dag.made_of(node, inputs, survey), len(removed))),
        "units": [{"unit": unit.name, "reason": "changed" if unit.name in old else "new"} for unit in todo],
        "bytes": sum(unit.size_bytes for unit in todo),
        "seconds": _seconds(out, name, len(todo)),
    }


def _bound(state: _State, name: str, node: Node, before: _Before, old: set[str]) -> dict[str, Json]:
    """Upper bound for a node with an input that would or may run.

    Args:
        old: its units in earlier runs, without digests.
    """
    pending = [wanted for wanted in node.reads() if wanted not in state.products]
    now = dag.made_of_node(node)
    then = {key: value for key, value in before.made_of.items() if key in now}
    changed = list(_changes(then, now)) if then else []
    after = f"after {', '.join(pending)}"
    if not before.made_of or any(state.touched[wanted] is None for wanted in pending):
        state.touched[name] = None
        return {"state": f"would run {after}", "reasons": changed}
    if node.PRODUCT == "folder":
        state.touched[name] = frozenset()
        return {"state": f"{'would' if changed else 'may'} run {after}", "reasons": changed}
    affected = _affected(state, node, pending, old) if not changed else None
    units = old if affected is None else affected
    state.touched[name] = frozenset(units)
    sizes = _sizes(state.out, node)
    return {
        "state": f"{'would' if changed else 'may'} run {after}: at most {len(units)} of {len(old | units)} units",
        "reasons": changed,
        "units": [{"unit": unit, "reason": "touched" if unit in old else "new"} for unit in sorted(units)],
        "bytes": sum(sizes.get(unit, 0) for unit in units),
        "seconds": _seconds(state.out, name, len(units)),
    }


def _affected(state: _State, node: Node, pending: Sequence[str], old: set[str]) -> set[str] | None:
    """Return the units that depend on units which run before; None if the units are not those of the inputs."""
    affected: set[str] = set()
    for wanted in pending:
        head = store_head(state.out, wanted)
        touched = state.touched[wanted]
        if head is None or touched is None:
            return None
        existing = {_plain(stored) for stored in head.units}
        # Units are named after those of the first input, or after an input and its unit. Plain names of other inputs
        # don't count: they could be equal by chance.
        for form in ("{wanted}-{unit}", "{unit}") if wanted == node.reads()[0] else ("{wanted}-{unit}",):
            if {form.format(unit=unit, wanted=wanted) for unit in existing} <= old:
                affected |= {form.format(unit=unit, wanted=wanted) for unit in touched}
                break
        else:
            return None
    return affected


def _sizes(out: Destination, node: Node) -> dict[str, int]:
    """Return the bytes that units read at present, under each name that a unit may have."""
    sizes: dict[str, int] = {}
    for wanted in node.reads():
        head = store_head(out, wanted)
        if head is not None and head.kind in DOCUMENTS and head.base_error is None:
            for unit in units_below(head):
                sizes[unit.name] = sizes[f"{wanted}-{unit.name}"] = unit.size_bytes
    return sizes


@dataclass(frozen=True)
class _Before:
    """Results of earlier runs for a node."""

    made_of: Mapping[str, Json]
    """Empty if there are none."""
    units: frozenset[str]
    """Stored names; none for a folder."""

    @classmethod
    def of(cls, out: Destination, name: str, node: Node) -> _Before:
        if node.PRODUCT == "folder":
            receipt = FolderReceipts(out.folder).last(name)
            return cls(receipt.made_of if receipt else {}, frozenset())
        head = store_head(out, name)
        return cls(head.meta.get("made_of", {}), frozenset(head.units)) if head else cls({}, frozenset())


def _reasons(before: Mapping[str, Json], now: Mapping[str, Json], removed: int) -> Iterator[str]:
    """Reasons why a node would run."""
    if not before:
        yield "no earlier result exists"
        return
    changed = list(_changes(before, now))
    yield from changed
    if removed:
        yield f"{removed} units were removed"
    if not changed and not removed:
        yield "a run was stopped, or some of its input has changed"


def _changes(before: Json, now: Json, place: str = "") -> Iterator[str]:
    """Yield each value that differs, with its place: `parameters.ops.1.min_characters 8 -> 1`."""
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


def _seconds(out: Destination, name: str, units: int) -> float | None:
    """Return the expected time for so many units, at the rate of the last run that did some of this node."""
    begun = 0
    rate = None
    for row in runlog.read(out.folder / "log.jsonl"):
        if row.get("node") == name and row["event"] == "node_start":
            begun = row["units"] - row["committed"]
        elif row.get("node") == name and row["event"] == "node_commit" and begun:
            rate = row["seconds"] / begun
    return None if rate is None else round(rate * units, 1)


def _plain(stored: str) -> str:
    """Return the name of a stored unit without its digest."""
    return stored.rpartition(".")[0]
