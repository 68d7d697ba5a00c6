"""License, origin and consent: read from the record, else from the ingest node, and required by the op `rights`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests import load
from manifests.errors import ManifestError
from manifests.records import Document, Drop, Text, record_id
from pipelines.filters.filter import Filter
from pipelines.filters.rights import RequiredRights
from tests.pipelines.dag.test_run import head, run

DAG = """
name: rights
nodes:
  documents: {kind: ingest_folder, path: ./data, license: CC-BY-4.0, consent: opt-in}
  allowed:
    kind: filter
    input: documents
    ops:
      - {kind: rights, licenses: [cc-by-4.0, CC0-1.0], require_origin: true, consents: [opt-in]}
"""


def document(license: str = "", origin: str = "", consent: str = "", domain: str = "web") -> Document:
    return Document(record_id("t", "1"), "t", "1", domain, (Text("a"),), (), {}, (), license, origin, consent)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (document(), "no_license"),
        (document("proprietary", "x", "opt-in"), "license_not_allowed"),
        (document("MIT", "", "opt-in"), "no_origin"),
        (document("MIT", "x"), "no_consent"),
        (document("mit", "x", "opt-out"), "consent_not_allowed"),
        (document("mit", "x", "Opt-In"), None),
        (document(domain="code"), None),
    ],
)
def test_a_document_without_the_rights_is_dropped_with_the_first_reason(given: Document, reason: str | None) -> None:
    op = RequiredRights(kind="rights", licenses=("MIT",), require_origin=True, consents=("opt-in",), domains=("web",))
    verdict = op.apply(given)
    assert verdict == (Drop(reason) if reason else given)


def test_any_license_passes_if_no_license_is_named() -> None:
    op = RequiredRights(kind="rights", require_license=True)
    assert op.apply(document()) == Drop("no_license")
    assert isinstance(op.apply(document("anything")), Document)


def test_an_op_that_requires_nothing_is_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "f.yaml"
    manifest.write_text("kind: filter\ninput: a\nops: [{kind: rights}]\n")
    with pytest.raises(ManifestError, match="requires nothing"):
        load.load(Filter, [manifest])


def test_rights_are_columns_and_missing_rights_are_drop_reasons(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [
        {"text": "first", "url": "https://a.example/1"},
        {"text": "second", "license": "proprietary", "url": "https://a.example/2"},
        {"text": "third"},
        {"text": "fourth", "url": "https://a.example/4", "consent": "opt-out"},
    ]
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "dag.yaml").write_text(DAG)
    run(tmp_path / "dag.yaml", tmp_path / "out")
    table = head(tmp_path / "out", "allowed").table(["license", "origin", "consent", "reason"]).to_pylist()
    assert [tuple(row.values()) for row in table] == [
        ("CC-BY-4.0", "https://a.example/1", "opt-in", None),
        ("proprietary", "https://a.example/2", "opt-in", "license_not_allowed"),
        ("CC-BY-4.0", "", "opt-in", "no_origin"),
        ("CC-BY-4.0", "https://a.example/4", "opt-out", "consent_not_allowed"),
    ]
