"""Index tables: Parquet keeps them, and their logical digest depends on values only."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.shards import index

SCHEMA = pa.schema(
    [
        ("id", pa.binary(4)),
        ("word", index.NAMES),
        ("text", pa.string()),
        ("number", pa.int64()),
        ("score", pa.float64()),
        ("keep", pa.bool_()),
        ("times", pa.list_(pa.int64())),
    ]
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.binary(min_size=4, max_size=4),
            "word": st.none() | st.sampled_from(["a", "b", ""]),
            "text": st.none() | st.text(max_size=5),
            "number": st.none() | st.integers(-(2**63), 2**63 - 1),
            "score": st.none() | st.floats(allow_nan=False),
            "keep": st.none() | st.booleans(),
            "times": st.none() | st.lists(st.integers(0, 2**40), max_size=4),
        }
    ),
    max_size=6,
)


def digest(table: pa.Table) -> str:
    return index.logical_digest({"core": table})


@given(rows)
def test_parquet_keeps_a_table_and_its_logical_digest(made: list[dict[str, Any]]) -> None:
    table = index.table_of(made, SCHEMA)
    back = index.from_parquet(index.to_parquet(table))
    assert back.to_pylist() == made and digest(back) == digest(table)


@given(rows, st.data())
@settings(max_examples=30)
def test_the_logical_digest_does_not_depend_on_storage(made: list[dict[str, Any]], data: st.DataObject) -> None:
    table = index.table_of(made, SCHEMA)
    out = io.BytesIO()
    version = data.draw(st.sampled_from(["1.0", "2.6"]))
    pq.write_table(table, out, version=version, compression="snappy", row_group_size=2, use_dictionary=False)
    cut = data.draw(st.integers(0, len(made)))
    for other in [
        pq.read_table(io.BytesIO(out.getvalue())),
        pa.concat_tables([table.slice(0, cut), table.slice(cut)]),
        table.set_column(1, "word", table.column("word").cast(pa.string())),
    ]:
        assert digest(other) == digest(table)


@given(rows, rows)
def test_other_values_give_another_logical_digest(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    a, b = index.table_of(one, SCHEMA), index.table_of(two, SCHEMA)
    assert (digest(a) == digest(b)) == (repr(one) == repr(two))  # -0.0 and 0.0 differ in repr, as in bytes


@pytest.mark.parametrize(
    "one, two",
    [
        ({"a": ["xy", "z"]}, {"a": ["x", "yz"]}),
        ({"a": [[1], [2, 3]]}, {"a": [[1, 2], [3]]}),
        ({"a": [1]}, {"b": [1]}),
        ({"a": pa.array([1], pa.int32())}, {"a": pa.array([1], pa.int64())}),
        ({"a": [1], "b": [2]}, {"b": [2], "a": [1]}),
        ({"a": pa.array([0, None])}, {"a": pa.array([None, 0])}),
    ],
)
def test_borders_names_types_and_order_enter_the_digest(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert digest(pa.table(one)) != digest(pa.table(two))


def test_frame_times_are_delta_encoded() -> None:
    times = np.arange(0, 10_000 * 33_367, 33_367).tolist()
    table = pa.table({"frame_times_us": pa.array([times], pa.list_(pa.int64()))})
    assert len(index.to_parquet(table)) < 3_000
