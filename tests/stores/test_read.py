"""Reading of snapshots: damage is named, other filesystems work, stores and their parents can be moved together."""

from __future__ import annotations

import pickle
import shutil
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

from manifests.errors import StoreError
from manifests.records import Document, Location, Media, Sample, Text, record_id
from stores.snapshot import Snapshot
from stores.store import Store
from stores.upkeep.verify import verify
from tests.strategies import same


def medium(number: int) -> Media:
    payload = bytes([number]) * (50 + number)
    return Media(sha256(payload).hexdigest(), "image", "jpg", 20, 10, payload=payload)


def documents(count: int = 6) -> list[Document]:
    return [
        Document(record_id("s", str(i)), "s", str(i), "caption", (medium(i), Text(f"text {i}"))) for i in range(count)
    ]


def samples(snapshot: Snapshot) -> list[Sample]:
    return [
        Sample(
            id=document.id,
            source=document.source,
            domain=document.domain,
            ids=np.arange(5, dtype=np.uint32) + i,
            loss_runs=np.array([[1, 5]], np.int64),
            media=document.media,
            places=(0,) * len(document.media),
        )
        for i, document in enumerate(snapshot.records())
    ]


def read_all(snapshot: Snapshot) -> None:
    """Read all tables, records and media."""
    snapshot.table()
    snapshot.media_table()
    snapshot.quarantined()
    for record in snapshot.records(keep_only=False):
        for media in record.media:
            snapshot.read(media.location)


@given(st.data())
@settings(max_examples=25)
def test_a_flipped_bit_anywhere_is_found(make: Any, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["documents", "samples"]))
    snapshot = make("documents", {"a": documents()[:3], "b": documents()[3:]})
    if kind == "samples":
        snapshot = make("samples", {"a": samples(snapshot)}, parents=[snapshot.as_parent])
    files = sorted(path for path in Path(snapshot.url).rglob("*") if path.is_file() and path.name != "store.json")
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    if path.parent.name == "roots":
        with pytest.raises(StoreError, match=r"roots/000001\.json: this root is damaged"):
            Store.open(snapshot.url).head()
        return
    opened = Store.open(snapshot.url).snapshot(1)
    damages = verify(opened)
    assert damages and path.stem.split(".")[0] in damages[0].where
    if path.suffix != ".tar":
        with pytest.raises(StoreError):
            read_all(opened)


@pytest.mark.parametrize("kind", ["documents", "samples"])
def test_no_changed_byte_of_a_shard_is_ever_read_as_data(make: Any, kind: str) -> None:
    snapshot = make("documents", {"a": documents()})
    if kind == "samples":
        snapshot = make("samples", {"a": samples(snapshot)}, parents=[snapshot.as_parent])
    (ref,) = snapshot.shards
    shard = Path(snapshot.url, "shards", f"{ref.shard}.tar")
    whole = shard.read_bytes()
    records = list(snapshot.records())
    damaged: dict[int, int] = {}
    for at in range(0, len(whole), 5):
        with shard.open("r+b") as file:
            file.seek(at)
            file.write(bytes([whole[at] ^ 1 << at % 8]))
        for row, record in enumerate(records):
            try:
                assert same(snapshot.record(row), record)
                for media in record.media:
                    assert sha256(snapshot.read(media.location)).hexdigest() == media.digest
            except StoreError as error:
                assert f"{ref.shard}.tar[{row}]" in error.where
                damaged[at] = row
        with shard.open("r+b") as file:
            file.seek(at)
            file.write(whole[at : at + 1])
    assert set(damaged.values()) == set(range(len(records))) and len(damaged) > 100
    assert verify(snapshot) == []


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_truncated_or_missing_shard_is_named(make: Any, damage: str) -> None:
    snapshot = make("documents", {"a": documents()})
    shard = Path(snapshot.url, "shards", f"{snapshot.shards[0].shard}.tar")
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:700])
    else:
        shard.unlink()
    with pytest.raises(StoreError, match=rf"{shard.name}\[5\]: the shard (ends early|is missing)"):
        snapshot.record(5)
    assert any(named.where.endswith(f"{shard.name}[5]") for named in verify(snapshot))


def test_verify_names_changed_header_bytes(make: Any) -> None:
    snapshot = make("documents", {"a": documents()})
    shard = Path(snapshot.url, "shards", f"{snapshot.shards[0].shard}.tar")
    content = bytearray(shard.read_bytes())
    content[300] ^= 1
    shard.write_bytes(content)
    [damage] = verify(snapshot)
    assert damage.what == "the tar header at byte 0 changed" and damage.where.endswith(f"{shard.name}[0]")


def test_reading_a_medium_at_a_wrong_location_is_refused(make: Any) -> None:
    snapshot = make("documents", {"a": documents()})
    location = snapshot.record(0).media[0].location
    with pytest.raises(StoreError, match="no medium of 7 bytes"):
        snapshot.read(replace(location, length=7))
    with pytest.raises(StoreError, match="neither this store nor its parents have the shard"):
        snapshot.read(Location("0" * 64, 0, 7))


def test_media_are_found_through_all_ancestors(make: Any) -> None:
    base = make("documents", {"a": documents()})
    views = base
    for name in ("one", "two"):
        store = Store.create(tempfile.mkdtemp(dir=Path(base.url).parent), "view", name)
        writer = store.writer("all")
        for ref in views.shards:
            writer.columns(ref.shard, {"keep": [True] * ref.records})
        views = store.commit([writer.finish()], node=name, units=["all"], parents=[views.as_parent])
    derived = make("samples", {"a": samples(views)}, parents=[views.as_parent])
    derived = pickle.loads(pickle.dumps(derived))
    for number, sample in enumerate(derived.records()):
        assert derived.read(sample.media[0].location) == medium(number).payload


def test_stores_can_be_moved_together(make: Any, tmp_path: Path) -> None:
    first = Store.create(str(tmp_path / "run/documents"), "documents", "d")
    writer = first.writer("a")
    for document in documents():
        writer.add(document)
    base = first.commit([writer.finish()], node="n", units=["a"])
    second = Store.create(str(tmp_path / "run/samples"), "samples", "s")
    writer = second.writer("a")
    for sample in samples(base):
        writer.add(sample)
    second.commit([writer.finish()], node="n", units=["a"], parents=[base.as_parent])
    shutil.move(tmp_path / "run", tmp_path / "moved")
    moved = Store.open(str(tmp_path / "moved/samples")).head()
    assert moved is not None and moved.parents[0].url == str(tmp_path / "moved/documents")
    read_all(moved)
    assert str(tmp_path) not in Path(moved.url, "roots/000001.json").read_text()


def test_a_parent_that_was_replaced_is_refused(make: Any, tmp_path: Path) -> None:
    base = make("documents", {"a": documents()})
    derived = make("samples", {"a": samples(base)}, parents=[base.as_parent])
    shutil.rmtree(base.url)
    with pytest.raises(StoreError, match="there is no store here"):
        read_all(Store.open(derived.url).snapshot(1))
    other = Store.create(base.url, "documents", "other")
    other.commit([other.writer("a").finish()], node="n", units=["a"])
    with pytest.raises(StoreError, match="no snapshot here has content root"):
        read_all(Store.open(derived.url).snapshot(1))


def test_a_parent_that_was_made_again_is_recognized_by_its_content(make: Any) -> None:
    base = make("documents", {"a": documents()})
    derived = make("samples", {"a": samples(base)}, parents=[base.as_parent])
    shutil.rmtree(base.url)
    again = Store.create(base.url, "documents", "again")
    again.commit([], node="n", units=["a"], complete=False)
    writer = again.writer("a")
    for document in documents():
        writer.add(document)
    assert again.commit([writer.finish()], node="n", units=["a"]).number == 2
    read_all(Store.open(derived.url).snapshot(1))


def test_a_store_can_be_read_on_another_filesystem(make: Any, tmp_path: Path) -> None:
    import fsspec

    local = make("documents", {"a": documents()})
    memory = fsspec.filesystem("memory")
    memory.put(local.url, f"/copied-{tmp_path.name}", recursive=True)
    copied = Store.open(f"memory://copied-{tmp_path.name}").head()
    assert copied is not None
    assert list(copied.records()) == list(local.records()) and copied.table() == local.table()
    read_all(copied)
    assert verify(copied) == []
    assert list(pickle.loads(pickle.dumps(copied)).records()) == list(local.records())


def test_errors_name_a_place_without_a_readable_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store here"):
        Store.open(str(tmp_path))
    with pytest.raises(StoreError, match="fix: use a local path or a URL"):
        Store.open("nosuch://place")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="there is no store here"):
        Store.open(str(tmp_path / "file"))
    store = Store.create(str(tmp_path), "samples", "s")
    with pytest.raises(StoreError, match="a store here already"):
        Store.create(str(tmp_path), "samples", "s")
    with pytest.raises(StoreError, match="a store of samples, expected packs"):
        Store.open_or_create(str(tmp_path), "packs", "s")
    with pytest.raises(StoreError, match="snapshot 1 does not exist"):
        store.snapshot(1)
    for text, message in [
        ('{"kind"', "damaged"),
        ("[]", "damaged"),
        ('{"schema": 9}', "schema 9, this program reads 6"),
    ]:
        (tmp_path / "store.json").write_text(text)
        with pytest.raises(StoreError, match=message):
            Store.open(str(tmp_path))


def test_tables_have_the_requested_columns(make: Any) -> None:
    snapshot = make("documents", {"a": documents()[:2], "b": documents()[2:]})
    table = snapshot.table(["source", "id", "unit", "keep"])
    assert table.column_names == ["source", "id", "unit", "keep"]
    assert table.column("id").to_pylist() == [record.id for record in snapshot.records()]
    assert table.column("unit").to_pylist() == ["a", "a", "b", "b", "b", "b"]
    assert table.column("keep").to_pylist() == [True] * 6
    assert snapshot.ranges == {"a": range(2), "b": range(2, 6)}
    with pytest.raises(StoreError, match=r"no column 'tokens'.*\n.*locator"):
        snapshot.table(["tokens"])
    media = snapshot.media_table(["record", "digest", "shard", "width_px"])
    assert media.column("record").to_pylist() == list(range(6))
    assert media.column("digest").to_pylist() == [medium(i).digest for i in range(6)]
    assert pa.types.is_string(media.column("shard").type) and media.column("shard").null_count == 0


def test_records_are_read_by_ordinal(make: Any) -> None:
    snapshot = make("documents", {"a": documents()[:2], "empty": [], "b": documents()[2:]})
    assert [record.locator for record in snapshot.records(1, 4)] == ["1", "2", "3"]
    assert [record.locator for record in snapshot.records(4, 99)] == ["4", "5"]
    assert snapshot.record(2) == next(snapshot.records(2))
    for outside in (-1, 6):
        with pytest.raises(IndexError):
            snapshot.record(outside)
