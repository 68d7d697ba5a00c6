"""Explanations of records agree with the stores: scores, limits, duplicates, packs, training steps."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from manifests.errors import StoreError
from pipelines.inspect import command, explain, run_page
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import STORES, head, run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    small_data.write(folder / "data", texts=40)
    (folder / "dag.yaml").write_text(small_data.DAG)
    run(folder / "dag.yaml", folder / "out")
    packs = head(folder / "out", "packs")
    trained = folder / "out" / "train"  # the files that exposure reads: the packs and the steps done
    trained.mkdir()
    (trained / "done.json").write_text(json.dumps({"packs": packs.content_root}))
    lines = [
        json.dumps({"event": "step", "step": step, "loss": 5.0}) for step in range(1, packs.counts["records"] // 2 + 1)
    ]
    (trained / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "out"


def test_explanations_equal_the_decisions_of_the_views(out: Path) -> None:
    table = head(out, "unique").table(["id", "locator", "keep", "reason", "duplicate_of"])
    reasons = Counter(table["reason"].to_pylist())
    assert reasons["too_short"] and reasons["exact_duplicate"]
    by_reason = {row["reason"]: row for row in table.to_pylist()}
    for row in by_reason.values():
        (record,) = explain.explain(out, row["id"])["records"]
        assert explain.explain(out, row["locator"])["records"] == [record]
        dropped = [row for row in record["decisions"] if row["decision"].startswith("dropped")]
        assert bool(dropped) != row["keep"]
        assert record["verdict"].startswith("in" if row["keep"] else f"out: {dropped[0]['node']}")
        assert bool(record["samples"]) == bool(record["packs"][0]["packs"]) == row["keep"]
        if row["reason"] == "exact_duplicate":
            assert dropped[0]["duplicate_of"] == row["duplicate_of"]
        if row["reason"] == "too_short":
            assert dropped[0]["value"] < 8 and dropped[0]["limit"] == "at least 8"


def test_an_image_is_traced_to_its_packs_and_training_steps(out: Path) -> None:
    packs = head(out, "packs")
    held = [
        (ordinal, packed.media.digest, segment.sample)
        for ordinal, pack in enumerate(packs.records())
        for packed in pack.media
        for segment in pack.segments
        if packed.media.digest in {m.digest for m in _media_of(out, segment.sample)}
    ]
    assert held
    ordinal, digest, sample = held[0]
    records = explain.explain(out, digest)["records"]
    (record,) = [record for record in records if record["facts"]["id"] == sample]
    assert ordinal in record["packs"][0]["packs"]
    steps = [step for run in record["training"] for step in run["exposed_steps"]]
    assert steps == [batch + 1 for batch in record["packs"][0]["global_batches"]]
    assert record["verdict"] == f"in: {len(steps)} training {'step' if len(steps) == 1 else 'steps'} contained it"
    assert explain.main([str(out), digest]) == 0


def _media_of(out: Path, sample: str):
    samples = head(out, "samples")
    return [medium for place in samples.find("id", sample) for medium in samples.record(place.ordinal).media]


def test_a_quarantined_record_has_its_reason(out: Path) -> None:
    for locator, reason in small_data.HOSTILE.items():
        found = explain.explain(out, locator)
        assert reason in [row["reason"] for row in found["quarantine"]]


def test_samples_and_packs_of_copies_are_shown_once(out: Path) -> None:
    found = explain.explain(out, head(out, "unique").table(["locator"])["locator"][0].as_py())
    single = explain.for_display(found)
    double = explain.for_display(found | {"records": found["records"] * 2})
    numbered = {f"{name} 1" for name in single} | {"verdict 2", "record 2", "decisions 2"}
    assert set(double) == numbered and "samples" in single


def test_tables_fit_80_columns_and_the_counts_of_nodes_and_ops_add_up(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    rows = head(out, "unique").table(["locator", "reason"]).to_pylist()
    names = {row["reason"]: row["locator"] for row in rows}
    for arguments in ([str(out)], [str(out / "filtered")], [str(out / "unique")]):
        assert command.main(arguments) == 0
    for name in names.values():
        assert explain.main([str(out), name]) == 0
    lines = capsys.readouterr().out.splitlines()
    free = ("verdict ", "report", "store ", str(out), "  millrace", "packs: equal")
    assert max(len(line) for line in lines if not line.startswith(free)) <= 80
    command.main([str(out), "--json"])
    work = {row["node"]: row for row in json.loads(capsys.readouterr().out)["work"]}
    command.main([str(out / "filtered"), "--json"])
    ops = {row["op"]: row for row in json.loads(capsys.readouterr().out)["ops"]}
    bad = Counter(row["reason"] for row in rows)
    assert work["documents"]["records"] == work["documents"]["kept"] + head(out, "documents").counts["quarantined"]
    assert work["filtered"]["records"] == work["documents"]["kept"] == ops["no_text"]["examined"]
    assert work["unique"]["dropped"] == {"exact_duplicate": bad["exact_duplicate"]}
    assert work["unique"]["records"] == work["filtered"]["kept"] == work["unique"]["kept"] + bad["exact_duplicate"]
    assert work["samples"]["tokens"] > 0 and all(
        row["seconds"] >= 0 and row["records_per_s"] > 0 for row in work.values()
    )
    short = ops["text_length"]
    assert short["dropped"] == short["dropped_first"] == {"too_short": bad["too_short"]}
    assert 0 < short["examined"] < ops["no_text"]["examined"] and short["examined"] == short["kept"] + bad["too_short"]
    assert all(row["seconds"] >= 0 and row["documents_per_s"] > 0 for row in ops.values())


@pytest.mark.parametrize("name", STORES)
def test_every_kind_of_store_is_described(out: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(out / name)]) == 0
    assert f"({head(out, name).kind})" in capsys.readouterr().out


def test_an_unknown_name_is_an_error_with_a_next_step(out: Path) -> None:
    with pytest.raises(StoreError, match="no record of this run has the name"):
        explain.explain(out, "https://example.org/nothing")


def test_a_missing_store_is_named_and_the_rest_is_explained(out: Path, tmp_path: Path) -> None:
    name = head(out, "unique").table(["id"])["id"][0].as_py()
    copied = Path(shutil.copytree(out, tmp_path / "out"))
    shutil.rmtree(copied / "samples")
    result = explain.explain(copied, name)
    assert result["records"][0]["decisions"] == explain.explain(out, name)["records"][0]["decisions"]
    assert set(result["unreadable"]) == {"plan", "packs"} and not result["records"][0]["plans"]


def test_views_over_deleted_documents_are_shown_as_unreadable(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(out, tmp_path / "out"))
    shutil.rmtree(copied / "documents")
    with pytest.raises(StoreError, match=r"no record of this run has .*unique can't be read: .*there is no store here"):
        explain.explain(copied, "anything")
    assert command.main([str(copied)]) == 0
    output = capsys.readouterr().out
    assert f"unreadable: filtered, unique: {copied}/documents: there is no store here" in output and "packs" in output
    run_page.write(copied, copied / "page.html")
    assert "there is no store here" in (copied / "page.html").read_text()


@pytest.mark.parametrize("deleted", STORES)
def test_a_page_without_one_store_has_all_other_sections(out: Path, tmp_path: Path, deleted: str) -> None:
    def sections(run: Path) -> dict[str, str]:
        run_page.write(run, tmp_path / "page.html")
        _, *parts = (tmp_path / "page.html").read_text().split("<h2>")
        return dict(part.split("</h2>", 1) for part in parts)

    whole = sections(out)
    copied = Path(shutil.copytree(out, tmp_path / out.name))
    shutil.rmtree(copied / deleted)
    rest = sections(copied)
    unreadable = rest.pop("Unreadable", "")
    needs = {"documents": ["filtered", "unique"], "filtered": ["unique"], "samples": ["packs"], "plan": ["packs"]}
    assert re.findall("<tr><td>([a-z]+)</td>", unreadable) == needs.get(deleted, [])
    assert unreadable.count(f"{copied}/{deleted}: ") == len(needs.get(deleted, []))
    images = "Images as the encoder reads them"
    lost = {"documents": {images}, "packs": {images, "Packs", "Vision share"}}
    assert set(whole) - set(rest) == lost.get(deleted, set())
    without_text = deleted in ("samples", "plan", "packs")
    title = "First segments of pack"
    assert title in whole["Packs"] and (title in rest.get("Packs", "")) != without_text
    kept = set(rest) - {"Packs", "Left out"}
    assert {name: rest[name] for name in kept} == {name: whole[name] for name in kept}


COPIES = """
name: copies
nodes:
  documents: {kind: ingest_folder, path: ./data}
  noisy: {kind: augment, input: documents, noise: 3, copies: 12}
  twice: {kind: augment, input: noisy, noise: 2}
  full: {kind: materialize, input: noisy, compact: true}
"""


def test_derived_records_are_listed_once_and_the_terminal_shows_ten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "data" / "kettle"
    photos.mkdir(parents=True)
    for i in range(3):
        (photos / f"{i}.png").write_bytes(small_data.image(i))
    (tmp_path / "dag.yaml").write_text(COPIES)
    run(tmp_path / "dag.yaml", tmp_path / "out")
    made = [record for name in ("noisy", "twice") for record in head(tmp_path / "out", name).records()]
    assert len(made) == 3 * 12 * 2
    for name in ("documents", "noisy", "twice"):
        for parent in head(tmp_path / "out", name).records():
            for record in explain.explain(tmp_path / "out", parent.id)["records"]:
                derived = [(child["node"], child["id"]) for child in record["derived"]]
                assert derived == [(child.source, child.id) for child in made if child.parents == (parent.id,)]
    assert explain.main([str(tmp_path / "out"), "kettle/0.png"]) == 0
    output = capsys.readouterr().out
    assert "derived records, the first 10 of 12" in output and sum(child.id in output for child in made) == 10
