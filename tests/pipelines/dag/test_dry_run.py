"""`--dry-run`: the units that would run and the reasons, compared with the run that follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manifests import runlog
from manifests.records import Json
from pipelines.dag import run
from stores.store import Store
from tests.pipelines import small_data

DAG = """
name: dry_run
nodes:
  documents: {kind: ingest_folder, path: ./data}
  filtered:
    kind: filter
    input: documents
    ops: [{kind: no_text}, {kind: text_length, min_characters: 10}]
  samples: {kind: tokenize, inputs: [filtered]}
  unique: {kind: dedup_exact, input: filtered}
  page: {kind: report, inputs: [samples]}
"""
THRESHOLD = "nodes.filtered.ops.1.min_characters=20"


class Runs:
    """Runs of one folder, in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.out, self._capsys = folder, folder / "out", capsys

    def __call__(self, *options: str) -> str:
        """Run `millrace run`; returns stdout."""
        self._capsys.readouterr()
        assert run.main([str(self.folder / "dag.yaml"), "--out", str(self.out), "--workers", "0", *options]) == 0
        return self._capsys.readouterr().out

    def dry_run(self, *options: str) -> dict[str, dict[str, Any]]:
        return {row["node"]: row for row in json.loads(self("--dry-run", "--json", *options))["nodes"]}

    def work(self) -> dict[str, int]:
        """Units done by the last run that did some, by node."""
        begun = runlog.read(self.out / "log.jsonl", "node_start")
        return {row["node"]: row["units"] - row["committed"] for row in begun}


@pytest.fixture
def runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runs:
    (tmp_path / "dag.yaml").write_text(DAG)
    for i in range(200):
        file = tmp_path / "data" / f"{i % 5}" / f"{i:03d}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(small_data.text(i))
    (tmp_path / "data" / "3" / "short.txt").write_text("one short text\n")
    runs = Runs(tmp_path, capsys)
    runs()
    return runs


def state_and_units(row: dict[str, Json]) -> tuple[str, list[str]]:
    return row["state"], row["reasons"]


def test_a_changed_threshold_runs_its_op_and_the_units_whose_kept_records_changed(runs: Runs) -> None:
    units = runs.work()["samples"]
    assert units >= 3
    rows = runs.dry_run("--set", THRESHOLD)
    assert state_and_units(rows["documents"]) == ("committed", [])
    assert state_and_units(rows["filtered"]) == (
        f"would run: {units} of {units} units",
        ["parameters.ops.1.min_characters 10 -> 20"],
    )
    assert {unit["reason"] for unit in rows["filtered"]["units"]} == {"changed"}
    assert rows["filtered"]["bytes"] > 0 and rows["filtered"]["seconds"] is not None
    assert state_and_units(rows["samples"]) == (f"may run after filtered: at most {units} of {units} units", [])
    assert rows["samples"]["bytes"] > 0 and rows["samples"]["seconds"] is not None
    assert state_and_units(rows["unique"]) == ("may run after filtered: at most 1 of 1 units", [])
    assert state_and_units(rows["page"]) == ("may run after samples", [])
    runs("--until", "filtered", "--set", THRESHOLD)
    rows = runs.dry_run("--set", THRESHOLD)
    assert state_and_units(rows["samples"]) == (f"would run: 1 of {units} units", ["inputs.filtered changed"])
    (unit,) = rows["samples"]["units"]
    short = Store.open(str(runs.out / "documents")).head().table(["locator", "unit"]).to_pylist()  # type: ignore[union-attr]
    (home,) = {row["unit"].rpartition(".")[0] for row in short if row["locator"] == "3/short.txt"}
    assert unit == {"unit": f"filtered-{home}", "reason": "changed"}
    runs("--set", THRESHOLD)
    assert runs.work() == {"documents": units, "filtered": units, "samples": 1, "unique": 1, "page": 1}


def test_a_changed_file_is_named_by_its_unit(runs: Runs) -> None:
    (runs.folder / "data" / "3" / "short.txt").write_text("another short text\n")
    row = runs.dry_run()["documents"]
    assert row["reasons"] == ["a run was stopped, or some of its input has changed"]
    assert [unit["reason"] for unit in row["units"]] == ["changed"] and row["bytes"] > 0
    shown = runs("--dry-run")
    unit = row["units"][0]["unit"]
    assert f"{unit}; reads" in shown and "may run after filtered: at most 1 of " in shown
    assert "nodes: 1 would run, 4 may run" in shown and max(map(len, shown.splitlines()[1:])) < 110
    rows = runs.dry_run()
    assert [row["unit"] for row in rows["filtered"]["units"]] == [unit]
    assert [row["unit"] for row in rows["samples"]["units"]] == [f"filtered-{unit}"]
    runs()
    assert {name: count for name, count in runs.work().items() if name != "page"} == {
        "documents": 1, "filtered": 1, "samples": 1, "unique": 1,
    }  # fmt: skip
    assert state_and_units(runs.dry_run()["documents"]) == ("committed", [])


def test_reasons_name_a_first_run_and_a_changed_version(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipelines.build.samples import Tokenize

    version = Tokenize.VERSION
    monkeypatch.setattr(Tokenize, "VERSION", version + 1)
    assert runs.dry_run()["samples"]["reasons"] == [f"version {version} -> {version + 1}"]
    assert runs.dry_run("--set", THRESHOLD)["samples"]["reasons"] == [f"version {version} -> {version + 1}"]
    runs.out = tmp_path / "elsewhere"
    assert runs.dry_run()["documents"]["reasons"] == ["no earlier result exists"] and not runs.out.exists()
