"""Python's own library as text and code: within budgets, split without overlap, without tests and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.records import Document
from pipelines.dag.unit import Attempts, StoreTask
from pipelines.ingest.stdlib import IngestStdlib, LibraryFile
from pipelines.node import UnitTask
from stores.store import Store


def ingest(node: IngestStdlib, folder: Path) -> list[Document]:
    store = Store.create(str(folder), "documents", "own")
    survey = node.survey("own", {})
    receipts = []
    for unit in survey.units:
        task = UnitTask("own", unit, {})
        writer = store.writer(unit.name)
        node.work(
            task, writer, Attempts(writer, StoreTask(node, "", unit.name, task, 10, 0.5), frozenset(), lambda _: None)
        )
        receipts.append(writer.finish())
    snapshot = store.commit(receipts, node="n", units=[unit.name for unit in survey.units])
    assert snapshot.counts["quarantined"] == 0
    return list(snapshot.records())


def sources(node: IngestStdlib) -> dict[str, set[str]]:
    by_use: dict[str, set[str]] = {"topics": set(), "docstrings": set(), "source": set()}
    for unit in node.survey("own", {}).units:
        for file in unit.data:
            assert isinstance(file, LibraryFile)
            by_use[file.use].add(file.path)
    return by_use


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    node = IngestStdlib(kind="ingest_stdlib", text_bytes=900_000, code_bytes=150_000)
    return ingest(node, tmp_path_factory.mktemp("stdlib") / "store")


def test_documentation_is_knowledge_and_sources_are_code(documents: list[Document]) -> None:
    by_kind = {
        kind: [d for d in documents if d.locator.startswith(kind)] for kind in ("topics", "docstrings", "source")
    }
    assert {d.domain for d in by_kind["source"]} == {"code"}
    assert {d.domain for d in by_kind["topics"] + by_kind["docstrings"]} == {"knowledge"}
    assert len(by_kind["topics"]) > 40 and len(by_kind["docstrings"]) > 3 and len(by_kind["source"]) > 3
    for document in by_kind["source"]:
        compile(document.text, document.locator, "exec", dont_inherit=True)


def test_budgets_hold_up_to_one_file(documents: list[Document]) -> None:
    code = sum(len(d.text.encode()) for d in documents if d.domain == "code")
    assert 150_000 <= code <= 250_000


def test_train_and_held_out_share_no_module_and_no_topic() -> None:
    train = IngestStdlib(kind="ingest_stdlib")
    held_out = IngestStdlib(kind="ingest_stdlib", split="held_out")
    seen, unseen = sources(train), sources(held_out)
    assert not (seen["docstrings"] | seen["source"]) & (unseen["docstrings"] | unseen["source"])
    assert len(unseen["docstrings"]) > 5 and len(unseen["source"]) > 5
    assert all(train._in_split(name) != held_out._in_split(name) for name in ("if", "lambda", "json/decoder.py"))


def test_tests_tables_and_installed_packages_are_left_out() -> None:
    paths = set().union(*sources(IngestStdlib(kind="ingest_stdlib", text_bytes=10**9, code_bytes=10**9)).values())
    parts = {part for path in paths for part in path.split("/")[:-1]}
    assert not parts & {"test", "tests", "idlelib", "encodings", "site-packages"} and "json" in parts
