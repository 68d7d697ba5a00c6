"""Tests of the import of Megatron-core: checked versions, rewritten sources, `model/platform.py` its only importer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from model import platform

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    """Output of Python code in a new process, stdout and stderr."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return done.stdout + done.stderr


def test_an_unchecked_version_is_refused_with_the_checked_versions_in_the_message():
    output = run(
        "import importlib.metadata as m; version = m.version;"
        "m.version = lambda name: '0.17.0' if name == 'megatron-core' else version(name);"
        "import model.platform"
    )
    assert "megatron-core 0.17.0" in output and "0.16.1 and 0.19.2" in output and "fix:" in output


def test_megatron_imported_before_model_platform_is_refused():
    assert "import model.platform first" in run("import megatron.core; import model.platform")


def test_building_a_model_prints_nothing_and_opens_no_port():
    output = run(
        "import socket; socket.socket.bind = None\n"
        "from tests.model.small import small_model; small_model(); small_model()"
    )
    assert output == ""


def test_a_changed_source_without_the_rewritten_line_is_refused(tmp_path, monkeypatch):
    source = tmp_path / "changed.py"
    source.write_text("value = 1\n")
    monkeypatch.setattr(platform, "WITHOUT_CUDA", (platform.Rewrite("changed", "value = 2", "value = 3"),))
    with pytest.raises(ImportError, match="no longer contains 'value = 2'"):
        platform._RewritingLoader("changed", str(source)).get_code("changed")


def test_only_model_platform_imports_megatron():
    imports = re.compile(r"^\s*(from|import) megatron\b", re.MULTILINE)
    rooms = ("manifests", "stores", "tokenization", "packing", "pipelines", "model", "train")
    importers = [file for room in rooms for file in (ROOT / room).rglob("*.py") if imports.search(file.read_text())]
    assert importers == [ROOT / "model" / "platform.py"]
