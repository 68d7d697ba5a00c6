"""`--estimate`: exact if nothing is left out, intervals that hold, and no files left behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.errors import ManifestError
from pipelines.dag import run
from pipelines.dag.estimate import GROUPS, Estimate, expected
from stores.store import Snapshot, Store
from tests.pipelines import small_data

DAG = """
name: estimated
nodes:
  documents: {kind: ingest_folder, path: ./data}
  filtered:
    kind: filter
    input: documents
    ops: [{kind: no_text}, {kind: text_length, min_characters: 200}]
  samples: {kind: tokenize, inputs: [filtered]}
  page: {kind: report, inputs: [samples]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimated")
    (folder / "dag.yaml").write_text(DAG)
    dice = np.random.default_rng(3)
    for i in range(800):
        file = folder / "data" / f"{i % 20:02d}" / f"{i:04d}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(small_data.text(i, int(dice.integers(10, 120))))
    return folder


def estimated(folder: Path, share: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    options = ["--out", str(folder / "out"), "--workers", "0", "--estimate", share, "--json"]
    assert run.main([str(folder / "dag.yaml"), *options]) == 0
    return json.loads(capsys.readouterr().out)


def head(folder: Path, name: str) -> Snapshot:
    snapshot = Store.open(str(folder / "out" / name)).head()
    assert snapshot is not None
    return snapshot


def test_the_estimate_matches_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    estimate = estimated(folder, "0.4", capsys)
    assert estimate["groups"] == GROUPS and 0.1 < estimate["share"] < 0.9 and estimate["not_sampled"] == ["page"]
    assert not (folder / "out").exists() and not list(tmp_path.iterdir())
    whole = estimated(folder, "1", capsys)
    assert run.main([str(folder / "dag.yaml"), "--out", str(folder / "out"), "--workers", "0"]) == 0
    documents, filtered, samples = (head(folder, name) for name in ("documents", "filtered", "samples"))
    true = {
        ("documents", "documents"): documents.counts["records"],
        ("documents", "bytes"): documents.counts["bytes"],
        ("filtered", "documents"): len(filtered.kept()),
        ("samples", "documents"): samples.counts["records"],
        ("samples", "tokens"): samples.counts["tokens"],
        ("samples", "bytes"): samples.counts["bytes"],
    }
    by_node = {row["node"]: row for row in estimate["nodes"]}
    exactly = {row["node"]: row for row in whole["nodes"]}
    for (node, measure), value in true.items():
        guess = by_node[node][measure]
        assert abs(guess["value"] - value) <= guess["margin"], (node, measure, guess, value)
        assert 0 < guess["margin"] < 0.25 * value
        assert exactly[node][measure] == {"value": value, "margin": 0.0}
    assert by_node["samples"]["worker_s"]["value"] > 0 and estimate["hours"]["value"] > 0


def test_nine_of_ten_intervals_hold_the_true_value() -> None:
    """Units of very different sizes, with documents of different lengths."""
    dice = np.random.default_rng(7)
    held = 0
    for _ in range(2000):
        size = dice.gamma(2.0, 10.0, 400)
        documents = dice.poisson(size * dice.normal(1.0, 0.2, 400).clip(0.1))
        groups = dice.permutation(400)[:80].reshape(GROUPS, 10)
        parts = [float(size[group].sum() / size.sum()) for group in groups]
        guess = expected([float(documents[group].sum()) for group in groups], parts)
        assert guess.margin is not None
        held += abs(guess.value - documents.sum()) <= guess.margin
    assert 0.87 < held / 2000 < 0.93


def test_sources_sampled_with_different_shares_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, files in (("one", 10), ("many", 200)):
        for i in range(files):
            file = tmp_path / name / f"{i % (20 if name == 'many' else 1):02d}" / f"{i:04d}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(small_data.text(i, 20 if name == "many" else 400))
    (tmp_path / "dag.yaml").write_text("""
name: together
nodes:
  one: {kind: ingest_folder, path: ./one}
  many: {kind: ingest_folder, path: ./many}
  samples: {kind: tokenize, inputs: [one, many]}
""")
    estimate = estimated(tmp_path, "0.2", capsys)
    documents = {row["node"]: row["documents"]["value"] for row in estimate["nodes"]}
    assert estimate["groups"] == 1 and documents["one"] == 10  # its only unit
    assert documents["samples"] == pytest.approx(documents["one"] + documents["many"])


def test_one_group_has_no_interval_and_a_share_is_checked(folder: Path) -> None:
    assert expected([5.0], [0.1]) == Estimate(50.0, None)
    with pytest.raises(ManifestError, match="expected a share above 0"):
        run.main([str(folder / "dag.yaml"), "--estimate", "1.5"])
