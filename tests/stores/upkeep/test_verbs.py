"""`millrace store`: output and effects of each sub-command, on real stores and with real writers at work."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import ManifestError, StoreError
from manifests.records import Document, Text, record_id
from stores import leases
from stores.command import main
from stores.commits.roots import Receipt
from stores.store import Snapshot, Store
from stores.upkeep.copy import copy
from stores.upkeep.gc import collect_garbage
from stores.upkeep.log import diff, find_snapshot, log, tag, tags
from stores.upkeep.repair import repair
from stores.upkeep.verify import verify

ROOT = Path(__file__).parents[3]


def document(unit: str, number: int, text: str = "") -> Document:
    parts = (Text(text or f"text {unit} {number} " * 40),)
    return Document(record_id("s", f"{unit}/{number}"), "s", f"{unit}/{number}", "web", parts, license="CC0-1.0")


def write(store: Store, unit: str, text: str = "", shard_bytes: int = 4000) -> Receipt:
    writer = store.writer(unit, shard_bytes)
    for number in range(12):
        writer.add(document(unit, number, text))
    writer.quarantine(f"{unit}/bad", "no_text", "nothing in it")
    return writer.finish()


def commit(store: Store, *units: str, text: str = "", node: str = "node") -> Snapshot:
    return store.commit([write(store, unit, text) for unit in units], node=node, units=units)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(str(tmp_path / "docs"), "documents", "docs")


def shard_files(store: Store) -> list[Path]:
    return sorted(Path(store.url, "shards").iterdir())


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run a sub-command with --json; return its output."""
    code = main([*arguments, "--json"])
    assert code == 0
    return json.loads(capsys.readouterr().out)


def age(store: Store, seconds: float) -> None:
    """Make all files of the store older."""
    for path in Path(store.url).rglob("*"):
        if path.is_file():
            time_s = path.stat().st_mtime - seconds
            os.utime(path, (time_s, time_s))


# ---------------------------------------------------------------- history


def test_log_lists_all_snapshots_newest_first(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    first = commit(store, "a")
    second = commit(store, "a", "b")
    tag(store, "good", first)
    rows = run_json(capsys, "log", store.url)
    assert [row["snapshot"] for row in rows] == [2, 1] and [row["tags"] for row in rows] == [[], ["good"]]
    assert [row["content_root"] for row in rows] == [second.content_root, first.content_root]
    assert main(["log", store.url]) == 0 and "good" in capsys.readouterr().out


def test_a_closed_output_pipe_is_no_traceback(store: Store) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(ROOT / "millrace.py"), "store", "log", store.url, "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_diff_names_units_records_and_columns(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    commit(store, "a", "b")
    commit(store, "b", "c")
    result = run_json(capsys, "diff", store.url, "1")
    assert result["units"] == {"added": ["c"], "removed": ["a"]} and not result["equal"]
    assert result["ids"]["added"] == sorted(record_id("s", f"c/{i}") for i in range(12))
    assert result["ids"]["removed"] == sorted(record_id("s", f"a/{i}") for i in range(12))
    assert diff(find_snapshot(store, "2"), find_snapshot(store, "head"))["equal"]


def test_diff_of_views_lists_records_that_are_no_longer_kept(store: Store, tmp_path: Path) -> None:
    base = commit(store, "a")
    view = Store.create(str(tmp_path / "view"), "view", "view")
    for node in ("strict", "stricter"):
        writer = view.writer(node)
        for ref in base.shards:
            keep = [node == "strict" or row > 0 for row in range(ref.records)]
            writer.columns(ref.shard, {"keep": keep, "reason": [None if kept else "x" for kept in keep]})
        view.commit([writer.finish()], node=node, units=[node], parents=[base.as_parent])
    result = diff(find_snapshot(view, "1"), find_snapshot(view, "2"))
    assert len(result["kept"]["removed"]) == len(base.shards) and not result["kept"]["added"]


def test_a_tag_stays_with_its_snapshot_until_it_is_moved(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    commit(store, "a")
    assert main(["tag", store.url, "release"]) == 0
    commit(store, "a", "b")
    assert find_snapshot(store, "release").number == 1
    with pytest.raises(ManifestError, match="snapshot 1 has the tag 'release' already"):
        main(["tag", store.url, "release"])
    assert main(["tag", store.url, "release", "--move"]) == 0 and find_snapshot(store, "release").number == 2
    with pytest.raises(ManifestError, match="can't be a tag"):
        main(["tag", store.url, "../x"])
    assert main(["tag", store.url, "release", "--delete"]) == 0 and tags(store.files) == {}
    with pytest.raises(ManifestError, match="there is no tag"):
        find_snapshot(store, "release")


# ---------------------------------------------------------------- damage


def test_verify_names_shard_and_record_of_every_flipped_byte(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Flip 300 bytes of a shard, one at a time: in headers, lines, padding and end mark."""
    snapshot = commit(store, "a")
    entry = snapshot.receipts[0].shards[0]
    file = Path(store.url, "shards", f"{entry.shard}.tar")
    good = file.read_bytes()
    with tarfile.open(file) as tar:
        members = [(member.offset, member.offset_data + -(-member.size // 512) * 512) for member in tar]
    random_ = random.Random(2)
    for at in sorted(random_.sample(range(len(good)), 300)):
        bad = bytearray(good)
        bad[at] ^= 1 << random_.randrange(8)
        file.write_bytes(bad)
        damages = verify(snapshot)
        row = next((row for row, (start, end) in enumerate(members) if start <= at < end), len(members) - 1)
        assert any(damage.where.endswith(f"{entry.shard}.tar[{row}]") for damage in damages), (at, damages)
    file.write_bytes(bad)
    assert main(["verify", store.url]) == 1 and f"{entry.shard}.tar[" in capsys.readouterr().out
    file.write_bytes(good)
    assert main(["verify", store.url]) == 0 and "no damage" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["index", "quarantine", "lists"])
def test_verify_names_other_damaged_files(folder: str, store: Store) -> None:
    snapshot = commit(store, "a")
    file = next(Path(store.url, folder).iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert any(folder in damage.where for damage in verify(store.snapshot(snapshot.number)))


def test_repair_salvages_the_good_prefix_of_a_truncated_tar(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = commit(store, "a", "b")
    entry = before.receipts[0].shards[1]
    file = Path(store.url, "shards", f"{entry.shard}.tar")
    with tarfile.open(file) as tar:
        whole = [member.offset_data + member.size for member in tar]
    file.write_bytes(file.read_bytes()[: whole[1]])  # two whole records are left
    assert len(whole) > 2
    result = repair(store)
    assert [(record["unit"], record["shard"], record["row"]) for record in result.lost] == [
        ("a", entry.shard, row) for row in range(2, len(whole))
    ]
    after = result.snapshot
    assert verify(after) == [] and not after.complete and after.number == before.number + 1
    first = before.receipts[0].shards[0].records
    lost = set(range(first + 2, first + len(whole)))
    kept = [before.record(i).id for i in range(before.counts["records"]) if i not in lost]
    assert [record.id for record in after.records()] == kept
    assert after.meta["repaired"] == {"from": 1, "lost": result.lost}
    assert after.quarantined().num_rows == 2
    again = commit(store, "a", "b")  # its node runs again and makes the unit again
    assert again.complete and again.content_root == before.content_root and verify(again) == []


def test_repair_restores_damaged_objects_from_a_copy(store: Store, tmp_path: Path) -> None:
    before = commit(store, "a", "b")
    copy(before, str(tmp_path / "copy"))
    for number, file in enumerate([*shard_files(store), *Path(store.url, "index").iterdir()]):
        if number % 3 == 0:
            file.unlink()
        elif number % 3 == 1:
            file.write_bytes(b"damaged")
    next(Path(store.url, "lists").glob("*.jsonl")).write_bytes(b"")
    result = repair(store, Store.open(str(tmp_path / "copy")).files)
    assert result.snapshot.number == before.number and not result.lost and len(result.restored) > 4
    assert verify(store.snapshot(1)) == []


def test_a_salvaged_snapshot_can_be_accepted_as_complete(store: Store) -> None:
    commit(store, "a")
    shard_files(store)[0].unlink()
    assert not repair(store).snapshot.complete
    assert not repair(store).lost  # nothing is damaged any more
    commit(store, "a")
    shard_files(store)[0].unlink()
    assert repair(store, accept=True).snapshot.complete


# ---------------------------------------------------------------- garbage


def test_gc_keeps_newest_tagged_recent_and_referenced_snapshots(store: Store, tmp_path: Path) -> None:
    for units in (["a"], ["b"], ["c"], ["d"], ["e"]):
        commit(store, *units)
    tag(store, "named", store.snapshot(2))
    view = Store.create(str(tmp_path / "view"), "view", "view")
    base, writer = store.snapshot(3), view.writer("u")
    for ref in base.shards:
        writer.columns(ref.shard, {"keep": [True] * ref.records})
    view.commit([writer.finish()], node="n", units=["u"], parents=[base.as_parent])
    dry = collect_garbage(store, keep_last=1, dry_run=True)
    assert dry.expired == [1, 4] and len(list(log(store))) == 5 and len(shard_files(store)) > len(dry.files) / 3
    result = collect_garbage(store, keep_last=1)
    assert result.expired == [1, 4] and sorted(info.path for info in result.files) == sorted(i.path for i in dry.files)
    assert [(row["snapshot"], row["expired"]) for row in log(store)] == [
        (5, False),
        (4, True),
        (3, False),
        (2, False),
        (1, True),
    ]
    for number in (2, 3, 5):
        assert verify(store.snapshot(number)) == []
    assert [record.id for record in view.head().records()] == [record.id for record in base.records()]  # type: ignore[union-attr]
    assert Store.open(store.url).head().number == 5  # type: ignore[union-attr]
    assert collect_garbage(store, keep_last=1).files == [] and commit(store, "f").number == 6


@pytest.mark.parametrize("wrong", ["--keep-last=-1", "--keep-days=nan", "--grace=-1"])
def test_gc_refuses_negative_numbers_and_nan(wrong: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gc", store.url, wrong])
    assert ended.value.code == 2 and "expected 0 or more" in capsys.readouterr().err


def test_gc_without_a_policy_deletes_only_unreachable_files(store: Store) -> None:
    commit(store, "a")
    commit(store, "b")
    write(store, "never committed")
    before = len(shard_files(store))
    assert collect_garbage(store).files == [] and collect_garbage(store).writers == 1  # its writer may be alive
    age(store, leases.GRACE_S + 1)
    result = collect_garbage(store)
    assert result.expired == [] and {info.path.split("/")[0] for info in result.files} == {
        "shards",
        "index",
        "quarantine",
    }
    assert len(shard_files(store)) < before
    assert verify(store.snapshot(1)) == [] == verify(store.snapshot(2))


def test_keep_days_uses_the_clock_of_the_filesystem(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, "a")
    age(store, 10 * 86_400)
    commit(store, "b")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert collect_garbage(store, keep_days=11, dry_run=True).expired == []
    assert collect_garbage(store, keep_days=9, dry_run=True).expired == [1]


WRITER = """
import sys, time
from stores.store import Store
from tests.stores.upkeep.test_verbs import document
store = Store.open(sys.argv[1])
units = [f"{name}{round}" for name in "xyz" for round in range(int(sys.argv[3]))]
for round in range(int(sys.argv[3])):
    unit = f"{sys.argv[2]}{round}"
    writer = store.writer(unit, 4000)
    for number in range(30):
        writer.add(document(unit, number))
        time.sleep(0.001)
    receipt = writer.finish()
    time.sleep(0.02)
    assert unit in store.commit([receipt], node="n", units=units, complete=False).units
"""


def test_gc_deletes_no_file_of_living_writers(store: Store) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, store.url, name, "8"], cwd=ROOT) for name in "xyz"]
    collected = 0
    while any(writer.poll() is None for writer in writers):
        collected += 1
        collect_garbage(store, keep_last=1, grace_s=60)  # on a busy machine a writer may pause for many seconds
    assert [writer.wait() for writer in writers] == [0, 0, 0] and collected > 5
    head = store.head()
    assert head is not None and verify(head) == []
    age(store, 120)
    collect_garbage(store, keep_last=1, grace_s=60)
    head = store.head()
    assert head is not None and verify(head) == [] and len(head.units) == 24
    reached = {entry.shard for receipt in head.receipts for entry in receipt.shards}
    assert {path.stem for path in shard_files(store)} == reached and not list(Path(store.url, "aside").iterdir())


def test_the_commit_of_a_writer_taken_for_dead_is_refused(store: Store) -> None:
    commit(store, "a")
    late = write(store, "b")
    age(store, leases.GRACE_S + 1)
    collect_garbage(store)
    with pytest.raises(StoreError, match="unit 'b' names a file that does not exist"):
        store.commit([late], node="node", units=["a", "b"])
    assert commit(store, "a", "b").complete


def test_a_lease_lives_exactly_as_long_as_its_writer(store: Store) -> None:
    writer = store.writer("a")
    assert leases.count_living(store.files, 10, leases.now_s(store.files)) == 0
    writer.add(document("a", 1))
    assert leases.count_living(store.files, 10, leases.now_s(store.files)) == 1
    store.commit([writer.finish()], node="n", units=["a"])
    assert leases.count_living(store.files, 10, leases.now_s(store.files)) == 0


def test_gc_deletes_nothing_if_a_list_is_missing(store: Store) -> None:
    commit(store, "a")
    next(Path(store.url, "lists").iterdir()).unlink()
    with pytest.raises(StoreError, match="lost a list"):
        collect_garbage(store, keep_last=1)
    assert shard_files(store)


# ---------------------------------------------------------------- copies


def test_a_stopped_copy_goes_on_and_has_the_same_content_root(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = commit(store, "a", "b")
    target = tmp_path / "copy"
    stopped = threading.Event()

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            stopped.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(snapshot, str(target), stop)
    assert stopped.is_set() and Store.open(str(target)).head() is None
    output = run_json(capsys, "copy", store.url, str(target))
    assert output["content_root"] == snapshot.content_root and output["snapshot"] == 1
    copied = Store.open(str(target)).head()
    assert copied is not None and verify(copied) == [] and list(copied.records()) == list(snapshot.records())
    assert run_json(capsys, "copy", store.url, str(target))["snapshot"] == 1  # nothing to do
    commit(store, "a", "b", "c")
    assert run_json(capsys, "copy", store.url, str(target))["snapshot"] == 2


def view_over(below: Snapshot, name: str, drops: int) -> Snapshot:
    """Write a view that drops every third record of a shard from row `drops` on."""
    view = Store.create(str(Path(below.url).parent / name), "view", name)
    writer = view.writer("all")
    for ref in below.shards:
        keep = [row % 3 != drops for row in range(ref.records)]
        writer.columns(ref.shard, {"keep": keep, "reason": [None if kept else name for kept in keep]})
    return view.commit([writer.finish()], node=name, units=["all"], parents=[below.as_parent])


def test_a_view_counts_its_own_drops_and_the_records_kept_by_all_views(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    one = view_over(commit(store, "a", "b"), "one", 0)
    two = view_over(one, "two", 1)
    dropped = [sum(row % 3 == drops for ref in two.shards for row in range(ref.records)) for drops in (0, 1)]
    assert len(one.kept()) == 24 - dropped[0] and len(two.kept()) == 24 - sum(dropped)
    assert [run_json(capsys, "log", view.url)[0]["counts"]["dropped_here"] for view in (one, two)] == dropped
    for view, here in zip((one, two), dropped, strict=True):
        assert main(["verify", view.url]) == 0
        output = capsys.readouterr().out
        assert f"{here} dropped by this view; {len(view.kept())} records kept by it and all views below it" in output


def test_a_view_is_copied_only_next_to_a_copy_of_its_base(store: Store, tmp_path: Path) -> None:
    base = commit(store, "a", "b")
    one = view_over(base, "one", 0)
    two = view_over(one, "two", 1)
    backup = tmp_path / "backup"
    for view, below in ((one, base), (two, one)):
        with pytest.raises(StoreError, match=r"there is no copy of .* at .*backup") as refused:
            copy(view, str(backup / view.name))
        assert not (backup / view.name).exists()
        assert f"millrace store copy {below.url} {backup / below.name};" in refused.value.fix
        copy(below, str(backup / below.name))
    copied = copy(two, str(backup / "two"))
    assert copied.number == copy(two, copied.url).number == 1
    expected = list(two.records())
    shutil.rmtree(store.url)
    moved = Store.open(str(backup.rename(tmp_path / "moved") / "two")).head()
    assert moved is not None and moved.content_root == two.content_root and list(moved.records()) == expected
    assert verify(moved) == [] and [damage.what for damage in verify(two)] == [
        "there is no store here, and two is a view over it"
    ]


def test_a_damaged_object_is_not_copied(store: Store, tmp_path: Path) -> None:
    snapshot = commit(store, "a")
    file = shard_files(store)[0]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match="not those that were committed"):
        copy(snapshot, str(tmp_path / "copy"))
    assert Store.open(str(tmp_path / "copy")).head() is None


def test_a_copy_through_memory_has_the_same_content_root(store: Store) -> None:
    snapshot = commit(store, "a")
    copied = copy(snapshot, "memory://copies/docs")
    assert copied.content_root == snapshot.content_root and verify(copied) == []
    back = copy(copied, f"{store.url}-back")
    assert back.content_root == snapshot.content_root and list(back.records()) == list(snapshot.records())


# ---------------------------------------------------------------- a full disk


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.stores.upkeep.test_verbs import write
from stores.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
store = Store.open(sys.argv[1])
try:
    store.commit([write(store, "b", shard_bytes=1 << 20)], node="node", units=["a", "b"])
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("limit", [100, 5000, 12_000])
def test_a_full_disk_loses_nothing(limit: int, store: Store) -> None:
    """The kernel refuses to let files grow, as on a full disk."""
    before = commit(store, "a")
    done = subprocess.run([sys.executable, "-c", FULL, store.url, str(limit)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "OSError\n", done.stderr
    head = Store.open(store.url).head()
    assert head is not None and head.number == before.number and verify(head) == []
    assert commit(store, "a", "b").complete


def test_unknown_commands_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frobnicate"]) == 2 and "there are: log, diff" in capsys.readouterr().err
    assert main([]) == 0
