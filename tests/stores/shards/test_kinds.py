"""Records of every kind, written and read: equal records, deterministic bytes, and shards that other libraries open."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import (
    Document,
    Fact,
    Item,
    Media,
    Pack,
    PackedMedia,
    PlanBlock,
    Sample,
    Segment,
    Text,
    record_id,
)
from stores import reference
from stores.shards.kinds import SampleKind, to_line
from stores.snapshot import Snapshot
from stores.store import Store
from tests.strategies import PACK_TOKENS, RECORDS, same

kinds = pytest.mark.parametrize("kind", list(RECORDS))


def shards(snapshot: Snapshot) -> list[Path]:
    return [Path(snapshot.url, "shards", f"{ref.shard}.tar") for ref in snapshot.shards]


MEDIALESS = st.builds(
    lambda word, starts, splits, length: Sample(
        id=record_id("s", word),
        source=word,
        domain=word[::-1],
        ids=np.arange(length, dtype=np.uint32),
        loss_runs=np.array([[start, start + 2] for start in starts], np.int64).reshape(-1, 2),
        splits=np.array(splits, np.int64),
    ),
    st.text(st.characters(codec="ascii")),
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(st.integers(0, 9), max_size=3),
    st.integers(0, 20),
)


@given(st.lists(MEDIALESS, min_size=1, max_size=4))
@settings(max_examples=40)
def test_a_batch_of_samples_is_encoded_to_the_bytes_of_single_samples(samples: list[Sample]) -> None:
    kind = SampleKind()
    assert None not in map(kind.batch_bytes, samples)
    batch, singles = kind.encode_batch(samples), [kind.encode(sample) for sample in samples]
    assert batch.lines == [to_line(single.line) + b"\n" for single in singles]
    for field, fast, slow in zip(
        kind.FACTS, batch.facts, zip(*[single.facts for single in singles], strict=True), strict=True
    ):
        assert pa.array(fast, field.type) == pa.array(slow, field.type)
    assert all(fast is single.arrays["ids"] for fast, single in zip(batch.arrays["ids"], singles, strict=True))


def in_store_order(written: list[Any], read: list[Any]) -> list[Any]:
    """Return the records in store order: documents are sorted into shards by their members, others keep their order."""
    if written and isinstance(written[0], Document):
        by_id = {document.id: document for document in written}
        return [by_id[document.id] for document in read]
    return written


def payloads(record: Any) -> list[Media]:
    media = record.media if hasattr(record, "media") else ()
    return [medium.media if isinstance(medium, PackedMedia) else medium for medium in media]


@kinds
@given(data=st.data())
@settings(max_examples=25)
def test_reading_returns_the_written_records(make: Any, kind: str, data: st.DataObject) -> None:
    written = data.draw(RECORDS[kind])
    snapshot = make(kind, {"unit": written})
    read = list(snapshot.records())
    expected = in_store_order(written, read)
    assert len(read) == len(written)
    for ours, theirs in zip(expected, read, strict=True):
        assert same(ours, theirs), (ours, theirs)
        for put, got in zip(payloads(ours), payloads(theirs), strict=True):
            if put.payload is not None:
                assert snapshot.read(got.location) == put.payload
            else:
                assert got.location == put.location


@kinds
@given(data=st.data())
@settings(max_examples=10)
def test_the_index_and_a_scan_of_the_tar_agree(make: Any, kind: str, data: st.DataObject) -> None:
    snapshot = make(kind, {"a": data.draw(RECORDS[kind]), "b": []})
    scanned = [record for shard in shards(snapshot) for record in reference.records(shard)]
    read = list(snapshot.records())
    assert len(scanned) == len(read)
    for slow, fast in zip(scanned, read, strict=True):
        arrays = {name: getattr(fast, name, None) for name in ("ids", "loss_mask")} | dict(getattr(fast, "arrays", {}))
        assert all(same(np.asarray(array), arrays[name]) for name, array in slow["arrays"].items())
        if kind == "plan":
            assert slow["line"]["header"] == fast.header
        else:
            assert [medium["digest"] for medium in slow["line"]["media"]] == [
                medium.digest for medium in payloads(fast)
            ]
        if kind in ("documents", "packs"):
            assert slow["media"] == [snapshot.read(medium.location) for medium in payloads(fast)]


@kinds
@given(data=st.data())
@settings(max_examples=8)
def test_the_same_input_gives_the_same_bytes(make: Any, kind: str, data: st.DataObject) -> None:
    written = data.draw(RECORDS[kind])
    one, two = make(kind, {"unit": written}), make(kind, {"unit": written})
    assert one.root == two.root
    assert [shard.read_bytes() for shard in shards(one)] == [shard.read_bytes() for shard in shards(two)]


@kinds
@given(data=st.data())
@settings(max_examples=6)
def test_small_shards_hold_the_same_records(quick_folder: Path, kind: str, data: st.DataObject) -> None:
    written = data.draw(RECORDS[kind])
    store = Store.create(tempfile.mkdtemp(dir=quick_folder), kind, "s")  # type: ignore[arg-type]
    writer = store.writer("unit", shard_bytes=1)
    for record in written:
        writer.add(record)
    snapshot = store.commit([writer.finish()], node="n", units=["unit"])
    read = list(snapshot.records())
    assert len(snapshot.shards) == len(written)
    assert all(map(same, in_store_order(written, read), read))


def document(number: int, *parts: Any, **fields: Any) -> Document:
    locator = str(number)
    made = Document(record_id("s", locator), "s", locator, "web", parts or (Text(f"text {number}"),))
    return replace(made, **fields)


def picture(format: str, red_level: int = 0) -> Media:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (32, 24), (red_level % 256, 9, 9)).save(out, {"jpg": "JPEG"}.get(format, format.upper()))
    return Media(sha256(out.getvalue()).hexdigest(), "image", format, 32, 24, payload=out.getvalue())


def clip() -> Media:
    return Media(sha256(b"clip").hexdigest(), "video", "mp4", 32, 24, (0, 40_000), 25.0, payload=b"clip")


def mixed_documents() -> list[Document]:
    """Documents with text, images of several formats in several numbers, videos, facts and notes, in mixed order."""
    made = []
    for number in range(60):
        pictures = [picture(("jpg", "png", "webp")[(number + i) % 3], number) for i in range(number % 4)]
        parts = [Text(f"text {number}"), *pictures, *([clip()] if number % 7 == 0 else [])]
        facts = (Fact("count", 0, 0, 4),) if number % 2 else ()
        notes = {"boxes": [[number, 1.5]], "free": None} if number % 3 else {"free": "text"}
        made.append(document(number, *parts, facts=facts, notes=notes, parents=("ab",) if number % 11 == 0 else ()))
    return made


def store_of(kind: str, make: Any) -> Snapshot:
    """Store of `kind` whose records differ in every property that a shard depends on."""
    documents = make("documents", {"a": mixed_documents()[:40], "b": mixed_documents()[40:]})
    if kind == "documents":
        return documents
    if kind == "samples":
        made = (
            Sample(
                id=document.id,
                source=document.source,
                domain=document.domain,
                ids=np.arange(i * 9, dtype=np.uint32),
                loss_runs=np.array([[1, 2]] * (i % 3), np.int64).reshape(-1, 2),
                media=document.media,
                places=tuple(range(len(document.media))),
            )
            for i, document in enumerate(documents.records())
        )
        return make(kind, {"a": made}, parents=[documents.as_parent])
    if kind == "plan":
        arrays = [{"start": np.arange(i, dtype=np.int64), "x": np.ones(2, np.uint8)} for i in range(9)] + [{}]
        blocks = [PlanBlock({"block": i, "first_pack": i, "free": [i] * i}, named) for i, named in enumerate(arrays)]
        return make(kind, {"a": blocks[:4], "b": blocks[4:]})
    return make(kind, {"a": map(pack_of, range(8)), "b": [pack_of(8, picture("jpg"), clip()), *map(pack_of, range(7))]})


def pack_of(number: int, *media: Media) -> Pack:
    packed = tuple(PackedMedia(medium, (28, 28), (Item((1, 2, 2), 0),)) for medium in media)
    ids = np.full(PACK_TOKENS, number, np.uint32)
    return Pack(ids, ids > 3, (Segment("0" * 32, "s", 0, 3),), packed)


@kinds
def test_every_shard_opens_with_plain_webdataset(make: Any, kind: str) -> None:
    import webdataset

    snapshot = store_of(kind, make)
    for ref, shard in zip(snapshot.shards, shards(snapshot), strict=True):
        samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
        records = len(samples) if kind == "documents" else sum(block["json"]["records"] for block in samples)
        assert records == ref.records
        for sample in samples:
            lines = [sample["json"]] if kind == "documents" else map(json.loads, sample["records.jsonl"].splitlines())
            for medium in (medium for line in lines for medium in line["media"]):
                if kind == "documents":
                    assert sample[medium["member"]] is not None
                if kind == "packs":
                    payload = sample["media.bin"][medium["start"] : medium["start"] + medium["bytes"]]
                    assert sha256(payload).hexdigest() == medium["digest"]
            if kind in ("samples", "packs"):
                assert sample["ids.npy"].dtype == np.uint32


@kinds
@pytest.mark.parametrize("streaming", [False, True])
def test_every_shard_opens_with_datasets(
    make: Any, kind: str, streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    snapshot = store_of(kind, make)
    for ref, shard in zip(snapshot.shards, shards(snapshot), strict=True):
        opened = datasets.load_dataset(
            "webdataset", data_files=str(shard), split="train", streaming=streaming, cache_dir=str(tmp_path)
        )
        for name, feature in list(opened.features.items()):
            if isinstance(feature, datasets.Video):  # decoding videos needs a library that is not installed
                opened = opened.cast_column(name, datasets.Video(decode=False))
        rows = list(opened)
        records = len(rows) if kind == "documents" else sum(block["json"]["records"] for block in rows)
        assert records == ref.records
        scanned = list(reference.records(shard))
        if kind == "documents":
            assert [row["json"]["notes"] for row in rows] == [record["line"]["notes"] for record in scanned]
            assert all(row[medium["member"]] is not None for row in rows for medium in row["json"]["media"])


@pytest.mark.parametrize("late", ["facts", "parents", "parts"])
def test_datasets_opens_shards_with_fields_that_are_empty_at_first(
    make: Any, late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` takes the types of fields from the first five rows, and fails if a list is empty in all of them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    empty: dict[str, Any] = {"facts": (), "parents": (), "parts": (replace(clip(), frame_times_us=()),)}
    filled = {"facts": (Fact("count", 0, 0, 1),), "parents": ("ab",), "parts": (clip(),)}
    made = [document(i, **(empty | ({late: filled[late]} if i > 6 else {}))) for i in range(9)]
    snapshot = make("documents", {"unit": made})
    assert snapshot.counts["records"] == 9
    for ref, shard in zip(snapshot.shards, shards(snapshot), strict=True):
        opened = datasets.load_dataset("webdataset", data_files=str(shard), split="train", cache_dir=str(tmp_path))
        assert opened.num_rows == ref.records


def test_documents_with_equal_members_share_a_shard(make: Any) -> None:
    snapshot = make("documents", {"unit": [document(i, Text("t"), picture("jpg", i)) for i in range(20)]})
    assert len(snapshot.shards) == 1
    snapshot = make("documents", {"unit": [document(i, picture("jpg"), picture("png")) for i in range(9)]})
    flipped = make("documents", {"unit": [document(i, picture("png"), picture("jpg")) for i in range(9)]})
    with tarfile.open(shards(snapshot)[0]) as one, tarfile.open(shards(flipped)[0]) as two:
        endings = [{name.partition(".")[2] for name in tar.getnames()} for tar in (one, two)]
    assert endings[0] == endings[1] == {"json", "0.jpg", "0.png"}


def test_a_medium_shown_twice_is_stored_once(make: Any) -> None:
    same_picture = picture("jpg")
    snapshot = make("documents", {"unit": [document(0, same_picture, Text("x"), same_picture)]})
    with tarfile.open(shards(snapshot)[0]) as tar:
        assert len(tar.getnames()) == 2
    first, second = snapshot.record(0).media
    assert first.location == second.location


def test_a_block_of_packs_holds_each_medium_once(make: Any) -> None:
    red, blue = picture("jpg", 200), picture("jpg", 20)
    snapshot = make("packs", {"unit": [pack_of(0, red), pack_of(1, blue, red), pack_of(2, red, red)]})
    pool = next(reference.tar_samples(shards(snapshot)[0]))["media.bin"]
    assert len(pool) == len(red.payload or b"") + len(blue.payload or b"")
    table = snapshot.table(["tokens", "slots", "images"])
    assert table.column("slots").to_pylist() == [1, 2, 2]
    assert snapshot.counts["images"] == 5 and snapshot.counts["tokens"] == 9


@pytest.mark.parametrize("kind", ["samples", "packs"])
def test_tar_headers_and_padding_take_less_than_four_percent(make: Any, kind: str) -> None:
    made: list[Any]
    if kind == "samples":
        ids = np.arange(50, dtype=np.uint32)
        made = [Sample(record_id("s", str(i)), "s", "web", ids, np.array([[1, 50]], np.int64)) for i in range(3000)]
    else:
        ids = np.zeros(1024, np.uint32)
        made = [Pack(ids, ids.astype(bool), (Segment("0" * 32, "s", 0, 1000),)) for i in range(300)]
    snapshot = make(kind, {"unit": made})
    (shard,) = shards(snapshot)
    payload = sum(
        len(data) for sample in reference.tar_samples(shard) for name, data in sample.items() if name != "__key__"
    )
    assert payload < shard.stat().st_size < 1.04 * payload


def test_gnu_tar_lists_and_extracts_a_shard(make: Any, tmp_path: Path) -> None:
    snapshot = make("documents", {"unit": [document(i, Text("t"), picture("png", i)) for i in range(3)]})
    subprocess.run(["tar", "xf", shards(snapshot)[0], "-C", tmp_path], check=True)
    record = snapshot.record(1)
    assert (tmp_path / f"{record.id}.0.png").read_bytes() == snapshot.read(record.media[0].location)


def test_a_record_that_json_cannot_hold_is_refused_and_the_unit_continues(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "documents", "s")
    writer = store.writer("unit")
    writer.add(document(0))
    for bad, reason in [
        (document(1, Text("\ud800")), "lone_surrogate"),
        (document(1, notes={"x": float("nan")}), "not_json"),
        (document(1, notes={"x": {1, 2}}), "not_json"),
        (document(0, Text("other")), "duplicate_id"),
    ]:
        with pytest.raises(RecordError) as caught:
            writer.add(bad)
        assert caught.value.reason == reason
    writer.add(document(1))
    snapshot = store.commit([writer.finish()], node="n", units=["unit"])
    assert [document.locator for document in snapshot.records()] == ["0", "1"]


def test_a_record_of_wrong_types_is_a_value_error(tmp_path: Path) -> None:
    ids = np.zeros(4, np.uint32)
    sample = Sample("0" * 32, "s", "web", ids, np.zeros((0, 2), np.int64))
    writer = Store.create(str(tmp_path), "samples", "s").writer("unit")
    for bad in [
        replace(sample, ids=ids.astype(np.int64)),
        replace(sample, ids=ids.reshape(2, 2)),
        replace(sample, id="not hex"),
        replace(sample, media=(picture("jpg"),)),
        replace(sample, media=(replace(picture("jpg"), payload=None),), places=(0,)),
    ]:
        with pytest.raises(ValueError, match=r"expected|hexadecimal|places|neither"):
            writer.add(bad)
