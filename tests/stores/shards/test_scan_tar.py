"""Scanner of foreign tars: every whole member is found at its offset, and no file breaks the scanner."""

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


def tar_bytes(contents: Sequence[Entry], format: int = tarfile.PAX_FORMAT, kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in contents:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def scanned(data: bytes, keep: bool = True) -> tuple[list[Member | TarDamage], TarScan]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.tar").write_bytes(data)
        scan = TarScan(LocalFiles(Path(folder)), "x.tar", lambda name, size: keep)
        return list(scan), scan


@given(entries, st.sampled_from(FORMATS), st.integers(512, 3000))
def test_names_offsets_and_sizes_equal_those_of_tarfile(contents: list[Entry], format: int, chunk_bytes: int) -> None:
    if format == tarfile.USTAR_FORMAT:
        contents = [(name, data) for name, data in contents if len(name) < 100]
    data = tar_bytes(contents, format)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_tar, "CHUNK_BYTES", chunk_bytes)
        items, scan = scanned(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    if not contents:
        assert [item.reason for item in items if isinstance(item, TarDamage)] == ["empty_tar"]
        return
    members = [item for item in items if isinstance(item, Member)]
    assert [(item.name, item.offset, item.size) for item in members] == expected and len(items) == len(members)
    assert all(item.payload == data[item.offset : item.offset + item.size] for item in members)
    assert (scan.digest, scan.size) == (blake3(data).hexdigest(), len(data))


@given(
    entries.filter(bool),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, 10_000),
)
def test_damage_anywhere_keeps_all_members_before_it(
    contents: list[Entry], flips: list[tuple[int, int]], cut: int | None
) -> None:
    whole = tar_bytes(contents)
    data = bytearray(whole)
    for at, mask in flips:
        data[at % len(data)] ^= mask
    first = min(at % len(data) for at, _ in flips)
    if cut is not None:
        del data[cut % len(data) :]
        first = min(first, len(data))
    items, scan = scanned(bytes(data))
    assert scan.digest == blake3(data).hexdigest()
    for item in items:
        if isinstance(item, Member):
            assert item.offset + item.size <= len(data)
            assert item.payload is None or item.payload == data[item.offset : item.offset + item.size]
    before = [item for item in scanned(whole)[0] if isinstance(item, Member) and item.offset + item.size <= first]
    assert items[: len(before)] == before


def test_after_a_damaged_header_the_scan_continues_at_the_next_member() -> None:
    data = bytearray(tar_bytes([(f"{i}.txt", b"x" * 700) for i in range(4)], tarfile.USTAR_FORMAT))
    data[(512 + 1024) + 3] ^= 1
    items, _ = scanned(bytes(data))
    assert [item.name if isinstance(item, Member) else item.reason for item in items] == [
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
def test_a_file_that_is_no_whole_tar_has_a_reason(data: bytes, reason: str) -> None:
    items, _ = scanned(data)
    assert [item.reason for item in items if isinstance(item, TarDamage)] == [reason]


def test_links_devices_and_sparse_members_are_no_files() -> None:
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
    items, _ = scanned(out.getvalue())
    assert [(item.name, item.type) for item in items if isinstance(item, Member)] == [
        ("link.jpg", "link"),
        ("hard.jpg", "link"),
        ("pipe.jpg", "special"),
        ("sparse.jpg", "sparse"),
        ("old_sparse.jpg", "sparse"),
        ("plain.jpg", "file"),
    ]


def test_extended_headers_are_bounded() -> None:
    huge = tarfile.TarInfo("././@LongLink")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    items, _ = scanned(huge.tobuf(tarfile.GNU_FORMAT) + tar_bytes([("a.txt", b"x")], tarfile.USTAR_FORMAT))
    assert [item.name if isinstance(item, Member) else item.reason for item in items] == ["damaged_header", "a.txt"]


def test_an_unwanted_payload_is_not_kept() -> None:
    items, scan = scanned(data := tar_bytes([("a.bin", b"x" * 5000)]), keep=False)
    assert [item.payload for item in items if isinstance(item, Member)] == [None]
    assert scan.digest == blake3(data).hexdigest()


def test_bytes_after_the_end_mark_are_reported_and_not_read() -> None:
    joined = tar_bytes([("a.txt", b"1")]) + tar_bytes([("b.txt", b"2")])
    items, scan = scanned(joined)
    assert [item.name for item in items if isinstance(item, Member)] == ["a.txt"] and scan.bytes_after_end
    assert not scanned(tar_bytes([("a.txt", b"1")]))[1].bytes_after_end


def test_a_fingerprint_depends_on_content_and_not_on_the_path(tmp_path: Path) -> None:
    data = bytearray(tar_bytes([(f"{i}.txt", bytes([i]) * 9000) for i in range(20)]))
    files = LocalFiles(tmp_path)
    (tmp_path / "a.tar").write_bytes(data)
    (tmp_path / "b.tar").write_bytes(data)
    first = fingerprint(files, "a.tar", len(data))
    assert first == fingerprint(files, "b.tar", len(data)) and first[0] == data[: 16 << 10]
    for at in (0, len(data) // 3, len(data) - 1):
        (tmp_path / f"c{at}.tar").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert fingerprint(files, f"c{at}.tar", len(data))[1] != first[1]
