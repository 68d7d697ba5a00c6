"""`millrace store forget` in small stores: no byte of a forgotten record is left, every other record keeps its place,
and a killed command can be finished."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError, StoreError
from manifests.records import (
    FORGOTTEN,
    Document,
    Fact,
    Item,
    Json,
    Media,
    Pack,
    PackedMedia,
    PlanBlock,
    Sample,
    Segment,
    Text,
    derived_id,
    record_id,
)
from stores import leases, tombstones
from stores.files.local import LocalFiles
from stores.forget import forget, redact_shard
from stores.store import Snapshot, Store, StoreKind
from stores.upkeep.gc import collect_garbage
from stores.upkeep.log import find_snapshot, tag, tags
from stores.upkeep.verify import verify
from tests.stores.forget.traces import traces
from tests.strategies import same

PAD, LENGTH, DOCUMENTS, BATCH = 7, 64, 12, 2
ROOM = 14
"""Length of a segment of 12 tokens with its padding."""
KINDS: dict[str, StoreKind] = {
    "raw": "documents", "derived": "documents", "judged": "view", "samples": "samples", "plan": "plan", "packs": "packs"
}  # fmt: skip


def picture(number: int) -> Media:
    payload = b"\x89PNG" + sha256(b"picture %d" % number).digest() * 9
    return Media(sha256(payload).hexdigest(), "image", "png", 28, 28, payload=payload)


def words(number: int) -> str:
    return f"canary-{number:03d} sings of the mill"


def tokens(number: int) -> np.ndarray:
    return np.arange(12, dtype=np.uint32) * 1000 + 50_000 + number


def place(number: int) -> str:
    return f"https://a.example/{number:03d}"


def document(number: int) -> Document:
    """Document with text; every third also has an image, and 4 and 8 have the image of document 0."""
    parts: list[Text | Media] = [Text(words(number))]
    parts += [picture(number)] if number % 3 == 0 else []
    parts += [picture(0)] if number in (4, 8) else []
    locator = f"page-{number}"
    rights = {"origin": place(number), "license": "MIT"}
    return Document(record_id("raw", locator), "raw", locator, "web", tuple(parts), **rights)


def ids(number: int) -> str:
    return document(number).id


def marks(number: int) -> list[bytes]:
    """Byte strings that occur only in this document and in records made from it, images excepted."""
    return [words(number).encode(), place(number).encode(), tokens(number).tobytes()]


def write(url: Path, records: Sequence[Any], parents: Sequence[Snapshot] = (), **meta: Json) -> Snapshot:
    """Store of two units, so that a deletion may leave one unchanged."""
    store = Store.create(str(url), KINDS[url.name], url.name)
    receipts = []
    for unit, group in {"a": records[: len(records) // 2], "b": records[len(records) // 2 :]}.items():
        writer = store.writer(unit)
        for record in group:
            writer.add(record)
        if url.name == "raw":
            writer.quarantine(f"broken-{unit}", "bad_json", f"canary-{unit} in a message")
        if url.name == "derived":
            writer.quarantine(f"dust-{unit}", "no_text")
        receipts.append(writer.finish())
    above = [parent.as_parent for parent in parents]
    return store.commit(receipts, node=f"node of {url.name}", units=["a", "b"], parents=above, meta=meta)


def make(folder: Path) -> None:
    """Small run: documents, documents made from two of them, a view, samples, a plan, packs, a page and a log."""
    raw = write(folder / "raw", [document(number) for number in range(DOCUMENTS)])
    made = [derived_id([ids(number)], "derived", 0) for number in (1, 2)]
    derived = [
        Document(made[i], "derived", f"{i}", "web", (Text(f"after {words(i + 1)}"),), parents=(ids(i + 1),))
        for i in (0, 1)
    ]
    write(folder / "derived", derived, [raw])
    store = Store.create(str(folder / "judged"), "view", "judged")
    writer = store.writer("all")
    for ref in raw.shards:
        documents = list(raw.records(ref.first, ref.first + ref.records))
        duplicate = [document.id == ids(11) for document in documents]
        columns: dict[str, list[Any]] = {
            "keep": [not dropped for dropped in duplicate],
            "reason": ["exact_duplicate" if dropped else None for dropped in duplicate],
            "score": [float(len(document.text)) for document in documents],
            "duplicate_of": [ids(10) if dropped else None for dropped in duplicate],
            "rewritten": [document.text.upper() for document in documents],
        }
        writer.columns(ref.shard, columns)
    view = store.commit([writer.finish()], node="v", units=["all"], parents=[raw.as_parent])
    encoded = []
    for record in raw.records():
        number = int(record.locator.removeprefix("page-"))
        places = tuple(range(len(record.media)))
        runs = np.array([[4, 12]], np.int64)
        encoded.append(Sample(record.id, "raw", "web", tokens(number), runs, record.media, places=places))
    samples = write(folder / "samples", encoded, [view])
    ordinals = np.concatenate([np.arange(i, i + 4) for i in range(0, DOCUMENTS - 3, 2)])
    arrays = {"source": 0 * ordinals, "ordinal": ordinals, "pack_offsets": np.arange(0, len(ordinals) + 1, 4)}
    block = PlanBlock({"block": 0, "first_pack": 0, "sources": ["own"]}, arrays)
    plan = write(folder / "plan", [block], [samples], plan="p", global_batch_packs=BATCH, stores={"own": "samples"})
    facts = {"plan": "p", "global_batch_packs": BATCH, "max_pack_tokens": LENGTH, "pad_id": PAD}
    write(
        folder / "packs",
        [pack(encoded[i : i + 4], raw) for i in range(0, DOCUMENTS, 2) if i < DOCUMENTS - 3],
        [plan],
        **facts,
    )
    (folder / "report.html").write_text(f"<p>{words(0)} {words(5)}</p>")
    events = [{"event": "quarantine", "details": [f"page-5\n{words(5)}"]}, {"event": "run_stop", "error": words(5)}]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def pack(samples: Sequence[Sample], raw: Snapshot) -> Pack:
    """Pack of these samples. Neighboring packs share samples: each sample is in two packs."""
    row, mask = np.full(LENGTH, PAD, np.uint32), np.zeros(LENGTH, bool)
    segments, media = [], []
    for i, sample in enumerate(samples):
        start = ROOM * i
        row[start : start + 12] = sample.ids
        mask[start + 1 : start + 12] = True
        segments.append(Segment(sample.id, "own", 0, 12, ROOM - 12))
        for j, medium in enumerate(sample.media):
            payload = raw.read(medium.location)  # type: ignore[arg-type]
            with_bytes = Media(medium.digest, "image", "png", 28, 28, payload=payload)
            media.append(PackedMedia(with_bytes, (28, 28), (Item((1, 2, 2), start + j),)))
    return Pack(row, mask, tuple(segments), tuple(media))


@pytest.fixture(scope="module")
def calm(quick_folder: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=quick_folder))
    make(folder)
    return folder


@pytest.fixture
def run(calm: Path) -> Iterator[Path]:
    with copied(calm) as folder:
        yield folder


@contextmanager
def copied(calm: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=calm.parent) as folder:
        shutil.copytree(calm, folder, dirs_exist_ok=True)
        yield Path(folder)


def names(**given: Sequence[str]) -> forget.Names:
    return {kind: frozenset(given.get(kind, ())) for kind in ("ids", "sources", "places", "media")}  # type: ignore[misc]


def heads(folder: Path) -> dict[str, Snapshot]:
    opened = {name: Store.open(str(folder / name)).head() for name in KINDS}
    return {name: head for name, head in opened.items() if head is not None}


def search(folder: Path, needles: Sequence[bytes]) -> set[str]:
    return traces(folder, needles)


def with_duplicates(chosen: set[int]) -> set[int]:
    """Numbers of these documents and of their duplicates: 11 is a duplicate of 10."""
    return chosen | ({10, 11} if chosen & {10, 11} else set())


def assert_forgotten(calm: Path, folder: Path, deleted: set[int]) -> None:
    """Assert that nothing of the deleted documents is left, and that every other record is unchanged and in its
    place."""
    unshared = {3, 6, 9} | ({0} if deleted >= {0, 4, 8} else set())
    payloads = [picture(number).payload or b"" for number in deleted & unshared]
    assert search(folder, [needle for number in deleted for needle in marks(number)] + payloads) == set()
    forgotten = {ids(number) for number in deleted}
    before, after = heads(calm), heads(folder)
    for name, old in before.items():
        new = after[name]
        assert (new.content_root, new.node, new.units, list(new.shards)) == (
            old.content_root,
            old.node,
            old.units,
            list(old.shards),
        )
        assert verify(new) == []
        if name == "judged":
            assert new.table(["keep", "reason"]) == old.table(["keep", "reason"])
    for name in ("raw", "samples"):
        for was, now in zip(before[name].records(), after[name].records(), strict=True):
            assert now.id == was.id
            if was.id in forgotten:
                assert now.source == FORGOTTEN and not now.media
            else:
                assert same(now, was)
                assert all(after[name].read(m.location) == before[name].read(m.location) for m in now.media)
    for was, now in zip(before["packs"].records(), after["packs"].records(), strict=True):
        assert_pack(before["packs"], was, after["packs"], now, forgotten)


def assert_pack(old: Snapshot, was: Pack, new: Snapshot, now: Pack, forgotten: set[str]) -> None:
    at = 0
    left = list(now.media)
    for before, after in zip(was.segments, now.segments, strict=True):
        span = slice(at, at + before.length)
        inside = [medium for medium in was.media if span.start <= medium.items[0].slot < span.stop]
        if before.sample in forgotten:
            assert after == replace(before, source=FORGOTTEN)
            assert (now.ids[span] == PAD).all() and not now.loss_mask[span].any()
        else:
            assert after == before
            assert (now.ids[span] == was.ids[span]).all() and (now.loss_mask[span] == was.loss_mask[span]).all()
            for medium in inside:
                kept = left.pop(0)
                assert same(kept, medium) and new.read(kept.media.location) == old.read(medium.media.location)  # type: ignore[arg-type]
        at += before.length + before.padding
    assert not left
    assert (now.ids[at:] == was.ids[at:]).all()


@settings(max_examples=12)
@given(st.sets(st.integers(0, DOCUMENTS - 1), min_size=1, max_size=4), st.booleans())
def test_forgetting_by_id_or_place_moves_nothing_else(calm: Path, chosen: set[int], by_place: bool) -> None:
    with copied(calm) as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(redact_shard, "CHUNK_BYTES", 200)  # overwritten ranges span chunks
        if by_place:
            places = [place(n) if n % 2 else f"page-{n}" for n in chosen]
            receipt = forget.forget(str(folder), names(places=places))
        else:
            receipt = forget.forget(str(folder), names(ids=[ids(number) for number in chosen]))
        deleted = with_duplicates(chosen)
        assert receipt["records"]["raw"] == receipt["records"]["samples"] == len(deleted)
        assert_forgotten(calm, folder, deleted)


def test_an_image_is_forgotten_with_every_record_that_shows_it(calm: Path, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "wanted.png"
    file.write_bytes(picture(0).payload or b"")
    assert forget.main([str(run), "--image", str(file)]) == 0
    assert_forgotten(calm, run, {0, 4, 8})
    assert (
        search(run, [picture(0).payload or b"", picture(0).digest.encode(), bytes.fromhex(picture(0).digest)]) == set()
    )


def test_an_image_stays_in_the_records_that_are_not_forgotten(calm: Path, run: Path) -> None:
    forget.forget(str(run), names(ids=[ids(4)]))
    assert_forgotten(calm, run, {4})
    shown = [
        packed
        for pack in heads(run)["packs"].records()
        for packed in pack.media
        if packed.media.digest == picture(0).digest
    ]
    assert shown


def test_a_source_is_forgotten_with_the_documents_made_from_it(calm: Path, run: Path) -> None:
    receipt = forget.forget(str(run), names(sources=["raw"]))
    assert receipt["records"] == {"raw": DOCUMENTS, "derived": 2, "samples": DOCUMENTS}
    assert search(run, [b"canary-0", b"CANARY-0", b"broken-a"]) == set()
    assert search(run, [b"dust-a"])  # quarantined by another source
    assert all(segment.source == FORGOTTEN for pack in heads(run)["packs"].records() for segment in pack.segments)


def test_a_view_keeps_its_verdict_about_a_forgotten_record_and_nothing_else(run: Path) -> None:
    forget.forget(str(run), names(ids=[ids(5)]))
    rows = heads(run)["judged"].table(["id", "keep", "score", "rewritten"]).to_pylist()
    assert [row for row in rows if row["id"] == ids(5)] == [
        {"id": ids(5), "keep": True, "score": None, "rewritten": None}
    ]
    assert sum(row["rewritten"] is not None for row in rows) == DOCUMENTS - 1


def test_a_quarantined_record_stays_in_the_count_and_loses_its_content(run: Path) -> None:
    forget.forget(str(run), names(places=["broken-a"]))
    raw = heads(run)["raw"]
    assert raw.counts["quarantined"] == 2
    assert [row["reason"] for row in raw.quarantined().to_pylist()] == ["forgotten", "bad_json"]
    assert search(run, [b"canary-a", b"broken-a"]) == set()
    assert search(run, [b"canary-b"])


def test_pages_are_deleted_and_logs_lose_their_free_text(run: Path) -> None:
    receipt = forget.forget(str(run), names(ids=[ids(5)]))
    assert receipt["free_text"] == {"pages_deleted": ["report.html"], "logs_emptied": ["log.jsonl"]}
    assert [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] == [
        {"event": "quarantine", "details": []},
        {"event": "run_stop", "error": ""},
    ]


def test_the_receipt_lists_packs_batches_and_exposed_steps(run: Path) -> None:
    packs = heads(run)["packs"]
    for name, steps, content in (("far", 2, packs.content_root), ("near", 1, packs.content_root), ("other", 9, "x")):
        (run / name / "checkpoints" / "000001").mkdir(parents=True)
        (run / name / "checkpoints" / "000001" / "state.json").write_text(json.dumps({"identity": {"packs": content}}))
        rows = [{"event": "step", "step": step + 1} for step in range(steps)]
        (run / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    receipt = forget.forget(str(run), names(ids=[ids(6)]))  # in packs 2 and 3, so in global batch 1
    (packs_entry,) = receipt["packs"]
    keys = ("store", "segments", "packs", "global_batches")
    assert [packs_entry[key] for key in keys] == ["packs", 2, [2, 3], [1]]
    assert receipt["plans"] == [{"store": "plan", "plan": "p", "packs": [2, 3]}]
    assert receipt["training"] == [
        {"run": "far", "packs": "packs", "steps": 2, "exposed_steps": [2]},
        {"run": "near", "packs": "packs", "steps": 1, "exposed_steps": []},
    ]
    assert json.loads((run / "forgotten/receipts/000001-1.json").read_text()) == receipt
    assert ids(6) not in json.dumps(receipt)


def test_the_deny_list_contains_no_name(run: Path) -> None:
    forget.forget(str(run), names(ids=[ids(1)], sources=["derived"], places=["page-2"], media=[picture(3).digest]))
    content = (run / "forgotten/000001.json").read_text()
    assert not any(name in content for name in (ids(1), "derived", "page-2", picture(3).digest))
    deny_list = tombstones.read(str(run))
    assert all(deny_list.has_document(document(number)) for number in (1, 2, 3))
    assert not deny_list.has_document(document(5))


@pytest.mark.parametrize(
    ("given_names", "message"),
    [
        ({"ids": ["0" * 32]}, "--id 0000"),
        ({"places": ["page-1", "nowhere"]}, "--url nowhere"),
        ({"media": ["ab" * 32]}, "--image abab"),
        ({}, "nothing was forgotten here"),
    ],
)
def test_a_name_that_occurs_in_no_store_changes_nothing(
    calm: Path, run: Path, given_names: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        forget.forget(str(run), names(**given_names))
    assert not (run / "forgotten").exists()
    assert_forgotten(calm, run, set())


def test_each_kind_of_bad_argument_has_its_own_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this is one store"):
        forget.forget(str(run / "raw"), names(ids=[ids(1)]))
    with pytest.raises(StoreError, match="no store with a commit"):
        forget.forget(str(tmp_path), names(ids=[ids(1)]))
    with pytest.raises(ManifestError, match="32 hex digits"):
        forget.main([str(run), "--id", "page-1"])
    with pytest.raises(ManifestError, match="can't be read"):
        forget.main([str(run), "--image", str(tmp_path / "gone.png")])


def test_a_filesystem_without_compare_and_swap_is_refused_with_a_fix(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFiles, "swap_by", "none")
    with pytest.raises(StoreError, match="no compare-and-swap here") as caught:
        forget.forget(str(run), names(ids=[ids(1)]))
    assert "copy the stores" in caught.value.fix


def test_forgetting_in_an_active_run_is_refused(run: Path) -> None:
    import fcntl

    with (run / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another run is at work"):
            forget.forget(str(run), names(ids=[ids(1)]))


def test_older_snapshots_with_a_forgotten_record_expire(calm: Path, run: Path) -> None:
    store = Store.open(str(run / "raw"))
    writer = store.writer("c")
    writer.add(document(99))
    head = store.head()
    assert head is not None
    store.commit([writer.finish()], node="n", units=["a", "b", "c"])
    receipt = forget.forget(str(run), names(ids=[ids(5)]))
    assert {store["store"]: (store["snapshot"], store["expired"]) for store in receipt["rewritten"]}["raw"] == (
        3,
        [1, 2],
    )
    assert search(run, marks(5)) == set()
    assert search(run, [words(99).encode()])


def test_a_tag_moves_to_equal_content_and_is_deleted_otherwise(run: Path) -> None:
    store = Store.open(str(run / "raw"))
    old = heads(run)["raw"]
    tag(store, "old", old)
    writer = store.writer("c")
    writer.add(document(99))
    tag(store, "new", store.commit([writer.finish()], node="n", units=["a", "b", "c"]))
    forget.forget(str(run), names(ids=[ids(5)]))
    assert {name: target["number"] for name, target in tags(store.files).items()} == {"new": 3}
    assert find_snapshot(store, "new").content_root == heads(run)["raw"].content_root


def test_garbage_collection_afterwards_changes_nothing(calm: Path, run: Path) -> None:
    forget.forget(str(run), names(ids=[ids(5)]))
    for name in KINDS:
        collect_garbage(Store.open(str(run / name)), keep_last=1, grace_s=0)
    assert_forgotten(calm, run, {5})


def test_later_calls_add_names_and_repeated_calls_change_nothing(calm: Path, run: Path) -> None:
    forget.forget(str(run), names(ids=[ids(2)]))
    again = {name: head.number for name, head in heads(run).items()}
    receipt = forget.forget(str(run), names(ids=[ids(2)]))
    assert receipt["rewritten"] == [] and receipt["records"]["raw"] == 1
    assert {name: head.number for name, head in heads(run).items()} == again
    forget.forget(str(run), names(ids=[ids(7)]))
    assert_forgotten(calm, run, {2, 7})
    assert heads(run)["raw"].counts["forgotten"] == 2


def test_redacted_tars_open_with_webdataset(run: Path) -> None:
    import webdataset

    forget.forget(str(run), names(ids=[ids(3), ids(4)]))
    for name in ("raw", "samples", "packs"):
        for file in (run / name / "shards").iterdir():
            opened = list(webdataset.WebDataset(str(file), shardshuffle=False, empty_check=False))
            assert opened and all(json.loads(sample["json"]) for sample in opened)


def test_redacted_tars_open_with_datasets(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`datasets` takes the types of a shard from its first records; here all of these are redacted."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    store = Store.open(str(run / "raw"))
    writer = store.writer("c")
    rich = [replace(document(0), id=f"{i:032x}", facts=(Fact("count", 0, 0, 1),), parents=("ab",)) for i in range(9)]
    for rich_document in rich:
        writer.add(rich_document)
    store.commit([writer.finish()], node="n", units=["a", "b", "c"])
    forget.forget(str(run), names(ids=[rich_document.id for rich_document in rich[:6]]))
    shard = heads(run)["raw"].receipts[-1].shards[0].tar
    file = run / "raw" / "shards" / f"{shard}.tar"
    opened = datasets.load_dataset("webdataset", data_files=str(file), split="train", cache_dir=str(tmp_path))
    opened = opened.cast_column("0.png", datasets.Image(decode=False))
    assert [row["json"]["source"] for row in opened] == [""] * 6 + ["raw"] * 3


def killed_at(folder: Path, wanted: forget.Names, operation: int) -> bool:
    """Run `forget` in a process that dies before change number `operation` of the filesystem. Returns whether it
    died."""
    child = os.fork()
    if child == 0:
        changes_left = operation

        def dying(change: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any) -> Any:
                nonlocal changes_left
                changes_left -= 1
                if changes_left < 0:
                    os._exit(9)
                return change(*arguments)

            return counted

        for name in ("publish", "sync", "swap", "delete"):
            setattr(LocalFiles, name, dying(getattr(LocalFiles, name)))
        try:
            forget.forget(str(folder), wanted)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("again", ["the same names", "no name"])
def test_forget_completes_after_a_kill_before_any_change(calm: Path, again: str) -> None:
    wanted = names(ids=[ids(5)], media=[picture(0).digest])
    operation = 0
    while True:
        with copied(calm) as folder:
            killed = killed_at(folder, wanted, operation)
            begun = (folder / "forgotten" / "000001.json").exists()
            forget.forget(str(folder), wanted if again == "the same names" or not begun else names())
            assert_forgotten(calm, folder, {0, 4, 5, 8})
            assert not any(
                leases.count_living(head.files, 60, leases.now_s(head.files)) for head in heads(folder).values()
            )
        if not killed:
            break
        operation += 1 if again == "the same names" else 3
    assert operation > 20


# ---------------------------------------------------------------------- deleted stores


@pytest.mark.parametrize(("deleted", "dependent"), [("raw", "judged"), ("samples", "plan")])
def test_without_a_base_store_the_rest_is_forgotten_and_reported_as_incomplete(
    deleted: str, dependent: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(run / deleted, tmp_path / deleted)
    bytes_of = {path: path.read_bytes() for path in (run / dependent).rglob("*") if path.is_file()}
    assert forget.main([str(run), "--id", ids(6), "--id", ids(11)]) == 1
    error = capsys.readouterr().err
    assert f"incomplete: {dependent} can't be searched: {run / deleted}: there is no store here" in error
    assert {path: path.read_bytes() for path in bytes_of} == bytes_of
    whole = [name for name in KINDS if name not in (deleted, dependent)]
    assert (
        set().union(*(search(run / name, [needle for n in (6, 11) for needle in marks(n)]) for name in whole)) == set()
    )
    shutil.move(tmp_path / deleted, run / deleted)
    assert forget.main([str(run)]) == 0
    assert search(run, [needle for n in (6, 10, 11) for needle in marks(n)]) == set()


def test_an_unknown_name_is_refused_together_with_the_stores_that_were_not_searched(run: Path) -> None:
    shutil.rmtree(run / "raw")
    with pytest.raises(
        StoreError, match=r"found in no store: --url nowhere; nothing was changed; judged can't be searched"
    ):
        forget.forget(str(run), names(places=["nowhere"]))
