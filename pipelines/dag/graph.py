"""Graph of a manifest's nodes: checked, in order, with the identity of each node.

manifest (YAML) -> `Graph` -> `execute.py`. A node's **identity** is a digest of its name, kind, version and parameters,
the content of its inputs, and its survey. Equal identity, equal product: such a node is skipped. Paths, times, worker
counts and the order of keys are no part of it.
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
from manifests.fields import KeyPath
from manifests.load import Manifest, schema
from manifests.records import Json, canonical_json, digest
from pipelines.catalogue import NODES
from pipelines.dag import check
from pipelines.engines.engine import EngineSettings
from pipelines.node import Inputs, Mistake, Node, Survey, Unit

if TYPE_CHECKING:
    AnyNode = Node
else:
    AnyNode = Annotated[Union[tuple(NODES.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007

RESERVED = frozenset({"receipts", "replaced", "forgotten", "aside", "lock", "leases", "answers"})
"""Names of folders in a run's folder that no node may have."""


@schema
class Tolerance:
    """Number of bad records that stops a run: both limits must be exceeded. Unreadable formats don't count as bad."""

    in_a_row: int = 100
    """Bad records one after the other."""
    share: float = 0.5
    """Share of bad records in all records of the node so far."""

    def __post_init__(self) -> None:
        if self.in_a_row < 1 or not 0 <= self.share <= 1:
            raise ValueError("in_a_row is at least 1, share is from 0 to 1")


@schema
class Dag:
    """The whole of a data manifest."""

    name: str
    """Name of the run; by default it goes to runs/NAME."""
    nodes: dict[str, AnyNode]
    """Nodes by name. A node names the ones it reads in `input` or `inputs`."""
    tolerance: Tolerance = Tolerance()
    """Number of bad records that stops the run."""
    engine: EngineSettings = EngineSettings()
    """Processes or cluster that do the work."""


@dataclass(frozen=True)
class Graph:
    """A checked manifest, and the nodes of it that are to run."""

    manifest: Manifest[Dag]
    order: tuple[str, ...]
    """Node names: each after all that it reads, otherwise as in the manifest."""

    @property
    def name(self) -> str:
        return self.manifest.value.name

    def node(self, name: str) -> Node:
        return self.manifest.value.nodes[name]


def read(files: Sequence[Path | str], sets: Sequence[str] = (), until: str | None = None) -> Graph:
    """Load and check a manifest.

    Args:
        files: manifests, laid over each other from left to right.
        sets: `KEY=VALUE` changes.
        until: order this node and those that it needs; by default all.
    Raises:
        ManifestError: the manifest could never run; with file and line.
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
    for mistake in check.mistakes(nodes):
        raise _error(manifest, mistake)
    if until is None:
        return Graph(manifest, order)
    if until not in nodes:
        raise ManifestError(f"there is no node {until!r}", where="--until", fix=f"one of {', '.join(nodes)}")
    return Graph(manifest, _order(manifest, [until]))


def check_here(graph: Graph) -> None:
    """Check that this machine has the files, programs and keys that the nodes name.

    Raises:
        ManifestError: something is missing.
    """
    needed = {name: graph.node(name) for name in graph.order}
    for mistake in check.missing(needed, graph.manifest.value.engine.address is not None):
        raise _error(graph.manifest, mistake)


def _error(manifest: Manifest[Dag], mistake: Mistake) -> ManifestError:
    name = str(mistake.place[0])
    return ManifestError(f"{name}: {mistake.message}", where=manifest.where("nodes", *mistake.place), fix=mistake.fix)


def _check_input(manifest: Manifest[Dag], name: str, node: Node, wanted: str) -> None:
    nodes = manifest.value.nodes
    where = manifest.where("nodes", name, *_key_path(wanted, manifest.data["nodes"][name]))
    if wanted not in nodes:
        raise ManifestError(f"{name} reads {wanted!r}, which is no node", where=where, fix=f"one of {', '.join(nodes)}")
    made = nodes[wanted].PRODUCT
    if made not in node.READS:
        fitting = [other for other, candidate in nodes.items() if candidate.PRODUCT in node.READS and other != name]
        raise ManifestError(
            f"{name} ({node.kind}) reads {' or '.join(sorted(node.READS)) or 'nothing'}, but {wanted} makes {made}",
            where=where,
            fix=f"one of {', '.join(fitting)}" if fitting else "add a node that makes it",
        )


def _key_path(name: str, value: Json) -> KeyPath:
    """Return the key path of a reference to the node `name` inside another node's YAML; () if there is none."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        if below == name and key not in ("kind", "name"):
            return (key,)
        if path := _key_path(name, below):
            return (key, *path)
    return ()


def _order(manifest: Manifest[Dag], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the wanted nodes and all that they read, each after its inputs."""
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
    """Return 64 hex digits, equal exactly if the node would make the same product."""
    read = [inputs[wanted].digest for wanted in node.reads()]
    units = [[unit.name, unit.digest] for unit in survey.units]
    return digest("node", recipe(name, node), canonical_json([read, survey.facts, units]))


def unit_names(name: str, node: Node, survey: Survey) -> dict[str, Unit]:
    """Return the units by the name under which they are committed.

    The name includes a digest of all that decides the unit's records. So a unit found in the store can be kept even if
    other inputs of its node have changed.
    """
    common = digest("unit", recipe(name, node), canonical_json(survey.facts))
    return {f"{unit.name}.{digest(common, unit.digest)[:12]}": unit for unit in survey.units}


def recipe(name: str, node: Node) -> str:
    """Return the digest of the node alone, without inputs: its name, kind, version and parameters."""
    return digest(name, str(node.VERSION), canonical_json(_without_places(node)))


def _without_places(value: Any) -> Json:
    """Return the fields of a node and of ops inside it as JSON, without those in `PLACES`."""
    if dataclasses.is_dataclass(value):
        names = {field.name for field in dataclasses.fields(value)} - getattr(value, "PLACES", set())
        return {name: _without_places(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: _without_places(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(below) for below in value]
    return value


def made_of(node: Node, inputs: Inputs, survey: Survey) -> dict[str, Json]:
    """Return the ingredients of an identity in readable form, without the units.

    They are stored with the product, so that a dry run can name what has changed. Nothing else reads them but
    `PreviousView`.
    """
    read = {wanted: inputs[wanted].digest for wanted in node.reads()}
    return json.loads(canonical_json({**made_of_node(node), "inputs": read, "facts": survey.facts}))


def made_of_node(node: Node) -> dict[str, Json]:
    """Return the part of `made_of` that doesn't depend on inputs."""
    own = {"kind": node.kind, "version": node.VERSION, "parameters": _without_places(node)}
    return json.loads(canonical_json(own))
