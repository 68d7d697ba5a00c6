"""Documentation of node kinds and their keys, printed by `millrace run --kinds`, and the JSON Schema of `--schema`.

Both are read from the node classes of `catalogue.py`: fields, defaults, and the docs below the fields
(`manifests/fields.py`). Ops of a filter and other unions inside a node are found the same way.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pydantic
from pydantic.json_schema import GenerateJsonSchema

from manifests.errors import ManifestError
from manifests.fields import FieldDoc, class_doc, classes_in, field_docs, kinds_of
from manifests.records import Json
from pipelines.catalogue import NODES
from pipelines.dag.graph import Dag
from pipelines.filters.op import Measured
from pipelines.node import DOCUMENTS

WIDTH = 100
"""Columns of the output."""


def print_kinds(kind: str) -> None:
    """Print all kinds of nodes, or with `kind` the keys of one kind of node, op, edit or task.

    Raises:
        ManifestError: there is no such kind.
    """
    lines = _all_kinds() if not kind else _one_kind(kind)
    print("\n".join(lines))


def _all_kinds() -> Iterator[str]:
    rows = [("kind", "reads -> makes", "")]
    rows += [(kind, _reads_and_makes(cls), _sentence(cls)) for kind, cls in NODES.items()]
    yield from _table(rows)
    yield ""
    yield "millrace run --kinds KIND lists the keys of a kind; of filter and transform also the ops."


def _one_kind(kind: str) -> Iterator[str]:
    cls = NODES.get(kind)
    heading = f"{kind}: {_reads_and_makes(cls)}" if cls is not None else kind
    if cls is None:
        members = {name: member for node in NODES.values() for name, member in _members(node).items()}
        cls = members.get(kind)
        if cls is None:
            similar = difflib.get_close_matches(kind, [*NODES, *members], n=1)
            fix = f"did you mean '{similar[0]}'?" if similar else "`millrace run --kinds` lists all"
            raise ManifestError(f"there is no kind {kind!r}", where="--kinds", fix=fix)
        owners = [name for name, node in NODES.items() if kind in _members(node)]
        heading += f": in a node of kind {' or '.join(owners)}"
    yield heading
    for paragraph in class_doc(cls).split("\n\n"):
        yield ""
        yield from [paragraph] if paragraph.startswith(" ") else textwrap.wrap(paragraph, WIDTH)
    yield from _keys(cls, set())


def _keys(cls: type, seen: set[type], name: str = "") -> Iterator[str]:
    """Yield the keys of a class, then those of the maps inside it."""
    seen.add(cls)
    yield ""
    yield f"keys of {name}:" if name else "keys:"
    inside: list[tuple[str, type]] = []
    for field in field_docs(cls):
        if field.name == "kind":
            continue
        line = f"{field.name}: {type_text(field.type)}{_default_text(field)}"
        yield from textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="      ")
        if meaning := _meaning(cls, field):
            yield from textwrap.wrap(meaning, WIDTH, initial_indent="      ", subsequent_indent="      ")
        unions = [member for member in classes_in(field.type) if kinds_of(member)]
        if unions:
            rows = [(kind, _sentence(member)) for member in unions for kind in kinds_of(member)]
            yield from ("      " + line for line in _table(rows, WIDTH - 6))
        inside += [(field.name, member) for member in classes_in(field.type) if not kinds_of(member)]
    for key, member in inside:
        if member not in seen:
            yield from _keys(member, seen, f"{name}.{key}" if name else key)


def _meaning(cls: type, field: FieldDoc) -> str:
    """Return the doc of a field; for the limit of an op, plus the score that it is compared with."""
    sentences = [field.doc] if field.doc else []
    for limit in cls.LIMITS if issubclass(cls, Measured) else ():
        if limit.parameter == field.name:
            sentences.append(f"Documents with `{limit.score}` {limit.drops} it are dropped as `{limit.reason}`.")
    return " ".join(sentences)


def _members(cls: type) -> dict[str, type]:
    """Return the classes with a `kind` inside a node class, e.g. the ops of a filter, by kind."""
    members: dict[str, type] = {}
    for field in field_docs(cls):
        for member in classes_in(field.type):
            members |= dict.fromkeys(kinds_of(member), member) or _members(member)
    return members


def _reads_and_makes(cls: type) -> str:
    node: Any = cls
    keys = {field.name for field in field_docs(cls)}
    reads = "" if keys.isdisjoint(("input", "inputs", "mixture")) else _store_names(node.READS)
    makes = "files" if node.PRODUCT == "folder" else node.PRODUCT
    return f"{reads or '-'} -> {makes}"


def _store_names(kinds: frozenset[str]) -> str:
    """Return kinds of products as text; a view counts as documents."""
    if len(kinds) > 3:
        return "any"
    names = kinds - {"view"} if kinds >= DOCUMENTS else kinds
    return ", ".join(sorted("files" if name == "folder" else name for name in names))


def _sentence(cls: type) -> str:
    """Return the first sentence of a class's docstring."""
    text = " ".join(class_doc(cls).partition("\n\n")[0].split())
    return text.partition(". ")[0].removesuffix(".") + "."


def _table(rows: Sequence[tuple[str, ...]], width: int = WIDTH) -> Iterator[str]:
    """Yield rows in columns; the last column is wrapped."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    indent = " " * (sum(widths) + 2 * len(widths))
    for *cells, text in rows:
        start = "".join(cell.ljust(size + 2) for cell, size in zip(cells, widths, strict=True))
        yield from textwrap.wrap(text, width, initial_indent=start, subsequent_indent=indent) or [start.rstrip()]


def type_text(annotation: Any) -> str:
    """Return a type in words of YAML: `number`, `list of text`, `exact or fast`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return " or ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        names = [type_text(argument) for argument in arguments if argument is not type(None)]
        return " or ".join(dict.fromkeys(names))
    if isinstance(origin, type) and issubclass(origin, tuple) and Ellipsis not in arguments:
        return f"list of {len(arguments)} values: {', '.join(map(type_text, arguments))}"
    if isinstance(origin, type) and issubclass(origin, list | tuple):
        return f"list of {type_text(arguments[0])}"
    if isinstance(origin, type) and arguments:
        return f"map of {type_text(arguments[-1])}"
    if dataclasses.is_dataclass(annotation):
        return "map with `kind`" if kinds_of(annotation) else "map"  # type: ignore[arg-type]
    return {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any value"}[annotation]


def _default_text(field: FieldDoc) -> str:
    if field.required:
        return " (required)"
    if field.default is None or field.default in ((), "", {}):
        return ""
    if dataclasses.is_dataclass(field.default):
        return ", keys with defaults"
    return f" = {json.dumps(field.default, ensure_ascii=False)}"


class _DocumentedSchema(GenerateJsonSchema):
    """JSON Schema with the docs below the fields as descriptions, and without titles made from names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        result = super().dataclass_schema(schema)
        for field in field_docs(schema["cls"]):
            meaning, key = _meaning(schema["cls"], field), result.get("properties", {}).get(field.name)
            if meaning and key:
                key["description"] = meaning
        return result


def manifest_schema() -> Json:
    """Return the JSON Schema of a data manifest, for YAML editors: closed unions by `kind`, descriptions, defaults."""
    schema = pydantic.TypeAdapter(Dag).json_schema(schema_generator=_DocumentedSchema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "millrace data manifest"}


def print_schema() -> None:
    """Print the JSON Schema of a data manifest."""
    json.dump(manifest_schema(), sys.stdout, indent=1, ensure_ascii=False)
    print()
