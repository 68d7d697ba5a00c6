"""Ordered prefetch: results in order, a bounded number of them waiting, none lost."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.records import Document, Text, record_id
from stores.prefetch import prefetch
from stores.store import Store
from tests.servers.faulty import Faulty, Request


@given(items=st.lists(st.integers(), max_size=30), at_once=st.integers(1, 5))
def test_results_come_in_order_and_few_items_are_drawn_early(items: list[int], at_once: int) -> None:
    drawn = done = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for item in items:
            drawn += 1
            yield item

    for result in prefetch(lambda item: 2 * item, source(), at_once):
        assert result == 2 * items[done]
        done += 1
        assert drawn - done < at_once
    assert done == len(items)


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_error_comes_in_the_place_of_its_result_and_cancels_the_rest(at_once: int) -> None:
    started = []

    def work(item: int) -> int:
        started.append(item)
        return 1 // (3 - item)

    results = []
    with pytest.raises(ZeroDivisionError):
        for result in prefetch(work, range(100), at_once):
            results.append(result)
    assert len(results) == 3 and len(started) < 4 + at_once
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_tables_of_a_remote_store_read_many_shards_at_once(s3: Faulty, make: Any) -> None:
    units = {f"u{n:02d}": [Document(record_id("s", str(n)), "s", str(n), "web", (Text("x"),))] for n in range(16)}
    local = make("documents", units)
    store = Store.create(f"s3://mill/{uuid.uuid4().hex}", "documents", "documents")
    receipts = []
    for unit, records in units.items():
        writer = store.writer(unit)
        writer.add(records[0])
        receipts.append(writer.finish())
    snapshot = store.commit(receipts, node="n", units=list(units))
    running, most, lock = 0, 0, threading.Lock()

    def wait(request: Request) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1

    s3.rule = wait
    table = snapshot.table()
    s3.reset()
    assert most >= 6 and table.drop_columns(["shard"]).equals(local.table().drop_columns(["shard"]))
    assert [document.id for document in snapshot.documents(range(16))] == [document.id for document in local.records()]
