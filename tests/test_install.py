"""The installed packages: the base curates data without the extras, and whatever needs an extra names it."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from manifests.extras import EXTRAS, missing
from tests.pipelines import small_data

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ROOMS = ("manifests", "stores", "tokenization", "packing", "pipelines", "model", "train")

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=;! ]", requirement)[0].lower().replace("_", "-")


def modules(distributions: set[str]) -> set[str]:
    """Top-level modules that installed distributions bring."""
    found = importlib.metadata.packages_distributions()
    return {
        module for module, names in found.items() if {name.lower().replace("_", "-") for name in names} & distributions
    }


BASE = {distribution(requirement) for requirement in PROJECT["dependencies"]}


def imported(rooms: tuple[str, ...]) -> dict[str, set[Path]]:
    """Third-party top-level modules that product files import -> those files."""
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    found: dict[str, set[Path]] = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top not in ROOMS:
                    found.setdefault(top, set()).add(file.relative_to(ROOT))
    return found


def test_every_base_requirement_is_imported_by_a_product_file() -> None:
    used = set(imported(ROOMS))
    idle = {name for name in BASE if not modules({name}) & used}
    assert not idle, f"no product file imports {sorted(idle)}: move them to an extra"


def test_rooms_that_curate_data_import_the_base_and_named_extras_only() -> None:
    optional = {module.split(".")[0] for extra in EXTRAS.values() for module in extra}
    for module, files in imported(ROOMS[:5]).items():
        assert module in modules(BASE) | optional, f"{sorted(map(str, files))} import {module}, which nothing installs"


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_install_the_modules_that_errors_ask_for(extra: str) -> None:
    brought = modules({distribution(requirement) for requirement in PROJECT["optional-dependencies"][extra]})
    assert {module.split(".")[0] for module in EXTRAS[extra]} <= brought
    assert not missing(extra)


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of child processes in which no module of an extra can be imported."""
    folder = tmp_path_factory.mktemp("site")
    blocked = {module.split(".")[0] for extra in EXTRAS.values() for module in extra} - {"font_lato"}
    blocked |= {"transformers", "webdataset"}
    (folder / "sitecustomize.py").write_text(BLOCK.format(blocked=blocked))
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def millrace(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "millrace.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_files_become_packs_with_the_base_install(without_extras: dict[str, str], tmp_path: Path) -> None:
    small_data.write(tmp_path / "data", texts=40)
    (tmp_path / "small.yaml").write_text(small_data.DAG)
    done = millrace(without_extras, tmp_path, "run", "small.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs/small/packs/roots").iterdir())) >= 1
    shown = millrace(without_extras, tmp_path, "inspect", "runs/small")
    assert shown.returncode == 0 and "packs" in shown.stdout


HUB = f"name: hub\nnodes: {{documents: {{kind: ingest_hub, dataset: a/b, revision: {'a' * 40}}}}}\n"


@pytest.mark.parametrize(
    "arguments, extra",
    [
        (["train", str(ROOT / "manifests/train/quickstart.yaml"), "--out", "out"], "train"),
        (["inspect", "s3://bucket/store"], "s3"),
        (["inspect", "gs://bucket/store"], "gcs"),
        (["run", "small.yaml", "--engine", "ray"], "ray"),
        (["run", "small.yaml", "--engine", "dask"], "dask"),
        (["run", "hub.yaml"], "hub"),
    ],
)
def test_a_feature_that_is_not_installed_names_its_extra(
    without_extras: dict[str, str], tmp_path: Path, arguments: list[str], extra: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text.txt").write_text("The mill grinds what the field has grown.")
    (tmp_path / "small.yaml").write_text(small_data.DAG)
    (tmp_path / "hub.yaml").write_text(HUB)
    done = millrace(without_extras, tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert f"pip install 'millrace[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
