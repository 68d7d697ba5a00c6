"""Checks of a whole manifest beyond its schema; checks of single nodes are methods of their classes.

`mistakes` looks at the nodes and how they read each other; `graph.read` calls it. `missing` looks at this machine, for
files, programs and keys that nodes name; it is called before a run, a dry run or an estimate, so that a run doesn't end
after a day because its last node names a file that doesn't exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, cast

from manifests.fields import KeyPath
from manifests.records import DOMAINS, Json
from pipelines.node import Mistake, Node


def mistakes(nodes: Mapping[str, Node]) -> Iterator[Mistake]:
    """Yield mistakes of all nodes; places begin with the node's name."""
    for name, node in nodes.items():
        for mistake in (*_inputs(node), *node.check(name, nodes), *_domains((), asdict(cast(Any, node)))):
            yield replace(mistake, place=(name, *mistake.place))


def missing(nodes: Mapping[str, Node], elsewhere: bool) -> Iterator[Mistake]:
    """Yield what the nodes need and this machine doesn't have; arguments as of `NodeBase.missing`."""
    for name, node in nodes.items():
        for mistake in node.missing(elsewhere):
            yield replace(mistake, place=(name, *mistake.place))


def _inputs(node: Node) -> Iterator[Mistake]:
    """Lists of inputs that are empty or name a node twice."""
    for key in ("inputs", *node.SIDE_INPUTS):
        names = getattr(node, key, None)
        if not isinstance(names, tuple):
            continue
        if not names and key == "inputs":
            yield Mistake((key,), f"{key} names no node", "name one, or leave the node out")
        if len(set(names)) < len(names):
            yield Mistake((key,), f"{key} names a node twice", "name each once; a mixture's weights say how often")


def _domains(place: KeyPath, value: Json) -> Iterator[Mistake]:
    """Misspelled domains in `domains` at any depth, e.g. of ops: they would match no document."""
    items: Any = ()
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in items:
        if key == "domains" and isinstance(below, list | tuple):
            for number, domain in enumerate(below):
                if domain not in DOMAINS:
                    message = f"{domain!r} is no domain, so it would match no document"
                    yield Mistake((*place, key, number), message, f"some of {', '.join(DOMAINS)}")
        else:
            yield from _domains((*place, key), below)
