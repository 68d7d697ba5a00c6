"""`millrace store forget` in a whole run: no byte is left, no node runs again, and nothing comes back from the raw
files."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from manifests.records import FORGOTTEN, Json, record_id
from packing.proof import prove
from stores.forget import forget
from stores.tombstones import read
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, roots, run
from tests.stores.forget.traces import traces
from tests.strategies import same
from tokenization.vocabulary import Vocabulary

CANARY = "Zwölf kanaryvogels"
"""Text whose letters are split into many tokens, so that the search finds it in token rows only after decoding."""
URL = "https://a.example/canary"
DAG = small_data.DAG + "  report:\n    kind: report\n    inputs: [packs]\n"


def write(data: Path) -> None:
    small_data.write(data, texts=40)
    (data / "books" / "vogels.txt").write_text(
        f"Once {CANARY} sang beside the mill, and the miller listened to them.\n"
    )
    (data / "books" / "vogels_again.txt").write_text(
        f"Once {CANARY}  sang beside the mill, and the miller listened to them.\n"
    )
    rows = [
        {"text": f"A page of {CANARY} and others. {small_data.text(5)}", "url": URL},
        {"text": small_data.text(6000)},
    ]
    (data / "scraped.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    for name in ("photos/red_kettle/3.png", "photos/red_kettle/five.png", "pages/also.png"):
        (data / name).write_bytes(shown())
    (data / "pages" / "second.md").write_text(f"# Birds\n\nLook, ![a bird](also.png).\n\n{small_data.text(71)}\n")


def shown() -> bytes:
    return small_data.image(4242, size=(80, 60))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forget")
    (folder / "data").mkdir()
    write(folder / "data")
    (folder / "dag.yaml").write_text(DAG)
    run(folder / "dag.yaml", folder / "out")
    return folder


@pytest.fixture
def here(calm: Path, tmp_path: Path) -> Path:
    shutil.copytree(calm, tmp_path / "here", symlinks=True)
    return tmp_path / "here"


def traces_of(out: Path, text: str = CANARY, payload: bytes = b"\0nothing") -> set[str]:
    """Files below `out` with a text or with the bytes of an image. Token rows are decoded."""
    needles = [text.encode(), json.dumps(text)[1:-1].encode(), payload]
    return traces(out, needles) | {name for name, row in decoded_rows(out) if text in row}


def decoded_rows(out: Path) -> list[tuple[str, str]]:
    vocabulary = Vocabulary.load("tiny")
    rows = []
    for path in sorted(out.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".ids.npy"):
                    opened = tar.extractfile(member)
                    assert opened is not None
                    ids = np.load(io.BytesIO(opened.read())).reshape(-1)
                    rows.append((f"{path}/{member.name}", vocabulary.decode(ids)))
    return rows


def committed(here: Path) -> Json:
    rows = (here / "out" / "log.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows if '"node_commit"' in row]


def test_the_search_finds_text_and_image_before_forgetting(calm: Path) -> None:
    places = traces_of(calm / "out", payload=shown())
    assert {name.partition("/shards/")[0].rpartition("/")[2] for name in places if "/shards/" in name} == {
        "documents",
        "samples",
        "packs",
    }


def test_a_text_and_its_duplicate_are_forgotten_and_no_node_runs_again(calm: Path, here: Path) -> None:
    before = roots(here / "out")
    name = record_id("documents", "books/vogels.txt")
    assert forget.main([str(here / "out"), "--id", name, "--url", URL]) == 0
    assert traces_of(here / "out") == set()
    (here / "out" / "log.jsonl").unlink()
    assert "report: done in" in run(here / "dag.yaml", here / "out")
    assert [row["node"] for row in committed(here)] == ["report"]
    assert roots(here / "out") == before
    assert traces_of(here / "out") == set()
    documents = head(here / "out", "documents")
    assert sum(document.source == FORGOTTEN for document in documents.records()) == documents.counts["forgotten"] == 3
    assert_order_unchanged(calm, here)


def test_an_image_is_forgotten_with_every_record_that_shows_it(calm: Path, here: Path) -> None:
    assert forget.main([str(here / "out"), "--image", sha256(shown()).hexdigest()]) == 0
    assert traces_of(here / "out", text="five.png", payload=shown()) == set()
    assert head(here / "out", "documents").counts["forgotten"] == 3
    assert_order_unchanged(calm, here)
    run(here / "dag.yaml", here / "out")
    assert traces_of(here / "out", text="five.png", payload=shown()) == set()


def assert_order_unchanged(calm: Path, here: Path) -> None:
    packs = head(here / "out", "packs")
    for was, now in zip(head(calm / "out", "packs").records(), packs.records(), strict=True):
        at = 0
        for before, after in zip(was.segments, now.segments, strict=True):
            span = slice(at, at + before.length)
            if after.source != FORGOTTEN:
                assert after == before and (was.ids[span] == now.ids[span]).all()
                assert (was.loss_mask[span] == now.loss_mask[span]).all()
            at += before.length
        left = [packed for packed in was.media if any(same(packed, other) for other in now.media)]
        assert len(left) == len(now.media)
        assert all(packs.read(packed.media.location) for packed in now.media if packed.media.location)
    vocabulary = Vocabulary.load("tiny")
    assert prove(packs, head(here / "out", "plan").meta, vocabulary).forgotten > 0


def test_a_unit_that_is_made_again_does_not_contain_it(here: Path) -> None:
    name = record_id("documents", "books/vogels.txt")
    forget.main([str(here / "out"), "--id", name, "--url", URL])
    for i in range(5):  # neighbors, which change the unit
        (here / "data" / "books" / f"vogel{i}.txt").write_text(small_data.text(800 + i))
    (here / "data" / "scraped.jsonl").write_text((here / "data" / "scraped.jsonl").read_text() + "\n{}")
    run(here / "dag.yaml", here / "out")
    quarantined = head(here / "out", "documents").quarantined().to_pylist()
    assert [row["locator"] for row in quarantined if row["reason"] == "forgotten"] == ["", "", ""]
    assert all(row["message"] == "" for row in quarantined if row["reason"] == "forgotten")
    documents = list(head(here / "out", "documents").records())
    assert {f"books/vogel{i}.txt" for i in range(5)} <= {document.locator for document in documents}
    assert CANARY not in "".join(document.text for document in documents)


def test_ingest_refuses_it_under_a_new_name_and_before_opening_the_file(here: Path) -> None:
    data, out = here / "data", here / "out"
    digest = sha256(shown()).hexdigest()
    broken = "photos/red_kettle/cut.png"
    forget.main([str(out), "--url", URL, "--url", broken, "--image", digest])
    (data / "photos" / "red_kettle" / "new_name.png").write_bytes(shown())
    (data / "again.jsonl").write_text(json.dumps({"text": f"Another page of {CANARY}.", "source_url": URL}))
    run(here / "dag.yaml", out)
    quarantined = head(out, "documents").quarantined().to_pylist()
    assert traces_of(out, text="Another page", payload=shown()) == set()
    assert sum(row["reason"] == "forgotten" for row in quarantined) >= 3
    assert broken not in {row["locator"] for row in quarantined}


def test_it_does_not_come_back_if_everything_but_the_deny_list_is_deleted(here: Path) -> None:
    out = here / "out"
    name = record_id("documents", "books/vogels.txt")
    forget.main([str(out), "--id", name, "--url", URL, "--image", sha256(shown()).hexdigest()])
    for path in out.iterdir():
        if path.name != "forgotten":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(here / "dag.yaml", out)
    assert traces_of(out, payload=shown()) == set()
    reasons = head(out, "documents").quarantined().column("reason").to_pylist()
    assert reasons.count("forgotten") == 6
    assert read(str(out)).has_name("places", URL)


def test_packs_made_again_equal_the_redacted_ones(here: Path) -> None:
    forget.main([str(here / "out"), "--url", URL, "--image", sha256(shown()).hexdigest()])
    redacted = list(head(here / "out", "packs").records())
    shutil.rmtree(here / "out" / "packs")
    run(here / "dag.yaml", here / "out")
    assert all(same(was, now) for was, now in zip(redacted, head(here / "out", "packs").records(), strict=True))


def test_new_nodes_leave_out_redacted_records(here: Path) -> None:
    forget.main([str(here / "out"), "--url", URL])
    output = run(here / "dag.yaml", here / "out", "--set", "nodes.filtered.ops.1.min_characters=9")
    assert "forgotten 1" in output
    assert FORGOTTEN not in {sample.source for sample in head(here / "out", "samples").records()}


def test_a_real_photo_and_a_real_question_leave_no_trace(test_data: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(test_data / "dreambooth_photos", data / "photos")
    lines = (test_data / "gsm8k" / "test.jsonl").read_text().splitlines()[:200]
    data.joinpath("gsm8k.jsonl").write_text("\n".join(lines))
    (tmp_path / "dag.yaml").write_text(DAG)
    run(tmp_path / "dag.yaml", out)
    photo = sorted((data / "photos").rglob("*.jpg"))[7].read_bytes()
    question = json.loads(lines[17])["question"][:60]
    assert traces_of(out, question, photo)
    forget.main([str(out), "--url", "gsm8k.jsonl#18", "--image", sha256(photo).hexdigest()])
    run(tmp_path / "dag.yaml", out)
    assert traces_of(out, question, photo) == set()
    assert head(out, "documents").counts["forgotten"] == 2
