"""Hostile files among good ones, in one real run: each costs one record with a reason, memory and time stay bounded,
and everything beside it arrives. Tars with links and `..` in names: `test_ingest_tars.py`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from PIL import Image

from manifests.records import Document
from stores.store import Snapshot
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import ROOT, head

DAG = "name: bad\nnodes:\n  documents: {kind: ingest_folder, path: ./data}\n"
BEFORE, BEHIND = b'{"text": "what stands before"}\n', b'{"text": "what stands behind"}\n'
DEEP = 100_000
FORMATS = ("jpeg", "png", "webp", "gif", "tiff", "bmp")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(megabytes: int) -> bytes:
    """Bytes of zlib that unpack to so many bytes."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(megabytes)), packer.flush()])


def text_bomb() -> bytes:
    """A PNG whose compressed comment unpacks to 80 MB."""
    good = small_data.image(1)
    at = good.index(b"IDAT") - 4
    return good[:at] + chunk(b"zTXt", b"Comment\0\0" + zeros(80)) + good[at:]


def animation_bomb() -> bytes:
    """A GIF that claims a canvas of 65,535 x 65,535."""
    out = io.BytesIO()
    Image.new("P", (8, 8)).save(out, "GIF")
    data = bytearray(out.getvalue())
    data[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def clip(change: Callable[[bytearray], None], folder: Path) -> bytes:
    small_data.clip(folder / "clip.mp4")
    data = bytearray((folder / "clip.mp4").read_bytes())
    (folder / "clip.mp4").unlink()
    change(data)
    return bytes(data)


def wide(data: bytearray) -> None:
    """A video with this size in the sample entry and the track."""
    at = data.index(b"avc1", data.index(b"stsd"))
    data[at + 28 : at + 32] = struct.pack(">HH", 65535, 65535)
    at = data.index(b"tkhd")
    data[at + 80 : at + 88] = struct.pack(">II", 65535 << 16, 65535 << 16)


def endless(data: bytearray) -> None:
    """Two thousand million samples of one duration."""
    at = data.index(b"stts")
    data[at + 12 : at + 16] = struct.pack(">I", 2**31 - 1)


def crowded(data: bytearray) -> None:
    """A table with more entries than there are bytes."""
    at = data.index(b"stsz")
    data[at + 12 : at + 16] = struct.pack(">I", 2**32 - 1)


def eternal(data: bytearray) -> None:
    """One tick a second, frames that last for ages."""
    at = data.index(b"stts")
    data[at + 16 : at + 20] = struct.pack(">I", 2**32 - 1)


def fuzzed(seed: int) -> bytes:
    dice = random.Random(seed)
    data = bytearray(small_data.image(seed, FORMATS[seed % len(FORMATS)], (120, 90)))
    for _ in range(dice.randint(1, 40)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data[: dice.randrange(len(data))] if dice.random() < 0.3 else data)


REASONS = {
    "bomb.png": "too_many_pixels",
    "square.png": "too_many_pixels",
    "canvas.gif": "too_many_pixels",
    "comment.png": "broken_image",
    "bomb.jsonl.gz#2": "decompression_bomb",
    "bomb.jsonl.zst#2": "decompression_bomb",
    "bomb.txt.gz": "too_large",
    "line.jsonl#2": "too_large",
    "deep.jsonl#2": "too_deep",
    "deep.json": "too_deep",
    "nan.jsonl#2": "not_a_number",
    "nan.jsonl#3": "not_a_number",
    "bytes.jsonl#2": "bad_encoding",
    "member.jsonl.gz#2": "damaged_gzip",
    "endless.mp4": "truncated_video",
    "crowded.mp4": "broken_video",
    "noise.mp4": "broken_video",
}
BESIDE = [f"{name}.jsonl#1" for name in ("line", "deep", "nan", "bytes")]
BESIDE += ["bomb.jsonl.gz#1", "bomb.jsonl.zst#1", "member.jsonl.gz#1"]
BEHIND_IT = ["line.jsonl#3", "deep.jsonl#3", "nan.jsonl#4", "bytes.jsonl#3"]
FUZZED = 60


def write(data: Path) -> None:
    data.mkdir()

    def put(name: str, content: bytes) -> None:
        (data / name).write_bytes(content)

    for number in range(8):
        put(f"good{number}.png", small_data.image(number))
        put(f"good{number}.txt", f"A good picture {number}.".encode())
    put("bomb.png", png(100_000, 100_000, zeros(8)))
    put("square.png", png(30_000, 30_000, zeros(8)))
    put("canvas.gif", animation_bomb())
    put("comment.png", text_bomb())
    put("bomb.jsonl.gz", gzip.compress(BEFORE + b" " * (160 << 20), 1))
    put("bomb.jsonl.zst", zstandard.compress(BEFORE + b" " * (160 << 20), 1))
    put("bomb.txt.gz", gzip.compress(b"word " * (16 << 20), 1))
    put("line.jsonl", BEFORE + b'{"text": "' + b"x" * (20 << 20) + b'"}\n' + BEHIND)
    put("deep.jsonl", BEFORE + b"[" * DEEP + b"]" * DEEP + b"\n" + BEHIND)
    put("deep.json", b'{"a":' * DEEP + b"1" + b"}" * DEEP)
    put("nan.jsonl", BEFORE + b'{"text": NaN}\n{"text": "a", "score": -Infinity}\n' + BEHIND)
    put("bytes.jsonl", BEFORE + b'{"text": "\xff\xfe\x81"}\n' + BEHIND)
    member = gzip.compress(BEFORE)
    put("member.jsonl.gz", member + member[:-12] + b"\0" * 12)
    for name, change in (("wide", wide), ("endless", endless), ("crowded", crowded), ("eternal", eternal)):
        put(f"{name}.mp4", clip(change, data))
        put(f"{name}.txt", f"The clip {name}.".encode())
    put("noise.mp4", b"\0\0\0\x18ftypmp42" + random.Random(0).randbytes(1 << 20))
    for seed in range(FUZZED):
        put(f"fuzzed{seed:02d}.{FORMATS[seed % len(FORMATS)]}", fuzzed(seed))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, float, float]:
    """The documents, the MB of the largest process, and the seconds of the whole run."""
    folder = tmp_path_factory.mktemp("bad")
    write(folder / "data")
    (folder / "dag.yaml").write_text(DAG)
    program = (
        "import json, resource, subprocess, sys\n"
        "code = subprocess.run(sys.argv[1:], stdout=2).returncode\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([code, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime]))"
    )
    command = [sys.executable, str(ROOT / "millrace.py"), "run", str(folder / "dag.yaml"), "--out", str(folder / "out")]
    child = subprocess.run(
        [sys.executable, "-c", program, *command, "--workers", "1"], capture_output=True, text=True, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    code, megabytes, seconds = json.loads(child.stdout)
    assert code == 0, child.stderr
    return head(folder / "out", "documents"), megabytes, seconds


def test_each_hostile_file_costs_one_record_with_a_reason(ran: tuple[Snapshot, float, float]) -> None:
    snapshot, megabytes, seconds = ran
    aside = [(row["locator"], row["reason"]) for row in snapshot.quarantined().to_pylist()]
    assert {name: reason for name, reason in aside if not name.startswith("fuzzed")} == REASONS
    assert len(aside) == len(dict(aside)) and "" not in dict(aside).values()
    by_locator = {document.locator: document for document in snapshot.records()}
    assert {*(f"good{number}.png" for number in range(8)), *BESIDE, *BEHIND_IT} <= set(by_locator)
    assert megabytes < 700 and seconds < 60


def test_a_wrong_header_changes_nothing_if_the_media_decode(ran: tuple[Snapshot, float, float]) -> None:
    by_locator = {document.locator: document for document in ran[0].records()}
    for name in ("wide.mp4", "eternal.mp4"):
        document = by_locator[name]
        assert isinstance(document, Document)
        (medium,) = document.media
        assert (medium.width_px, medium.height_px) == (64, 48) and 1 <= len(medium.frame_times_us) <= 12
    assert len(by_locator["wide.mp4"].media[0].frame_times_us) == 12


def test_fuzzed_pictures_arrive_or_are_quarantined_with_a_reason(
    ran: tuple[Snapshot, float, float],
) -> None:
    aside = {row["locator"]: row["reason"] for row in ran[0].quarantined().to_pylist()}
    reasons = {name: reason for name, reason in aside.items() if name.startswith("fuzzed")}
    arrived = [document.locator for document in ran[0].records() if document.locator.startswith("fuzzed")]
    assert len(reasons) + len(arrived) == FUZZED and len(reasons) > FUZZED / 3 and arrived
    assert not {"unexpected_error", "killed_worker"} & set(reasons.values())
