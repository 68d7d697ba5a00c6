"""Forgetting during a training run: it resumes from its checkpoint, and earlier steps stay unchanged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from manifests import runlog
from stores.forget import forget
from stores.store import Store
from train import checkpoint, loop
from train.loop import train

STOPPED = 6
"""Steps before the run is stopped; global batches 0 to 5 have been seen."""
EMPTIED = 9
"""The global batch of which nothing is left."""


def test_a_run_resumes_over_padding_and_lists_the_steps_exposed(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(corpus.folder, tmp_path / "run")
    here = type(corpus)(tmp_path / "run")
    straight, out = tmp_path / "straight", here.folder / "train"
    train(here.stage(), straight)

    save = checkpoint.save

    def stop(folder: Path, state: checkpoint.Checkpoint, keep: int) -> None:
        save(folder, state, keep)
        if state.step == STOPPED:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train(here.stage(), out)
    monkeypatch.undo()

    packs = Store.open(str(here.folder / "packs")).head()
    assert packs is not None
    size = packs.meta["global_batch_packs"]
    doomed = {
        segment.sample for pack in packs.records(EMPTIED * size, (EMPTIED + 1) * size) for segment in pack.segments
    }
    receipt = forget.forget(
        str(here.folder),
        {"ids": frozenset(doomed), "sources": frozenset(), "places": frozenset(), "media": frozenset()},
    )
    (packs,) = [entry for entry in receipt["packs"] if entry["store"] == "packs"]
    assert EMPTIED in packs["global_batches"]
    (seen,) = [one for one in receipt["training"] if one["packs"] == "packs"]
    assert seen["run"] == "train" and seen["steps"] == STOPPED
    assert seen["exposed_steps"] == [batch + 1 for batch in packs["global_batches"] if batch < STOPPED]

    train(here.stage(), out)
    before, after = (runlog.read(folder / "metrics.jsonl", "step") for folder in (straight, out))
    assert [row["step"] for row in after] == list(range(1, 19))
    first = next(batch for batch in packs["global_batches"] if batch >= STOPPED)
    for was, now in zip(before, after, strict=True):
        assert was["tokens"] == now["tokens"]
        if now["step"] <= first:
            assert was["loss"] == now["loss"]
    assert after[EMPTIED]["targets"] == 0 and after[EMPTIED]["loss"] == 0
    assert json.loads((out / "done.json").read_text())["steps"] == 18
