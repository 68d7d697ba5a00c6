"""Child processes of a DAG: messages about failures, and no process left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manifests.errors import ManifestError, MillraceError, ResumeError
from pipelines.build.commands import run_command
from pipelines.dag import graph as dag
from pipelines.node import Product, Unit, UnitTask

ROOT = Path(__file__).parents[3]


def test_a_command_runs_to_its_end(tmp_path: Path) -> None:
    run_command("node", [sys.executable, "-c", f"open({str(tmp_path / 'made')!r}, 'w')"])
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("raise SystemExit(4)", MillraceError, "ended with exit code 4"),
        ("raise SystemExit(3)", ResumeError, "refuses to continue"),
        ("import os; os.kill(os.getpid(), 9)", MillraceError, "was killed by signal 9"),
    ],
)
def test_a_failed_command_is_reported_with_its_exit_code_or_signal(
    code: str, error: type[MillraceError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        run_command("train", [sys.executable, "-c", code])
    assert caught.value.where == "train"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_command_ends_with_the_run_that_started_it(tmp_path: Path, how: signal.Signals) -> None:
    child = f"import os, time; open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w'); time.sleep(600)"
    parent = "import sys\nfrom pipelines.build.commands import run_command\n"
    parent += f"run_command('x', [sys.executable, '-c', {child!r}])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (pids := list(tmp_path.iterdir())):
        time.sleep(0.05)
        assert process.poll() is None
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.send_signal(how)
    process.wait(60)
    end = time.monotonic() + 5
    while Path(f"/proc/{pids[0].name}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


STAGE = "kind: stage\nmodel: ./tiny.yaml\npacks: ./nowhere\nseed: 3\n"
DAG = """
name: short
nodes:
  documents: {kind: ingest_folder, path: ./data}
  samples: {kind: tokenize, inputs: [documents]}
  plan:
    kind: plan
    mixture: {sources: [{name: own, input: samples, weight: 1}], max_pack_tokens: 64, global_batch_packs: 1}
  packs: {kind: pack, input: plan}
  train: {kind: train, manifest: ./stage.yaml, inputs: [packs], held_out: [samples], set: [seed=4]}
"""


def graph(folder: Path, *sets: str) -> dag.Graph:
    (folder / "dag.yaml").write_text(DAG)
    return dag.read([folder / "dag.yaml"], sets)


def test_a_missing_stage_is_reported_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="can't be read"):
        graph(tmp_path)
    (tmp_path / "stage.yaml").write_text(STAGE.replace("model: ./tiny.yaml\n", ""))
    with pytest.raises(ManifestError, match="names its model"):
        graph(tmp_path)


def test_the_identity_of_training_covers_stage_and_model_but_not_their_paths(tmp_path: Path) -> None:
    def identity(folder: Path, *sets: str) -> str:
        shape = graph(folder, *sets)
        node = shape.node("train")
        inputs = {name: Product(name, "packs", str(folder / name), f"root of {name}") for name in node.reads()}
        return dag.identity("train", node, inputs, node.survey("train", inputs))

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.yaml").write_text(STAGE)
        (tmp_path / name / "tiny.yaml").write_text("hidden_size: 8\n")
    base = identity(tmp_path / "one")
    assert identity(tmp_path / "two") == base
    assert identity(tmp_path / "one", "nodes.train.set=[seed=5]") != base
    (tmp_path / "two" / "tiny.yaml").write_text("hidden_size: 9\n")
    assert identity(tmp_path / "two") != base


def test_the_trainer_gets_the_stores_of_this_run(tmp_path: Path) -> None:
    (tmp_path / "stage.yaml").write_text(STAGE)
    (tmp_path / "tiny.yaml").write_text("hidden_size: 8\n")
    node = graph(tmp_path).node("train")
    inputs = {name: Product(name, "packs", f"runs/x, y/{name}", "") for name in node.reads()}
    changes = node._changes(UnitTask("train", Unit("stage", ""), inputs).inputs)  # type: ignore[union-attr]
    here = Path.cwd() / "runs/x, y"
    assert changes == [f'packs="{here}/packs"', f'evaluation.held_out=["{here}/samples"]', "seed=4"]
    node = graph(tmp_path, "nodes.train.inputs=[packs, samples]").node("train")
    assert node.reads() == ("packs", "samples")
    changes = node._changes(UnitTask("train", Unit("stage", ""), inputs).inputs)  # type: ignore[union-attr]
    assert changes[0] == f'packs=["{here}/packs", "{here}/samples"]'
