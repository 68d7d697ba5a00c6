"""Commits: the result does not depend on the order of receipts, on races, on kills or on a full disk."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import StoreError
from manifests.records import Document, Text, record_id
from stores.commits.head import root_path
from stores.commits.roots import Receipt
from stores.store import Snapshot, Store
from stores.upkeep.verify import verify
from stores.writer import UnitWriter

ROOT = Path(__file__).parents[2]
UNITS = ("a", "b", "c", "d")


def documents(unit: str, count: int = 3, word: str = "text") -> list[Document]:
    return [Document(record_id(unit, str(i)), unit, str(i), "web", (Text(f"{word} {unit} {i}"),)) for i in range(count)]


def receipt(store: Store, unit: str, word: str = "text") -> Receipt:
    writer = store.writer(unit)
    for document in documents(unit, word=word):
        writer.add(document)
    writer.quarantine(f"{unit}/bad", "no_text", "nothing in it")
    return pickle.loads(pickle.dumps(writer.finish()))  # as receipts come from a worker


def commit(store: Store, receipts: list[Receipt], complete: bool = True) -> Snapshot:
    return store.commit(receipts, node="node", units=UNITS, complete=complete)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(str(tmp_path / "store"), "documents", "docs")


@given(st.permutations(UNITS), st.lists(st.integers(1, 3), max_size=3), st.booleans())
@settings(max_examples=25)
def test_the_content_root_does_not_depend_on_how_receipts_arrive(
    quick_folder: Path, order: list[str], cuts: list[int], reopened: bool
) -> None:
    url = tempfile.mkdtemp(dir=quick_folder)
    store = Store.create(url, "documents", "docs")
    receipts = [receipt(store, unit) for unit in order]
    for cut in cuts:
        commit(store, receipts[:cut], complete=False)
        store = Store.open(url) if reopened else store
    snapshot = commit(store, receipts)
    assert snapshot.units == UNITS and snapshot.complete
    assert [document.source for document in snapshot.records()] == [unit for unit in UNITS for _ in range(3)]
    other = Store.create(tempfile.mkdtemp(dir=quick_folder), "documents", "docs")
    at_once = commit(other, [receipt(other, unit) for unit in UNITS])
    assert snapshot.content_root == at_once.content_root
    assert snapshot.root.lists == at_once.root.lists and snapshot.counts == at_once.counts


def test_the_content_root_does_not_depend_on_the_order_of_units(store: Store, tmp_path: Path) -> None:
    other = Store.create(str(tmp_path / "other"), "documents", "docs")
    backwards = UNITS[::-1]
    first = commit(store, [receipt(store, unit) for unit in UNITS])
    second = other.commit([receipt(other, unit) for unit in UNITS], node="node", units=backwards)
    assert second.units == backwards and first.content_root == second.content_root


def test_another_record_gives_another_content_root(store: Store, tmp_path: Path) -> None:
    first = commit(store, [receipt(store, unit) for unit in UNITS])
    other = Store.create(str(tmp_path / "other"), "documents", "docs")
    changed = [receipt(other, unit, "text" if unit != "c" else "Text") for unit in UNITS]
    assert commit(other, changed).content_root != first.content_root


def test_duplicate_and_late_receipts_change_nothing(store: Store) -> None:
    receipts = [receipt(store, unit) for unit in UNITS]
    late_receipt = receipt(store, "b", "another")
    done = commit(store, receipts)
    for late in ([], receipts[:2], [late_receipt], [late_receipt, *receipts]):
        for complete in (True, False):
            again = commit(store, late, complete)
            assert again.number == done.number and again.root == done.root
    assert late_receipt.shards[0].shard not in {ref.shard for ref in done.shards}


def test_the_first_commit_of_a_unit_wins(store: Store) -> None:
    first, second = receipt(store, "a", "first"), receipt(store, "a", "second")
    commit(store, [first], complete=False)
    assert commit(store, [second], complete=False).record(0).text == "first a 0"


def test_units_that_are_not_named_drop_out_and_the_others_stay(store: Store) -> None:
    before = commit(store, [receipt(store, unit) for unit in UNITS])
    after = store.commit([receipt(store, "e")], node="changed", units=("e", "d", "a"))
    assert after.units == ("e", "d", "a") and after.number == before.number + 1
    assert after.counts["records"] == 9 and after.counts["quarantined"] == 3
    assert [document.source for document in before.records()] == [unit for unit in UNITS for _ in range(3)]


def test_a_complete_commit_with_missing_units_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="3 units are missing, the first is 'b'"):
        commit(store, [receipt(store, "a")])
    assert store.head() is None


def test_a_unit_may_be_empty_or_have_only_quarantined_records(store: Store) -> None:
    writer = store.writer("b")
    writer.quarantine("b/1", "truncated_image", "ends after 3 bytes")
    snapshot = store.commit([store.writer("a").finish(), writer.finish()], node="n", units=("a", "b"))
    assert snapshot.units == ("a", "b") and list(snapshot.records()) == [] and list(snapshot.shards) == []
    assert snapshot.quarantined().to_pylist() == [
        {"unit": "b", "locator": "b/1", "reason": "truncated_image", "message": "ends after 3 bytes"}
    ]
    assert snapshot.table().num_rows == 0 and "tokens" not in snapshot.table().column_names
    assert snapshot.ranges == {"a": range(0), "b": range(0)}


def test_the_head_is_found_at_any_number(store: Store) -> None:
    for number in range(1, 20):
        units = [f"u{i}" for i in range(number)]
        store.commit([receipt(store, units[-1])], node="node", units=units)
        head = Store.open(store.url).head()
        assert head is not None and head.number == number
    old = store.snapshot(3)
    assert old.units == ("u0", "u1", "u2")


def test_two_commits_of_equal_roots_are_one(store: Store) -> None:
    """A root with our bytes means that our swap succeeded, as after a lost answer; another root means another try."""
    receipts = [receipt(store, unit) for unit in UNITS]
    one, two = Store.open(store.url), Store.open(store.url)
    assert commit(one, receipts).number == commit(two, receipts).number == 1


@given(st.lists(st.integers(0, 60), min_size=1, unique=True), st.lists(st.integers(0, 60), unique=True, max_size=3))
@settings(max_examples=15)
def test_a_commit_changes_the_lists_of_its_own_units_and_no_others(
    quick_folder: Path, before: list[int], new: list[int]
) -> None:
    """The lists are also equal to those of one commit of everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stores.commit.LIST_SHARDS", 4)
        store = Store.create(tempfile.mkdtemp(dir=quick_folder), "documents", "docs")
        units = [f"u{number:02}" for number in sorted({*before, *new})]
        receipts = {unit: store.writer(unit).finish() for unit in units}
        receipts["u07"] = receipt(store, "u07")  # a shard among the empty ones
        units = sorted({*units, "u07"})
        old = [f"u{number:02}" for number in sorted(before)]
        first = store.commit([receipts[unit] for unit in old if unit in receipts], node="n", units=old)
        second = store.commit(receipts.values(), node="n", units=units)
        other = Store.create(tempfile.mkdtemp(dir=quick_folder), "documents", "docs")
        receipt(other, "u07")
        at_once = other.commit(receipts.values(), node="n", units=units)
        assert second.root.lists == at_once.root.lists and second.root.directory == at_once.root.directory
        assert second.content_root == at_once.content_root and second.units == tuple(units)
        fresh = {entry.digest for entry in second.root.lists} - {entry.digest for entry in first.root.lists}
        assert len(fresh) <= 2 * len(set(units) - set(old)) + 2, "a new unit changes its list, or cuts it in two"
        assert store.commit([], node="n", units=old).root.lists == first.root.lists
        assert store.head().content_root == first.content_root  # type: ignore[union-attr]


RACER = """
import sys, pickle, time
from pathlib import Path
from tests.stores.test_commit import receipt
from stores.store import Store
url, own, units = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
store = Store.open(url)
receipts = [receipt(store, unit) for unit in own]
print("ready", flush=True)
sys.stdin.readline()
for each in receipts:
    store.commit([each], node="node", units=units, complete=False)
"""


def test_two_racing_committers_lose_nothing(store: Store) -> None:
    units = [f"{racer}{i}" for i in range(12) for racer in "xy"]
    racers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                RACER,
                store.url,
                ",".join(unit for unit in units if unit[0] == racer),
                ",".join(units),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for racer in "xy"
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert [racer.wait(60) for racer in racers] == [0, 0]
    head = Store.open(store.url).head()
    assert head is not None and set(head.units) == set(units) and head.number == len(units)
    assert verify(head) == []


def work(url: str, units: tuple[str, ...] = UNITS) -> Snapshot:
    """Do the work of a node, also after a kill: write and commit each missing unit, then commit the whole."""
    store = Store.open_or_create(url, "documents", "docs")
    head = store.head()
    for unit in units:
        if head is None or unit not in head.units:
            head = store.commit([receipt(store, unit)], node="node", units=units, complete=False)
    return store.commit([], node="node", units=units)


class SteppedFile:
    """File that calls `step` before, in the middle of and after each write."""

    def __init__(self, file: IO[bytes], step: Callable[[str], None]) -> None:
        self._file, self._step = file, step

    def write(self, data: bytes | memoryview) -> int:
        whole = memoryview(data).cast("B")
        for part in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
            self._step("write")
            self._file.write(part)
            self._file.flush()
        self._step("write")
        return len(whole)

    def __enter__(self) -> SteppedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def run_stepped(url: str, on_step: Callable[[int, str], None]) -> int:
    """Run `work` in a fork that calls `on_step(number from 1, name)` at each step; return the exit code.

    Steps are before and after every fsync, before, in the middle of and after every write to a file, and before every
    open for writing, link, rename, removal and new folder; the moment after those is before the next step.
    """
    child = os.fork()
    if child == 0:
        steps = 0
        fsync, plain_open = os.fsync, io.open

        def step(name: str) -> None:
            nonlocal steps
            steps += 1
            on_step(steps, name)

        def stepping_fsync(descriptor: int) -> None:
            step("fsync")
            fsync(descriptor)
            step("fsync")

        def stepping_open(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode in ("r", "rb"):
                return plain_open(file, mode, *arguments, **options)
            step("open")
            opened = plain_open(file, mode, *arguments, **options)
            return SteppedFile(opened, step) if "b" in mode else opened

        def changing(event: str, arguments: tuple[object, ...]) -> None:
            if event in ("os.link", "os.rename", "os.remove", "os.mkdir", "os.truncate"):
                step(event)

        os.fsync, io.open = stepping_fsync, stepping_open  # type: ignore[assignment]
        sys.addaudithook(changing)
        try:
            work(url, UNITS[:2])
            os._exit(0)
        except (OSError, StoreError):
            os._exit(1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(moment: int, url: str) -> bool:
    """Run `work` with a kill at a step; return False if it ended before that."""

    def kill(number: int, name: str) -> None:
        if number == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    exit_code = run_stepped(url, kill)
    assert exit_code in (0, -signal.SIGKILL)
    return exit_code != 0


def test_a_disk_that_is_full_from_any_moment_on_loses_nothing(quick_folder: Path) -> None:
    expected = work(tempfile.mkdtemp(dir=quick_folder), UNITS[:2]).content_root
    for first in range(1, 1000, 3):

        def full(number: int, name: str, first: int = first) -> None:
            if number >= first and name != "os.remove":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        url = tempfile.mkdtemp(dir=quick_folder)
        exit_code = run_stepped(url, full)
        assert exit_code in (0, 1)
        head = Store.open(url).head() if Path(url, "store.json").exists() else None
        assert head is None or verify(head) == []
        finished = work(url, UNITS[:2])  # the disk has room again
        assert finished.content_root == expected and finished.complete and verify(finished) == []
        shutil.rmtree(url)
        if exit_code == 0:
            break
    assert first > 150


def test_a_kill_around_any_change_of_the_filesystem_leaves_a_usable_store(quick_folder: Path) -> None:
    expected = work(tempfile.mkdtemp(dir=quick_folder), UNITS[:2]).content_root
    plain_writer = Store.writer
    moment = 0
    killed = True
    while killed:
        moment += 1
        url = tempfile.mkdtemp(dir=quick_folder)
        killed = killed_at(moment, url)
        done = 0
        if Path(url, "store.json").exists():
            head = Store.open(url).head()
            assert head is None or verify(head) == []
            done = len(head.units) if head is not None else 0
        rewritten: list[str] = []

        def writer(store: Store, unit: str, units: list[str] = rewritten) -> UnitWriter:
            units.append(unit)
            return plain_writer(store, unit)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "writer", writer)
            finished = work(url, UNITS[:2])
        assert finished.content_root == expected and finished.complete and verify(finished) == []
        assert rewritten == list(UNITS[done:2])  # no committed unit
        shutil.rmtree(url)
    assert moment > 150


WORKER = """
import sys
from tests.stores.test_commit import work
print("ready", flush=True)
work(sys.argv[1], tuple(f"u{i}" for i in range(400)))
"""


def test_writers_killed_at_random_moments_leave_the_previous_root_or_the_next(quick_folder: Path) -> None:
    rng = random.Random(5)
    url = tempfile.mkdtemp(dir=quick_folder)
    seen = 0
    reads, ended, errors = [0], Event(), list[str]()

    def read() -> None:
        """Check again and again that the head is whole and never has fewer units than before."""
        seen_units: tuple[str, ...] = ()
        try:
            while not ended.is_set():
                head = Store.open(url).head() if Path(url, "store.json").exists() else None
                if head is None:
                    continue
                names = head.units
                texts = [document.text for document in head.records(max(0, 3 * (len(names) - 4)))]
                expected = [f"text {unit} {i}" for unit in names[-4:] for i in range(3)]
                if names[: len(seen_units)] != seen_units or texts != expected:
                    errors.append(f"{names[-4:]} have {texts}")
                seen_units, reads[0] = names, reads[0] + 1
        except StoreError as error:
            errors.append(str(error))

    reader = Thread(target=read)
    reader.start()
    for _ in range(4):
        worker = subprocess.Popen([sys.executable, "-c", WORKER, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        wanted = Path(url, root_path(seen + rng.randint(1, 5)))
        while not wanted.exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        head = Store.open(url).head()
        assert head is not None and len(head.units) == head.number > seen and verify(head) == []
        seen = head.number
    ended.set()
    reader.join()
    assert not errors and reads[0] > 4
