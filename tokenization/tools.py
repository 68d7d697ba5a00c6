"""Tool declarations as the model reads them: TypeScript in the form of Kimi K2.5, or compact JSON.

`chat.py` puts them into the first message. The form is that of the released encoder (`tool_declaration_ts.py` of the
K2.5 tokenizer): one `type` per function in a namespace, required fields first, each group sorted by name, and comments
for constraints that TypeScript can't express. As there, keys are first sorted at every level, and one schema that
TypeScript can't express makes the declarations of the whole conversation JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal

from manifests.records import Json

Form = Literal["typescript", "json"]

INDENT = "  "
_SCALARS = {"integer": "number"}
_UNION_NAMES = {name: name for name in ("string", "number", "boolean", "null")}
_UNION_NAMES |= {"integer": "number", "object": "{}", "array": "Array<any>"}
_CONSTRAINTS = {
    "string": ("maxLength", "minLength", "pattern"),
    "number": ("maximum", "minimum"),
    "integer": ("maximum", "minimum"),
    "array": ("maxItems", "minItems"),
}
"""Constraints that become comments, by type and in this order."""
_ENUM_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
}


def declare(tools: Sequence[Json], form: Form) -> str:
    """Return the text of the declaration message; "" without tools."""
    ordered = json.loads(json.dumps(list(tools), sort_keys=True))
    if not ordered:
        return ""
    if form == "typescript":
        # a tool's schema comes from the data and may be any JSON
        with contextlib.suppress(_NoTypeScript, KeyError, TypeError, AttributeError, RecursionError):
            if declared := _namespace(ordered):
                return declared
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


class _NoTypeScript(Exception):
    """A schema that the released encoder refuses."""


def _namespace(tools: Sequence[Json]) -> str:
    functions = [tool["function"] for tool in tools if tool.get("type") == "function" and tool.get("function")]
    if not functions:
        return ""
    return "# Tools\n\n## functions\nnamespace functions {\n" + "\n".join(map(_function, functions)) + "\n}\n"


def _function(function: Mapping[str, Json]) -> str:
    schema = function.get("parameters") or {}
    types = _Types()
    parameters = types.object(schema, "")
    interfaces: list[str] = []
    if types.refers_to_root:
        fields = types.fields(schema, INDENT, by_name=False)
        interfaces.append("interface parameters {" + (f"\n{fields}\n" if fields else "") + "}")
        parameters = "parameters"
    for name, definition in list(types.definitions.items()):
        described = _comment(definition.get("description", ""), "")
        interfaces.append(f"{described}interface {name} {types.of(definition, '')}")
    comment = _comment(function.get("description") or "", "")[:-1]
    declared = f"type {function.get('name', 'function')} = (_: {parameters}) => any;"
    return "\n".join(line for line in (*interfaces, comment, declared) if line)


class _Types:
    """Converter of JSON schemas to types, with the definitions that they refer to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Json] = {}
        self.refers_to_root = False

    def of(self, schema: Json, indent: str) -> str:
        """Return the type of a schema; raises _NoTypeScript if there is none."""
        match schema:
            case bool():
                return "any" if schema else "null"
            case {"$ref": reference}:
                return self._reference(reference)
            case {"anyOf": choices}:
                return " | ".join(self.of(choice, indent) for choice in choices)
            case {"enum": values}:
                return _enum(values, schema.get("type"))
            case {"type": list(names)}:
                return " | ".join(_UNION_NAMES[name] for name in names)
            case {"type": "object"}:
                return self.object(schema, indent)
            case {"type": "array"}:
                return self._array(schema.get("items") or {}, indent)
            case {"type": str(name)}:
                return _SCALARS.get(name, name)
            case {} if not schema:
                return "any"
        raise _NoTypeScript

    def object(self, schema: Mapping[str, Json], indent: str) -> str:
        """Return the type of an object schema."""
        self.definitions |= schema.get("$defs") or {}
        fields = self.fields(schema, indent + INDENT)
        others = schema.get("additionalProperties")
        if others is not None:
            kind = "never" if others is False else self.of(others, indent + INDENT)
            fields += (",\n" if fields else "") + f"{indent}{INDENT}[k: string]: {kind}"
        return f"{{\n{fields}\n{indent}}}" if fields else "{}"

    def fields(self, schema: Mapping[str, Json], indent: str, by_name: bool = True) -> str:
        """Return the fields of an object schema, one per line."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        names = sorted(properties, key=lambda name: (name not in required, name)) if by_name else properties
        return ",\n".join(self._field(name, properties[name], name not in required, indent) for name in names)

    def _field(self, name: str, schema: Json, optional: bool, indent: str) -> str:
        comments = _type_comments(schema, indent)
        default = schema.get("default") if isinstance(schema, dict) else None
        if default is not None:
            text = repr(default) if isinstance(default, int | float) else json.dumps(default, ensure_ascii=False)
            comments += f"{indent}// Default: {text}\n"
        return f"{comments}{indent}{name}{'?' if optional else ''}: {self.of(schema, indent)}"

    def _array(self, items: Json, indent: str) -> str:
        comments = _type_comments(items, indent + INDENT)
        if not comments:
            return f"Array<{self.of(items, indent)}>"
        return f"Array<\n{comments}{indent}{INDENT}{self.of(items, indent + INDENT)}\n{indent}>"

    def _reference(self, reference: str) -> str:
        if reference == "#":
            self.refers_to_root = True
            return "parameters"
        name = reference.removeprefix("#/$defs/")
        if name == reference or name not in self.definitions:
            raise _NoTypeScript
        return name


def _enum(values: Sequence[Json], type_name: Json) -> str:
    if isinstance(type_name, list):
        if len(type_name) != 1 and not (len(type_name) == 2 and "null" in type_name):
            raise _NoTypeScript
        type_name = next((name for name in type_name if name != "null"), "null")
    wanted = _ENUM_TYPES.get(type_name or "", object)
    if not all(value is None or isinstance(value, wanted) for value in values):
        raise _NoTypeScript
    return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)


def _type_comments(schema: Json, indent: str) -> str:
    """Return the comment lines of a type: its description, then constraints that TypeScript can't express."""
    if not isinstance(schema, dict) or "$ref" in schema or "anyOf" in schema or "enum" in schema:
        return _comment(schema.get("description", ""), indent) if isinstance(schema, dict) else ""
    names = _CONSTRAINTS.get(schema["type"], ()) if isinstance(schema.get("type"), str) else ()
    constraints = ", ".join(f"{name}: {schema[name]}" for name in names if name in schema)
    return _comment(schema.get("description", ""), indent) + (f"{indent}// {constraints}\n" if constraints else "")


def _comment(description: str, indent: str) -> str:
    lines = description.split("\n") if description else []
    return "".join(f"{indent}// {line}\n" if line else "\n" for line in lines)
