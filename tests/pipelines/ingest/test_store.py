"""`ingest_store`: kept documents of a view arrive unchanged, and stay after their store is deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, run

OTHER = """
name: other
nodes:
  documents: {{kind: ingest_store, store: {store}{more}}}
  longer: {{kind: filter, input: documents, ops: [{{kind: text_length, min_characters: 300}}]}}
"""


def test_kept_documents_arrive_with_media_and_survive_their_store(tmp_path: Path) -> None:
    small_data.write(tmp_path / "data", texts=30)
    (tmp_path / "dag.yaml").write_text(small_data.DAG)
    run(tmp_path / "dag.yaml", tmp_path / "first", "--until", "unique")
    unique = head(tmp_path / "first", "unique")
    wanted = list(unique.documents(unique.kept().tolist()))
    assert 0 < len(wanted) < len(unique.table(["id"])) and any(document.media for document in wanted)

    other = tmp_path / "other.yaml"
    other.write_text(OTHER.format(store=tmp_path / "first" / "unique", more=""))
    run(other, tmp_path / "second")
    documents = head(tmp_path / "second", "documents")
    copies = list(documents.documents(range(len(wanted))))
    assert {copy.id: (copy.text, [medium.payload for medium in copy.media]) for copy in copies} == {
        document.id: (document.text, [medium.payload for medium in document.media]) for document in wanted
    }
    assert "filtered.text_length.characters" in documents.table().column_names
    assert "already committed" in run(other, tmp_path / "second")

    other.write_text(OTHER.format(store=tmp_path / "first" / "unique", more=", snapshot: 1"))
    run(other, tmp_path / "second")
    assert head(tmp_path / "second", "documents").content_root == documents.content_root
    shutil.rmtree(tmp_path / "first")
    assert len(list(head(tmp_path / "second", "longer").documents(range(3)))) == 3


def test_a_store_of_another_kind_is_refused_before_work(tmp_path: Path) -> None:
    small_data.write(tmp_path / "data", texts=10)
    (tmp_path / "dag.yaml").write_text(small_data.DAG)
    run(tmp_path / "dag.yaml", tmp_path / "first", "--until", "samples")
    other = tmp_path / "other.yaml"
    other.write_text(OTHER.format(store=tmp_path / "first" / "samples", more=""))
    assert "this is a store of samples" in run(other, tmp_path / "second", code=2)
    other.write_text(OTHER.format(store=tmp_path / "nowhere", more=""))
    assert "nowhere" in run(other, tmp_path / "second", code=1)
