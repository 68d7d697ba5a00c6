"""The shipped `own_data.yaml` from a folder to weights and a report, killed during training."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from manifests import runlog
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, roots, run, start

ROOT = Path(__file__).parents[3]
OWN = ROOT / "manifests" / "data" / "own_data.yaml"
PACKED = ("documents", "filtered", "unique", "samples", "plan", "packs")


@pytest.mark.wheel
@pytest.mark.timeout(600)
def test_a_folder_becomes_weights_and_a_report_and_a_kill_in_training_changes_nothing(tmp_path: Path) -> None:
    small_data.write(tmp_path / "data", texts=60)
    sets = [
        f"nodes.documents.path={tmp_path / 'data'}",
        "nodes.plan.mixture.max_pack_tokens=256",
        "nodes.train.most_steps=4",
        "nodes.train.set=[checkpoint_every_steps=1,threads=1]",
    ]
    options = [word for change in sets for word in ("--set", change)]

    process = start(OWN, tmp_path / "calm", *options)
    shown, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "text:" in shown and "report:" in shown and "--quarantine" in shown
    assert (tmp_path / "calm" / "report.html").stat().st_size > 10_000

    process = start(OWN, tmp_path / "killed", *options)
    metrics = tmp_path / "killed" / "train" / "metrics.jsonl"
    end = time.monotonic() + 300
    while not runlog.read(metrics, "save"):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stderr_again = run(OWN, tmp_path / "killed", *options)
    assert "train: done in " in stderr_again and roots(tmp_path / "killed", PACKED) == roots(tmp_path / "calm", PACKED)
    done = [json.loads((tmp_path / name / "train" / "done.json").read_text()) for name in ("calm", "killed")]
    assert done[0] == done[1] and done[0]["steps"] == 4
    assert head(tmp_path / "killed", "packs").counts["records"] >= 4
    assert "8 nodes already committed, same digests" in run(OWN, tmp_path / "killed", *options)
