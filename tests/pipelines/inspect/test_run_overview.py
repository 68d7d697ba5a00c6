"""`millrace inspect RUN` is one table whose states and counts are those of the run, complete or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from manifests.errors import ManifestError, StoreError
from manifests.records import Document, Text, record_id
from manifests.runlog import RunLog
from pipelines.inspect import command, explain
from pipelines.inspect.run_overview import NodeRow, node_rows
from stores.store import Store
from stores.upkeep.run_lock import record_stores_url
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import STORES, head, run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overview")
    small_data.write(folder / "data", texts=25)
    dag = small_data.DAG + "  drawn: {kind: scenes, train: {dial: 2}, held_out: {}, damaged: 0}\n"
    (folder / "dag.yaml").write_text(dag)
    run(folder / "dag.yaml", folder / "out", workers=0)
    return folder / "out"


@pytest.fixture
def copied(out: Path, tmp_path: Path) -> Path:
    """A copy of the run whose files a test may delete; its views still refer to the stores of the original."""
    return Path(shutil.copytree(out, tmp_path / "out"))


def rows_of(folder: Path) -> dict[str, NodeRow]:
    return {row.node: row for row in node_rows(folder)[0]}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert command.main([*arguments]) == 0
    return capsys.readouterr().out


def test_a_complete_run_is_one_line_per_node_in_100_columns(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    headline, _, headings, *lines = printed(capsys, str(out)).splitlines()
    assert headline == f"{out}: {len(STORES) + 1} nodes, all complete"
    assert headings.split() == [
        "node",
        "kind",
        "state",
        "in",
        "kept",
        "dropped:",
        "top",
        "reason",
        "quarantined",
        "size",
        "time",
    ]
    table = lines[: lines.index("")]
    assert sorted(line.split()[0] for line in table) == sorted([*STORES, "drawn"])
    assert all("done" in line for line in table)
    documents, rows = head(out, "documents"), rows_of(out)
    assert rows["documents"].records == documents.counts["records"]
    assert sum(rows["documents"].quarantined.values()) == documents.counts["quarantined"] > 0
    assert rows["unique"].dropped and rows["unique"].kind == "dedup_exact"
    assert rows["plan"].records == rows["packs"].records == head(out, "packs").counts["records"]
    assert rows["drawn"].records == 3 and rows["drawn"].bytes > 0


def test_unfinished_nodes_show_their_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    for name in ("half", "empty", "folder"):
        log.write("node_start", node=name, kind="ingest_folder", units=2, committed=0)
    half, _ = (Store.create(str(tmp_path / name), "documents", name) for name in ("half", "empty"))
    writer = half.writer("a")
    writer.add(Document(record_id("s", "p"), "s", "p", "web", (Text("page"),)))
    half.commit([writer.finish()], node="n", units=["a", "b"], complete=False)
    rows = rows_of(tmp_path)
    assert {row.state for row in rows.values()} == {"unfinished"}
    assert {name: row.units for name, row in rows.items()} == {"half": (1, 2), "empty": (0, 2), "folder": (0, 2)}
    output = " ".join(printed(capsys, str(tmp_path)).split())
    assert "3 unfinished" in output and "1 of 2 units" in output and "to complete the run" in output


def test_deleted_products_are_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / "samples")
    shutil.rmtree(copied / "drawn")
    assert {name for name, row in rows_of(copied).items() if row.state == "deleted"} == {"samples", "drawn"}
    output = " ".join(printed(capsys, str(copied)).split())
    assert "deleted: samples, drawn" in output and "2 deleted" in output


def test_a_run_without_log_is_shown_without_kinds_and_times(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "log.jsonl").unlink()
    rows = rows_of(copied)
    assert {row.state for row in rows.values()} == {"complete"} and set(rows) == {*STORES, "drawn"}
    assert rows["filtered"].kind == "view" and rows["filtered"].seconds is None
    assert "all complete" in printed(capsys, str(copied))


def test_the_error_that_stopped_a_run_is_shown(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (copied / "log.jsonl").open("a") as log:
        log.write(json.dumps({"event": "run_stop", "error": "disk full\nfix: delete something"}) + "\n")
    assert "the last run stopped: disk full\n" in printed(capsys, str(copied))


def test_a_store_of_another_schema_is_unreadable(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied / "samples" / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 1}))
    output = printed(capsys, str(copied))
    assert "1 unreadable" in output and "unreadable: samples: the store has schema 1" in output


def test_a_record_of_a_run_is_explained(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = head(out, "unique").table(["locator"])["locator"][0].as_py()
    for flags in ([], ["--json"]):
        assert explain.main([str(out), name, *flags]) == 0
        expected = capsys.readouterr().out
        assert printed(capsys, str(out), "--record", name, *flags) == expected


def test_a_node_that_made_files_is_described(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = printed(capsys, str(out / "drawn"))
    assert "drawn" in output and ".jsonl" in output
    assert json.loads(printed(capsys, str(out / "drawn"), "--json"))["complete"] == "yes"
    with pytest.raises(ManifestError, match="--record needs a store, this node made ordinary files"):
        command.main([str(out / "drawn"), "--record", "0"])


@pytest.mark.parametrize(
    ("flags", "kinds"), [(["--step", "0"], "plan, packs"), (["--drops"], "filtered, unique"), (["--quarantine"], "")]
)
def test_flags_for_stores_name_the_stores_of_the_run(out: Path, flags: list[str], kinds: str) -> None:
    with pytest.raises(ManifestError, match=f"{flags[0]} needs a store, this is a run") as rejected:
        command.main([str(out), *flags])
    assert kinds in str(rejected.value.fix)


def test_a_folder_that_is_no_run_is_rejected(tmp_path: Path) -> None:
    for flags in ([], ["--json"]):
        with pytest.raises(StoreError, match="is neither a store nor a run"):
            command.main([str(tmp_path), *flags])


def test_a_node_with_remote_stores_is_found_by_run_and_name(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_stores_url(tmp_path / "local", str(out))
    assert "samples (samples)" in printed(capsys, str(tmp_path / "local" / "samples"))
    assert "unique" in printed(capsys, str(tmp_path / "local"))
