"""The folder of a training run: each step once in the log, whole files, one process at a time."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import runlog
from manifests.errors import ResumeError
from train import run_folder


@given(taken=st.lists(st.integers(0, 9), max_size=5), saved=st.integers(0, 9), torn=st.booleans())
@settings(max_examples=25)
def test_after_any_kills_each_step_is_in_the_log_once(
    taken: list[int], saved: int, torn: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A process takes some steps from its checkpoint on and is killed; the last one goes on from `saved` to step 10."""
    file = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    log = runlog.RunLog(file)
    start = 0
    for more in [*taken, 10]:
        run_folder.drop_steps_after(file, start)
        for step in range(start + 1, min(start + more, 10) + 1):
            log.write("step", step=step, loss=step / 3)
        if torn and more < 10:
            with file.open("a") as out:
                out.write('{"time": 1.5, "event": "st')
        start = min(start + more, saved)
    rows = runlog.read(file, "step")
    last = [row["step"] for row in rows]
    assert last == list(range(1, last[-1] + 1)) and last[-1] == 10
    assert all(row["loss"] == row["step"] / 3 for row in rows)


def test_a_repeated_evaluation_is_in_the_log_once(tmp_path: Path) -> None:
    log = runlog.RunLog(tmp_path / "metrics.jsonl")
    log.write("step", step=1)
    log.write("evaluate", held_out={})
    run_folder.drop_steps_after(log.file, 1)
    assert [row["event"] for row in runlog.read(log.file)] == ["step"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "done.json"
    run_folder.write_json(file, {"b": 1, "a": [0.1, None]})
    before = file.read_text()
    with pytest.raises(ValueError):
        run_folder.write_json(file, {"loss": float("nan")})
    assert file.read_text() == before and json.loads(before) == {"a": [0.1, None], "b": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["done.json"]


def test_a_folder_is_finished_for_its_own_run_and_evaluation_only(tmp_path: Path) -> None:
    assert run_folder.finished(tmp_path, {"packs": "a"}, "e") is None
    run_folder.write_json(tmp_path / "done.json", {"identity": {"packs": "a"}, "evaluation": "e"})
    assert run_folder.finished(tmp_path, {"packs": "a"}, "e") is not None
    assert run_folder.finished(tmp_path, {"packs": "a"}, "another") is None
    with pytest.raises(ResumeError, match=r"packs \(saved a, now b\)"):
        run_folder.finished(tmp_path, {"packs": "b"}, "e")


def hold(place: Path, seconds: float) -> None:
    with run_folder.locked(place):
        (place / "held").touch()
        time.sleep(seconds)
        (place / "let_go").touch()


def test_a_second_process_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    child = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 0.3))
    child.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.005)
    with run_folder.locked(tmp_path):
        assert (tmp_path / "let_go").exists()
    child.join()
    assert "waiting" in caplog.text


def test_a_kill_releases_the_lock(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 60))
    child.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.005)
    child.kill()
    child.join()
    start = time.monotonic()
    with run_folder.locked(tmp_path):
        assert time.monotonic() - start < 5
    assert not (tmp_path / "let_go").exists()
