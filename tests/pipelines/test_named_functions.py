"""Functions that product code names by strings `module:function`, for the sandbox and the command table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("manifests", "stores", "tokenization", "packing", "pipelines", "model", "train")
NAME = re.compile(rf"(?:{'|'.join(ROOMS)})(?:\.\w+)+:\w+")


def named_functions() -> list[tuple[str, str]]:
    """(file, `module:function`) of every such string, docstrings included."""
    files = [ROOT / "millrace.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]
    names = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names += [(file.relative_to(ROOT).as_posix(), name) for name in NAME.findall(node.value)]
    return names


@pytest.mark.parametrize(("file", "name"), named_functions())
def test_a_function_named_by_a_string_exists(file: str, name: str) -> None:
    module, _, function = name.partition(":")
    path = ROOT / (module.replace(".", "/") + ".py")
    assert path.is_file(), f"{file} names {name}, and there is no {path.relative_to(ROOT)}"
    defined = {
        node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
    }
    assert function in defined, f"{file} names {name}, and {path.relative_to(ROOT)} defines no {function}"


def test_the_functions_of_the_sandbox_are_among_them() -> None:
    names = {name for _, name in named_functions()}
    assert {"stores.media.image:check", "pipelines.ingest.formats.html_child:extract_page"} <= names
