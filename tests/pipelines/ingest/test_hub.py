"""`ingest_hub`: the real libraries against a small hub on loopback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines.dag.test_run import ROOT, head, roots, run
from tests.servers.hub import COMMIT, Hub, hub_server

CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: "data/train-*"}
  - {split: test, path: "data/test-*"}
- config_name: talk
  data_files: "talk/*.jsonl"
---
# Grain
"""
DAG = """
name: hub
nodes:
  documents: {kind: ingest_hub, dataset: mill/grain, revision: COMMIT, splits: [train], cache: ./cache}
"""


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), out)
    return out.getvalue()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        hub.files = {
            "README.md": CARD.encode(),
            "data/train-00000.parquet": parquet("one", "two"),
            "data/train-[1].parquet": parquet("three"),
            "data/test-00000.parquet": parquet("held out"),
            "talk/a.jsonl": b'{"text": "said"}\n',
        }
        yield hub


@pytest.fixture
def environment(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.mark.usefixtures("environment")
def test_a_split_at_a_commit_becomes_documents_and_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "dag.yaml").write_text(DAG.replace("COMMIT", COMMIT))
    run(tmp_path / "dag.yaml", tmp_path / "out")
    by_locator = {document.locator: document for document in head(tmp_path / "out", "documents").records()}
    texts = {
        "data/train-00000.parquet#0.0": "one",
        "data/train-00000.parquet#0.1": "two",
        "data/train-[1].parquet#0.0": "three",
    }
    assert {name: document.text for name, document in by_locator.items()} == texts
    assert {document.origin for document in by_locator.values()} == {f"hf://datasets/mill/grain@{COMMIT}"}
    hub.down = True
    run(tmp_path / "dag.yaml", tmp_path / "again")
    hub.down = False
    assert roots(tmp_path / "again", ["documents"]) == roots(tmp_path / "out", ["documents"])


ASK = """
import json, sys
import pydantic
from manifests.errors import ManifestError
from pipelines.ingest.hub import IngestHub
for fields in json.loads(sys.argv[1]):
    try:
        fields = {"kind": "ingest_hub", "dataset": "mill/grain", **fields}
        place = pydantic.TypeAdapter(IngestHub).validate_json(json.dumps(fields)).place("n")
        files = (str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
        answer = sorted(path for path in files if not path.startswith("."))
    except ManifestError as error:
        answer = str(error)
    print(json.dumps(answer))
"""


def ask(*fields: dict[str, Any]) -> list[Any]:
    """Files or error message for each choice. One process answers all, because the libraries take seconds to import."""
    command = [sys.executable, "-c", ASK, json.dumps(fields)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), timeout=200)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.usefixtures("environment")
def test_a_wrong_choice_is_answered_with_the_available_ones(tmp_path: Path) -> None:
    pinned = {"revision": COMMIT, "cache": str(tmp_path / "cache")}
    answers = ask(
        pinned | {"config": "talk"},
        pinned | {"files": ["data/t*-00000.*"]},
        pinned | {"config": "song"},
        pinned | {"splits": ["dev"]},
        pinned | {"files": ["*.csv"]},
        pinned | {"revision": "main"},
        pinned | {"revision": "f" * 40},
        pinned | {"dataset": "mill/dust"},
    )
    assert answers[:2] == [["talk/a.jsonl"], ["data/test-00000.parquet", "data/train-00000.parquet"]]
    messages = [
        "Available: ['default', 'talk']",
        "there are train, test",
        "no file matches *.csv",
        COMMIT,
        "f" * 40,
        "mill/dust",
    ]
    for words, answer in zip(messages, answers[2:], strict=True):
        assert isinstance(answer, str) and words in answer


def test_without_a_network_the_error_names_ingest_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    pinned = {"revision": COMMIT, "cache": str(tmp_path / "cache")}
    (message,) = ask(pinned | {"revision": "main"})
    assert "Connection refused" in message and "ingest_folder" in message
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # otherwise the libraries try again for half a minute
    for message in ask(pinned, pinned | {"files": ["*"]}):
        assert "can't be fetched" in message and "ingest_folder" in message
