"""Tar writer: plain tars at known offsets, with the headers of tarfile and numpy."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.shards.layout import npy_header
from stores.shards.tar import BUFFER_BYTES, MAX_MEMBER_BYTES, Lane, ShardFile, header

names = st.from_regex(r"[a-z0-9]{1,40}(\.[a-z0-9]{1,9}){1,3}", fullmatch=True)
members = st.lists(st.tuples(names, st.binary(max_size=1300)), max_size=6, unique_by=lambda member: member[0])


def write(path: Path, contents: list[tuple[str, bytes]]) -> tuple[str, list[int]]:
    lane = Lane()
    shard = ShardFile(path, lane)
    offsets = [shard.add(name, payload[:7], payload[7:]) for name, payload in contents]
    digest = shard.close()
    lane.close()
    return digest, offsets


@given(members)
@settings(max_examples=40)
def test_a_shard_is_a_plain_tar_with_known_offsets(quick_folder: Path, contents: list[tuple[str, bytes]]) -> None:
    path = quick_folder / "shard.tar"
    path.unlink(missing_ok=True)
    digest, offsets = write(path, contents)
    data = path.read_bytes()
    assert blake3(data).hexdigest() == digest
    assert [data[at : at + len(payload)] for at, (_, payload) in zip(offsets, contents, strict=True)] == [
        payload for _, payload in contents
    ]
    with tarfile.open(path, "r:") as tar:
        assert [(member.name, tar.extractfile(member).read()) for member in tar] == contents  # type: ignore[union-attr]
        assert all((member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644) for member in tar)


def test_headers_equal_those_of_tarfile() -> None:
    info = tarfile.TarInfo("key.0.jpg")
    info.size = 12345
    theirs = info.tobuf(tarfile.USTAR_FORMAT)
    ours = header("key.0.jpg", 12345)
    differing = {i for i in range(512) if ours[i] != theirs[i]}
    assert differing <= set(range(148, 156)) | set(range(329, 345))  # checksum, and device numbers of devices


def test_gnu_tar_lists_a_shard_of_many_buffers(tmp_path: Path) -> None:
    payload = bytes(range(256)) * (BUFFER_BYTES // 400)
    contents = [(f"key{i}.bin", payload) for i in range(4)]
    write(tmp_path / "shard.tar", contents)
    listed = subprocess.run(["tar", "tf", tmp_path / "shard.tar"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [name for name, _ in contents] and listed.stderr == ""


@pytest.mark.parametrize("name, size", [("", 1), ("x" * 101, 1), ("a", -1), ("a", MAX_MEMBER_BYTES + 1), ("å", 1)])
def test_a_name_or_size_that_a_header_cannot_hold_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError):
        header(name, size)


@given(st.sampled_from(["<u4", "<i8", "|b1", "|u1"]), st.lists(st.integers(0, 10**6), min_size=1, max_size=2))
def test_npy_headers_are_read_by_numpy(dtype: str, shape: list[int]) -> None:
    out = io.BytesIO()
    description = {"descr": dtype, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(out, description)
    ours = npy_header(np.dtype(dtype), tuple(shape))
    read = io.BytesIO(ours)
    assert np.lib.format.read_magic(read) == (1, 0)
    assert np.lib.format.read_array_header_1_0(read) == (tuple(shape), False, np.dtype(dtype))
    assert len(ours) % 64 == 0 and read.tell() == len(ours)
