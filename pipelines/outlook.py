"""`millrace run --dry-run`: the nodes in order, their digests, what is there already and what would run.

Reads manifests, stores, receipts and the digests of raw files, and touches nothing. Behind the first node that would
run, identities are not known yet, because they are made of what that node will make.
"""

from __future__ import annotations

import json
from pathlib import Path

from manifests.records import Json
from pipelines import dag
from pipelines.dag import Graph
from pipelines.node import Product
from pipelines.products import finished, store_head
from pipelines.receipts import Receipts


def outlook(graph: Graph, out: Path, as_json: bool) -> int:
    """Print it to stdout; the exit code."""
    products: dict[str, Product] = {}
    rows = [_row(graph, out, name, products) for name in graph.order]
    if as_json:
        print(json.dumps({"name": graph.name, "manifest": graph.manifest.digest, "out": str(out), "nodes": rows}))
        return 0
    print(f"{graph.name}  manifest {graph.manifest.digest[:12]}  -> {out}")
    for row in rows:
        last = row is rows[-1]
        read = f" <- {', '.join(row['reads'])}" if row["reads"] else ""
        digest = row["digest"] or row["identity"] or row["recipe"]
        print(f"{'└─' if last else '├─'} {row['node'] + read:<44} {row['kind']:<14} {digest[:12]}  {row['state']}")
    missing = sum(row["digest"] == "" for row in rows)
    print(f"{len(rows) - missing} nodes are committed, {missing} would run")
    return 0


def _row(graph: Graph, out: Path, name: str, products: dict[str, Product]) -> dict[str, Json]:
    node = graph.node(name)
    row: dict[str, Json] = {
        "node": name,
        "kind": node.kind,
        "reads": list(node.reads()),
        "recipe": dag.recipe(name, node),
        "identity": "",
        "digest": "",
    }
    waits = [wanted for wanted in node.reads() if wanted not in products]
    if waits:
        return row | {"state": f"would run after {', '.join(waits)}"}
    inputs = {wanted: products[wanted] for wanted in node.reads()}
    survey = node.survey(name, inputs)
    row["identity"] = dag.identity(name, node, inputs, survey)
    found = finished(out, name, node, inputs, row["identity"])
    if found:
        products[name] = found[0]
        return row | {"digest": found[0].digest, "state": "committed"}
    if node.PRODUCT == "folder":
        names = {unit.name for unit in survey.units}
        done = Receipts(out).parts(name, row["identity"]).keys() & names
    else:
        head = store_head(out, name)
        names = set(dag.unit_names(name, node, survey))
        done = names & set(head.units if head else ())
    return row | {"state": f"would run: {len(names) - len(done)} of {len(names)} units"}
