"""A changed limit gives the same records as a filter that ran with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.errors import ManifestError, StoreError
from pipelines.inspect.explain import explain
from pipelines.inspect.what_if import what_if
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, run

FILTER = """
  {name}:
    kind: filter
    input: {input}
    ops:
      - {{kind: text_length, min_characters: {short}, max_characters: {long}}}
      - {{kind: rights, licenses: [CC-BY-4.0], domains: [knowledge]}}
      - {{kind: few_letters, min_fraction: {letters}, domains: [knowledge]}}
      - {{kind: image_too_small, min_side_px: {side}}}
"""
HERE = {"short": 300, "long": 350, "letters": 0.5, "side": 20}
LIMITS = {
    "short": "text_length.min_characters",
    "long": "text_length.max_characters",
    "letters": "few_letters.min_fraction",
    "side": "image_too_small.min_side_px",
}
CASES = [
    dict.fromkeys(moved, value)
    for moved in (("short",), ("short", "long"), ("side",))
    for value in (0, 20, 310, 330, 10_000)
] + [{"letters": 0.99}, {"letters": 2.0}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    small_data.write(folder / "data", texts=120)
    dag = "name: judged\nnodes:\n  documents: {kind: ingest_folder, path: ./data, license: CC-BY-4.0}"
    dag += FILTER.format(name="first", input="documents", **HERE)
    for number, moved in enumerate(CASES):
        dag += FILTER.format(name=f"case_{number}", input="documents", **{**HERE, **moved})
    dag += "  second: {kind: filter, input: first, ops: [{kind: few_letters, min_fraction: 0.5}]}\n"
    (folder / "dag.yaml").write_text(dag)
    run(folder / "dag.yaml", folder / "out")
    return folder


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_changed_limit_gives_the_records_of_another_run(folder: Path, number: int) -> None:
    view = head(folder / "out", "first")
    found = what_if(view, [f"{LIMITS[name]}={value}" for name, value in CASES[number].items()])
    table, old = head(folder / "out", f"case_{number}").table(), view.table()
    kept = table["keep"].to_numpy()
    (all_of_them,) = found["kept"]
    assert all_of_them["documents"] == int(old["keep"].to_numpy().sum())
    assert all_of_them["documents_after"] == int(kept.sum())
    assert all_of_them["characters_after"] == int(table["characters"].to_numpy()[kept].sum())
    assert sum(row["documents_after"] for row in found["by_domain"]) == int(kept.sum())
    flipped = old["keep"].to_numpy() != kept
    assert bool(flipped.any()) == bool(found.get("added") or found.get("removed"))


def test_scores_are_columns_also_of_records_that_another_op_dropped(folder: Path) -> None:
    table = head(folder / "out", "second").table()
    characters = table["first.text_length.characters"].to_numpy()
    short = characters < 300
    assert np.array_equal(short, np.array([reason == "too_short" for reason in table["reason"].to_pylist()]))
    letters = table["first.few_letters.fraction"].to_numpy()
    assert np.isfinite(letters[short]).any() and np.isnan(letters[table["images"].to_numpy() > 0]).all()
    letters = table["second.few_letters.fraction"].to_numpy()
    assert np.isnan(letters[~head(folder / "out", "first").table(["keep"])["keep"].to_numpy()]).all()


def test_wrong_changes_are_rejected_with_a_message(folder: Path) -> None:
    view = head(folder / "out", "first")
    with pytest.raises(ManifestError, match=r"no limit 'text_length\.max'"):
        what_if(view, ["text_length.max=3"])
    with pytest.raises(ManifestError, match="can't read"):
        what_if(view, ["text_length.min_characters"])
    with pytest.raises(StoreError, match="no filter made this store"):
        what_if(head(folder / "out", "documents"), ["text_length.min_characters=3"])


def test_a_language_filter_writes_labels_and_a_changed_limit_uses_them(tmp_path: Path) -> None:
    dag = """
name: languages
nodes:
  documents: {kind: ingest_folder, path: ./data}
  spoken:
    kind: filter
    input: documents
    ops: [{kind: language, keep: [en, de], min_confidence: 0.9}, {kind: gopher_quality, domains: [code]}]
"""
    texts = {
        "en": "Everyone has the right to freedom of thought.",
        "de": "Alle Menschen sind frei und gleich geboren.",
        "fr": "Tous les êtres humains naissent libres.",
        "unsure": "de la",
    }
    (tmp_path / "data").mkdir()
    for name, text in texts.items():
        (tmp_path / "data" / f"{name}.txt").write_text(text)
    (tmp_path / "dag.yaml").write_text(dag)
    run(tmp_path / "dag.yaml", tmp_path / "out")
    view = head(tmp_path / "out", "spoken")
    rows = {row["locator"]: row for row in view.table().to_pylist()}
    assert {name: rows[f"{name}.txt"]["spoken.language.language"] for name in ("en", "de", "fr")} == {
        name: name for name in ("en", "de", "fr")
    }
    assert {name: rows[f"{name}.txt"]["reason"] for name in ("en", "de", "fr")} == {
        "en": None,
        "de": None,
        "fr": "other_language",
    }
    found = what_if(view, ["language.min_confidence=0"])
    assert found["kept"][0] == {**found["kept"][0], "documents": 2, "documents_after": 2}
    assert {row["group"] for row in found["by_language"]} >= {"en", "de", "fr"}
    assert what_if(view, ["language.min_confidence=1.5"])["kept"][0]["documents_after"] == 0
    (record,) = explain(tmp_path / "out", "fr.txt")["records"]
    decisions = [row for row in record["decisions"] if row.get("score") == "language"]
    assert [(row["value"], row["limit"], row["decision"]) for row in decisions] == [
        ("fr", "one of en, de", "dropped: other_language")
    ]
    assert record["verdict"].startswith("out: spoken") and "(language fr, limit: one of en, de)" in record["verdict"]
