"""Checkpoints of a planner: a killed one resumes and gives the same plan; nothing planted is executed or used."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.records import PlanBlock
from packing.mixture import Mixture
from packing.plan import legs
from packing.plan.checkpoint import FORMAT, CheckpointFile, decode, encode
from packing.plan.epochs import END, Drawn
from packing.plan.order import OrderState
from packing.plan.pieces import SourcePieces
from packing.plan.planner import Plan, PlanInputs, Planner, PlannerState, block_digest
from stores.shards.entry import ShardEntry
from stores.spill import Scratch
from stores.store import Snapshot, Store
from stores.writer import WriterCheckpoint
from tests.packing.corpus import Made
from tests.packing.plan.test_planner import supplies
from tests.packing.plan.test_schedules import SCHEDULES, check, extremes, made

CHECKPOINT_TOKENS = 500
NOTHING_WRITTEN = WriterCheckpoint({}, 0, 0)


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs, "CHECKPOINT_TOKENS", CHECKPOINT_TOKENS)


class Run:
    """A planner, its blocks, and the bytes of its checkpoints."""

    def __init__(self, mixture: Mixture, sources: list[SourcePieces], checkpoint: bytes | None = None) -> None:
        self.checkpoints: list[tuple[int, bytes]] = []
        """(blocks given before, bytes of the file)."""
        self.blocks: list[PlanBlock] = []
        inputs = PlanInputs(mixture, supplies(mixture, sources), "v")
        state = decode(checkpoint)[0] if checkpoint else None
        self.planner = Planner(inputs, Scratch(), resume_from=state, on_checkpoint=self._on_checkpoint)
        for block in self.planner:
            self.blocks.append(block)

    def _on_checkpoint(self, state: PlannerState) -> None:
        self.checkpoints.append((len(self.blocks), encode(state, NOTHING_WRITTEN)))


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_every_checkpoint_gives_the_same_blocks_after_it(seed: int) -> None:
    rng = random.Random(seed)
    corpus = rng.choice(list(extremes(rng).values()))
    mixture, sources = made(rng.choice(SCHEDULES), corpus, rng)
    try:
        whole = Run(mixture, sources)
    except ManifestError:
        return
    check_promises(whole, mixture)
    for given_blocks, checkpoint in rng.sample(whole.checkpoints, min(3, len(whole.checkpoints))):
        rest = Run(mixture, sources, checkpoint)
        assert list(map(block_digest, rest.blocks)) == list(map(block_digest, whole.blocks[given_blocks:]))
        assert rest.planner.meta == whole.planner.meta
        assert len(rest.checkpoints) < len(whole.checkpoints)


def check_promises(run: Run, mixture: Mixture) -> None:
    """Check that the promises of a plan hold over checkpoints."""
    check(Plan(tuple(run.blocks), run.planner.meta), mixture)
    seen = Counter[tuple[int, ...]]()
    for block in run.blocks:
        seen.update(zip(*(block.arrays[name].tolist() for name in ("source", "ordinal", "start")), strict=True))
    assert all(times <= mixture.sources[source].max_epochs for (source, *_), times in seen.items())


PLANNING = """
import json, os, signal, sys
from pathlib import Path
from packing.plan import checkpoint, legs
from pipelines.build.plan import PlanNode
from pipelines.node import Product, Unit, UnitTask
from stores.store import Store
from tests.packing.corpus import MIXTURE

samples, plan, scratch, saves = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
legs.CHECKPOINT_TOKENS = int(sys.argv[5])
save, count = checkpoint.CheckpointFile.save, 0

def save_and_die(self, *state):
    global count
    save(self, *state)
    count += 1
    if count == saves:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.CheckpointFile.save = save_and_die
head = Store.open(str(samples)).head()
node = PlanNode(kind="plan", mixture=MIXTURE, scratch=scratch)
task = UnitTask("plan", Unit("plan", "d"), {"samples": Product("samples", "samples", str(samples), "d", head.number)})
store = Store.open(plan)
writer = store.writer("plan")
meta = node.work(task, writer, None)
store.commit([writer.finish()], node="n", units=["plan"], meta=meta)
print(json.dumps({"saves": count}))
"""


def plan(made: Made, folder: Path, saves: int = -1, code: int = 0) -> tuple[Snapshot | None, int]:
    """(plan, checkpoints saved) of a process of its own, which kills itself after so many `saves`."""
    if not (folder / "plan").exists():
        Store.create(str(folder / "plan"), "plan", "plan")
    (folder / "scratch").mkdir(exist_ok=True)
    arguments = [str(made.folder / "samples"), str(folder / "plan"), str(folder / "scratch"), str(saves), "2500"]
    done = subprocess.run(
        [sys.executable, "-c", PLANNING, *arguments], stdout=subprocess.PIPE, check=False, timeout=100
    )
    assert done.returncode == code
    return Store.open(str(folder / "plan")).head(), json.loads(done.stdout)["saves"] if done.stdout else saves


def checkpoint_folder(scratch: Path) -> Path:
    """The one checkpoint folder in a scratch folder, where a planner was killed."""
    (folder,) = scratch.glob("millrace-plan-*")
    return folder


Calm = tuple[Snapshot, int]


@pytest.fixture(scope="module")
def calm(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """An undisturbed plan, and the number of its checkpoints."""
    snapshot, saves = plan(made, tmp_path_factory.mktemp("calm"))
    assert snapshot is not None and saves > 4
    return snapshot, saves


def same(snapshot: Snapshot | None, whole: Snapshot) -> bool:
    return snapshot is not None and (snapshot.content_root, snapshot.meta) == (whole.content_root, whole.meta)


def test_a_killed_planner_resumes_from_its_last_checkpoint(made: Made, calm: Calm, tmp_path: Path) -> None:
    whole, saves = calm
    assert plan(made, tmp_path / "killed", 2, -9) == (None, 2)
    assert checkpoint_folder(tmp_path / "killed" / "scratch").stat().st_mode & 0o777 == 0o700
    assert plan(made, tmp_path / "killed", 1, -9) == (None, 1)
    snapshot, left = plan(made, tmp_path / "killed")
    assert left == saves - 3, "it goes on where it was killed the second time"
    assert same(snapshot, whole)
    assert not [path for path in (tmp_path / "killed" / "scratch").iterdir() if path.name.startswith("millrace-plan")]


def test_a_planner_starts_again_if_a_shard_of_the_checkpoint_is_missing(made: Made, calm: Calm, tmp_path: Path) -> None:
    whole, saves = calm
    plan(made, tmp_path / "killed", 2, -9)
    os.unlink(next((tmp_path / "killed" / "plan" / "shards").iterdir()))
    snapshot, again = plan(made, tmp_path / "killed")
    assert again == saves and same(snapshot, whole)


class Planted:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("kind", ["pickle", "object array", "garbage", "link", "open folder"])
def test_a_planted_checkpoint_is_neither_executed_nor_used(made: Made, calm: Calm, tmp_path: Path, kind: str) -> None:
    whole, saves = calm
    killed, trace = tmp_path / "killed", tmp_path / "trace"
    plan(made, killed, 2, -9)
    folder = checkpoint_folder(killed / "scratch")
    state = folder / "state"
    good = state.read_bytes()
    if kind == "pickle":
        state.write_bytes(pickle.dumps(Planted(trace)))
    elif kind == "object array":
        out = io.BytesIO()
        np.savez(out, text=np.array([Planted(trace)], dtype=object))
        state.write_bytes(f"{FORMAT} {sha256(out.getvalue()).hexdigest()}\n".encode() + out.getvalue())
    elif kind == "garbage":
        state.write_bytes(good[:-3])
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(good)
        state.unlink()
        state.symlink_to(tmp_path / "elsewhere")
    else:
        folder.chmod(0o777)
    snapshot, again = plan(made, killed)
    assert again == saves, "it starts again"
    assert same(snapshot, whole) and not trace.exists()


def test_a_folder_of_another_user_or_a_link_gets_no_checkpoint(made: Made, calm: Calm, tmp_path: Path) -> None:
    whole, saves = calm
    killed = tmp_path / "killed"
    plan(made, killed, 1, -9)
    folder = checkpoint_folder(killed / "scratch")
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere" / "state").read_bytes()
    snapshot, again = plan(made, killed)
    assert again == saves and same(snapshot, whole)
    assert (tmp_path / "elsewhere" / "state").read_bytes() == before and folder.is_symlink()


def example() -> tuple[PlannerState, WriterCheckpoint]:
    state = PlannerState(
        OrderState(7, (1, 2, -3, 4), 2, [Drawn([[(2**64 - 1, 2, 3), END]])], [{True: None, False: 5}]),
        {"blocks": 3, "by_source": np.arange(4).reshape(2, 2), "waiting": [{"errors": np.zeros(0, np.int64)}]},
    )
    return state, WriterCheckpoint({2: ShardEntry("s", 1, 2, "i", {"core": "d"}, {"records": 2})}, 3, 4)


def test_a_checkpoint_of_another_user_is_not_read_replaced_or_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CheckpointFile(tmp_path, "one")
    file.save(*example())
    before = (checkpoint_folder(tmp_path) / "state").stat()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: before.st_uid + 1)
        assert file.load() is None
        file.save(*example())
        file.delete()
    assert (checkpoint_folder(tmp_path) / "state").stat() == before
    assert file.load() is not None


def test_a_checkpoint_is_read_back_and_deleted(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path, "one")
    assert file.load() is None
    state, written = example()
    file.save(state, written)
    loaded = file.load()
    assert loaded is not None and loaded[1] == written and loaded[0].order == state.order
    assert loaded[0].given["blocks"] == 3
    assert loaded[0].given["by_source"].tolist() == [[0, 1], [2, 3]]
    assert loaded[0].given["waiting"][0]["errors"].dtype == np.int64
    assert CheckpointFile(tmp_path, "other").load() is None
    file.delete()
    assert not list(tmp_path.iterdir())
