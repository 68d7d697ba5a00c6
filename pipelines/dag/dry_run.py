"""`millrace run --dry-run`: the nodes in order, what is there already, what would run, why, and what that takes.

Reads manifests, stores, receipts, the run log and the digests of raw files, and touches nothing. Behind the first node
that would run, identities are not known yet, because they are made of what that node will make. What is known is the
most that may run there: a node whose units are those of what it reads does at most those that run there, any other one
all of its units, and all of them where its own parameters changed. If what was made again says the same as before,
nothing behind it runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from manifests import runlog
from manifests.records import Json
from pipelines.dag import graph as dag
from pipelines.dag.destination import Out
from pipelines.dag.graph import Graph
from pipelines.dag.products import finished, store_head
from pipelines.dag.receipts import Receipts
from pipelines.node import DOCUMENTS, Node, Product, units_below

MOST_SHOWN = 4
"""Changed values, and units, named on the terminal; `--json` names all."""


STATES = ("committed", "would run", "may run")


def outlook(graph: Graph, out: Out, as_json: bool) -> int:
    """Print it to stdout; the exit code."""
    seen = _Seen(out, {}, {})
    rows = [_row(graph, seen, name) for name in graph.order]
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
        print(f"at most about {sum(seconds):,.0f} s by the last run, and what is new")
    return 0


def _details(row: dict[str, Json]) -> Iterator[str]:
    if row["why"]:
        yield "because " + _few(row["why"], "; ")
    cost = [f"reads {row['bytes'] / 1e6:,.1f} MB"] if row["bytes"] else []
    cost += [f"about {row['seconds']:,.1f} s, by the last run"] if row["seconds"] is not None else []
    units = [_few([unit["unit"] for unit in row["units"]], ", ")] if row["units"] else []
    if units or cost:
        yield "; ".join([*units, *cost])


def _few(words: Sequence[str], between: str) -> str:
    more = [f"{len(words) - MOST_SHOWN} more"] if len(words) > MOST_SHOWN else []
    return between.join([*words[:MOST_SHOWN], *more])


@dataclass(frozen=True)
class _Seen:
    """What is known of the nodes before this one."""

    out: Out
    products: dict[str, Product]
    """Of those that are committed."""
    touched: dict[str, frozenset[str] | None]
    """Of the others, the units that would or may run, as they are named there; None where nothing is there yet."""


def _row(graph: Graph, seen: _Seen, name: str) -> dict[str, Json]:
    node, out = graph.node(name), seen.out
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
    }
    before = _Before.of(out, name, node)
    old = {_plain(stored) for stored in before.units}
    if any(wanted not in seen.products for wanted in node.reads()):
        return row | _behind(seen, name, node, before, old)
    inputs = {wanted: seen.products[wanted] for wanted in node.reads()}
    survey = node.survey(name, inputs)
    row["identity"] = dag.identity(name, node, inputs, survey)
    found = finished(out, name, node, inputs, row["identity"])
    if found:
        seen.products[name] = found[0]
        return row | {"digest": found[0].digest, "state": "committed"}
    if node.PRODUCT == "folder":
        wanted_units = {unit.name: unit for unit in survey.units}
        done = frozenset(Receipts(out.folder).parts(name, row["identity"]))
    else:
        wanted_units, done = dag.unit_names(name, node, survey), before.units
    todo = [unit for stored, unit in wanted_units.items() if stored not in done]
    gone = old - {unit.name for unit in survey.units}
    seen.touched[name] = frozenset(unit.name for unit in todo) | gone if before.made_of else None
    return row | {
        "state": f"would run: {len(todo)} of {len(wanted_units)} units",
        "why": list(_why(before.made_of, dag.made_of(node, inputs, survey), len(gone))),
        "units": [{"unit": unit.name, "why": "changed" if unit.name in old else "new"} for unit in todo],
        "bytes": sum(unit.size_bytes for unit in todo),
        "seconds": _seconds(out, name, len(todo)),
    }


def _behind(seen: _Seen, name: str, node: Node, before: _Before, old: set[str]) -> dict[str, Json]:
    """Of a node that reads something which is not there yet: the most that may run of it."""
    waits = [wanted for wanted in node.reads() if wanted not in seen.products]
    own = {key: value for key, value in before.made_of.items() if key in dag.made_by(node)}
    changed = list(_changes(own, dag.made_by(node))) if own else []
    after = f"after {', '.join(waits)}"
    if not before.made_of or any(seen.touched[wanted] is None for wanted in waits):
        seen.touched[name] = None
        return {"state": f"would run {after}", "why": changed}
    if node.PRODUCT == "folder":
        seen.touched[name] = frozenset()
        return {"state": f"{'would' if changed else 'may'} run {after}", "why": changed}
    may = _followed(seen, node, waits, old) if not changed else None
    units = old if may is None else may
    seen.touched[name] = frozenset(units)
    sizes = _sizes(seen.out, node)
    return {
        "state": f"{'would' if changed else 'may'} run {after}: at most {len(units)} of {len(old | units)} units",
        "why": changed,
        "units": [{"unit": unit, "why": "touched" if unit in old else "new"} for unit in sorted(units)],
        "bytes": sum(sizes.get(unit, 0) for unit in units),
        "seconds": _seconds(seen.out, name, len(units)),
    }


def _followed(seen: _Seen, node: Node, waits: Sequence[str], old: set[str]) -> set[str] | None:
    """The units that follow from those which run before, by name; None where units are not those of what is read."""
    found: set[str] = set()
    for wanted in waits:
        head = store_head(seen.out, wanted)
        touched = seen.touched[wanted]
        if head is None or touched is None:
            return None
        there = {_plain(stored) for stored in head.units}
        # Names of what is read beside the first are not taken over as they are: they might be the same by chance.
        for form in ("{wanted}-{unit}", "{unit}") if wanted == node.reads()[0] else ("{wanted}-{unit}",):
            if {form.format(unit=unit, wanted=wanted) for unit in there} <= old:
                found |= {form.format(unit=unit, wanted=wanted) for unit in touched}
                break
        else:
            return None
    return found


def _sizes(out: Out, node: Node) -> dict[str, int]:
    """Bytes that units read, by all names that they may have: of what lies there now."""
    sizes: dict[str, int] = {}
    for wanted in node.reads():
        head = store_head(out, wanted)
        if head is not None and head.kind in DOCUMENTS and head.base_error is None:
            for unit in units_below(head):
                sizes[unit.name] = sizes[f"{wanted}-{unit.name}"] = unit.size_bytes
    return sizes


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
