"""Views: columns and keep-masks over the shards of another store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import StoreError
from manifests.records import Document, Text, record_id
from stores.snapshot import Snapshot
from stores.store import Store
from stores.upkeep.verify import verify

SHARDS = 2
ROWS = 4


@pytest.fixture
def base(make: Any) -> Snapshot:
    units = {
        name: [Document(record_id(name, str(i)), name, str(i), "web", (Text(f"{i}"),)) for i in range(ROWS)]
        for name in ("a", "b")
    }
    return make("documents", units)


def view(below: Snapshot, folder: Path, name: str, columns: list[dict[str, list[Any]]], **commit: Any) -> Snapshot:
    """Write a view with one unit per shard of the base.

    Args:
        columns: columns of each shard.
    """
    store = Store.open_or_create(str(folder / name), "view", name)
    receipts = []
    for ref, decided in zip(below.shards, columns, strict=False):
        writer = store.writer(f"{name}-{ref.unit}")
        writer.columns(ref.shard, decided)
        receipts.append(writer.finish())
    units = [f"{name}-{ref.unit}" for ref in below.shards]
    return store.commit(receipts, node=name, units=units, parents=[below.as_parent], **commit)


masks = st.lists(st.lists(st.booleans(), min_size=ROWS, max_size=ROWS), min_size=SHARDS, max_size=SHARDS)


@given(st.lists(masks, min_size=1, max_size=3))
@settings(max_examples=15)
def test_a_chain_of_views_keeps_the_intersection_with_the_first_reason(
    base: Snapshot, tmp_path_factory: Any, chain: list[list[list[bool]]]
) -> None:
    folder = tmp_path_factory.mktemp("views")
    top = base
    for number, keeps in enumerate(chain):
        columns = [
            {
                "keep": keep,
                "reason": [None if kept else f"view{number}" for kept in keep],
                "score": [None if kept else float(number) for kept in keep],
                f"length{number}": [number] * ROWS,
            }
            for keep in keeps
        ]
        top = view(top, folder, f"view{number}", columns)
    flat = [[kept for keep in keeps for kept in keep] for keeps in chain]
    expected = [all(column) for column in zip(*flat, strict=True)]
    first = [next((n for n, keep in enumerate(column) if not keep), None) for column in zip(*flat, strict=True)]
    table = top.table()
    assert table.column("keep").to_pylist() == expected
    assert table.column("reason").to_pylist() == [None if n is None else f"view{n}" for n in first]
    assert table.column("score").to_pylist() == [None if n is None else float(n) for n in first]
    assert table.column("length0").to_pylist() == [0] * ROWS * SHARDS
    assert table.column("id").to_pylist() == base.table(["id"]).column("id").to_pylist()
    kept = [record for record, keep in zip(base.records(), expected, strict=True) if keep]
    assert list(top.records()) == kept and list(top.records(keep_only=False)) == list(base.records())
    assert top.kept().tolist() == [i for i, keep in enumerate(expected) if keep]
    assert top.kept(2, 6).tolist() == [i for i, keep in enumerate(expected) if keep and 2 <= i < 6]
    assert top.base.url == base.url and top.ranges == base.ranges
    assert top.counts["records"] == ROWS * SHARDS and top.counts["kept"] == sum(flat[-1])
    assert verify(top) == []
    assert not Path(top.url, "shards").exists()


def test_an_incomplete_view_has_the_decided_shards(base: Snapshot, tmp_path: Path) -> None:
    half = view(base, tmp_path, "v", [{"keep": [True, False, True, False]}], complete=False)
    assert not half.complete and half.table(["keep"]).num_rows == ROWS
    assert [record.locator for record in half.records()] == ["0", "2"]


def test_a_complete_view_needs_columns_for_every_shard(base: Snapshot, tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "v"), "view", "v")
    writer = store.writer("all")
    writer.columns(base.shards[0].shard, {"keep": [True] * ROWS})
    with pytest.raises(StoreError, match="1 shards of the base have no columns"):
        store.commit([writer.finish()], node="v", units=["all"], parents=[base.as_parent])


@pytest.mark.parametrize("shard, rows", [("own", ROWS + 1), ("0" * 64, ROWS)])
def test_columns_must_fit_the_base(base: Snapshot, tmp_path: Path, shard: str, rows: int) -> None:
    store = Store.create(str(tmp_path / "v"), "view", "v")
    writer = store.writer("all")
    writer.columns(base.shards[0].shard if shard == "own" else shard, {"keep": [True] * rows})
    with pytest.raises(StoreError, match=r"columns for \d+ records of shard"):
        store.commit([writer.finish()], node="v", units=["all"], complete=False, parents=[base.as_parent])
    assert list(store.files.listing("lists")) == [] and store.head() is None


def test_two_views_in_a_chain_may_not_have_a_column_of_one_name(base: Snapshot, tmp_path: Path) -> None:
    columns = [{"keep": [True] * ROWS, "words": [1] * ROWS}] * SHARDS
    top = view(view(base, tmp_path, "one", columns), tmp_path, "two", columns)
    with pytest.raises(StoreError, match="column 'words' is in this view and in the snapshot that it is over"):
        top.table()
    assert top.table(["keep", "id"]).num_rows == ROWS * SHARDS


def test_records_and_columns_are_not_mixed(base: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="columns belong to views"):
        Store.open(base.url).writer("x").columns(base.shards[0].shard, {"keep": [True] * ROWS})
    with pytest.raises(ValueError, match="records"):
        Store.create(str(tmp_path / "v"), "view", "v").writer("x").add(base.record(0))
