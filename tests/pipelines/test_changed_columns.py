"""Nodes that read columns of another node: they run again if the columns change and the documents don't."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.pipelines.dag.test_run import head, roots, run
from tests.pipelines.drawn_pictures import encoded, photo

DAG = """
name: changed
nodes:
  documents: {kind: ingest_folder, path: ./data}
  tests: {kind: ingest_folder, path: ./tests}
  keys: {kind: minhash, input: documents}
  unique: {kind: dedup_minhash, input: keys}
  hashed: {kind: image_hash, input: documents}
  looks: {kind: decontaminate, input: hashed, against: [tests]}
  seen: {kind: dedup_images, input: looks, prefer: hashed.pixels}
"""
ENDS = ("unique", "looks", "seen")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changed")
    dice = random.Random(1)
    words = [f"w{i}" for i in range(500)]
    text = dice.choices(words, k=60)
    near = [f"x{i}" if i % 6 == 0 else word for i, word in enumerate(text)]
    for name in ("data", "tests"):
        (folder / name).mkdir()
    (folder / "data" / "one.txt").write_text(" ".join(text))
    (folder / "data" / "near.txt").write_text(" ".join(near))
    for name, size in (("small", (170, 130)), ("large", (340, 260))):
        (folder / "data" / f"{name}.jpg").write_bytes(encoded(photo(0, size)))
        (folder / "data" / f"{name}.txt").write_text(f"The {name} one.")
    (folder / "tests" / "items.jsonl").write_text(json.dumps({"text": " ".join(dice.choices(words, k=20))}))
    (folder / "dag.yaml").write_text(DAG)
    run(folder / "dag.yaml", folder / "calm")
    assert [len(head(folder / "calm", name).kept()) for name in ENDS] == [4, 4, 3]
    return folder


def test_changed_keys_give_other_duplicates(folder: Path, tmp_path: Path) -> None:
    wider = ["--set", "nodes.keys.words=1", "--set", "nodes.keys.rows=2"]
    shutil.copytree(folder / "calm", tmp_path / "out")
    run(folder / "dag.yaml", tmp_path / "out", *wider)
    assert len(head(tmp_path / "out", "unique").kept()) == 3
    run(folder / "dag.yaml", tmp_path / "fresh", *wider)
    assert roots(tmp_path / "out", ENDS) == roots(tmp_path / "fresh", ENDS)


def test_a_changed_evaluation_finds_other_documents(folder: Path, tmp_path: Path) -> None:
    for name in ("data", "tests"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.copy(folder / "dag.yaml", tmp_path)
    shutil.copytree(folder / "calm", tmp_path / "out")
    taken = " ".join((folder / "data" / "one.txt").read_text().split()[20:40])
    (tmp_path / "tests" / "more.jsonl").write_text(json.dumps({"text": taken}))
    run(tmp_path / "dag.yaml", tmp_path / "out")
    assert [len(head(tmp_path / "out", name).kept()) for name in ENDS] == [4, 3, 2]
