"""Reuse of stored scores after a changed limit: nothing is measured twice, and results equal a fresh run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from manifests import runlog
from manifests.records import Json
from pipelines.previous import PREVIOUS_NUMBER
from stores.store import Store
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, run

DAG = """
name: moved
nodes:
  documents: {{kind: ingest_folder, path: ./data}}
  first:
    kind: filter
    input: documents
    ops: [{{kind: text_length, min_characters: {first}}}]
  second:
    kind: filter
    input: first
    ops:
      - {{kind: text_length, min_characters: 0, max_characters: {long}, domains: [knowledge]}}
      - {{kind: language, keep: {languages}, min_confidence: {sure}, domains: [knowledge]}}
      - {{kind: image_too_small, min_side_px: {side}}}
      - {{kind: low_entropy, min_bits: {bits}}}
      - {{kind: few_letters, min_fraction: {letters}, domains: {letters_of}}}
      - {{kind: no_text}}
  third:
    kind: score_function
    input: second
    function: {code}:score
    version: "1"
    max_score: {most}
"""
DEFAULTS = {
    "first": 8,
    "long": 330,
    "languages": "[en]",
    "sure": 0.0,
    "side": 20,
    "bits": 0.5,
    "letters": 0.5,
    "most": 900,
    "letters_of": "[knowledge]",
}
ALL = {"text_length", "language", "image_too_small", "low_entropy", "few_letters", "no_text"}
SCORE = """
def score(documents):
    with open({asked!r}, "a") as out:
        out.write("".join(document.locator + "\\n" for document in documents))
    return [float(len(document.text)) for document in documents]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moved")
    small_data.write(folder / "data", texts=60)
    (folder / "code.py").write_text(SCORE.format(asked=str(folder / "asked.txt")))
    return folder


def written(folder: Path, **limits: object) -> Path:
    file = folder / "dag.yaml"
    file.write_text(DAG.format(**(DEFAULTS | limits), code=folder / "code.py"))
    return file


def measured_records(out: Path) -> Counter[str]:
    """Measured records by op of `second`, in the last run."""
    log = list(runlog.read(out / "log.jsonl"))
    events = [line for line in log if line.get("node") == "second" and line["event"] in ("node_commit", "node_skip")]
    return Counter({kind: records for kind, (records, _) in events[-1]["parts"].items()})


CASES: list[tuple[dict[str, object], set[str]]] = [
    ({"long": 310, "languages": "[]", "sure": 0.9, "side": 35, "bits": 2.0, "letters": 0.99}, set()),
    ({"letters_of": "[]"}, {"few_letters"}),
]


@pytest.mark.parametrize(("moved", "measured"), CASES)
def test_changed_limits_measure_nothing_and_give_the_result_of_a_fresh_run(
    folder: Path, tmp_path: Path, moved: dict[str, object], measured: set[str]
) -> None:
    run(written(folder), tmp_path / "out")
    run(written(folder, **moved), tmp_path / "fresh")
    run(written(folder, **moved), tmp_path / "out")
    for name in ("first", "second", "third"):
        assert head(tmp_path / "out", name).content_root == head(tmp_path / "fresh", name).content_root
    seen, fresh = measured_records(tmp_path / "out"), measured_records(tmp_path / "fresh")
    assert {kind for kind, count in seen.items() if count} == measured
    assert set(fresh) == ALL


def test_a_changed_limit_calls_no_score_function_again(folder: Path, tmp_path: Path) -> None:
    asked = folder / "asked.txt"
    asked.unlink(missing_ok=True)
    run(written(folder), tmp_path / "out")
    first = asked.read_text()
    run(written(folder, most=10), tmp_path / "out")
    assert asked.read_text() == first
    asked.unlink()
    run(written(folder, most=10), tmp_path / "fresh")
    assert asked.read_text() == first
    third = head(tmp_path / "out", "third")
    assert third.content_root == head(tmp_path / "fresh", "third").content_root
    assert "high_score" in third.table(["reason"])["reason"].to_pylist()


def test_only_records_that_an_earlier_filter_newly_keeps_are_measured(folder: Path, tmp_path: Path) -> None:
    run(written(folder, first=320), tmp_path / "out")
    before = measured_records(tmp_path / "out")
    run(written(folder, first=310), tmp_path / "out")
    run(written(folder, first=310), tmp_path / "fresh")
    for name in ("first", "second", "third"):
        assert head(tmp_path / "out", name).content_root == head(tmp_path / "fresh", name).content_root
    more = measured_records(tmp_path / "out")
    assert 0 < more["no_text"] == measured_records(tmp_path / "fresh")["no_text"] - before["no_text"]


def test_scores_are_reused_after_an_incomplete_commit(folder: Path, tmp_path: Path) -> None:
    run(written(folder), tmp_path / "out")
    store = Store.open(str(tmp_path / "out" / "second"))
    whole = head(tmp_path / "out", "second")
    begun: dict[str, Json] = {**whole.meta, PREVIOUS_NUMBER: whole.number}
    store.commit([], node="killed", units=[], complete=False, parents=whole.parents, meta=begun)
    run(written(folder, long=310), tmp_path / "out")
    assert not any(measured_records(tmp_path / "out").values())
    assert PREVIOUS_NUMBER not in head(tmp_path / "out", "second").meta
