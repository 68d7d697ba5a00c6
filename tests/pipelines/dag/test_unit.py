"""One unit in a worker: records that are bad, that raise unexpected errors, or that kill the worker."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from manifests.errors import StoreError
from pipelines.dag.unit import Outcome, StoreTask, run_unit
from pipelines.engines.engine import Submission
from pipelines.engines.local import LocalEngine
from pipelines.node import Unit, UnitTask
from stores.store import Store

NODE = """
import os, signal
from dataclasses import dataclass
from manifests.errors import RecordError, StoreError
from manifests.records import Document, Text, record_id

def make(name):
    if name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "bad":
        raise RecordError("bad_thing", "it is bad")
    if name == "surprise":
        return {}["not there"]
    if name == "changed":
        raise StoreError("the ground moved")
    return Document(record_id("n", name), "n", name, "web", (Text(name),))

@dataclass(frozen=True)
class Odd:
    def work(self, task, writer, attempt):
        for name in task.unit.data:
            document = attempt(name, make, name)
            if document is not None:
                attempt.store(name, document)
        attempt.note("seen")
        return {"from": "odd"}
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module with a node class that worker processes can import."""
    (tmp_path / "odd_node_of_this_test.py").write_text(NODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("odd_node_of_this_test")
    del sys.modules["odd_node_of_this_test"]


def work(odd: ModuleType, folder: Path, names: list[str]) -> tuple[Outcome, Store]:
    store = Store.open_or_create(str(folder), "documents", "n")
    task = StoreTask(odd.Odd(), str(folder), "unit", UnitTask("n", Unit("unit", "d", tuple(names)), {}), 3, 0.5)
    with LocalEngine(1) as engine:
        ((_, outcome),) = engine.run("n", run_unit, [Submission("unit", task)])
    return outcome, store


def test_each_kind_of_bad_record_costs_itself_and_nothing_else(odd: ModuleType, tmp_path: Path) -> None:
    outcome, store = work(odd, tmp_path / "store", ["a", "bad", "b", "deadly", "c", "surprise", "d", "d"])
    snapshot = store.commit([outcome.receipt], node="x", units=["unit"])
    assert [document.locator for document in snapshot.records()] == ["a", "b", "c", "d"]
    aside = {row["locator"]: (row["reason"], row["message"]) for row in snapshot.quarantined().to_pylist()}
    assert aside["bad"] == ("bad_thing", "it is bad")
    assert aside["deadly"][0] == "killed_worker"
    assert aside["surprise"] == ("unexpected_error", "KeyError: 'not there'")
    assert aside["d"][0] == "duplicate_id"
    assert dict(outcome.counts.noted) == {"seen": 1} and outcome.meta == {"from": "odd"}
    (details,) = outcome.details
    assert details.startswith("surprise\n") and 'return {}["not there"]' in details


def test_an_error_of_the_store_ends_the_unit(odd: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the ground moved"):
        work(odd, tmp_path / "store", ["a", "changed", "b"])


def test_bad_records_in_a_row_stop_a_unit_only_if_they_are_the_majority(odd: ModuleType, tmp_path: Path) -> None:
    outcome, _ = work(odd, tmp_path / "good", [*"abcdefgh", "bad", "bad", "bad"])
    assert (outcome.bad, outcome.bad_at_end) == (3, 3)
    with pytest.raises(Exception, match="3 records in a row can't be used"):
        work(odd, tmp_path / "bad", ["bad", "bad", "bad", *"abcdefgh"])
