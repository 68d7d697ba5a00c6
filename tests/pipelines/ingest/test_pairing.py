"""Files of a folder to items: every file is part of one, with its captions and media."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest import pairing, walk
from pipelines.ingest.folder import units
from pipelines.ingest.formats.file import FolderFile
from pipelines.ingest.formats.suffixes import CUT_AT_LINES
from pipelines.ingest.readers.context import FolderItem

SUFFIXES = (".txt", ".jpg", ".png", ".mp4", ".json", ".xml", ".caption", ".md", ".jsonl", ".csv", ".pdf", ".py", "")
names = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "a/", "JPEGImages/", "Annotations/"]),
    st.sampled_from("xyz"),
    st.sampled_from(SUFFIXES),
)


def content(name: str, shown: list[str]) -> str:
    match Path(name).suffix:
        case ".md":
            return "".join(f"![{path}](/{path}) ![]({path})\n" for path in shown)
        case ".jsonl":
            return "".join(json.dumps({"file_name": path, "text": path}) + "\n" for path in shown)
        case _:
            return f"of {name}"


def items_of(folder: Path) -> tuple[list[FolderFile], list[FolderItem]]:
    files, refused = walk.walk_folder(folder, [], CUT_AT_LINES)
    return files, pairing.pair(folder, files, refused, ())


@given(st.sets(names, min_size=1, max_size=10))
def test_every_file_is_in_an_item_and_every_item_in_one_unit(chosen: set[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in sorted(chosen):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content(name, sorted(chosen)))
        files, items = items_of(folder)
    assert {file.path for file in files} == chosen
    covered = {item.file.path for item in items if item.file}
    covered |= {caption.path for item in items for caption in item.captions}
    covered |= {file.path for item in items for file in (item.media or {}).values() if file.is_medium}
    assert covered == chosen
    locators = [item.locator for item in items]
    assert locators == sorted(set(locators))
    assert [item for unit in units(items) for item in unit.data] == items


def test_an_image_takes_captions_from_its_folder_and_from_annotations(tmp_path: Path) -> None:
    for name in ("JPEGImages/x.jpg", "JPEGImages/x.txt", "Annotations/x.xml", "Annotations/y.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    _, items = items_of(tmp_path)
    captions = {item.locator: (item.reader, [caption.path for caption in item.captions]) for item in items}
    assert captions == {
        "JPEGImages/x.jpg": ("image", ["JPEGImages/x.txt", "Annotations/x.xml"]),
        "Annotations/y.xml": ("refused", []),
    }


def test_the_digest_of_an_item_covers_every_file_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("![a](a.png)")
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "b.png").write_bytes(b"two")
    (tmp_path / "b.txt").write_text("caption")
    before = {item.locator: item.digest for item in items_of(tmp_path)[1]}
    assert before.keys() == {"page.md", "b.png"}
    (tmp_path / "a.png").write_bytes(b"other")
    changed = {item.locator: item.digest for item in items_of(tmp_path)[1]}
    assert changed["page.md"] != before["page.md"] and changed["b.png"] == before["b.png"]
    (tmp_path / "b.txt").write_text("another")
    again = {item.locator: item.digest for item in items_of(tmp_path)[1]}
    assert again["b.png"] != before["b.png"] and again["page.md"] == changed["page.md"]


def test_a_missing_image_is_searched_by_the_end_of_its_path(tmp_path: Path) -> None:
    for name in ("a/test/png/x.png", "b/test/png/x.png", "b/train/y.png", "b/test/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("png/x.png", "x.png", "y.png", "z.png"):
        (tmp_path / "a" / f"{name.replace('/', '-')}.jsonl").write_text(json.dumps({"image": name, "text": "x"}))
    _, items = items_of(tmp_path)
    shown = {item.locator: [file.path for file in (item.media or {}).values()] for item in items if item.media}
    assert shown == {"a/png-x.png.jsonl": ["a/test/png/x.png"], "a/x.png.jsonl": ["a/test/png/x.png"]}
