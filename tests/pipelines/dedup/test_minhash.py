"""The nodes `minhash` and `dedup_minhash`: near duplicates are found as often as exact Jaccard similarity predicts."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedup import minhash_loops, reference
from tests.pipelines.dag.test_run import head, run

WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=3 + i % 6)) for i in range(4000)]


def texts(seed: int, pairs: int, edits: int, length: int = 200) -> tuple[list[str], list[str]]:
    """Texts, and copies of them with `edits` words replaced."""
    dice = random.Random(seed)
    first, second = [], []
    for _ in range(pairs):
        words = dice.choices(WORDS, k=length)
        copy = list(words)
        for place in dice.sample(range(length), edits):
            copy[place] = dice.choice(WORDS)
        first.append(" ".join(words))
        second.append(" ".join(copy))
    return first, second


@pytest.mark.parametrize("edits", [1, 3, 6, 9, 14])
def test_pairs_are_found_as_often_as_their_similarity_predicts(edits: int) -> None:
    pairs = 800
    first, second = texts(edits, pairs, edits)
    shared = (minhash_loops.keys_of(first, 5, 14, 8) == minhash_loops.keys_of(second, 5, 14, 8)).any(1)
    expected = reference.predicted(first + second, [(i, pairs + i) for i in range(pairs)], 5, 14, 8)
    spread = np.sqrt((expected * (1 - expected)).sum())
    assert abs(shared.sum() - expected.sum()) <= 4 * spread + 1


def test_texts_without_common_shingles_share_no_band() -> None:
    first, second = texts(7, 800, 0)[0], texts(8, 800, 0)[0]
    assert not (minhash_loops.keys_of(first, 5, 14, 8) == minhash_loops.keys_of(second, 5, 14, 8)).any()


SOUP = st.lists(
    st.sampled_from(
        ["The mill", "THE MILL", "1999", "2024", "naïve", "nai\u0308ve", "中文字", "ひらがな", "кот", "ไทย", "x"]
    ),
    min_size=1,
    max_size=12,
)
GAPS = st.sampled_from([" ", ", ", "\n", "\u2014", "\u3002", "\u00a0", " - "])


@given(SOUP, st.data())
def test_keys_are_equal_if_the_shingles_of_the_reference_are(soup: list[str], data: st.DataObject) -> None:
    first, second = (data.draw(GAPS).join(soup) for _ in range(2))
    mixed = " ".join(data.draw(st.permutations(soup)))
    keys = minhash_loops.keys_of([first, second, mixed], 3, 16, 1)
    assert (keys[0] == keys[1]).all() and reference.shingles(first, 3) == reference.shingles(second, 3)
    same = reference.shingles(first, 3) == reference.shingles(mixed, 3)
    assert (keys[0] == keys[2]).all() == same


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), max_size=30),
    st.integers(1, 9),
    st.integers(1, 7),
)
def test_clusters_equal_those_of_the_reference_with_any_memory(rows: list[list[int]], cut: int, budget: int) -> None:
    keys = np.array(rows, np.uint64).reshape(-1, 3) << np.uint64(32)
    bands = [[keys[at : at + cut, band] for at in range(0, len(keys), cut)] for band in range(3)]
    wanted = reference.clusters(keys)
    for memory in (1 << 30, budget * minhash_loops.JOIN_BYTES):
        assert minhash_loops.clusters(bands, len(keys), memory).tolist() == wanted


DAG = """
name: near
nodes:
  documents: {kind: ingest_folder, path: ./data}
  long: {kind: filter, input: documents, ops: [{kind: text_length, min_characters: 100}]}
  signed: {kind: minhash, input: long}
  unique: {kind: dedup_minhash, input: signed, max_memory_mb: 1}
  longest: {kind: dedup_minhash, input: signed, prefer: characters}
  again: {kind: minhash, input: unique}
  nothing_more: {kind: dedup_minhash, input: again}
"""


def test_one_document_of_each_cluster_stays_and_the_others_name_it(tmp_path: Path) -> None:
    first, second = texts(3, 60, 2)
    lines = [json.dumps({"text": text}) for text in [*first, *(f"{text} and a few words more" for text in second)]]
    random.Random(0).shuffle(lines)
    (tmp_path / "data").mkdir()
    for part in range(3):
        (tmp_path / "data" / f"{part}.jsonl").write_text("\n".join(lines[part::3]) + '\n{"text": "mill"}\n')
    (tmp_path / "dag.yaml").write_text(DAG)
    run(tmp_path / "dag.yaml", tmp_path / "out")
    table = head(tmp_path / "out", "unique").table()
    rows = [row for row in table.to_pylist() if row["reason"] != "too_short"]
    clusters: defaultdict[str, list[dict]] = defaultdict(list)
    for row in rows:
        clusters[row["duplicate_of"] or row["id"]].append(row)
    assert len(clusters) == 60 and all(len(members) == 2 for members in clusters.values())
    for survivor, members in clusters.items():
        assert survivor == min(row["id"] for row in members)
        assert [row["keep"] for row in members if row["id"] == survivor] == [True]
        assert {row["unique.cluster_size"] for row in members} == {2}
    assert {row["id"]: row["reason"] for row in rows if not row["keep"]} == {
        row["id"]: "near_duplicate" for members in clusters.values() for row in members if row["duplicate_of"]
    }
    longest = {row["id"] for row in head(tmp_path / "out", "longest").table().to_pylist() if row["keep"]}
    assert longest >= {max(members, key=lambda row: row["characters"])["id"] for members in clusters.values()}
    kept = [head(tmp_path / "out", name).kept().tolist() for name in ("unique", "nothing_more")]
    assert kept[0] == kept[1]
    wrong = run(tmp_path / "dag.yaml", tmp_path / "out", "--set", "nodes.longest.prefer=domain", code=2)
    assert "'domain' is no column of numbers" in wrong
