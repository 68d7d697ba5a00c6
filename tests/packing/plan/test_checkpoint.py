"""A plan that is killed goes on at the end of a leg, and is the one that nobody killed."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.records import PlanBlock
from packing.mixture import Mixture
from packing.plan import legs
from packing.plan.checkpoint import Progress
from packing.plan.order import Standing
from packing.plan.pieces import SourcePieces
from packing.plan.planner import Made as PlanMade
from packing.plan.planner import Plan, Planner, block_digest
from stores.spill import Scratch
from stores.store import Snapshot, Store
from tests.packing.corpus import Made
from tests.packing.plan.test_planner import supplies
from tests.packing.plan.test_schedules import SCHEDULES, check, extremes, made

LEG = 500


@pytest.fixture(autouse=True)
def short_legs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs, "LEG_TOKENS", LEG)


class Run:
    """A planner that keeps what it tells."""

    def __init__(self, mixture: Mixture, sources: list[SourcePieces], rested: bytes | None = None) -> None:
        self.rests: list[tuple[int, bytes]] = []
        """How many blocks were given, and what was told then."""
        self.blocks: list[PlanBlock] = []
        some = supplies(mixture, sources)
        state = pickle.loads(rested) if rested else None
        self.planner = Planner(mixture, some, "v", Scratch(), rested=state, at_rest=self._at_rest)
        for block in self.planner:
            self.blocks.append(block)

    def _at_rest(self, standing: Standing, made: PlanMade) -> None:
        self.rests.append((len(self.blocks), pickle.dumps((standing, made))))


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_from_every_rest_on_the_same_blocks_come(seed: int) -> None:
    some = random.Random(seed)
    corpus = some.choice(list(extremes(some).values()))
    mixture, sources = made(some.choice(SCHEDULES), corpus, some)
    try:
        whole = Run(mixture, sources)
    except ManifestError:
        return
    check_promises(whole, mixture)
    for given_blocks, state in some.sample(whole.rests, min(3, len(whole.rests))):
        rest = Run(mixture, sources, state)
        assert list(map(block_digest, rest.blocks)) == list(map(block_digest, whole.blocks[given_blocks:]))
        assert rest.planner.meta == whole.planner.meta
        assert len(rest.rests) < len(whole.rests)


def check_promises(run: Run, mixture: Mixture) -> None:
    """They hold over the ends of legs."""
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

samples, plan, scratch, rests = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
legs.LEG_TOKENS = int(sys.argv[5])
save, count = checkpoint.Progress.save, 0

def save_and_die(self, *state):
    global count
    save(self, *state)
    count += 1
    if count == rests:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.Progress.save = save_and_die
head = Store.open(str(samples)).head()
node = PlanNode(kind="plan", mixture=MIXTURE, scratch=scratch)
task = UnitTask("plan", Unit("plan", "d"), {"samples": Product("samples", "samples", str(samples), "d", head.number)})
store = Store.open(plan)
writer = store.writer("plan")
meta = node.work(task, writer, None)
store.commit([writer.finish()], node="n", units=["plan"], meta=meta)
print(json.dumps({"rests": count}))
"""


def plan(made: Made, folder: Path, rests: int = -1, code: int = 0) -> tuple[Snapshot | None, int]:
    """Plan in a process of its own, which kills itself after so many rests; and how many it had."""
    if not (folder / "plan").exists():
        Store.create(str(folder / "plan"), "plan", "plan")
    (folder / "scratch").mkdir(exist_ok=True)
    told = [str(made.folder / "samples"), str(folder / "plan"), str(folder / "scratch"), str(rests), "2500"]
    done = subprocess.run([sys.executable, "-c", PLANNING, *told], stdout=subprocess.PIPE, check=False, timeout=100)
    assert done.returncode == code
    return Store.open(str(folder / "plan")).head(), json.loads(done.stdout)["rests"] if done.stdout else rests


Calm = tuple[Snapshot, int]


@pytest.fixture(scope="module")
def calm(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    found, rests = plan(made, tmp_path_factory.mktemp("calm"))
    assert found is not None and rests > 4
    return found, rests


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(made: Made, calm: Calm, tmp_path: Path) -> None:
    whole, rests = calm
    assert plan(made, tmp_path / "killed", 2, -9) == (None, 2)
    assert plan(made, tmp_path / "killed", 1, -9) == (None, 1)
    found, left = plan(made, tmp_path / "killed")
    assert found is not None and left == rests - 3, "it goes on where it was killed the second time"
    assert (found.content_root, found.meta) == (whole.content_root, whole.meta)
    assert not [path for path in (tmp_path / "killed" / "scratch").iterdir() if path.is_file()]


def test_where_a_shard_of_it_is_gone_it_begins_again(made: Made, calm: Calm, tmp_path: Path) -> None:
    whole, rests = calm
    plan(made, tmp_path / "killed", 2, -9)
    os.unlink(next((tmp_path / "killed" / "plan" / "shards").iterdir()))
    found, again = plan(made, tmp_path / "killed")
    assert found is not None and again == rests
    assert (found.content_root, found.meta) == (whole.content_root, whole.meta)


def test_what_can_not_be_read_is_nothing(tmp_path: Path) -> None:
    progress = Progress(tmp_path, "one")
    assert progress.load() is None
    progress.save(1, "two")
    assert progress.load() == (1, "two") and Progress(tmp_path, "other").load() is None
    (left,) = tmp_path.iterdir()
    left.write_bytes(left.read_bytes()[:-3])
    assert progress.load() is None
    progress.forget()
    assert not list(tmp_path.iterdir())
