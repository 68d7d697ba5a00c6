"""`millrace run` as a process: killed anywhere, started again, interrupted, run with changed parameters."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from manifests import runlog
from manifests.records import DOMAINS, Document, Json, Media, Text
from stores.store import Snapshot, Store
from tests.pipelines import small_data

ROOT = Path(__file__).parents[3]
STORES = ("documents", "filtered", "unique", "samples", "plan", "packs")


def start(dag: Path, out: Path | str, *options: str, workers: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "millrace.py"), "run", str(dag), "--out", str(out)]
    command += ["--workers", str(workers), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(dag: Path, out: Path | str, *options: str, code: int = 0, workers: int = 0) -> str:
    """Run a manifest, which must end with `code`; returns stderr. In one process, as each worker takes a second to
    start."""
    process = start(dag, out, *options, workers=workers)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == code, stderr
    return stderr


def roots(out: Path, names: Sequence[str] = STORES) -> dict[str, str]:
    return {name: head(out, name).content_root for name in names}


def head(out: Path, name: str) -> Snapshot:
    snapshot = Store.open(str(out / name)).head()
    assert snapshot is not None
    return snapshot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dag.yaml`, its data, and an undisturbed run of it in `calm`."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "data").mkdir()
    small_data.write(folder / "data")
    (folder / "dag.yaml").write_text(small_data.DAG)
    run(folder / "dag.yaml", folder / "calm", workers=2)
    return folder


def test_good_records_reach_packs_and_each_bad_one_is_quarantined_with_its_reason(folder: Path) -> None:
    documents = head(folder / "calm", "documents")
    quarantined = {row["locator"]: row["reason"] for row in documents.quarantined().to_pylist()}
    assert quarantined == small_data.HOSTILE
    documents_by_locator = {document.locator: document for document in documents.records()}
    assert len(documents_by_locator) == 300 + 2 + 8 + 1 + 6 + 1 + 1 + 1
    assert {document.domain for document in documents_by_locator.values()} <= set(DOMAINS)
    assert documents_by_locator["books/0/0000.txt"].text == small_data.text(0)
    assert documents_by_locator["photos/red_kettle/0.png"].text == "A kettle on the stove."
    assert documents_by_locator["photos/red_kettle/1.png"].text == "red kettle"
    assert documents_by_locator["table/metadata.jsonl#1"].text == "A mill."
    pair = documents_by_locator["pairs.jsonl#4"]
    assert [pair.text[fact.start : fact.stop] for fact in pair.facts] == ["It is 6."]
    dropped = head(folder / "calm", "unique").table(["locator", "keep", "reason"]).to_pylist()
    reasons = {row["locator"]: row["reason"] for row in dropped if not row["keep"]}
    assert reasons.pop("books/short.txt") == "too_short"
    assert list(reasons.values()) == ["exact_duplicate"]
    packed = {segment.sample for pack in head(folder / "calm", "packs").records() for segment in pack.segments}
    kept = {sample.id for sample in head(folder / "calm", "samples").records()}
    assert len(kept) == len(documents_by_locator) - 2 and packed <= kept and len(packed) >= 0.95 * len(kept)


def test_markdown_keeps_its_order_without_missing_media(folder: Path) -> None:
    documents = head(folder / "calm", "documents")
    page = next(document for document in documents.records() if document.locator == "pages/page.md")
    assert isinstance(page, Document) and page.domain == "interleaved"
    shape = [part.kind if isinstance(part, Media) else part.text for part in page.parts]
    assert shape == [
        "# How a mill works\n\nFirst look.\n\n",
        "image",
        "the wheel\n\nThen gone, torn, far.\n\n",
        "video",
        "\n\nThe end.\n",
    ]
    assert page.notes["media_left_out"] == [
        ["missing.png", "missing_media"],
        ["torn.png", "damaged_media"],
        ["https://example.org/x.png", "remote_media"],
    ]
    assert isinstance(page.parts[0], Text) and len(page.media[1].frame_times_us) == 12
    assert [medium.container_fps for medium in page.media] == [None, 4.0]
    assert documents.read(page.media[0].location) == (folder / "data/pages/one.jpg").read_bytes()


def test_a_second_run_finds_everything_committed_and_changes_nothing(folder: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (folder / "calm").rglob("*") if file.is_file()}
    assert "6 nodes already committed, same digests" in run(folder / "dag.yaml", folder / "calm")
    after = {file: file.stat().st_mtime_ns for file in (folder / "calm").rglob("*") if file.is_file()}
    changed = {file.name for file in after if before.get(file) != after[file]}
    assert changed == {"lock", "log.jsonl"}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_content_does_not_depend_on_the_number_of_workers(folder: Path, tmp_path: Path, workers: int) -> None:
    run(folder / "dag.yaml", tmp_path / "out", workers=workers)
    assert roots(tmp_path / "out") == roots(folder / "calm")


@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_anywhere_and_started_again_ends_in_the_same_content(
    folder: Path, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    for _ in range(3):
        process = start(folder / "dag.yaml", tmp_path / "out")
        time.sleep(dice.uniform(0.8, 4.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(folder / "dag.yaml", tmp_path / "out")
    assert roots(tmp_path / "out") == roots(folder / "calm")


def test_units_committed_before_a_kill_are_not_done_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calm = head(folder / "calm", "documents")
    assert len(calm.units) >= 3
    shutil.copytree(folder / "calm" / "documents", out / "documents")
    shutil.rmtree(out / "documents" / "roots")
    Store.open(str(out / "documents")).commit(calm.receipts[:2], node=calm.node, units=calm.units, complete=False)
    run(folder / "dag.yaml", out)
    assert roots(out) == roots(folder / "calm")
    started = runlog.read(out / "log.jsonl", "node_start")[0]
    assert (started["node"], started["units"], started["committed"]) == ("documents", len(calm.units), 2)


def test_a_lost_store_is_made_again_and_nothing_after_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder / "calm", out)
    (out / "log.jsonl").unlink()
    shutil.rmtree(out / "documents")
    remade = Store.create(str(out / "documents"), "documents", "documents")
    for number in range(10):  # so that the new snapshot has another number than the lost one
        remade.commit([], node="", units=[], meta={"number": number})
    run(folder / "dag.yaml", out)
    assert roots(out) == roots(folder / "calm") and list(head(out, "packs").records())
    started = {row["node"]: row["units"] - row["committed"] for row in runlog.read(out / "log.jsonl", "node_start")}
    assert started.pop("documents") > 0 and set(started.values()) == {0}


def test_ctrl_c_ends_promptly_without_leaving_workers(folder: Path, tmp_path: Path) -> None:
    process = start(folder / "dag.yaml", tmp_path / "out")
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    end = time.monotonic() + 60
    while len(workers := Path(children).read_text().split()) < 2:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and "run the same command again" in stderr
    end = time.monotonic() + 5
    while [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_second_run_in_one_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    first = start(folder / "dag.yaml", tmp_path / "out")
    end = time.monotonic() + 60
    while not (tmp_path / "out" / "documents").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert f"another run is at work here (process {first.pid})" in run(folder / "dag.yaml", tmp_path / "out", code=1)
    assert first.communicate()[0] and first.returncode == 0
    assert roots(tmp_path / "out") == roots(folder / "calm")


def test_a_dry_run_names_the_nodes_that_would_run_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(folder / "dag.yaml", out, "--dry-run")
    shown, _ = process.communicate()
    assert process.returncode == 0 and "nodes: 6 would run" in shown and not out.exists()
    process = start(folder / "dag.yaml", folder / "calm", "--dry-run", "--json", "--set", "nodes.plan.mixture.seed=5")
    summary = json.loads(process.communicate()[0])
    states = {node["node"]: node["state"] for node in summary["nodes"]}
    assert [states[name] for name in STORES[:4]] == ["committed"] * 4
    assert states["plan"] == "would run: 1 of 1 units" and states["packs"].startswith("may run after plan: at most ")


def test_a_changed_parameter_runs_the_affected_nodes_only(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder / "calm", out)
    summary = results(run_json(folder / "dag.yaml", out, "--set", "nodes.filtered.ops.1.min_characters=1"))
    assert [name for name in STORES if summary[name]["skipped"]] == ["documents"]
    assert summary["filtered"]["dropped"] == {} and summary["samples"]["kept"] == 1 + results_of(folder)["samples"]
    back = results(run_json(folder / "dag.yaml", out))
    assert roots(out) == roots(folder / "calm") and not back["filtered"]["skipped"]


def test_a_new_file_changes_its_own_unit_only(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "data", symlinks=True)
    shutil.copytree(folder / "calm", tmp_path / "out")
    (tmp_path / "dag.yaml").write_text(small_data.DAG)
    old = set(head(tmp_path / "out", "documents").units)
    (tmp_path / "data" / "books" / "3" / "new.txt").write_text(small_data.text(123456))
    run(tmp_path / "dag.yaml", tmp_path / "out")
    new = set(head(tmp_path / "out", "documents").units)
    assert len(new) == len(old) >= 3 and len(new - old) == 1
    assert results_of(tmp_path, "out")["documents"] == results_of(folder)["documents"] + 1


def test_many_bad_records_in_a_row_stop_the_run(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "dag.yaml").write_text(small_data.DAG)
    (data / "bad.jsonl").write_text('{"text": "good"}\n' + "{bad\n" * 300)
    stderr = run(tmp_path / "dag.yaml", tmp_path / "out", code=1)
    assert "100 records in a row can't be used (bad_json 100)" in stderr and "bad.jsonl#101" in stderr
    run(tmp_path / "dag.yaml", tmp_path / "out", "--set", "tolerance.in_a_row=1000", code=1)  # too little is left
    assert head(tmp_path / "out", "documents").counts["quarantined"] == 300


def test_bad_records_in_a_row_are_counted_across_units(tmp_path: Path) -> None:
    (tmp_path / "dag.yaml").write_text(small_data.DAG)
    for i in range(120):
        file = tmp_path / "data" / f"{i:03d}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    assert "records in a row can't be used" in run(tmp_path / "dag.yaml", tmp_path / "out", code=1)
    for file in (tmp_path / "data").iterdir():
        file.rename(file.with_suffix(".docx"))
    (tmp_path / "data" / "good.txt").write_text(small_data.text(1, 3000))
    run(tmp_path / "dag.yaml", tmp_path / "out")


def test_a_folder_without_a_usable_file_fails_with_nothing_to_plan(tmp_path: Path) -> None:
    (tmp_path / "dag.yaml").write_text(small_data.DAG)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "empty.txt").write_bytes(b"")
    assert "there is not one sample to plan" in run(tmp_path / "dag.yaml", tmp_path / "out", code=1)
    assert head(tmp_path / "out", "unique").table(["keep", "reason", "score"]).num_rows == 0


def run_json(dag: Path, out: Path, *options: str) -> Json:
    process = start(dag, out, "--json", *options, workers=0)
    shown, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    return json.loads(shown)


def results(summary: Json) -> dict[str, Json]:
    return {node["node"]: node for node in summary}


def results_of(folder: Path, out: str = "calm") -> dict[str, int]:
    return {name: int(head(folder / out, name).counts["records"]) for name in STORES}
