"""Mistakes in a manifest: reported before any work, with exit code 2, the line and a fix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from manifests.errors import ManifestError
from pipelines.dag import graph as dag
from pipelines.engines.engine import EngineSettings
from tests.pipelines.dag.test_run import ROOT

WHOLE = """
name: whole
tolerance: {in_a_row: 50, share: 0.5}
engine: {kind: local}
nodes:
  documents:
    kind: ingest_folder
    path: ./data
  good:
    kind: filter
    input: documents
    ops:
      - {kind: text_length, min_characters: 5}
      - {kind: fineweb, domains: [web]}
  keys:
    kind: minhash
    input: good
  unique:
    kind: dedup_minhash
    input: keys
    prefer: characters
  hashed:
    kind: image_hash
    input: unique
  seen:
    kind: dedup_images
    input: hashed
  tests:
    kind: ingest_folder
    path: ./data
  clean:
    kind: decontaminate
    input: seen
    against: [tests]
  samples:
    kind: tokenize
    inputs: [clean]
  plan:
    kind: plan
    mixture:
      max_pack_tokens: 512
      global_batch_packs: 2
      sources:
        - {name: own, input: samples, weight: 1, domains: [web, code]}
  packs:
    kind: pack
    input: plan
"""

MISTAKES = {
    "a misspelt key": ("    prefer: characters", "    prefers: characters", "unique.prefers is not a known key", ""),
    "a misspelt kind": ("kind: minhash\n", "kind: minhsah\n", "minhsah", "'minhash'"),
    "a misspelt op": ("kind: text_length,", "kind: text_lenth,", "text_lenth", "'text_length'"),
    "a word for a number": ("min_characters: 5", "min_characters: few", 'min_characters is "few"', "valid integer"),
    "no such node": ("    input: good", "    input: god", "reads 'god', which is no node", "one of documents, good"),
    "no such node in a list": ("inputs: [clean]", "inputs: [claen]", "reads 'claen'", "one of documents"),
    "no such node in a mixture": ("input: samples, w", "input: sample, w", "reads 'sample'", "one of documents"),
    "a node of another sort": ("    input: plan", "    input: samples", "reads plan, but samples makes", "one of plan"),
    "a circle": ("    input: documents", "    input: seen", "circle: good -> seen", "outside the circle"),
    "a node that is nowhere given": ("    input: keys\n", "", "input is missing", ""),
    "keys that nobody wrote": (
        "    input: keys",
        "    input: good",
        "good (filter) writes no keys",
        "kind minhash: keys",
    ),
    "hashes that nobody wrote": ("    input: hashed", "    input: unique", "has no hashes", "kind image_hash"),
    "more frames than are hashed": (
        "input: hashed",
        "input: hashed\n    min_frames: 6",
        "min_frames is 6",
        "key_frames",
    ),
    "no such column": ("prefer: characters", "prefer: tokens", "'tokens' is no column", "good.fineweb.short_lines"),
    "no such score": ("prefer: characters", "prefer: good.fineweb.x", "no column of numbers", "one of characters"),
    "no such domain": ("domains: [web]}\n  keys", "domains: [wep]}\n  keys", "'wep' is no domain", "web, code, math"),
    "no such domain in a mixture": ("[web, code]}", "[web, cod]}", "'cod' is no domain", "web, code, math"),
    "two ops that share a column": (
        "fineweb, domains: [web]",
        "text_length",
        "two ops of kind text_length",
        "`domains`",
    ),
    "an empty list of nodes": ("inputs: [clean]", "inputs: []", "inputs names no node", "name one"),
    "a node named twice": ("inputs: [clean]", "inputs: [clean, clean]", "names a node twice", "once"),
    "data held against itself": ("against: [tests]", "against: [seen]", "seen is compared with itself", "evaluations"),
    "a share above one": ("share: 0.5", "share: 50", "share is from 0 to 1", ""),
    "an engine without units": ("kind: local}", "kind: dask, in_flight_units: 0}", "in_flight_units is 0", ""),
    "a pack of no tokens": ("max_pack_tokens: 512", "max_pack_tokens: 0", "max_pack_tokens is 0", ""),
    "pages too fine": (
        "path: ./data\n  good",
        "path: ./data\n    pdf_dpi: 9000\n  good",
        "pdf_dpi must be in [36, 600]",
        "",
    ),
}


def refused(folder: Path, manifest: str) -> ManifestError:
    (folder / "dag.yaml").write_text(manifest)
    with pytest.raises(ManifestError) as caught:
        dag.check_here(dag.read([folder / "dag.yaml"]))
    return caught.value


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_with_its_line_and_a_fix(tmp_path: Path, name: str) -> None:
    right, wrong, message, fix = MISTAKES[name]
    assert WHOLE.count(right) == 1
    (tmp_path / "data").mkdir()
    error = refused(tmp_path, WHOLE.replace(right, wrong))
    assert message in error.message and error.exit_code == 2
    assert fix in f"{error.message} {error.fix}" and error.fix
    line = int(error.where.removeprefix(f"{tmp_path}/dag.yaml:"))
    first = WHOLE[: WHOLE.index(right)].count("\n") + 1
    # Of a circle any node of it will do.
    assert name == "a circle" or first - 2 <= line <= first + wrong.count("\n") + 1


def test_a_correct_manifest_has_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "dag.yaml").write_text(WHOLE)
    graph = dag.read([tmp_path / "dag.yaml"])
    dag.check_here(graph)
    assert graph.manifest.value.engine == EngineSettings()


NEEDS = {
    "data": ("path: ./data\n  good", "path: ./dta\n  good", "documents: there is no"),
    "a vocabulary": ("inputs: [clean]", "inputs: [clean]\n    vocabulary: ./ranks.tiktoken", "samples: there is no"),
    "a list of sites": ("kind: fineweb", "kind: blocked, site_files: [./sites]", "good: there is no"),
    "code": (
        "kind: filter\n    input: documents\n    ops:\n      - {kind: text_length, min_characters: 5}\n"
        "      - {kind: fineweb, domains: [web]}",
        "kind: score_function\n    input: documents\n    version: '1'\n    function: ./score.py:score",
        "good: there is no",
    ),
    "a key": (
        "kind: minhash\n    input: good",
        "kind: synthesize\n    input: good\n    endpoint: {url: 'http://127.0.0.1:9', key_from: NOBODY_SETS_THIS}\n"
        "    model: m\n    task: {kind: caption}\n  others:\n    kind: minhash\n    input: good",
        "NOBODY_SETS_THIS",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_file_or_key_of_a_late_node_is_reported_before_any_work(tmp_path: Path, name: str) -> None:
    right, wrong, message = NEEDS[name]
    (tmp_path / "data").mkdir()
    manifest = WHOLE.replace(right, wrong).replace(
        "    input: keys\n", "    input: others\n" if name == "a key" else "    input: keys\n"
    )
    manifest = manifest.replace("    prefer: characters\n", "")
    error = refused(tmp_path, manifest)
    assert message in error.message and error.fix and error.where.startswith(f"{tmp_path}/dag.yaml:")


def test_a_missing_classifier_library_is_reported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    (tmp_path / "data").mkdir()
    (tmp_path / "m.bin").write_bytes(b"model")
    source = "name: x\nnodes:\n  raw: {kind: ingest_folder, path: ./data}\n"
    error = refused(tmp_path, source + "  good: {kind: score_fasttext, input: raw, model: ./m.bin, label: hq}\n")
    assert "fastText is not installed" in error.message and "millrace[fasttext]" in error.fix


def test_the_command_writes_nothing_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "dag.yaml").write_text(
        WHOLE.replace("vocabulary", "x").replace("inputs: [clean]", "inputs: [clean]\n    vocabulary: ./no")
    )
    for more in ([], ["--dry-run"], ["--estimate"]):
        command = [
            sys.executable,
            str(ROOT / "millrace.py"),
            "run",
            str(tmp_path / "dag.yaml"),
            "--out",
            str(tmp_path / "out"),
        ]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2 and not done.stdout and not (tmp_path / "out").exists()
        assert "dag.yaml:38: samples: there is no" in done.stderr and "fix: check the path" in done.stderr
