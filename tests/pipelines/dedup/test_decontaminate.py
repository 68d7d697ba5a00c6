"""The node `decontaminate`: evaluation items in texts, by runs of words, and in pictures, whole and cropped."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedup import hamming, image_hash, ngrams, reference
from pipelines.inspect import queries
from tests.pipelines.dag.test_run import head, run
from tests.pipelines.dedup.test_images import hash_payload
from tests.pipelines.dedup.test_minhash import WORDS
from tests.pipelines.drawn_pictures import cropped, encoded, photo

LINES = st.lists(st.sampled_from(["one", "Two", "three", "4", "5", "水"]), max_size=14).map(" ".join)


def slow(text: str, items: list[str], words: int, min_words: int, max_items: int) -> bool:
    """Whether the text contains any of the items, by comparing lists of words."""
    sequences = [item.casefold().split() for item in items]
    sequences = [sequence for sequence in sequences if len(sequence) >= min_words]
    runs = []
    for sequence in sequences:
        length = min(words, len(sequence))
        runs.append({tuple(sequence[i : i + length]) for i in range(len(sequence) - length + 1)})
    shared = Counter(run for item_runs in runs for run in item_runs)
    own = text.casefold().split()
    return any(
        tuple(own[i : i + len(run)]) == run
        for run, count in shared.items()
        if count <= max_items
        for i in range(len(own) - len(run) + 1)
    )


@given(LINES, st.lists(LINES, max_size=5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_common_runs_equal_a_comparison_of_words(text, items, words, min_words, max_items) -> None:
    min_words = min(words, min_words)
    index = ngrams.index_items(items, words, min_words, max_items)
    item, length, count = ngrams.first_match(text, index)
    assert (item >= 0) == slow(text, items, words, min_words, max_items) == (count > 0)
    if item >= 0:
        texts = (items[item], text)
        wanted, words = (reference.words(each.replace("4", "four").replace("5", "five")) for each in texts)
        runs = [wanted[i : i + length] for i in range(len(wanted) - length + 1)]
        assert any(words[i : i + length] in runs for i in range(len(words)))


def test_a_problem_with_other_numbers_is_another_item() -> None:
    problem = "Tom has {} apples and gives {} to each of his {} friends how many are left over"
    index = ngrams.index_items([problem.format(20, 3, 5)], 13, 8, 10)
    assert ngrams.first_match(f"Yes: {problem.format(20, 3, 5).upper()}?", index)[0] == 0
    assert ngrams.first_match(problem.format(21, 4, 6), index)[0] == -1


def test_cropped_pictures_are_found_and_others_are_not() -> None:
    """12 pictures and random crops of 50 to 92 % of the sides."""
    dice = np.random.default_rng(0)
    grays = [image_hash.gray_of(np.asarray(photo(seed, (340, 260)))) for seed in range(12)]
    by_picture = [[image_hash.hash_of(gray, box) for box in image_hash.crops(*gray.size)] for gray in grays]
    crop_hashes = np.array([each.phash for crops in by_picture for each in crops], np.uint64)
    crop_details = np.array([each.detail for crops in by_picture for each in crops], np.uint64)
    cuts = [cropped(photo(seed, (340, 260)), dice.uniform(0.5, 0.92), *dice.random(2)) for seed in range(12)]
    others = [photo(seed, (340, 260)) for seed in range(100, 112)]
    pictures = [hash_payload(encoded(each, quality=80)) for each in (*cuts, *others)]
    hashes = np.array([each.phash for each in pictures], np.uint64)
    details = np.array([each.detail for each in pictures], np.uint64)
    near = hamming.nearest(hashes, details, crop_hashes, crop_details, 10, 60)
    right = near[:12] // image_hash.CROPS == np.arange(12)
    assert right[near[:12] >= 0].all() and right.mean() >= 0.85
    assert (near[12:] < 0).all()


DAG = """
name: clean
nodes:
  documents: {kind: ingest_folder, path: ./data}
  tests: {kind: ingest_folder, path: ./tests}
  hashed: {kind: image_hash, input: documents}
  tests_hashed: {kind: image_hash, input: tests, crops: true}
  clean: {kind: decontaminate, input: hashed, against: [tests_hashed]}
  unique: {kind: dedup_images, input: clean}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    dice = random.Random(0)
    long, short = " ".join(dice.choices(WORDS, k=40)), " ".join(dice.choices(WORDS, k=9))
    filler = [" ".join(dice.choices(WORDS, k=60)) for _ in range(6)]
    texts = {
        "a run": f"{filler[0]} {' '.join(long.split()[7:20])} {filler[1]}",
        "a run less": f"{filler[0]} {' '.join(long.split()[7:19])} {filler[1]}",
        "all of it": f"{filler[2]} {short.upper()}! {filler[3]}",
        "not all": f"{filler[2]} {short.rpartition(' ')[0]} {filler[3]}",
        "other": filler[4],
    }
    for name in ("data", "tests"):
        (folder / name).mkdir()
    (folder / "data" / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts.values()))
    (folder / "tests" / "items.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in (long, short, "Yes."))
    )
    for seed in range(2):
        (folder / "tests" / f"{seed}.jpg").write_bytes(encoded(photo(seed, (340, 260))))
        (folder / "tests" / f"{seed}.txt").write_text(f"Test picture {seed}.")
    for name, picture in (("same", photo(0, (170, 130))), ("cut", cropped(photo(1, (340, 260)), 0.7, 0, 1))):
        (folder / "data" / f"{name}.webp").write_bytes(encoded(picture, "WEBP"))
        (folder / "data" / f"{name}.txt").write_text(f"The {name} one.")
    (folder / "data" / "new.png").write_bytes(encoded(photo(7), "PNG"))
    (folder / "data" / "new.txt").write_text("A new one.")
    (folder / "dag.yaml").write_text(DAG)
    return folder


def test_each_contaminated_document_names_its_item(folder: Path) -> None:
    run(folder / "dag.yaml", folder / "out")
    view = head(folder / "out", "clean")
    verdicts = {
        row["locator"]: (row["reason"], row["clean.how"], row["clean.evaluation"]) for row in view.table().to_pylist()
    }
    clean = (None, None, None)
    assert {name.split("/")[-1]: verdict for name, verdict in verdicts.items()} == {
        "texts.jsonl#1": ("contaminated_text", "ngram", "tests"),
        "texts.jsonl#2": clean,
        "texts.jsonl#3": ("contaminated_text", "item", "tests"),
        "texts.jsonl#4": clean,
        "texts.jsonl#5": clean,
        "same.webp": ("contaminated_image", "image", "tests"),
        "cut.webp": ("contaminated_image", "crop", "tests"),
        "new.png": clean,
    }
    assert view.meta["evaluation"] == {"against": ["tests_hashed"], "items": 5, "too short": 3}
    items = {row["id"]: row["locator"] for row in head(folder / "out", "tests").table().to_pylist()}
    report = queries.contaminations(view)
    assert [(row["how"], row["documents"], items[row["item"]]) for row in report] == [
        ("crop", 1, "1.jpg"),
        ("image", 1, "0.jpg"),
        ("item", 1, "items.jsonl#2"),
        ("ngram", 1, "items.jsonl#1"),
    ]
    assert head(folder / "out", "unique").kept().tolist() == view.kept().tolist()


def test_pictures_without_hashes_are_refused_before_any_work(folder: Path) -> None:
    (folder / "bare.yaml").write_text(DAG.replace("against: [tests_hashed]", "against: [tests]"))
    assert "image_hash over tests" in run(folder / "bare.yaml", folder / "out", code=2)
