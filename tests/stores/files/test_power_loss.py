"""Power loss keeps only synced data: after every sync, that data is a store on which work can go on."""

from __future__ import annotations

import os
import random
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stores.files.local import LocalFiles
from stores.store import Store
from stores.upkeep.verify import verify
from tests.stores.test_commit import UNITS, work


class Disk:
    """Content of the folder `root` that would survive a power loss, by the calls of fsync.

    A file keeps the bytes, a folder the names that it had at its last fsync. A name whose file was never synced is an
    empty file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int]] = {}

    def record_sync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if stat.S_ISDIR(status.st_mode):
            self.names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.contents[status.st_ino] = path.read_bytes()

    def record_unlink(self, path: Path) -> None:
        status = path.stat()
        if status.st_nlink == 1:
            self.contents.pop(status.st_ino, None)  # the number may be given to a new file

    def write_surviving(self, target: Path) -> Path:
        """Write the surviving files to `target`."""
        waiting = [(self.root, target)]
        while waiting:
            folder, copy = waiting.pop()
            copy.mkdir(exist_ok=True)
            for name, inode in self.names.get(folder, {}).items():
                if (folder / name).is_dir():
                    waiting.append((folder / name, copy / name))
                else:
                    (copy / name).write_bytes(self.contents.get(inode, b""))
        return target


def test_power_loss_after_any_sync_leaves_a_usable_store(quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = work(tempfile.mkdtemp(dir=quick_folder), UNITS[:2]).content_root
    root = Path(tempfile.mkdtemp(dir=quick_folder))
    disk = Disk(root)
    survivors: list[Path] = []
    fsync, unlink = os.fsync, os.unlink

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        disk.record_sync(descriptor)
        survivors.append(disk.write_surviving(Path(tempfile.mkdtemp(dir=quick_folder))))

    def watched_unlink(path: Path, *, dir_fd: int | None = None) -> None:
        disk.record_unlink(Path(path))
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", watched_fsync)
        patch.setattr(os, "unlink", watched_unlink)
        work(str(root), UNITS[:2])
    assert len(survivors) > 30
    committed = []
    for survivor in survivors:
        head = None
        if (survivor / "store.json").exists():
            head = Store.open(str(survivor)).head()
            assert head is None or verify(head) == []
        committed.append(len(head.units) if head else 0)
        finished = work(str(survivor), UNITS[:2])
        assert finished.content_root == expected and finished.complete and verify(finished) == []
    assert committed == sorted(committed) and committed[-1] == 2  # a commit that returned stays committed


@pytest.mark.parametrize("left_out", ["folder of the roots", "bytes of files"])
def test_a_missing_sync_is_noticed(left_out: str, quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the test above can fail: without these syncs, power loss damages the store."""
    skipped: Callable[[Path], bool] = (
        (lambda path: path.name == "roots") if "roots" in left_out else (lambda path: path.is_file())
    )
    root = Path(tempfile.mkdtemp(dir=quick_folder))
    disk = Disk(root)
    fsync = os.fsync

    def careless(descriptor: int) -> None:
        fsync(descriptor)
        if not skipped(Path(f"/proc/self/fd/{descriptor}").readlink()):
            disk.record_sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", careless)
        work(str(root), UNITS[:1])
    survivor = disk.write_surviving(Path(tempfile.mkdtemp(dir=quick_folder)))
    files = LocalFiles(survivor)
    whole = files.exists("roots/000001.json") and files.read("roots/000001.json") != b""
    assert not whole


def test_two_hundred_kills_at_random_moments_lose_nothing(quick_folder: Path) -> None:
    began = time.perf_counter()
    expected = work(tempfile.mkdtemp(dir=quick_folder), UNITS[:2]).content_root
    usual_s = time.perf_counter() - began
    rng = random.Random(11)
    url = tempfile.mkdtemp(dir=quick_folder)
    killed = 0
    while killed < 200:
        child = os.fork()
        if child == 0:
            work(url, UNITS[:2])
            os._exit(0)
        time.sleep(rng.uniform(0, usual_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if Path(url, "store.json").exists():
            head = Store.open(url).head()
            assert head is None or verify(head) == []
            if head is not None and head.complete:
                assert head.content_root == expected
                url = tempfile.mkdtemp(dir=quick_folder)
        killed += os.WIFSIGNALED(status)
    finished = work(url, UNITS[:2])
    assert finished.content_root == expected and verify(finished) == []
