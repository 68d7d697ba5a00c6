"""Tars of other people, read once: every member found where it lies, and no file that breaks the reader."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from stores.files.local import LocalFiles
from stores.shards import scan_tar
from stores.shards.scan_tar import Member, TarDamage, TarScan, fingerprint

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)

Entry = tuple[str, bytes]

names = st.text(st.sampled_from("abé./-"), min_size=1, max_size=8).map(lambda name: name.strip("/") or "x")
long_names = st.integers(90, 400).map(lambda length: "f" * length + ".txt")
entries = st.lists(st.tuples(names | long_names, st.binary(max_size=1500)), max_size=6)


def tar_bytes(some: Sequence[Entry], format: int = tarfile.PAX_FORMAT, kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in some:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def walked(data: bytes, keep: bool = True) -> tuple[list[Member | TarDamage], TarScan]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.tar").write_bytes(data)
        walk = TarScan(LocalFiles(Path(folder)), "x.tar", lambda name, size: keep)
        return list(walk), walk


@given(entries, st.sampled_from(FORMATS), st.integers(512, 3000))
def test_members_are_those_of_the_standard_library_and_lie_where_it_says(
    some: list[Entry], format: int, chunk_bytes: int
) -> None:
    if format == tarfile.USTAR_FORMAT:
        some = [(name, data) for name, data in some if len(name) < 100]
    data = tar_bytes(some, format)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_tar, "CHUNK_BYTES", chunk_bytes)
        found, walk = walked(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    if not some:
        assert [one.reason for one in found if isinstance(one, TarDamage)] == ["empty_tar"]
        return
    members = [one for one in found if isinstance(one, Member)]
    assert [(one.name, one.offset, one.size) for one in members] == expected and len(found) == len(members)
    assert all(one.payload == data[one.offset : one.offset + one.size] for one in members)
    assert (walk.digest, walk.size) == (blake3(data).hexdigest(), len(data))


@given(
    entries.filter(bool),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, 10_000),
)
def test_damage_anywhere_breaks_nothing_and_leaves_what_came_before(
    some: list[Entry], flips: list[tuple[int, int]], cut: int | None
) -> None:
    whole = tar_bytes(some)
    data = bytearray(whole)
    for at, mask in flips:
        data[at % len(data)] ^= mask
    first = min(at % len(data) for at, _ in flips)
    if cut is not None:
        del data[cut % len(data) :]
        first = min(first, len(data))
    found, walk = walked(bytes(data))
    assert walk.digest == blake3(data).hexdigest()
    for one in found:
        if isinstance(one, Member):
            assert one.offset + one.size <= len(data)
            assert one.payload is None or one.payload == data[one.offset : one.offset + one.size]
    before = [one for one in walked(whole)[0] if isinstance(one, Member) and one.offset + one.size <= first]
    assert found[: len(before)] == before


def test_behind_a_damaged_header_reading_goes_on_at_the_next_member() -> None:
    data = bytearray(tar_bytes([(f"{i}.txt", b"x" * 700) for i in range(4)], tarfile.USTAR_FORMAT))
    data[(512 + 1024) + 3] ^= 1
    found, _ = walked(bytes(data))
    assert [one.name if isinstance(one, Member) else one.reason for one in found] == [
        "0.txt",
        "damaged_header",
        "2.txt",
        "3.txt",
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_tar"),
        (bytes(10_240), "empty_tar"),
        (b"not a tar", "not_a_tar"),
        (b"PK\x03\x04" * 5000, "not_a_tar"),
        (tar_bytes([("a.txt", b"x" * 600)])[:900], "torn_tar"),
        (tar_bytes([("a.txt", b"x" * 600)])[:1536], "torn_tar"),
        (tar_bytes([("a.txt", b"x" * 600)])[:1700], "torn_tar"),
    ],
)
def test_what_is_no_whole_tar_says_so(data: bytes, reason: str) -> None:
    found, _ = walked(data)
    assert [one.reason for one in found if isinstance(one, TarDamage)] == [reason]


def test_links_devices_and_sparse_members_are_told_from_files() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0
            tar.addfile(info)
        info = tarfile.TarInfo("sparse.jpg")
        info.pax_headers, info.size = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, 3
        tar.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo("old_sparse.jpg")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 3
        tar.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo("plain.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    found, _ = walked(out.getvalue())
    assert [(one.name, one.type) for one in found if isinstance(one, Member)] == [
        ("link.jpg", "link"),
        ("hard.jpg", "link"),
        ("pipe.jpg", "special"),
        ("sparse.jpg", "sparse"),
        ("old_sparse.jpg", "sparse"),
        ("plain.jpg", "file"),
    ]


def test_headers_about_headers_are_bounded() -> None:
    huge = tarfile.TarInfo("././@LongLink")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    found, _ = walked(huge.tobuf(tarfile.GNU_FORMAT) + tar_bytes([("a.txt", b"x")], tarfile.USTAR_FORMAT))
    assert [one.name if isinstance(one, Member) else one.reason for one in found] == ["damaged_header", "a.txt"]


def test_a_payload_that_is_not_wanted_is_not_kept() -> None:
    found, walk = walked(data := tar_bytes([("a.bin", b"x" * 5000)]), keep=False)
    assert [one.payload for one in found if isinstance(one, Member)] == [None]
    assert walk.digest == blake3(data).hexdigest()


def test_what_follows_the_end_mark_is_not_read_but_told() -> None:
    joined = tar_bytes([("a.txt", b"1")]) + tar_bytes([("b.txt", b"2")])
    found, walk = walked(joined)
    assert [one.name for one in found if isinstance(one, Member)] == ["a.txt"] and walk.bytes_after_end
    assert not walked(tar_bytes([("a.txt", b"1")]))[1].bytes_after_end


def test_a_fingerprint_tells_another_file_and_not_another_place(tmp_path: Path) -> None:
    data = bytearray(tar_bytes([(f"{i}.txt", bytes([i]) * 9000) for i in range(20)]))
    files = LocalFiles(tmp_path)
    (tmp_path / "a.tar").write_bytes(data)
    (tmp_path / "b.tar").write_bytes(data)
    first = fingerprint(files, "a.tar", len(data))
    assert first == fingerprint(files, "b.tar", len(data)) and first[0] == data[: 16 << 10]
    for at in (0, len(data) // 3, len(data) - 1):
        (tmp_path / f"c{at}.tar").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert fingerprint(files, f"c{at}.tar", len(data))[1] != first[1]
