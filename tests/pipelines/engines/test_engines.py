"""`millrace run --engine ...`: equal content on every engine, and refused settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.errors import ManifestError
from pipelines.engines.choose import open_engine
from pipelines.engines.engine import EngineSettings
from stores.store import Store

ROOT = Path(__file__).parents[3]
DAG = """
name: engines
nodes:
  documents: {kind: ingest_stdlib, text_bytes: 200_000, code_bytes: 100_000}
  filtered:
    kind: filter
    input: documents
    ops: [{kind: no_text}, {kind: text_length, min_characters: 400}]
  unique: {kind: dedup_exact, input: filtered}
  samples: {kind: tokenize, inputs: [unique]}
  page: {kind: report, inputs: [samples]}
"""


def run(folder: Path, out: str, *options: str, code: int = 0) -> str:
    """Run the manifest in `folder`, which must end with `code`; returns stderr. `out` is relative to the working
    directory."""
    command = [sys.executable, str(ROOT / "millrace.py"), "run", "dag.yaml", "--out", out, *options]
    done = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=150)
    assert done.returncode == code, done.stderr
    return done.stderr


def roots(folder: Path) -> dict[str, str]:
    heads = {name: Store.open(str(folder / name)).head() for name in ("documents", "filtered", "unique", "samples")}
    return {name: head.content_root for name, head in heads.items() if head is not None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "dag.yaml").write_text(DAG)
    run(folder, "local", "--workers", "0")
    return folder


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_run_ends_in_the_same_content_on_every_engine(folder: Path, engine: str) -> None:
    stderr = run(folder, engine, "--engine", engine, "--workers", "2")
    assert roots(folder / engine) == roots(folder / "local") and len(roots(folder / engine)) == 4
    assert (folder / engine / "report.html").is_file()
    speakers = {line.split(":")[0] for line in stderr.splitlines() if line}
    assert speakers == {"documents", "filtered", "unique", "samples", "page"}, "a library speaks, too"


def test_an_unreachable_cluster_is_named(folder: Path) -> None:
    stderr = run(folder, "gone", "--engine", "dask", "--set", "engine.address=tcp://127.0.0.1:9", code=1)
    assert "no Dask cluster answers" in stderr and "tcp://127.0.0.1:9" in stderr
    with pytest.raises(ManifestError, match="0 workers work in this process"):
        open_engine(EngineSettings(kind="dask"), 0, print)
