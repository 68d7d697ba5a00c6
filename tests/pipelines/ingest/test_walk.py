"""Listing a folder: digests, cuts at line ends, refused links and special files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError, RecordError, StoreError
from pipelines.ingest import walk
from pipelines.ingest.formats.file import check_unchanged, read_file
from pipelines.ingest.formats.suffixes import CUT_AT_LINES


def test_every_file_is_listed_once_with_its_digest(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_bytes(b"two")
    (tmp_path / "one.txt").write_bytes(b"one")
    (tmp_path / ".hidden").write_bytes(b"no")
    files, refused = walk.walk_folder(tmp_path, [], CUT_AT_LINES)
    assert [file.path for file in files] == ["b/two.txt", "one.txt"]
    assert files[1].digest == hashlib.sha256(b"one").hexdigest()
    assert refused == []


def test_links_outside_and_special_files_are_refused_by_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (data / "out.txt").symlink_to(tmp_path / "secret.txt")
    (data / "broken.txt").symlink_to(tmp_path / "nothing")
    (data / "inner").mkdir()
    (data / "loop").symlink_to(data)
    (data / "itself.txt").symlink_to("itself.txt")
    os.mkfifo(data / "pipe.txt")
    files, refused = walk.walk_folder(data, [], CUT_AT_LINES)
    assert files == []
    assert {file.path: file.reason for file in refused} == {
        "out.txt": "symlink_outside",
        "broken.txt": "symlink_outside",
        "loop": "symlinked_folder",
        "itself.txt": "unreadable",
        "pipe.txt": "not_a_file",
    }


def test_names_that_are_not_text_get_a_printable_locator(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.txt")).write_bytes(b"x")
    files, _ = walk.walk_folder(tmp_path, [], CUT_AT_LINES)
    assert files[0].locator == "bad\\xff.txt"
    assert read_file(tmp_path, files[0], 10) == b"x"


def test_excluded_patterns_are_left_out(tmp_path: Path) -> None:
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_bytes(b"x")
    files, _ = walk.walk_folder(tmp_path, ["*.csv"], CUT_AT_LINES)
    assert [file.path for file in files] == ["a.txt"]


def test_a_missing_folder_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        walk.walk_folder(tmp_path / "nothing", [], CUT_AT_LINES)


@given(st.lists(st.binary(max_size=12), max_size=30), st.integers(1, 40))
def test_pieces_cover_a_file_and_end_after_line_ends(lines: list[bytes], piece_bytes: int) -> None:
    content = b"\n".join(line.replace(b"\n", b"") for line in lines)
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"millrace-pieces-{os.getpid()}"
    path.write_bytes(content)
    try:
        pieces = list(walk._pieces(path, piece_bytes))
    finally:
        path.unlink()
    assert pieces[0].start == 0 and pieces[-1].stop == len(content)
    for piece, after in pairwise(pieces):
        assert piece.stop == after.start and content[piece.stop - 1 : piece.stop] == b"\n"
        assert piece.stop - piece.start >= piece_bytes
    for piece in pieces:
        assert piece.sha256 == hashlib.sha256(content[piece.start : piece.stop]).hexdigest()
        assert piece.first_line == 1 + content[: piece.start].count(b"\n")


def test_files_in_wide_encodings_are_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "PIECE_BYTES", 10)
    content = "line\n" * 20
    (tmp_path / "wide.txt").write_bytes(content.encode("utf-16"))
    (tmp_path / "plain.txt").write_bytes(content.encode())
    files, _ = walk.walk_folder(tmp_path, [], CUT_AT_LINES)
    assert [len(file.pieces) for file in files] == [10, 1]


def test_folders_deeper_than_pythons_stack_are_walked(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("deep.txt").write_text("x")
    finally:
        os.chdir(here)
    files, refused = walk.walk_folder(tmp_path, [], CUT_AT_LINES)
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # the cleanup of pytest would recurse
    assert [file.path for file in files] == ["d/" * 1200 + "deep.txt"] and refused == []


def test_a_single_file_is_a_folder_of_one(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_bytes(b"x")
    files, _ = walk.walk_folder(tmp_path / "one.txt", [], CUT_AT_LINES)
    assert [file.path for file in files] == ["one.txt"]


def test_a_file_that_disappears_during_the_run_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x")
    files, _ = walk.walk_folder(tmp_path, [], CUT_AT_LINES)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(StoreError, match="changed while"):
        check_unchanged(tmp_path, files[0])


def test_read_file_checks_the_limit_and_changes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"12345")
    files, _ = walk.walk_folder(tmp_path, [], CUT_AT_LINES)
    with pytest.raises(RecordError, match="5 bytes"):
        read_file(tmp_path, files[0], 4)
    (tmp_path / "a.txt").write_bytes(b"123456")
    with pytest.raises(StoreError, match="changed"):
        read_file(tmp_path, files[0], 100)
