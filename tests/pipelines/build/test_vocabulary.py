"""A vocabulary learned from a sample of documents, and used by naming its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests.records import Document, Text, record_id
from pipelines.build.vocabulary import LearnVocabulary
from pipelines.node import OutputFolder, Product, UnitTask
from stores.store import Store
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, run
from tokenization.learn_ranks import count_pieces, learn
from tokenization.vocabulary import Vocabulary

DAG = """
name: words
nodes:
  documents: {{kind: ingest_folder, path: {data}}}
  kept: {{kind: filter, input: documents, ops: [{{kind: text_length, min_characters: 40}}]}}
  ranks: {{kind: learn_vocabulary, inputs: [kept], ranks: 300}}
  samples: {{kind: tokenize, inputs: [kept], vocabulary: "{vocabulary}"}}
"""


def test_a_vocabulary_is_learned_from_kept_documents_and_used_when_its_file_is_named(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    texts = [small_data.text(seed) for seed in range(12)] + ["zzqq zzqq zzqq"]
    (data / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    dag = tmp_path / "dag.yaml"
    dag.write_text(DAG.format(data=data, vocabulary="tiny"))
    run(dag, out)
    made = out / "ranks" / "ranks.tiktoken"
    learned = Vocabulary.load(made)
    assert list(learned.tokens) == learn(count_pieces(texts[:-1]), 300)  # what was dropped teaches nothing
    assert head(out, "samples").meta["vocabulary"] == Vocabulary.load("tiny").digest  # nobody promoted it

    promoted = tmp_path / "mine.tiktoken"
    promoted.write_bytes(made.read_bytes())
    dag.write_text(DAG.format(data=data, vocabulary=promoted))
    run(dag, out)
    assert head(out, "samples").meta["vocabulary"] == learned.digest


@pytest.fixture
def product(tmp_path: Path) -> Product:
    return stored(tmp_path / "one", range(60), 1000)


def stored(place: Path, numbers: range, shard_records: int) -> Product:
    store = Store.create(str(place), "documents", "documents")
    receipts = []
    for first in range(0, len(numbers), shard_records):
        writer = store.writer(f"unit {first}")
        for number in numbers[first : first + shard_records]:
            name = str(number)
            writer.add(Document(record_id("t", name), "t", name, "web", (Text(small_data.text(number)),)))
        receipts.append(writer.finish())
    units = [receipt.unit for receipt in receipts]
    snapshot = store.commit(receipts, node="t", units=units)
    return Product("documents", "documents", str(place), snapshot.content_root, snapshot.number)


def made(node: LearnVocabulary, product: Product, folder: Path) -> bytes:
    inputs = {"documents": product}
    (unit,) = node.survey("ranks", inputs).units
    (file,) = node.make(UnitTask("ranks", unit, inputs), OutputFolder(folder, "ranks"))
    return (folder / file).read_bytes()


def test_the_sample_depends_on_documents_and_seed_only(product: Product, tmp_path: Path) -> None:
    node = LearnVocabulary(kind="learn_vocabulary", inputs=("documents",), ranks=320, sample_characters=4000)
    other = stored(tmp_path / "other", range(59, -1, -1), 7)
    assert made(node, product, tmp_path / "a") == made(node, other, tmp_path / "b")
    again = LearnVocabulary(kind="learn_vocabulary", inputs=("documents",), ranks=320, sample_characters=4000, seed=1)
    assert made(again, product, tmp_path / "c") != made(node, product, tmp_path / "a")
