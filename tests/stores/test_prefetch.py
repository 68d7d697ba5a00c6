"""Work ahead in threads: in order, never far, nothing lost."""

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
def test_results_come_in_order_and_no_more_is_drawn_than_may_wait(items: list[int], at_once: int) -> None:
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
def test_an_error_comes_where_its_result_would_have_and_ends_the_rest(at_once: int) -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        return 1 // (3 - item)

    found = []
    with pytest.raises(ZeroDivisionError):
        for result in prefetch(work, range(100), at_once):
            found.append(result)
    assert len(found) == 3 and len(begun) < 4 + at_once
    assert not [one for one in threading.enumerate() if one.name.startswith("prefetch")]


def test_tables_of_a_store_far_away_wait_for_many_shards_at_once(s3: Faulty, make: Any) -> None:
    units = {f"u{n:02d}": [Document(record_id("s", str(n)), "s", str(n), "web", (Text("x"),))] for n in range(16)}
    here = make("documents", units)
    store = Store.create(f"s3://mill/{uuid.uuid4().hex}", "documents", "documents")
    receipts = []
    for unit, records in units.items():
        writer = store.writer(unit)
        writer.add(records[0])
        receipts.append(writer.finish())
    snapshot = store.commit(receipts, node="n", units=list(units))
    together, most, lock = 0, 0, threading.Lock()

    def wait(request: Request) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.05)
        with lock:
            together -= 1

    s3.rule = wait
    table = snapshot.table()
    s3.reset()
    assert most >= 6 and table.drop_columns(["shard"]).equals(here.table().drop_columns(["shard"]))
    assert [one.id for one in snapshot.documents(range(16))] == [one.id for one in here.records()]
