"""A manifest of nodes, checked and put in order: what depends on what, and when a node has changed.

manifest (YAML) -> `Graph` -> pipelines/dag/run.py. A node's **identity** is a digest over its name, kind, version,
parameters, the content of what it reads and what its survey found. Equal identity, equal product: such a node is
skipped. Paths, times, worker counts and the order of keys are no part of it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import pydantic

from manifests import load
from manifests.errors import ManifestError
from manifests.load import Manifest, schema
from manifests.records import Json, canonical_json, digest
from pipelines.catalogue import NODES
from pipelines.dag import check
from pipelines.dag.check import Mistake
from pipelines.engines.engine import EngineSettings
from pipelines.node import Inputs, Node, Survey, Unit

if TYPE_CHECKING:
    AnyNode = Node
else:
    AnyNode = Annotated[Union[tuple(NODES.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007

RESERVED = frozenset({"receipts", "replaced", "forgotten", "aside", "lock", "leases", "answers"})
"""Folders of a run that are not nodes."""


@schema
class Tolerance:
    """When bad records stop a run: both must hold. Formats that are not read at all don't count."""

    in_a_row: int = 100
    share: float = 0.5
    """Of all records that the node has seen so far."""

    def __post_init__(self) -> None:
        if self.in_a_row < 1 or not 0 <= self.share <= 1:
            raise ValueError("in_a_row is at least 1, share lies in [0, 1]")


@schema
class Dag:
    """The top of a data manifest."""

    name: str
    nodes: dict[str, AnyNode]
    tolerance: Tolerance = Tolerance()
    engine: EngineSettings = EngineSettings()


@dataclass(frozen=True)
class Graph:
    manifest: Manifest[Dag]
    order: tuple[str, ...]
    """Node names, every one after all it reads; otherwise as in the manifest."""

    @property
    def name(self) -> str:
        return self.manifest.value.name

    def node(self, name: str) -> Node:
        return self.manifest.value.nodes[name]


def read(files: Sequence[Path | str], sets: Sequence[str] = (), until: str | None = None) -> Graph:
    """Load and check a DAG; with `until`, order that node and what it needs.

    Raises ManifestError with file and line for anything that could never run.
    """
    manifest = load.load(Dag, files, sets)
    nodes = manifest.value.nodes
    for name, node in nodes.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED:
            raise ManifestError(
                f"node name {name!r} can't be used",
                where=manifest.where("nodes", name),
                fix=f"small letters, digits and _, and none of {', '.join(sorted(RESERVED))}",
            )
        for wanted in node.reads():
            _check_input(manifest, name, node, wanted)
    order = _order(manifest, list(nodes))
    for mistake in check.found(nodes):
        raise _refused(manifest, mistake)
    if until is None:
        return Graph(manifest, order)
    if until not in nodes:
        raise ManifestError(f"there is no node {until!r}", where="--until", fix=f"one of {', '.join(nodes)}")
    return Graph(manifest, _order(manifest, [until]))


def check_here(graph: Graph) -> None:
    """Raises ManifestError for what nodes name and this machine does not have."""
    needed = {name: graph.node(name) for name in graph.order}
    for mistake in check.missing(needed, graph.manifest.value.engine.address is not None):
        raise _refused(graph.manifest, mistake)


def _refused(manifest: Manifest[Dag], mistake: Mistake) -> ManifestError:
    name = str(mistake.place[0])
    return ManifestError(f"{name}: {mistake.message}", where=manifest.where("nodes", *mistake.place), fix=mistake.fix)


def _check_input(manifest: Manifest[Dag], name: str, node: Node, wanted: str) -> None:
    nodes = manifest.value.nodes
    where = manifest.where("nodes", name, *_place_of(wanted, manifest.data["nodes"][name]))
    if wanted not in nodes:
        raise ManifestError(f"{name} reads {wanted!r}, which is no node", where=where, fix=f"one of {', '.join(nodes)}")
    made = nodes[wanted].PRODUCT
    if made not in node.READS:
        fitting = [other for other, one in nodes.items() if one.PRODUCT in node.READS and other != name]
        raise ManifestError(
            f"{name} ({node.kind}) reads {' or '.join(sorted(node.READS)) or 'nothing'}, but {wanted} makes {made}",
            where=where,
            fix=f"one of {', '.join(fitting)}" if fitting else "add a node that makes it",
        )


def _place_of(wanted: str, told: Json) -> tuple[str | int, ...]:
    """Where in what a manifest says of a node another node's name stands."""
    items = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, below in items:
        if below == wanted and key not in ("kind", "name"):
            return (key,)
        if place := _place_of(wanted, below):
            return (key, *place)
    return ()


def _order(manifest: Manifest[Dag], wanted: Sequence[str]) -> tuple[str, ...]:
    nodes = manifest.value.nodes
    order: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            where = manifest.where("nodes", path[-1])
            fix = "let one of them read a node outside the circle"
            raise ManifestError(f"nodes read each other in a circle: {circle}", where=where, fix=fix)
        path.append(name)
        for below in nodes[name].reads():
            visit(below)
        order.append(path.pop())

    for name in wanted:
        visit(name)
    return tuple(order)


def identity(name: str, node: Node, inputs: Inputs, survey: Survey) -> str:
    """64 hex digits; equal exactly when the node would make the same product."""
    read = [inputs[wanted].digest for wanted in node.reads()]
    units = [[unit.name, unit.digest] for unit in survey.units]
    return digest("node", recipe(name, node), canonical_json([read, survey.facts, units]))


def unit_names(name: str, node: Node, survey: Survey) -> dict[str, Unit]:
    """Names under which units are committed. Each is bound to all that decides the unit's records, so that a unit found
    in the store is the wanted one even after other inputs of its node have changed."""
    common = digest("unit", recipe(name, node), canonical_json(survey.facts))
    return {f"{unit.name}.{digest(common, unit.digest)[:12]}": unit for unit in survey.units}


def recipe(name: str, node: Node) -> str:
    """Digest of the node alone: its name, kind, version and parameters. Known before anything ran."""
    return digest(name, str(node.VERSION), canonical_json(_parameters(node)))


def _parameters(node: Node) -> dict[str, Json]:
    told = _without_places(node)
    assert isinstance(told, dict)
    return told


def _without_places(value: Any) -> Json:
    """Fields of dataclasses but for those that say where things lie, of nodes and of ops inside them."""
    if dataclasses.is_dataclass(value):
        names = {one.name for one in dataclasses.fields(value)} - getattr(value, "PLACES", set())
        return {name: _without_places(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: _without_places(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(one) for one in value]
    return value


def made_of(node: Node, inputs: Inputs, survey: Survey) -> dict[str, Json]:
    """What an identity is a digest of, in the open and without the units: written beside a product, so that a dry run
    can say what has changed. Nothing else reads it."""
    read = {wanted: inputs[wanted].digest for wanted in node.reads()}
    return json.loads(canonical_json({**made_by(node), "inputs": read, "facts": survey.facts}))


def made_by(node: Node) -> dict[str, Json]:
    """The part of `made_of` that is known before anything ran."""
    told = {"kind": node.kind, "version": node.VERSION, "parameters": _parameters(node)}
    return json.loads(canonical_json(told))
