"""Kept documents of a view copied into a store of their own: equal records, full shards, no need of the old store."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tarfile
import tempfile
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.records import FORGOTTEN, Document, Media, Text, record_id
from pipelines.build.materialize import Materialize
from pipelines.dag import graph
from pipelines.dag.unit import StoreTask, run_unit
from pipelines.node import Product, UnitTask
from stores.forget.forget import forget
from stores.store import Snapshot, Store
from stores.upkeep import log
from stores.upkeep.gc import collect_garbage
from stores.upkeep.verify import verify
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, roots, run, start
from tests.stores.forget.traces import traces
from tests.strategies import same


@pytest.fixture
def here(quick_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=quick_folder))


def document(name: str, characters: int, images: int = 0) -> Document:
    dice = np.random.default_rng(int(sha256(name.encode()).hexdigest()[:8], 16))
    payloads = [dice.bytes(int(dice.integers(1, 900))) for _ in range(images)]
    media = [Media(sha256(data).hexdigest(), "image", "png", 4, 4, payload=data) for data in payloads]
    text = Text((name + " ") * (characters // (len(name) + 1) + 1))
    return Document(record_id("raw", name), "raw", name, "web", (text, *media), parents=(record_id("raw", "whole"),))


def stored(folder: Path, units: dict[str, list[Document]], name: str = "raw") -> Snapshot:
    store = Store.create(str(folder / name), "documents", name)
    receipts = []
    for unit, documents in units.items():
        writer = store.writer(unit)
        for document in documents:
            writer.add(document)
        writer.quarantine(f"{unit}#bad", "torn")
        receipts.append(writer.finish())
    return store.commit(receipts, node=name, units=list(units))


def viewed(
    over: Snapshot, folder: Path, keep: Sequence[bool], name: str = "view", **columns: Sequence[Any]
) -> Snapshot:
    """Make a view in one unit over all records, in store order."""
    store = Store.create(str(folder / name), "view", name)
    writer = store.writer("all")
    for ref in over.shards:
        here = slice(ref.first, ref.first + ref.records)
        reasons = [None if kept else "dull" for kept in keep[here]]
        more = {column: values[here] for column, values in columns.items()}
        writer.columns(ref.shard, {"keep": list(keep[here]), "reason": reasons, **more})
    return store.commit([writer.finish()], node=name, units=["all"], parents=[over.as_parent])


def product(snapshot: Snapshot) -> Product:
    return Product(snapshot.name, snapshot.kind, snapshot.url, snapshot.content_root, snapshot.number)  # type: ignore[arg-type]


def made(
    folder: Path, over: Snapshot, compact: bool, shard_bytes: int = 1 << 20, place: str = "made", seed: int = 0
) -> Snapshot:
    """Make the store of a node, its units in a given order, committed together or one by one."""
    name = "made"
    node = Materialize(kind="materialize", input=over.name, compact=compact, shard_bytes=shard_bytes)
    inputs = {over.name: product(over)}
    wanted = graph.unit_names(name, node, node.survey(name, inputs))
    store = Store.create(str(folder / place), "documents", name)
    todo = list(wanted.items())
    random.Random(seed).shuffle(todo)
    receipts = []
    for stored_as, unit in todo:
        task = StoreTask(node, store.url, stored_as, UnitTask(name, unit, inputs), 3, 0.5)
        receipts.append(run_unit(task, frozenset(), lambda ordinal: None).receipt)
        if seed % 2:
            store.commit(receipts[-1:], node="n", units=list(wanted), complete=False, parents=[over.as_parent])
    return store.commit(receipts, node="n", units=list(wanted), parents=[over.as_parent])


def payloads(snapshot: Snapshot) -> dict[str, list[bytes]]:
    return {
        document.id: [snapshot.read(medium.location) for medium in document.media if medium.location is not None]
        for document in snapshot.records()
    }


def bytes_of(snapshot: Snapshot) -> list[int]:
    return [entry.bytes for receipt in snapshot.receipts for entry in receipt.shards]


lengths = st.lists(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 2), st.booleans()), max_size=6), min_size=1, max_size=5
)


@given(units=lengths, compact=st.booleans(), shard_bytes=st.integers(1, 20_000))
@settings(max_examples=15)
def test_exactly_the_kept_records_are_copied(quick_folder: Path, units: Any, compact: bool, shard_bytes: int) -> None:
    folder = Path(tempfile.mkdtemp(dir=quick_folder))
    base = stored(
        folder,
        {
            f"u{number}": [document(f"{number}-{row}", size, images) for row, (size, images, _) in enumerate(unit)]
            for number, unit in enumerate(units)
        },
    )
    wanted = {f"{number}-{row}" for number, unit in enumerate(units) for row, (_, _, keep) in enumerate(unit) if keep}
    keep = [document.locator in wanted for document in base.records()]
    view = viewed(base, folder, keep)
    kept, bytes_before = list(view.records()), payloads(view)
    moved = made(folder, view, compact, shard_bytes)
    assert moved.parents == (view.as_parent,) and moved.counts["quarantined"] == 0
    copies = {document.id: document for document in moved.records()}
    assert len(copies) == moved.counts["records"]
    assert all(same(copies[document.id], document) for document in kept) and len(copies) == len(kept)
    assert made(folder, view, compact, shard_bytes, "again", seed=1).content_root == moved.content_root
    shutil.rmtree(base.url)
    shutil.rmtree(view.url)
    alone = Store.open(moved.url).head()
    assert alone is not None and payloads(alone) == bytes_before and verify(alone) == []
    # Documents with the same members stay in their order.
    for count in range(3):
        before = [document.id for document in kept if len(document.media) == count]
        assert [document.id for document in alone.records() if len(document.media) == count] == before


def test_five_percent_of_200_shards_become_about_ten_full_shards(here: Path) -> None:
    import webdataset

    units = {f"u{n:03d}": [document(f"{n}-{i}", 40 * (i % 20), i % 2) for i in range(20)] for n in range(100)}
    base = stored(here, units)
    assert len(base.shards) == 200
    short = [len(document.text) < 150 for document in base.records()]  # what is kept is not like what is dropped
    view = viewed(base, here, short)
    full = sum(
        view.record_bytes(ref)[view.kept(ref.first, ref.first + ref.records) - ref.first].sum() for ref in base.shards
    )
    target = int(full) // 10
    moved = made(here, view, True, target)
    sizes = sorted(bytes_of(moved))
    assert len(sizes) in (10, 11, 12) and all(0.98 * target < size < 1.05 * target + 3000 for size in sizes[2:])
    names = [
        sample["json"]["id"]
        for shard in sorted(Path(moved.url, "shards").glob("*.tar"))
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False).decode()
    ]
    assert sorted(names) == sorted(document.id for document in view.records())


def test_documents_added_at_the_end_change_the_last_units_only(here: Path) -> None:
    units = {f"u{n}": [document(f"{n}-{i}", 900) for i in range(10)] for n in range(12)}
    grown = dict(list(units.items())[:11])
    node = Materialize(kind="materialize", input="raw", compact=True, shard_bytes=20_000)
    names = []
    for place, units_here in enumerate((grown, units)):
        (here / str(place)).mkdir()
        survey = node.survey("made", {"raw": product(stored(here / str(place), units_here))})
        names.append(set(graph.unit_names("made", node, survey)))
    assert len(names[0]) > 6 and len(names[0] - names[1]) == 1


def test_columns_of_views_come_along_and_nothing_of_dropped_records(here: Path) -> None:
    base = stored(here, {"u": [document(str(i), 10, i % 2) for i in range(12)]})
    order = [document.locator for document in base.records()]
    quality, words = [int(name) / 2 for name in order], [f"label {int(name) % 3}" for name in order]
    low = [value >= 2 for value in quality]
    view = viewed(base, here, low, "quality_view", quality=quality, score=[1.0] * 12)
    label = viewed(view, here, [name != "11" for name in order], "labels", label=words, empty=[None] * 12)
    for compact in (False, True):
        moved = made(here, label, compact, place=f"made_{compact}")
        table = moved.table(["locator", "quality", "label", "score", "keep"]).to_pylist()
        expected = [
            {"locator": str(i), "quality": i / 2, "label": f"label {i % 3}", "score": 1.0, "keep": True}
            for i in range(4, 11)
        ]
        assert sorted(table, key=lambda row: int(row["locator"])) == expected
        assert "empty" not in moved.table().column_names and "reason" not in moved.table().column_names
        assert verify(moved) == []
        more = viewed(moved, here, [True] * 7, f"over_{compact}", length=[1] * 7)
        assert {"quality", "label", "length"} <= set(more.table().column_names)
        again = made(here, more, True, place=f"again_{compact}")
        assert sorted(again.table(["quality"])["quality"].to_pylist()) == [i / 2 for i in range(4, 11)]
    assert log.diff(moved, moved)["equal"]


def test_a_changed_score_changes_the_unit(here: Path) -> None:
    base = stored(here, {"u": [document(str(i), 10) for i in range(3)]})
    for compact in (False, True):
        node = Materialize(kind="materialize", input="view", compact=compact)
        surveys = []
        for score in (1.0, 2.0):
            view = viewed(base, here, [True] * 3, f"{compact}{score}", quality=[score] * 3)
            surveys.append(node.survey("made", {"view": product(view)}))
        assert surveys[0] != surveys[1]


@pytest.mark.parametrize("compact", [False, True])
def test_a_forgotten_record_leaves_the_new_store_and_is_not_copied_again(here: Path, compact: bool) -> None:
    documents = [document(str(i), 300, 1) for i in range(6)]
    canary = documents[3].media[0].payload
    assert canary is not None
    base = stored(here, {"u": documents})
    view = viewed(
        base, here, [True] * 5 + [False], secret=[f"secret of {document.locator}" for document in base.records()]
    )
    moved = made(here, view, compact, 1500)
    node = Materialize(kind="materialize", input="view", compact=compact, shard_bytes=1500)
    before = node.survey("made", {"view": product(view)})
    nothing = frozenset[str]()
    forget(str(here), {"ids": frozenset({documents[3].id}), "sources": nothing, "places": nothing, "media": nothing})
    assert traces(here, [canary, b"secret of 3"]) == set()
    view, after = Store.open(view.url).head(), Store.open(moved.url).head()
    assert view is not None and after is not None
    assert node.survey("made", {"view": product(view)}) == before and after.content_root == moved.content_root
    assert [document.source == FORGOTTEN for document in after.records()] == [i == 3 for i in range(5)]
    assert after.table(["secret"])["secret"].to_pylist() == [None if i == 3 else f"secret of {i}" for i in range(5)]
    assert verify(after) == []
    again = made(here, view, compact, 1500, "again")
    assert [document.locator for document in again.records()] == ["0", "1", "2", "4"] and not again.counts[
        "quarantined"
    ]


DAG = small_data.DAG.replace("inputs: [unique]", "inputs: [curated]").replace(
    "  samples:",
    "  curated:\n    kind: materialize\n    compact: true\n    input: unique\n    shard_bytes: 10000\n  samples:",
)
NAMES = ("documents", "filtered", "unique", "curated", "samples", "plan", "packs")


def test_a_killed_run_ends_in_the_same_content_and_needs_no_base(here: Path) -> None:
    (here / "data").mkdir()
    small_data.write(here / "data", texts=60)
    (here / "dag.yaml").write_text(DAG)
    run(here / "dag.yaml", here / "calm")
    curated = head(here / "calm", "curated")
    assert len(curated.units) > 5 and curated.counts["records"] == len(list(head(here / "calm", "unique").records()))
    out = here / "out"
    process = start(here / "dag.yaml", out)
    while not list((out / "curated" / "shards").glob("*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "samples" / "roots").exists()
    run(here / "dag.yaml", out, workers=2)
    assert roots(out, NAMES) == roots(here / "calm", NAMES)
    for name in ("documents", "filtered", "unique"):
        shutil.rmtree(out / name)
    assert collect_garbage(Store.open(str(out / "curated")), keep_last=1).kept
    assert verify(head(out, "curated")) == []
    samples = head(out, "samples")
    media = [medium for sample in samples.records() for medium in sample.media]
    assert media and all(
        sha256(samples.read(medium.location)).hexdigest() == medium.digest for medium in media if medium.location
    )
    with tarfile.open(next((out / "curated" / "shards").glob("*.tar"))) as tar:
        record = json.load(tar.extractfile(next(iter(tar))))  # type: ignore[arg-type]
    assert record["source"] == "documents"
