"""The picture of docs/design.md, held against the code: who may import whom, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "manifests": set(),
    "stores": {"manifests"},
    "tokenization": {"manifests"},
    "packing": {"manifests", "stores", "tokenization"},
    "pipelines": {"manifests", "stores", "tokenization", "packing"},
    "model": {"manifests"},
    "train": {"manifests", "stores", "tokenization", "packing", "model"},
}
HEAVY = ("torch", "megatron", "ray", "dask", "distributed", "transformers")
OWN_LIBRARY: dict[Path, set[str]] = {
    Path("packing/loader/torch_batches.py"): {"torch"},
    Path("pipelines/engines/ray.py"): {"ray"},
    Path("pipelines/engines/dask.py"): {"distributed"},
    Path("stores/files/gcs.py"): set(),
}
"""Files that alone may import something heavy, or of an extra; who needs one imports it when it is asked for."""


def files() -> list[Path]:
    return [f.relative_to(ROOT) for room in ROOMS for f in sorted((ROOT / room).rglob("*.py"))]


def imports(file: Path) -> set[str]:
    """Dotted names of every module a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import; rooms name each other in full"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", files(), ids=str)
def test_a_room_imports_only_the_rooms_below_it(file: Path) -> None:
    room = file.parts[0]
    used = {name.split(".")[0] for name in imports(file)} & (set(ROOMS) | {"tests", "benchmarks"})
    assert used <= ROOMS[room] | {room}, f"{file} imports {sorted(used - ROOMS[room] - {room})}"


def test_the_proof_of_a_plan_shares_no_code_with_the_planner() -> None:
    assert not [name for name in imports(Path("packing/proof.py")) if name.split(".")[0] == "packing"]


@pytest.mark.parametrize("file", files(), ids=str)
def test_only_model_train_and_three_files_import_a_heavy_library(file: Path) -> None:
    if file.parts[0] not in ("model", "train"):
        heavy = {name.split(".")[0] for name in imports(file)} & set(HEAVY) - OWN_LIBRARY.get(file, set())
        assert not heavy, f"{file} imports {sorted(heavy)}"


@pytest.mark.parametrize("file", [f for f in files() if f.stem != "reference"], ids=str)
def test_no_product_code_imports_a_reference(file: Path) -> None:
    named = {name for name in imports(file) if name.endswith(".reference") and name.split(".")[0] in ROOMS}
    assert not named, f"{file} imports {sorted(named)}; references are for tests and benchmarks"


def test_inspection_reads_artefacts_never_the_code_that_made_them() -> None:
    for file in files():
        if file.parts[:2] == ("pipelines", "inspect"):
            makers = {
                name
                for name in imports(file)
                if name.startswith("pipelines.") and not name.startswith("pipelines.inspect")
            }
            assert not makers, f"{file} imports {sorted(makers)}"


@pytest.mark.parametrize("room", ["manifests", "stores", "tokenization", "packing", "pipelines"])
def test_a_light_room_loads_no_heavy_library(room: str) -> None:
    modules = [".".join(f.with_suffix("").parts) for f in files() if f.parts[0] == room and f not in OWN_LIBRARY]
    code = f"import sys, importlib\nfor m in {modules}: importlib.import_module(m.removesuffix('.__init__'))\n"
    code += f"print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_but_the_standard_library() -> None:
    code = "import sys, millrace; millrace.main(['--help']); print(sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for library in ("numpy", "pyarrow", "pydantic", "yaml", *HEAVY):
        assert f"'{library}'" not in done.stdout


def test_there_is_no_room_for_odds_and_ends() -> None:
    names = {part for file in files() for part in (*file.parts[:-1], file.stem)}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_every_name_in_the_verb_table_exists() -> None:
    import millrace

    for module, _ in millrace.VERBS.values():
        name, function = module.split(":")
        tree = ast.parse((ROOT / (name.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, module
