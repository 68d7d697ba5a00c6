"""Code repositories: imported files come first, files are joined up to the limit, history becomes documents."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest import walk
from pipelines.ingest.formats.file import FolderFile
from pipelines.ingest.repository import IngestRepository, joined, ordered, thread_text
from tests.pipelines.ingest.ingested import documents, ingest_node, quarantined


def write(folder: Path, content: dict[str, str]) -> Path:
    for name, words in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(words)
    return folder


CODE = {
    "README.md": "# Mill\n",
    "app.py": "import os\nfrom mill import wheel as w, stone\n",
    "mill/__init__.py": "",
    "mill/stone.py": "from .water import (\n    flow,\n)\n",
    "mill/water.py": "from . import wheel\nfrom mill.stone import x  # a circle\n",
    "mill/wheel.py": "import json\n",
    "Makefile": "all:\n",
}


def order(folder: Path) -> list[str]:
    files, _ = walk.walk_folder(folder, [], frozenset())
    return [file.path for file in ordered(folder, files)]


def test_imported_files_come_before_the_files_that_import_them(tmp_path: Path) -> None:
    assert order(write(tmp_path, CODE)) == [
        "README.md",
        "Makefile",
        "mill/wheel.py",
        "mill/__init__.py",
        "mill/water.py",
        "mill/stone.py",
        "app.py",
    ]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_without_circles_every_file_follows_its_imports(edges: list[tuple[int, int]]) -> None:
    wanted = {(max(pair), min(pair)) for pair in edges if pair[0] != pair[1]}
    content = {
        f"m{i}.py": "".join(f"import m{j}\n" for a, j in sorted(wanted) if a == i) or "x = 1\n" for i in range(7)
    }
    with tempfile.TemporaryDirectory() as place:
        paths = order(write(Path(place), content))
    assert sorted(paths) == sorted(content)
    assert all(paths.index(f"m{b}.py") < paths.index(f"m{a}.py") for a, b in wanted)


def test_files_are_joined_up_to_the_limit_without_the_bad_ones(tmp_path: Path) -> None:
    data = write(tmp_path / "data", CODE | {"big.c": "int x;\n" * 100, "huge.c": "//\n" * 400_000})
    (data / "binary.py").write_bytes(b"a\0b")
    (data / "logo.png").write_bytes(b"x")
    node = IngestRepository(kind="ingest_repository", path=str(data), max_document_bytes=400)
    snapshot, _ = ingest_node(node, tmp_path / "store")
    assert quarantined(snapshot) == {
        "binary.py": "binary",
        "huge.c": "too_large",
        "logo.png": "unsupported_format",
        "mill/__init__.py": "empty_file",
    }
    by_locator = documents(snapshot)
    assert [path for document in by_locator.values() for path in document.notes["files"]] == [
        *("README.md", "Makefile", "mill/wheel.py", "mill/water.py", "mill/stone.py", "app.py", "big.c")
    ]
    assert {document.domain for document in by_locator.values()} == {"code"}
    assert by_locator["README.md"].text.startswith(
        "File: README.md\n\n# Mill\n\nFile: Makefile\n\nall:\n\nFile: mill/wheel.py"
    )


def test_issues_reviews_and_commits_become_documents(tmp_path: Path) -> None:
    rows: list[Json] = [
        {"title": "It leaks", "body": "Water.", "comments": [{"user": {"login": "ann"}, "body": "Where?"}], "id": 5},
        {"message": "Seal it", "patch": "-a\n+b"},
        {"type": "IssueCommentEvent", "payload": {"issue": {"title": "It leaks"}, "comment": {"body": "Here."}}},
        {"type": "WatchEvent", "payload": {"action": "started"}},
        "x",
    ]
    history = "".join(json.dumps(row) + "\n" for row in rows)
    data = write(tmp_path / "data", {"a.py": "x = 1\n", "history/all.jsonl": history})
    node = IngestRepository(kind="ingest_repository", path=str(data), history=("history/*",), license="MIT")
    snapshot, _ = ingest_node(node, tmp_path / "store")
    assert quarantined(snapshot) == {"history/all.jsonl#4": "no_text_field", "history/all.jsonl#5": "no_text_field"}
    texts = {locator: document.text for locator, document in documents(snapshot).items()}
    assert texts == {
        "a.py": "File: a.py\n\nx = 1",
        "history/all.jsonl#1": "It leaks\n\nWater.\n\nann: Where?",
        "history/all.jsonl#2": "Seal it\n\n-a\n+b",
        "history/all.jsonl#3": "It leaks\n\nHere.",
    }
    assert {document.license for document in documents(snapshot).values()} == {"MIT"}


@pytest.mark.parametrize("row", [{}, {"payload": {"commits": [5]}}, {"title": 5, "comments": "x"}, []])
def test_rows_without_text_are_refused(row: Json) -> None:
    with pytest.raises(RecordError) as caught:
        thread_text(row)
    assert caught.value.reason == "no_text_field"


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 12))
def test_groups_hold_all_files_in_order_and_no_more_than_the_limit(sizes: list[int], most: int) -> None:
    files = [FolderFile(str(i), size, 0, ()) for i, size in enumerate(sizes)]
    groups = list(joined(files, most))
    assert [file for group in groups for file in group] == files
    assert all(len(group) == 1 or sum(file.size for file in group) <= most for group in groups)
