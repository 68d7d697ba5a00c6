"""The loop on real stores: it learns, it sees, it resumes to the bit, and it refuses what it should."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

import millrace
from manifests import runlog
from manifests.errors import MillraceError, ResumeError
from train import checkpoint
from train.command import main
from train.loop import train


def curve(folder: Path) -> list[tuple[object, ...]]:
    """Everything that a run says of its steps, but for times."""
    rows = runlog.read(folder / "metrics.jsonl", "step")
    return [tuple(value for name, value in sorted(row.items()) if name not in ("time", "seconds")) for row in rows]


@pytest.fixture(scope="module")
def straight(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    train(corpus.stage(), folder)
    return folder


def test_the_loss_falls_and_every_step_is_in_the_log_once(straight: Path) -> None:
    rows = runlog.read(straight / "metrics.jsonl", "step")
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    for row in rows:
        assert 0 < row["slots"] < row["targets"] < row["tokens"] <= 4 * 64
        low, high = sorted((row["loss_text"], row["loss_vision"]))
        assert low < row["loss"] < high


def test_done_json_names_the_weights(straight: Path) -> None:
    done = json.loads((straight / "done.json").read_text())
    assert done["steps"] == 18 and done["loss"] == runlog.read(straight / "metrics.jsonl", "step")[-1]["loss"]
    assert done["weights"] == checkpoint.file_digest(straight / done["checkpoint"] / checkpoint.WEIGHTS)
    assert checkpoint.steps(straight / "checkpoints") == [15, 18]


def test_a_model_learns_to_use_its_image(straight: Path) -> None:
    found = json.loads((straight / "evaluation.json").read_text())
    color = found["grounding"]["attributes"]["color"]
    assert found["grounding"]["sees"] and color["low"] > 0.3
    assert color["accuracy_own"] > color["accuracy_other"] + 0.2
    assert found["grounding"]["attributes"]["shape"] == {"scenes": 0, "tokens": 0}
    assert set(found["held_out"]) == {"caption", "math"}


def test_running_a_finished_folder_again_changes_nothing(corpus, straight: Path) -> None:
    files = sorted(file for file in straight.rglob("*") if file.is_file())
    before = [(file.stat().st_mtime_ns, file.read_bytes()) for file in files]
    done = train(corpus.stage(), straight)
    assert done == json.loads((straight / "done.json").read_text())
    assert before == [(file.stat().st_mtime_ns, file.read_bytes()) for file in files]


def test_two_runs_are_equal_to_the_bit(corpus, straight: Path, tmp_path: Path) -> None:
    assert train(corpus.stage(), tmp_path) == json.loads((straight / "done.json").read_text())
    assert curve(tmp_path) == curve(straight)
    assert (tmp_path / "evaluation.json").read_bytes() == (straight / "evaluation.json").read_bytes()


@pytest.mark.parametrize("every", [1, 4])
def test_a_killed_run_has_the_curve_of_an_uninterrupted_one(corpus, straight: Path, tmp_path: Path, every: int) -> None:
    """SIGKILL to real processes at random moments, of which a save after every step fills a good part."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.loop"])
    moments = random.Random(every)
    line = [str(corpus.folder / "stage.yaml"), "--set", f"checkpoint_every_steps={every}", "--out", str(tmp_path)]
    kills = 0
    while not (tmp_path / "done.json").exists():
        child = context.Process(target=main, args=(line,))
        child.start()
        taken = len(curve(tmp_path))
        while kills < 6 and len(curve(tmp_path)) < taken + 2 and child.is_alive():
            time.sleep(0.002)
        if kills < 6 and child.is_alive():
            time.sleep(moments.random() * 0.1)
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
    assert kills >= 3
    assert curve(tmp_path) == curve(straight)
    for name in ("done.json", "evaluation.json"):
        assert (tmp_path / name).read_bytes() == (straight / name).read_bytes()


def test_a_run_waits_for_another_in_its_folder(corpus, straight: Path, tmp_path: Path) -> None:
    """Two at once, as when a parent was killed and its child trains on: one of them does the work."""
    context = multiprocessing.get_context("forkserver")
    line = [str(corpus.folder / "stage.yaml"), "--out", str(tmp_path)]
    children = [context.Process(target=main, args=(line,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert curve(tmp_path) == curve(straight)
    assert not runlog.read(tmp_path / "metrics.jsonl", "resume")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("optimizer.muon_lr=0.01", "optimizer.muon_lr"),
        ("seed=1", "seed"),
        ("packs=./other", "packs"),
        ("steps=17", "steps"),
    ],
)
def test_another_run_is_refused_by_name(
    corpus, straight: Path, change: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(corpus.folder)
    with pytest.raises(ResumeError, match=rf"different: {named} \("):
        train(corpus.stage(change), straight)
    assert millrace.main(["train", "stage.yaml", "--set", change, "--out", str(straight)]) == 3
    assert named in capsys.readouterr().err


def test_a_changed_evaluation_runs_without_training(corpus, straight: Path, tmp_path: Path) -> None:
    train(corpus.stage("evaluation.grounding.scenes=20"), tmp_path)
    first = json.loads((tmp_path / "evaluation.json").read_text())
    train(corpus.stage(), tmp_path)
    assert first["grounding"]["scenes"] == 20
    assert (tmp_path / "evaluation.json").read_bytes() == (straight / "evaluation.json").read_bytes()
    assert curve(tmp_path) == curve(straight)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(corpus, tmp_path: Path) -> None:
    with pytest.raises(MillraceError, match=r"step 2, global batch 1 of packs: the loss is nan"):
        train(corpus.stage("optimizer.adamw_lr=1e30"), tmp_path)
    assert len(curve(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps=10000", "steps is 10000, the plan has"),
        ("evaluation.grounding.scenes=500", "needs 500 scenes .* held_out has 60"),
        ("evaluation.held_out=[./nowhere]", "no store here"),
    ],
)
def test_an_impossible_stage_fails_before_the_first_step(
    corpus, tmp_path: Path, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus.folder)
    with pytest.raises(MillraceError, match=message):
        train(corpus.stage(change), tmp_path / "run")
    assert not (tmp_path / "run").exists()
