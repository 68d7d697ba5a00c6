"""The door to Megatron-core: who may pass, and that it is the only one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from model import platform

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return done.stdout + done.stderr


def test_an_unchecked_version_is_refused_with_the_checked_ones_named():
    said = run(
        "import importlib.metadata as m; found = m.version;"
        "m.version = lambda name: '0.17.0' if name == 'megatron-core' else found(name);"
        "import model.platform"
    )
    assert "megatron-core 0.17.0" in said and "0.16.1 and 0.19.2" in said and "fix:" in said


def test_megatron_that_came_in_by_another_door_is_refused():
    assert "import model.platform first" in run("import megatron.core; import model.platform")


def test_building_a_model_says_nothing_and_opens_no_port():
    said = run(
        "import socket; socket.socket.bind = None\n"
        "from tests.model.small import small_model; small_model(); small_model()"
    )
    assert said == ""


def test_a_source_that_no_longer_holds_what_is_rewritten_is_refused(tmp_path, monkeypatch):
    source = tmp_path / "changed.py"
    source.write_text("value = 1\n")
    monkeypatch.setattr(platform, "WITHOUT_CUDA", (platform.Rewrite("changed", "value = 2", "value = 3"),))
    with pytest.raises(ImportError, match="no longer contains 'value = 2'"):
        platform._RewritingLoader("changed", str(source)).get_code("changed")


def test_nobody_else_imports_megatron():
    imports = re.compile(r"^\s*(from|import) megatron\b", re.MULTILINE)
    rooms = ("manifests", "stores", "tokenization", "packing", "pipelines", "model", "train")
    found = [file for room in rooms for file in (ROOT / room).rglob("*.py") if imports.search(file.read_text())]
    assert found == [ROOT / "model" / "platform.py"]
