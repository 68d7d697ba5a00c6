"""Tool declarations: the TypeScript of K2.5, type by type, and JSON for schemas without a type."""

from __future__ import annotations

import json

import pytest

from manifests.records import Json
from tokenization.tools import declare


def function(name: str = "f", description: str = "", **parameters: Json) -> Json:
    schema = {"type": "object", "properties": parameters}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def typed(schema: Json, required: bool = True) -> str:
    """Return the text between the braces of a function with one parameter `x`."""
    tool = function(x=schema)
    tool["function"]["parameters"]["required"] = ["x"] if required else []
    text = declare([tool], "typescript")
    before, after = "# Tools\n\n## functions\nnamespace functions {\ntype f = (_: {\n", "\n}) => any;\n}\n"
    assert text.startswith(before) and text.endswith(after)
    return text[len(before) : -len(after)]


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "  x: string"),
        ({"type": "integer", "minimum": 1, "maximum": 9}, "  // maximum: 9, minimum: 1\n  x: number"),
        ({"type": "string", "pattern": "^a", "minLength": 2}, "  // minLength: 2, pattern: ^a\n  x: string"),
        ({"type": "string", "description": "One\n\ntwo"}, "  // One\n\n  // two\n  x: string"),
        ({"type": "number", "default": 0.5}, "  // Default: 0.5\n  x: number"),
        ({"type": "string", "default": "é"}, '  // Default: "é"\n  x: string'),
        ({"enum": ["a", 1]}, '  x: "a" | 1'),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "  x: number | null"),
        ({"type": ["string", "array", "object"]}, "  x: string | Array<any> | {}"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, "  // minItems: 1\n  x: Array<string>"),
        (
            {"type": "array", "items": {"type": "string", "description": "A name"}},
            "  x: Array<\n    // A name\n    string\n  >",
        ),
        ({"type": "object"}, "  x: {}"),
        ({"type": "object", "additionalProperties": False}, "  x: {\n    [k: string]: never\n  }"),
        (
            {"type": "object", "properties": {"b": {}, "a": True, "c": {}}, "required": ["c"]},
            "  x: {\n    c: any,\n    a?: any,\n    b?: any\n  }",
        ),
    ],
)
def test_a_schema_becomes_this_type(schema: Json, text: str) -> None:
    assert typed(schema) == text


def test_a_field_that_is_not_required_is_optional() -> None:
    assert typed({"type": "string"}, required=False) == "  x?: string"


def test_definitions_become_interfaces_and_a_schema_may_refer_to_itself() -> None:
    tree = function(child={"$ref": "#"}, size={"$ref": "#/$defs/Size"})
    tree["function"]["parameters"]["$defs"] = {"Size": {"enum": ["s", "l"], "description": "How large"}}
    assert declare([tree, function("g", "Says g.")], "typescript") == (
        "# Tools\n\n## functions\nnamespace functions {\n"
        "interface parameters {\n  child?: parameters,\n  size?: Size\n}\n"
        '// How large\ninterface Size "s" | "l"\n'
        "type f = (_: parameters) => any;\n"
        "// Says g.\ntype g = (_: {}) => any;\n"
        "}\n"
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"oneOf": [{"type": "string"}]},
        {"$ref": "#/$defs/Nowhere"},
        {"type": "array", "items": "string"},
        {"enum": [1], "type": "string"},
        {"type": ["string", "color"]},
    ],
)
def test_a_schema_without_a_type_makes_the_whole_declaration_json(bad: Json) -> None:
    tools = [function("good"), function("bad", x=bad)]
    assert json.loads(declare(tools, "typescript")) == tools
    assert declare(tools, "typescript") == declare(tools, "json")


def test_json_is_compact_with_sorted_keys_at_every_level() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"ü": {}}}}}
    expected = '[{"function":{"name":"f","parameters":{"properties":{"ü":{}},"type":"object"}},"type":"function"}]'
    assert declare([tool], "json") == expected


def test_no_tools_give_no_declaration() -> None:
    assert declare([], "typescript") == declare([], "json") == ""
