"""How fast are image-text records written, with index, digests and commit, compared with the writers of other formats?

    MILLRACE_TEST_DATA=FOLDER python -m benchmarks.write_images [--quick]

JPEGs of 50 to 300 KB from cameras, each with a caption, 128 MiB in memory. Ours is a store of documents. The SHA-256
that names each picture is part of the record: ingest has computed it before. `ours, and SHA-256` computes it again
within the measured time. Everything else is as in `write_rows.py`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from benchmarks.contest import make_durable, serve
from benchmarks.measure import test_data
from benchmarks.writers import compare_writers

BYTES = 128 << 20
CAPTION = "A photo that somebody took and described in one sentence of about this length, as most captions are."
QUESTION = "Writing image-text records, durable, with index, digests and commit, over the fastest other writer:"
LITDATA_CHUNK = "64MB"

Pictures = Sequence[bytes]


def pictures() -> list[bytes]:
    """Photos of the test data, repeated up to `BYTES`. Four trailing bytes make each unique; decoders ignore them."""
    files = sorted(test_data().glob("dreambooth_photos/**/*.jpg"))
    files = [file for file in files if 50_000 <= file.stat().st_size <= 300_000]
    payloads: list[bytes] = []
    size = 0
    for number, file in enumerate(itertools.cycle(files)):
        payloads.append(file.read_bytes() + number.to_bytes(4, "little"))
        size += len(payloads[-1])
        if size >= BYTES:
            return payloads
    raise RuntimeError("MILLRACE_TEST_DATA/dreambooth_photos has no photos of 50 to 300 KB")


def ours(payloads: Pictures, digest_again: bool = False) -> Callable[[str], None]:
    """Task of ours: write all records to a folder. `digest_again`: compute the SHA-256 within the task."""
    from manifests.records import Document, Media, Text, record_id
    from stores.store import Store

    def document(number: int, payload: bytes) -> Document:
        media = Media(sha256(payload).hexdigest(), "image", "jpg", 640, 480, payload=payload)
        name = f"{number:09}.jpg"
        return Document(record_id("photos", name), "photos", name, "caption", (media, Text(f"{CAPTION} {number}")))

    records = [document(number, payload) for number, payload in enumerate(payloads)]

    def write(folder: str) -> None:
        store = Store.create(f"{folder}/store", "documents", "written")
        writer = store.writer("all")
        for number, record in enumerate(records):
            writer.add(document(number, payloads[number]) if digest_again else record)
        store.commit([writer.finish()], node="bench", units=["all"])

    return write


def ours_and_sha256(payloads: Pictures) -> Callable[[str], None]:
    return ours(payloads, digest_again=True)


def webdataset(payloads: Pictures) -> Callable[[str], None]:
    from webdataset import ShardWriter

    def write(folder: str) -> None:
        with ShardWriter(f"{folder}/%06d.tar", maxsize=256 << 20, verbose=0) as sink:
            for number, payload in enumerate(payloads):
                sink.write({"__key__": f"{number:09}", "jpg": payload, "txt": f"{CAPTION} {number}"})
        make_durable(Path(folder))

    return write


def mds(payloads: Pictures) -> Callable[[str], None]:
    from streaming import MDSWriter

    def write(folder: str) -> None:
        with MDSWriter(out=folder, columns={"jpg": "bytes", "txt": "str"}, exist_ok=True) as sink:
            for number, payload in enumerate(payloads):
                sink.write({"jpg": payload, "txt": f"{CAPTION} {number}"})
        make_durable(Path(folder))

    return write


def litdata(payloads: Pictures) -> Callable[[str], None]:
    from litdata.streaming.writer import BinaryWriter

    def write(folder: str) -> None:
        sink = BinaryWriter(folder, chunk_bytes=LITDATA_CHUNK)
        for number, payload in enumerate(payloads):
            sink[number] = (payload, f"{CAPTION} {number}")
        sink.done()
        sink.merge(1)
        make_durable(Path(folder))

    return write


WRITERS = {
    "ours": (None, ours),
    "ours, and SHA-256": (None, ours_and_sha256),
    "webdataset": ("webdataset", webdataset),
    "mds": ("mds", mds),
    "litdata": ("lightning", litdata),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: one repetition, no result")
    parser.add_argument("--serve", choices=WRITERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        task = WRITERS[options.serve][1](pictures())
        serve(lambda folder, workload: task(folder))
        return
    compare_writers("write_images", QUESTION, WRITERS, ("photos",), {"photos": BYTES / 1e6}, options.quick)


if __name__ == "__main__":
    main()
