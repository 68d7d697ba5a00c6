"""Folders of scenes have the same bytes from any worker, are complete after a kill, and are damaged only on purpose."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from manifests.errors import ManifestError, RecordError
from manifests.load import load
from manifests.records import Document, Media, Text
from pipelines.dag.graph import identity
from pipelines.dag.unit import StoreTask, run_unit
from pipelines.ingest.scenes import IngestScenes, read_scene
from pipelines.node import OutputFolder, Product, Unit, UnitTask
from pipelines.scenes.damage import DAMAGES
from pipelines.scenes.elements.entities import FONT_FAMILIES, RESERVED_PAIRS
from pipelines.scenes.generate import Scenes
from pipelines.scenes.write import ANNOTATIONS, CATEGORIES, DAMAGED, SceneRange, render_scene, write_range
from stores.store import Store
from tests.pipelines.scenes.rendered import rendered

ROOT = Path(__file__).parents[3]

REASONS = {
    "truncated_jpeg": "truncated_image",
    "truncated_png": "truncated_image",
    "truncated_webp": "broken_image",
    "truncated_clip": "broken_video",
    "garbled_clip": "broken_video",
    "text_named_png": "unknown_format",
    "no_bytes": "empty_file",
    "vast_png": "too_many_pixels",
    "missing_file": "missing_media",
    "path_outside": "media_outside",
    "wrong_size": "wrong_size",
    "fact_outside": "bad_fact",
    "no_parts": "bad_annotation",
    "torn_line": "bad_json",
    "not_utf8": "bad_encoding",
}


def content(folder: Path) -> dict[str, str]:
    """Relative path -> digest of every file in a folder."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def small() -> Scenes:
    every = dict.fromkeys(CATEGORIES, 3)
    return Scenes(kind="scenes", seed=3, train=every, held_out={"caption": 2, "clip": 1}, damaged=len(DAMAGES))


def make(node: Scenes, run: Path) -> Product:
    place = OutputFolder(run, "scenes")
    files = [
        file for unit in node.survey("scenes", {}).units for file in node.make(UnitTask("scenes", unit, {}), place)
    ]
    assert sorted(files) == [f"scenes/{path}" for path in content(run / "scenes")]
    return Product("scenes", "folder", str(run / "scenes"), "digest")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Product:
    return make(small(), tmp_path_factory.mktemp("run"))


CODE = """
import sys
from pathlib import Path
from pipelines.scenes.write import SceneRange, write_range
for line in sys.stdin.read().split():
    split, category, start, stop = line.split(",")
    scenes = SceneRange(split, category, int(start), int(stop))
    write_range(3, scenes, Path(sys.argv[1]) / split / category / start.zfill(6))
"""


def other_process(folder: Path, pieces: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CODE, str(folder)], stdin=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdin is not None
    process.stdin.write("\n".join(pieces))
    process.stdin.close()
    return process


def test_processes_that_draw_in_another_order_write_the_same_bytes(made: Product, tmp_path: Path) -> None:
    pieces = [f"train,{category},0,3" for category in CATEGORIES] + ["held_out,caption,0,2", "held_out,clip,0,1"]
    pieces.append(f"train,{DAMAGED},0,{len(DAMAGES)}")
    both = [other_process(tmp_path, pieces[::-2]), other_process(tmp_path, pieces[-2::-2])]
    assert [process.wait() for process in both] == [0, 0]
    assert content(tmp_path) == content(made.folder)


@pytest.mark.parametrize("category", [*CATEGORIES, DAMAGED])
def test_any_scene_can_be_drawn_again_alone(category: str, made: Product) -> None:
    folder = made.folder / "train" / category / "000000"
    line, files = render_scene(3, "train", category, 2)
    assert (folder / ANNOTATIONS).read_bytes().split(b"\n")[2] == line
    for name, payload in files.items():
        assert (folder / name).read_bytes() == payload


def test_another_seed_draws_other_scenes() -> None:
    assert render_scene(0, "train", "caption", 0) != render_scene(1, "train", "caption", 0)


def test_a_killed_writer_leaves_the_whole_folder_or_none(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "caption" / "000000"
    for after_files in (1, 40, 100):
        process = other_process(tmp_path, ["train,caption,0,120"])
        while process.poll() is None and len(list(folder.parent.glob(f".{folder.name}.*/*"))) < after_files:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not folder.exists() or len(content(folder)) == 121
    write_range(3, SceneRange("train", "caption", 0, 120), folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["000000"]
    assert len(content(folder)) == 121


def test_drawing_a_range_again_replaces_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "dial" / "000000"
    folder.mkdir(parents=True)
    (folder / "stray.jpg").write_bytes(b"left over")
    write_range(3, SceneRange("train", "dial", 0, 2), folder)
    assert len(content(folder)) == 3 and not (folder / "stray.jpg").exists()


# ---------------------------------------------------------------------------------------------- the node


def test_units_cover_every_scene_once() -> None:
    node = Scenes(kind="scenes", train={"caption": 701, "clip": 3}, held_out={"caption": 250}, damaged=2)
    units = node.survey("scenes", {}).units
    assert len({unit.name for unit in units}) == len(units)
    covered = [
        (unit.data.split, unit.data.category, i) for unit in units for i in range(unit.data.start, unit.data.stop)
    ]
    wanted = [("train", "caption", i) for i in range(701)] + [("train", "clip", i) for i in range(3)]
    wanted += [("held_out", "caption", i) for i in range(250)] + [("train", "damaged", i) for i in range(2)]
    assert sorted(covered) == sorted(wanted)


def test_seed_and_counts_decide_the_identity_of_the_node() -> None:
    def of(**changed: object) -> str:
        node = Scenes(kind="scenes", **changed)  # type: ignore[arg-type]
        return identity("scenes", node, {}, node.survey("scenes", {}))

    assert of() == of()
    assert len({of(), of(seed=1), of(damaged=0), of(train={"caption": 5})}) == 4


def test_an_unknown_category_is_rejected_with_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "scenes.yaml"
    file.write_text("kind: scenes\ntrain: {captions: 5}\n")
    with pytest.raises(ManifestError, match=r"no category 'captions'; the categories are caption, question"):
        load(Scenes, [file])


def test_the_docs_list_the_categories_pairs_fonts_and_reasons_of_the_code() -> None:
    page = (ROOT / "docs" / "scenes.md").read_text(encoding="utf-8")
    node = Scenes(kind="scenes")
    for name, category in CATEGORIES.items():
        row = rf"\| `{name}` \| {category.domain} \|.*\| {node.train[name]} / {node.held_out[name]} \|"
        assert re.search(row, page), row
    assert ", ".join(f"{color} {shape}" for color, shape in RESERVED_PAIRS) in page
    for family in FONT_FAMILIES.train + FONT_FAMILIES.reserved:
        assert family.replace("-", " ") in page.lower()
    for reason in REASONS.values():
        assert f"`{reason}`" in page


# ---------------------------------------------------------------------------------------------- ingest


class Ingested(NamedTuple):
    documents: list[Document]
    refused: dict[str, str]
    """Locator -> reason."""


def ingested(product: Product, out: Path, **parameters: object) -> Ingested:
    """Write the documents of `product` into a store and read them back."""
    node = IngestScenes(kind="ingest_scenes", input="scenes", **parameters)  # type: ignore[arg-type]
    store = Store.create(str(out), "documents", "docs")
    units = node.survey("docs", {"scenes": product}).units
    tasks = [
        StoreTask(node, store.url, unit.name, UnitTask("docs", unit, {"scenes": product}), in_a_row=100, share=1.0)
        for unit in units
    ]
    receipts = [run_unit(task, frozenset(), lambda ordinal: None).receipt for task in tasks]
    names = [unit.name for unit in units]
    snapshot = store.commit(receipts, node="test", complete=True, parents=(), meta={}, units=names)
    rows = snapshot.quarantined().to_pylist()
    return Ingested(list(snapshot.records()), {row["locator"]: row["reason"] for row in rows})


@pytest.fixture(scope="module")
def training(made: Product, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    return ingested(made, tmp_path_factory.mktemp("store") / "docs")


def test_every_undamaged_scene_becomes_a_document_and_every_damaged_one_is_quarantined_with_its_reason(
    training: Ingested,
) -> None:
    assert len(training.documents) == 3 * len(CATEGORIES)
    expected = {f"train/damaged/{i:06d}": REASONS[name] for i, name in enumerate(DAMAGES)}
    assert training.refused == expected


def test_documents_have_the_media_text_facts_and_notes_of_their_line(training: Ingested) -> None:
    for document in training.documents:
        _, category, ordinal = document.locator.split("/")
        scene = rendered("train", category, int(ordinal), 3)
        assert document.domain == CATEGORIES[category].domain
        assert [part.text for part in document.parts if isinstance(part, Text)] == [
            part["text"] for part in scene.line["parts"] if "text" in part
        ]
        for medium, part in zip(document.media, [p for p in scene.line["parts"] if "file" in p], strict=True):
            assert medium.digest == hashlib.sha256(scene.files[part["file"]]).hexdigest() == part["sha256"]
            assert (medium.width_px, medium.height_px) == (part["width_px"], part["height_px"])
            assert medium.kind == ("video" if part["file"].endswith("mp4") else "image")
        assert len(document.facts) == len(scene.line["facts"])
        for fact in document.facts:
            text = document.parts[fact.part]
            assert isinstance(text, Text) and text.text[fact.start : fact.stop].strip()
        shapes = document.notes.get("shapes")
        shape_note = {} if shapes is None else {"shapes": shapes}
        assert document.notes == scene.notes | {"scene": document.locator} | shape_note
        if category in ("caption", "question", "grounding"):
            boxes = [shape["corners"] for shape in shapes or () if shape["kind"] == "box"]
            assert boxes == [[thing["box"][:2], thing["box"][2:]] for thing in scene.notes["things"]]


def test_a_caption_is_one_picture_followed_by_its_text(training: Ingested) -> None:
    captions = [document for document in training.documents if document.domain == "caption"]
    assert captions
    for document in captions:
        assert [type(part) for part in document.parts] == [Media, Text]
        assert [fact.name for fact in document.facts][:3] == ["count", "color", "shape"]


def test_held_out_scenes_and_single_categories_can_be_ingested_alone(made: Product, tmp_path: Path) -> None:
    held_out = ingested(made, tmp_path / "held_out", split="held_out")
    assert sorted(d.locator for d in held_out.documents) == [
        "held_out/caption/000000",
        "held_out/caption/000001",
        "held_out/clip/000000",
    ]
    assert len(ingested(made, tmp_path / "two", categories=("dial", "maze")).documents) == 6
    with pytest.raises(ManifestError, match="no categories dial in split held_out"):
        ingested(made, tmp_path / "none", split="held_out", categories=("dial",))


def test_a_picture_replaced_by_another_valid_one_is_rejected(made: Product) -> None:
    folder = made.folder / "train" / "caption" / "000000"
    line = json.loads((folder / ANNOTATIONS).read_bytes().split(b"\n")[0])
    names = sorted(file.name for file in folder.iterdir() if file.name != ANNOTATIONS)
    (part,) = [part for part in line["parts"] if "file" in part]
    part["file"] = next(name for name in names if name != part["file"])
    with pytest.raises(RecordError) as refused:
        read_scene(json.dumps(line).encode(), folder, "docs", "train/caption/000000")
    assert refused.value.reason == "changed_media"


def test_the_digest_of_a_unit_covers_its_media(made: Product) -> None:
    node = IngestScenes(kind="ingest_scenes", input="scenes")

    def digests() -> Iterator[tuple[str, str]]:
        units: tuple[Unit, ...] = node.survey("docs", {"scenes": made}).units
        return ((unit.name, unit.digest) for unit in units)

    assert dict(digests()) == dict(digests())
    for file in (made.folder / "train").rglob(ANNOTATIONS):
        named = {
            part["file"]: part["sha256"]
            for raw in file.read_bytes().splitlines()
            if file.parent.parent.name != DAMAGED
            for part in json.loads(raw)["parts"]
            if "file" in part
        }
        assert all(hashlib.sha256((file.parent / name).read_bytes()).hexdigest() == sha for name, sha in named.items())
