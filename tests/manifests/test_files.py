"""Atomic writes and lock files: a reader never sees half of a file, and one process at a time holds a lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.files import LockHeld, held_file, write_whole

HOLD = """
import sys, time
from pathlib import Path
from manifests.files import held_file
with held_file(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@given(contents=st.lists(st.one_of(st.text(), st.binary()), min_size=1, max_size=4))
def test_the_last_content_is_the_only_file(quick_folder: Path, contents: list[str | bytes]) -> None:
    path = quick_folder / "whole" / "file"
    path.parent.mkdir(exist_ok=True)
    for content in contents:
        write_whole(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_lock_is_refused_by_name_while_held_and_freed_by_a_kill(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockHeld) as refusal, held_file(lock):
            raise AssertionError("two processes hold one lock")
        assert refusal.value.holder == str(holder.pid)
        waited = []

        def kill(process: str) -> None:
            waited.append(process)
            holder.kill()

        with held_file(lock, on_wait=kill):
            assert waited == [str(holder.pid)]
