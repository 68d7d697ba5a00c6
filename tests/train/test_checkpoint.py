"""Checkpoints: complete or absent, restored to the bit, and loaded by the run that wrote them only."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch

from manifests.errors import ResumeError
from train import checkpoint
from train.checkpoint import Checkpoint

IDENTITY = {"packs": "a" * 64, "model": "b" * 64, "seed": "0"}


def make(step: int, identity: dict[str, str] = IDENTITY) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step=step,
        weights={"lm_head.weight": torch.randn(4, 3, generator=generator), "norm": torch.full((3,), float("inf"))},
        optimizer={"momentum/lm_head.weight": torch.randn(4, 3, generator=generator).T},
        random_state=generator.get_state(),
        loader={"batch": step},
        last={"loss": 1 / 3},
        identity=identity,
    )


def test_a_checkpoint_is_restored_to_the_bit(tmp_path: Path) -> None:
    saved = make(7)
    checkpoint.save(tmp_path, saved, keep=1)
    loaded = checkpoint.load(tmp_path, IDENTITY)
    assert loaded is not None and (loaded.step, loaded.loader, loaded.last) == (7, {"batch": 7}, {"loss": 1 / 3})
    for mine, theirs in ((saved.weights, loaded.weights), (saved.optimizer, loaded.optimizer)):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert torch.equal(saved.random_state, loaded.random_state)


def test_the_bytes_of_weights_depend_on_values_only(tmp_path: Path) -> None:
    for name, saved in (("a", make(3)), ("b", make(3, IDENTITY | {"seed": "1"})), ("c", make(4))):
        checkpoint.save(tmp_path / name, saved, keep=1)
    a, b, c = (checkpoint.file_digest(next((tmp_path / n).glob(f"*/{checkpoint.WEIGHTS}"))) for n in "abc")
    assert a == b != c


def test_only_the_newest_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, make(step), keep=2)
    assert checkpoint.steps(tmp_path) == [15, 20]
    loaded = checkpoint.load(tmp_path, IDENTITY)
    assert loaded is not None and loaded.step == 20
    assert checkpoint.load(tmp_path / "empty", IDENTITY) is None


def test_another_run_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(5), keep=1)
    with pytest.raises(
        ResumeError, match=r"different: packs \(saved aaaa.*now ffff.*\), threads \(saved nothing"
    ) as refusal:
        checkpoint.load(tmp_path, IDENTITY | {"packs": "f" * 64, "threads": "2"})
    assert refusal.value.exit_code == 3 and "model" not in refusal.value.message


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_one_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, make(5), keep=1)
    file = tmp_path / "000005" / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ResumeError, match="differs from the file that was written") as refusal:
        checkpoint.load(tmp_path, IDENTITY)
    assert name in refusal.value.where


def test_state_is_readable_and_small(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(5), keep=1)
    text = (tmp_path / "000005" / "state.json").read_text()
    assert json.loads(text)["identity"] == IDENTITY and len(text) < 1000


def save_for_ever(folder: Path) -> None:
    start = max(checkpoint.steps(folder), default=0)
    for step in range(start + 1, start + 10_000):
        checkpoint.save(folder, make(step), keep=1)


def test_a_kill_while_saving_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    """SIGKILL at random moments of a process that does nothing but save, each one going on in the same folder."""
    moments = random.Random(11)
    partial = 0
    for _ in range(25):
        child = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(tmp_path,))
        child.start()
        while not checkpoint.steps(tmp_path):
            time.sleep(0.001)
        time.sleep(moments.random() * 0.05)
        child.kill()
        child.join()
        partial += any(tmp_path.glob(f"{checkpoint.PARTIAL}*"))
        loaded = checkpoint.load(tmp_path, IDENTITY)
        assert loaded is not None
        assert torch.equal(loaded.weights["lm_head.weight"], make(loaded.step).weights["lm_head.weight"])
    assert partial  # some were really killed in the middle
