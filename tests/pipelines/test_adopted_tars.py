"""Adopted tars after ingest: changed, moved or deleted tars, and runs over them. Only `materialize` copies media."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from manifests.errors import StoreError
from manifests.records import FORGOTTEN, Document
from pipelines.dag.graph import unit_names
from pipelines.dag.unit import StoreTask, run_unit
from pipelines.ingest.tars.adopt import IngestTars
from pipelines.node import UnitTask, units_below
from stores import command
from stores.files.open import open_files
from stores.forget.forget import forget
from stores.media.image import decode_rgb
from stores.store import Snapshot, Store
from stores.tombstones import NameKind
from stores.upkeep.copy import copy
from stores.upkeep.gc import collect_garbage
from stores.upkeep.repair import repair
from stores.upkeep.verify import verify
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, run
from tests.pipelines.foreign_tars import JPEG, adopt, write
from tests.servers.s3 import reached_at, s3_server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "store")


# ------------------------------------------------------------ later changes


@pytest.fixture
def pair(data: Path, place: str) -> tuple[Path, Snapshot]:
    path = write(
        data / "a.tar",
        {f"{i}": {"jpg": small_data.image(i, "jpeg"), "txt": f"Caption {i}.".encode()} for i in range(4)},
    )
    return path, adopt(place, str(path))


def test_a_changed_image_is_refused_and_named_and_its_text_stays_readable(pair: tuple[Path, Snapshot]) -> None:
    path, snapshot = pair
    documents = list(snapshot.records())
    at = documents[2].media[0].location
    assert at is not None
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"Caption 1.")] ^= 1
    raw[at.offset + 300] ^= 1
    path.write_bytes(raw)
    fresh = Store.open(snapshot.url).snapshot(snapshot.number)
    with pytest.raises(StoreError, match="changed") as picture:
        fresh.read(at)
    assert picture.value.where == f"{path}[2]" and "put back the tar" in picture.value.fix
    with pytest.raises(StoreError, match="changed") as together:
        list(fresh.documents(range(4)))
    assert together.value.where == f"{path}[2]"
    assert list(fresh.records()) == documents
    assert [damage.where for damage in verify(fresh)] == [f"{path}[2]"]
    assert repair(Store.open(snapshot.url)).changed_tars == [str(path)], "the tar is reported and not repaired"
    assert command.repair_store([snapshot.url]) == 1


def test_a_damaged_line_is_refused_and_repair_copies_no_image(pair: tuple[Path, Snapshot]) -> None:
    _, snapshot = pair
    documents = list(snapshot.records())
    (shard,) = Path(snapshot.url).rglob("*.tar")
    shard.write_bytes(shard.read_bytes().replace(b"Caption 1.", b"Caption x."))
    fresh = Store.open(snapshot.url).snapshot(snapshot.number)
    with pytest.raises(StoreError, match="changed since they were written") as line:
        fresh.record(1)
    assert line.value.where.endswith(f"{shard.name}[1]")
    assert [damage.where for damage in verify(fresh)] == [line.value.where]
    done = repair(Store.open(snapshot.url), accept=True)
    assert not done.changed_tars and [loss["row"] for loss in done.lost] == [1]
    assert list(done.snapshot.records()) == [documents[row] for row in (0, 2, 3)] and not verify(done.snapshot)
    assert done.snapshot.read(done.snapshot.record(2).media[0].location) == small_data.image(3, "jpeg")
    assert not holding(snapshot.url, small_data.image(3, "jpeg"))


def holding(folder: str | Path, *contents: bytes) -> list[Path]:
    """Files below a folder that hold one of these byte strings."""
    stored = [file for file in Path(folder).rglob("*") if file.is_file()]
    return [file for file in stored if any(content in file.read_bytes() for content in contents)]


def test_verify_finds_a_change_between_the_images_and_a_missing_tar(pair: tuple[Path, Snapshot]) -> None:
    path, snapshot = pair
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + b"x")
    assert [damage.where for damage in verify(snapshot)] == [str(path)]
    path.unlink()
    fresh = Store.open(snapshot.url).snapshot(snapshot.number)
    with pytest.raises(StoreError, match="missing"):
        fresh.read(fresh.record(0).media[0].location)
    assert len(verify(fresh)) == 4


def test_a_tar_without_media_is_ingested_and_not_needed_afterwards(data: Path, place: str) -> None:
    path = write(data / "a.tar", {f"{i}": {"txt": f"Text {i}.".encode()} for i in range(3)})
    snapshot = adopt(place, str(path))
    (entry,) = snapshot.receipts[0].shards
    assert entry.media_url is None and entry.read_bytes == entry.bytes
    path.unlink()
    fresh = Store.open(snapshot.url).snapshot(snapshot.number)
    assert [document.text for document in fresh.records()] == ["Text 0.", "Text 1.", "Text 2."] and not verify(fresh)


def test_the_size_of_a_unit_includes_its_images(data: Path, place: str) -> None:
    """`--dry-run`, `--estimate` and the number of units in flight depend on it."""
    pictures = {n: small_data.image(n, "jpeg", (8 * n, 8 * n)) for n in (4, 40)}
    sizes = {
        write(data / f"{n}.tar", {"1": {"jpg": jpeg, "txt": b"word"}}).stat().st_size for n, jpeg in pictures.items()
    }
    units = IngestTars(kind="ingest_tars", tars=str(data)).survey("own", {}).units
    assert {unit.size_bytes for unit in units} == sizes and len(sizes) == 2
    snapshot = adopt(place, str(data))
    below = sorted(unit.size_bytes for unit in units_below(snapshot))
    own = sorted(entry.bytes for receipt in snapshot.receipts for entry in receipt.shards)
    assert below == [size + len(jpeg) for size, jpeg in zip(own, pictures.values(), strict=True)]


def test_a_tar_that_changes_between_survey_and_work_ends_the_run(data: Path, place: str) -> None:
    path = write(data / "a.tar", {"1": {"txt": b"one", "jpg": JPEG}})
    node = IngestTars(kind="ingest_tars", tars=str(path))
    ((name, unit),) = unit_names("own", node, node.survey("own", {})).items()
    write(path, {"1": {"txt": b"two", "jpg": JPEG}})
    Store.create(place, "documents", "own")
    with pytest.raises(StoreError, match="changed while"):
        run_unit(StoreTask(node, place, name, UnitTask("own", unit, {}), 9, 1.0), frozenset(), lambda ordinal: None)


def test_gc_and_copy_leave_the_tar_alone(pair: tuple[Path, Snapshot], tmp_path: Path) -> None:
    path, snapshot = pair
    collect_garbage(Store.open(snapshot.url), keep_last=1, grace_s=0)
    copied = copy(snapshot, str(tmp_path / "elsewhere" / "copy"))
    assert copied.content_root == snapshot.content_root and list(copied.records()) == list(snapshot.records())
    assert not verify(copied)
    shown = [small_data.image(i, "jpeg") for i in range(4)]
    assert not holding(snapshot.url, *shown) and not holding(copied.url, *shown) and holding(path.parent, *shown)


def test_media_are_copied_only_into_a_store_that_is_given_their_bytes(
    pair: tuple[Path, Snapshot], tmp_path: Path
) -> None:
    path, snapshot = pair
    whole = list(snapshot.documents(range(4)))
    assert whole == list(snapshot.records())
    store = Store.create(str(tmp_path / "held"), "documents", "own")
    writer = store.writer("unit")
    for document in whole:
        writer.add(document)
    held = store.commit([writer.finish()], node="node", units=["unit"])
    path.unlink()
    assert list(held.records()) == whole and not verify(held)
    assert [held.read(document.media[0].location) for document in held.records()] == [
        document.media[0].payload for document in whole
    ]
    with pytest.raises(StoreError, match="missing"):
        list(Store.open(snapshot.url).snapshot(snapshot.number).documents(range(4)))


def test_the_content_root_depends_neither_on_paths_nor_on_the_order_of_work(data: Path, tmp_path: Path) -> None:
    for t in range(3):
        write(
            data / f"{t}.tar",
            {f"{i}": {"jpg": small_data.image(i, "jpeg"), "txt": f"{t} {i}".encode()} for i in range(3)},
        )
    first = adopt(str(tmp_path / "first"), str(data / "*.tar"))
    shutil.copytree(data, tmp_path / "moved")
    other = adopt(
        str(tmp_path / "other"), str(tmp_path / "moved" / "{0..2}.tar"), order=lambda units: sorted(units, reverse=True)
    )
    assert first.content_root == other.content_root and list(first.records()) == list(other.records())


def test_equal_tars_of_two_names_are_two_shards(data: Path, place: str) -> None:
    path = write(data / "a.tar", {"1": {"jpg": JPEG, "txt": b"one"}})
    shutil.copy(path, data / "b.tar")
    snapshot = adopt(place, str(data))
    assert [document.locator for document in snapshot.records()] == ["a.tar#1", "b.tar#1"]
    assert all(snapshot.read(document.media[0].location) == JPEG for document in snapshot.records())


# ------------------------------------------------------------ whole runs


def dag_of(tars: str) -> str:
    dag = small_data.DAG.replace("kind: ingest_folder\n    path: ./data", f"kind: ingest_tars\n    tars: {tars}")
    return dag.replace("global_batch_packs: 2", "global_batch_packs: 1")


def pictures(data: Path) -> dict[str, bytes]:
    """Write two tars of captioned images. Returns the images by caption."""
    shown = {f"Picture number {i}.": small_data.image(i, "jpeg", (80, 60)) for i in range(60)}
    for t in range(2):
        group = list(shown.items())[30 * t : 30 * t + 30]
        write(
            data / f"{t}.tar",
            {f"{i:04d}": {"jpg": jpeg, "txt": words.encode()} for i, (words, jpeg) in enumerate(group)},
        )
    return shown


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two tars, `dag.yaml`, and its finished run in `out`."""
    folder = tmp_path_factory.mktemp("adopted")
    pictures(folder / "data")
    (folder / "dag.yaml").write_text(dag_of("./data/*.tar"))
    run(folder / "dag.yaml", folder / "out")
    return folder


def test_adopted_tars_go_through_a_whole_run(calm: Path, tmp_path: Path) -> None:
    out = calm / "out"
    shown = pictures(tmp_path / "data")
    packs, documents = head(out, "packs"), head(out, "documents")
    assert documents.counts["records"] == len(shown) and not holding(out / "documents", *shown.values())
    seen = {packed.media.digest: packs.read(packed.media.location) for pack in packs.records() for packed in pack.media}
    assert len(seen) >= 0.6 * len(shown)
    for document in documents.records():
        jpeg = seen.get(document.media[0].digest, shown[document.text])
        assert jpeg == shown[document.text]
        assert (decode_rgb(documents.read(document.media[0].location)) == decode_rgb(jpeg)).all()


def test_a_new_tar_is_adopted_without_reading_the_others(calm: Path, tmp_path: Path) -> None:
    shutil.copytree(calm, tmp_path, dirs_exist_ok=True)
    before = head(tmp_path / "out", "documents")
    write(tmp_path / "data" / "2.tar", {"0": {"jpg": JPEG, "txt": b"A new tar."}})
    for name in ("0", "1"):  # outside of the fingerprint; reading it would put an image into quarantine
        raw = bytearray((tmp_path / "data" / f"{name}.tar").read_bytes())
        raw[20_000] ^= 1
        (tmp_path / "data" / f"{name}.tar").write_bytes(raw)
    run(tmp_path / "dag.yaml", tmp_path / "out", "--until", "documents")
    after = head(tmp_path / "out", "documents")
    assert set(before.units) < set(after.units) and after.counts["records"] == before.counts["records"] + 1


def test_forgetting_erases_our_copy_of_the_text_and_names_the_tar_with_the_picture(calm: Path, tmp_path: Path) -> None:
    shown = pictures(tmp_path / "data")
    shutil.copytree(calm / "out", out := tmp_path / "out")
    before, samples = head(out, "documents"), head(out, "samples")
    deleted = before.record(3)
    assert isinstance(deleted, Document) and deleted.media[0].location is not None
    names: dict[NameKind, frozenset[str]] = {"ids": frozenset([deleted.id]), "sources": frozenset()}
    receipt = forget(str(out), names | {"places": frozenset(), "media": frozenset()})
    assert receipt["adopted_tars"] == [str(calm / "data" / "0.tar")] and receipt["records"]["documents"] == 1
    after = head(out, "documents")
    assert after.record(3) == Document(deleted.id, FORGOTTEN, "", "", ()) and after.content_root == before.content_root
    others = [ordinal for ordinal in range(len(shown)) if ordinal != 3]
    assert [after.record(ordinal) for ordinal in others] == [before.record(ordinal) for ordinal in others]
    with pytest.raises(StoreError, match="no medium"):
        after.read(deleted.media[0].location)
    assert not verify(after) and head(out, "samples").content_root == samples.content_root
    digest = deleted.media[0].digest
    traces = (
        deleted.text.encode(),
        deleted.locator.encode(),
        digest.encode(),
        bytes.fromhex(digest),
        shown[deleted.text],
    )
    assert not holding(out, *traces)
    assert "6 nodes already committed" in run(calm / "dag.yaml", out)


def test_tars_on_s3_are_adopted_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = pictures(tmp_path / "data")
    local = adopt(str(tmp_path / "local"), str(tmp_path / "data"))
    with s3_server() as port, reached_at(port):
        bucket = open_files("s3://mill/corpus")
        for path in (tmp_path / "data").glob("*.tar"):
            bucket.publish(Path(shutil.copy(path, tmp_path)), path.name)
        bucket.sync()
        for number, tars in enumerate(("s3://mill/corpus/{0,1}.tar", "s3://mill/corpus/*.tar", "s3://mill/corpus")):
            snapshot = adopt(str(tmp_path / str(number)), tars)
            assert snapshot.content_root == local.content_root
            assert list(snapshot.records()) == list(local.records())
            documents = list(snapshot.records())
            assert all(snapshot.read(document.media[0].location) == shown[document.text] for document in documents)
            assert not verify(snapshot)
        # The cache trusts names of shards. A foreign tar with such a name must not be cached.
        monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path / "cache"))
        name, first, later = f"{'ab' * 32}.tar", small_data.image(1), small_data.image(1)[:-1] + b"?"
        tar = write(tmp_path / "w.tar", {"1": {"txt": b"One.", "png": first}}).read_bytes()

        def put(data: bytes) -> None:
            (tmp_path / "put").write_bytes(data)
            bucket.delete(name)
            bucket.publish(tmp_path / "put", name)
            bucket.sync()

        put(tar)
        named = adopt(str(tmp_path / "named"), f"s3://mill/corpus/{name}")
        at = named.record(0).media[0].location
        assert named.read(at) == first
        put(tar.replace(first, later))
        with pytest.raises(StoreError, match="changed"):
            Store.open(named.url).snapshot(named.number).read(at)
        bucket.delete("1.tar")
        missing = Store.open(snapshot.url).snapshot(snapshot.number)
        with pytest.raises(StoreError, match="missing"):
            missing.read(missing.record(31).media[0].location)
