"""Schema classes as documentation: the classes inside a type, their kinds, fields, defaults and field docs.

A class made with `manifests.load.schema` documents each field by a string literal below it, which Python itself doesn't
keep: it is read from the class's source. `load.py` names renamed keys with it, `millrace run --kinds` and `--schema`
print it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, Literal

from manifests.records import Json

KeyPath = tuple[str | int, ...]
"""Keys and list indexes from the top of a manifest to a value."""


@dataclass(frozen=True)
class FieldDoc:
    """One key of a schema class."""

    name: str
    type: Any
    """Its annotation, resolved."""
    default: Any
    """`dataclasses.MISSING` if the key is required."""
    doc: str
    """Its documentation in one paragraph; "" if it has none."""

    @property
    def required(self) -> bool:
        return self.default is MISSING


@cache
def field_docs(cls: type) -> tuple[FieldDoc, ...]:
    """Return the fields of a schema class, `kind` first, required ones before those with a default."""
    hints = typing.get_type_hints(cls, include_extras=True)
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _docs_in_source(base)
    fields = [FieldDoc(f.name, hints[f.name], _default(f), docs.get(f.name, "")) for f in dataclasses.fields(cls)]
    return tuple(sorted(fields, key=lambda field: (field.name != "kind", not field.required)))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _docs_in_source(cls: type) -> dict[str, str]:
    """Return the string literals below fields in the source of one class, without those of its bases."""
    try:
        source = inspect.getsource(cls)
    except OSError:  # a class without a file
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match following:
                case ast.Expr(ast.Constant(str(text))):
                    docs[statement.target.id] = " ".join(text.split())
    return docs


def class_doc(cls: type) -> str:
    """Return the docstring of a class without indentation; "" if it has none of its own."""
    return inspect.cleandoc(cls.__doc__ or "")


def kinds_of(cls: type) -> tuple[str, ...]:
    """Return the values of a class's `kind`; () if it has no such field, or any text is allowed."""
    hint = typing.get_type_hints(cls).get("kind")
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def classes_in(annotation: Any) -> list[type]:
    """Return the schema classes inside a type: members of unions, items of lists, values of maps."""
    classes: list[type] = []
    for member in _members(annotation):
        inner = typing.get_args(member) if typing.get_origin(member) is not Literal else ()
        classes += [member] if _is_schema(member) else [cls for part in inner for cls in classes_in(part)]
    return list(dict.fromkeys(classes))


def classes_at(annotation: Any, data: Json, place: KeyPath) -> list[type]:
    """Return the schema classes that a value inside a manifest may belong to.

    Args:
        annotation: type of the whole manifest.
        data: the whole manifest as JSON; `kind` of a map selects the class in a union.
        place: key path of the value.
    """
    types_here = _of_kind(_members(annotation), data)
    for step in place:
        data = _below(data, step)
        types_here = _of_kind([member for outer in types_here for member in _step(outer, step)], data)
    return [member for member in types_here if _is_schema(member)]


def _is_schema(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _below(data: Json, step: str | int) -> Json:
    if isinstance(data, dict):
        return data.get(step)
    return data[step] if isinstance(data, list) and isinstance(step, int) and step < len(data) else None


def _step(annotation: Any, step: str | int) -> list[Any]:
    """Return the types of an item or a field of a type."""
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        return _members(hints[step]) if step in hints else []
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
        return _members(arguments[1])
    if isinstance(origin, type) and issubclass(origin, Sequence) and arguments:
        return _members(arguments[0])
    return []


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, also inside Annotated; else the type itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in _members(part)]
    return [annotation]


def _of_kind(annotations: list[Any], data: Json) -> list[Any]:
    """Return the classes whose `kind` is that of `data`; all if none is."""
    kind = data.get("kind") if isinstance(data, dict) else None
    chosen = [cls for cls in annotations if _is_schema(cls) and kind in kinds_of(cls)]
    return chosen or annotations
