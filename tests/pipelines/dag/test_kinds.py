"""`millrace run --kinds` and `--schema`: documentation read from the node classes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from manifests.errors import ManifestError
from manifests.fields import field_docs
from manifests.load import load
from pipelines.catalogue import NODES
from pipelines.dag import kinds
from pipelines.dag.graph import Dag
from pipelines.dag.run import main
from pipelines.filters.filter import OPS

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "manifests" / "data").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> Any:
    return kinds.manifest_schema()


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["--kinds", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_kind_is_listed_with_its_products_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys)
    first = {line.split()[0]: line for line in lines if line and line[0] != " "}
    assert set(NODES) <= set(first) and max(map(len, lines)) <= 100
    assert "documents -> view" in first["filter"] and "packs, samples -> files" in first["train"]
    assert "plan -> packs" in first["pack"] and "documents -> samples" in first["tokenize"]


@pytest.mark.parametrize("kind", [*NODES, *OPS, "repair_unicode", "rephrase"])
def test_every_kind_shows_each_of_its_keys(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, kind)
    assert lines[0].startswith(f"{kind}: ") and max(map(len, lines)) <= 100
    cls = NODES.get(kind) or OPS.get(kind)
    for field in field_docs(cls) if cls else ():
        assert field.name == "kind" or any(line.startswith(f"  {field.name}: ") for line in lines), field.name


def test_a_key_is_shown_with_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "materialize")
    assert "  input: text (required)" in lines and "  shard_bytes: whole number = 268435456" in lines
    assert any(line.startswith("      ") for line in lines)
    assert "  budget: map, keys with defaults" in shown(capsys, "score_endpoint")
    assert "  vision_share: map, keys with defaults" in shown(capsys, "plan")


def test_a_misspelled_kind_is_answered_by_a_similar_one() -> None:
    with pytest.raises(ManifestError, match="no kind 'dedup_exat'") as caught:
        main(["--kinds", "dedup_exat"])
    assert caught.value.fix == "did you mean 'dedup_exact'?"


def test_without_a_manifest_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2 and "name a MANIFEST" in capsys.readouterr().err


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_manifest_is_valid_against_the_schema(schema: Any, file: Path) -> None:
    jsonschema.validate(load(Dag, [file]).data, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": "x"},
        {"nodes": {"a": {"kind": "ingest_folder", "path": "./x", "pth": 1}}},
        {"nodes": {"a": {"kind": "ingest_foldr", "path": "./x"}}},
        {"nodes": {"a": {"kind": "filter", "input": "b", "ops": [{"kind": "garbled", "least": 1}]}}},
        {"nodes": {"a": {"kind": "filter", "input": "b"}}},
        {"tolerance": {"in_a_row": "many"}},
    ],
    ids=str,
)
def test_a_mistake_is_invalid_against_the_schema(schema: Any, wrong: dict[str, Any]) -> None:
    jsonschema.validate({"name": "x", "nodes": {}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "x", "nodes": {}} | wrong, schema)


def test_the_schema_describes_keys_and_is_printed_as_json(schema: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    definition = schema["$defs"]["Tolerance"]["properties"]["in_a_row"]
    assert definition["description"] == "Bad records one after the other." and definition["default"] == 100
    command = [sys.executable, str(ROOT / "millrace.py"), "run", "--schema"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == schema


def test_every_key_of_a_manifest_has_a_meaning(schema: Any) -> None:
    without = [
        f"{name}.{key}"
        for name, definition in schema["$defs"].items()
        for key, value in definition["properties"].items()
        if key != "kind" and "description" not in value
    ]
    assert not without


def test_the_limit_of_an_op_names_its_score_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(" ".join(shown(capsys, "fineweb")).split())
    assert "max_line_ends_per_word: number = 0.3 Documents with `line_ends_per_word` above it are dropped as" in text
