"""README, CONTRIBUTING and docs: commands run, YAML keys exist, Python examples run, links and named files exist."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pickle
import re
import shlex
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import millrace
from manifests.records import Document, Drop, Text
from packing.mixture import Mixture
from pipelines.catalogue import NODES
from pipelines.edits.transform import EDITORS
from pipelines.filters.filter import OPS
from pipelines.ingest import documents
from pipelines.ingest.readers.context import new_document
from stores.store import Snapshot, Store
from tests.pipelines import small_data
from tests.pipelines.ingest.ingested import ingest
from tests.servers.faulty import Faulty

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("pipelines/*/README.md")]
)
COMMAND = re.compile(r"^\s*(?:\$ )?((?:\.venv/bin/)?(?:millrace|python|pip)|make|pip) (.+)$")
KINDS = {**NODES, **OPS, **EDITORS}


@dataclasses.dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    """Fenced code, and indented code behind an empty line."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.S | re.M):
            yield Block(page, text[: found.start()].count("\n") + 2, found[1], found[2])
        plain = re.sub(r"^```.*?^```", lambda fenced: re.sub(r"[^\n]", "", fenced[0]), text, flags=re.S | re.M)
        for found in re.finditer(r"(?:^|\n\n)(    \S[^\n]*\n(?: {4,}\S[^\n]*(?:\n|$))*)", plain):
            yield Block(page, plain[: found.start(1)].count("\n") + 1, "", found[1])


def commands() -> list[tuple[str, str]]:
    """(page:line, command) of every command that a reader may copy."""
    found = []
    for block in blocks():
        if block.language in ("", "sh", "console"):
            for number, line in enumerate(block.text.replace("\\\n", " ").splitlines()):
                if match := COMMAND.match(line):
                    found.append((f"{block.page.relative_to(ROOT)}:{block.line + number}", f"{match[1]} {match[2]}"))
    return found


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that readers stand in: manifests, a folder of their own, and runs that are not trained yet."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "manifests").symlink_to(ROOT / "manifests")
    (folder / "tokenization").mkdir()
    (folder / "captions.txt").write_text("A mill stands at the river.\n" * 200)
    small_data.write(folder / "my_folder", texts=60)
    (folder / "instances.json").write_text("{}")
    (folder / "refs(unc).p").write_bytes(pickle.dumps([]))
    quick = ["manifests/data/quickstart.yaml", "--until", "packs"]
    own = ["manifests/data/own_data.yaml", "--set", "nodes.documents.path=./my_folder", "--until", "packs"]
    own += ["--set", "nodes.plan.mixture.max_pack_tokens=256", "--out", "runs/mine"]
    with contextlib.chdir(folder):
        for arguments in (quick, own):
            code, _, errors = run(["run", *arguments])
            assert code == 0, errors
    return folder


def run(arguments: list[str]) -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = millrace.main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), errors.getvalue()


def head(folder: Path, store: str) -> Snapshot:
    snapshot = Store.open(str(folder / "runs" / store)).head()
    assert snapshot is not None
    return snapshot


def filled_in(words: list[str], folder: Path, s3: Faulty) -> list[str]:
    """Arguments of `millrace` with readers' words replaced by names that exist here."""
    text = [Path(word).name for word in words if word.startswith("runs/")]
    store = f"{Path(words[1]).parent.name}/{text[0]}" if text and len(Path(words[1]).parts) > 2 else "mine/documents"
    document = next(head(folder, "quickstart/text_documents").records())
    mine = [record for record in head(folder, "mine/documents").records() if isinstance(record, Document)]
    sample = next(head(folder, "quickstart/samples").records()).id
    replaced = {
        "NAME": document.locator,
        "ID": sample if store.endswith("plan") else document.id,
        "0123...": mine[0].id,
        "photo.jpg": str(folder / "my_folder" / "photos" / "red_kettle" / "1.png"),
        "scraped": mine[0].source,
        "https://example.org/page": mine[1].id,
        "s3://bucket/mine": "s3://mill/mine",
    }
    words = [replaced.get(word, word) for word in words]
    return ["--id" if word == "--url" else word for word in words]


@pytest.mark.parametrize("place, command", commands(), ids=[place for place, _ in commands()])
@pytest.mark.timeout(600)
def test_commands_run(place: str, command: str, workspace: Path, s3: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    command = re.split(r"\s+#|\s+>", command)[0]
    program, *words = shlex.split(command)
    match program.removeprefix(".venv/bin/"):
        case "make":
            done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        case "pip":
            extras = re.findall(r"\[([\w,]+)\]", command)
            optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert {name for names in extras for name in names.split(",")} <= set(optional)
        case "python":
            done = subprocess.run(
                [sys.executable, *words], cwd=workspace, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        case "millrace":
            words = filled_in(words, workspace, s3)
            if words[0] == "run" and "--until" not in words and not {"--kinds", "--schema"} & set(words):
                words += ["--until", "documents" if "own_data" in command else "packs"]
            if words[0] == "train":
                words += ["--set", "steps=1", "--out", "runs/short"] if "--out" not in words else ["--set", "steps=1"]
            code, shown, errors = run(words)
            assert code == 0, f"{place}: millrace {' '.join(words)}\n{errors}"
            assert shown.strip() or errors.strip()
        case other:
            raise AssertionError(f"{place}: no test runs {other}")


# ---------------------------------------------------------------------- YAML


def keys_wrong(value: object, where: str = "") -> Iterator[str]:
    """Unknown kinds, and keys that the class of their `kind` does not have."""
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from keys_wrong(inner, f"{where}[{number}]")
    if not isinstance(value, dict):
        return
    kind = value.get("kind")
    if isinstance(kind, str) and kind in KINDS:
        unknown = {key for key in value if key is not ... and key != "..."} - names_of(KINDS[kind])
        yield from (f"{where}: {kind} has no key {key}" for key in sorted(map(str, unknown)))
    elif isinstance(kind, str) and re.search(r"(^|\.)nodes\.\w+$|ops\[\d+\]$", where):
        yield f"{where}: no kind {kind}"
    for key, inner in value.items():
        if key == "mixture" and isinstance(inner, dict):
            yield from (f"{where}.mixture has no key {name}" for name in set(inner) - names_of(Mixture))
        yield from keys_wrong(inner, f"{where}.{key}")


def names_of(schema: type) -> set[str]:
    return {field.name for field in dataclasses.fields(schema)}


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "yaml"], ids=str)
def test_yaml_examples_have_keys_that_exist(block: Block) -> None:
    lines = [line for line in block.text.splitlines() if line.strip()]
    seen: set[str] = set()
    for number, line in enumerate(lines):  # alternatives of one key stand below each other: all are read
        key = line.split(":")[0]
        repeated = key in seen and not line.startswith((" ", "-"))
        seen.add(key)
        lines[number] = f"again_{number}_{line}" if repeated else line
    assert not list(keys_wrong(yaml.safe_load("\n".join(lines))))


# ---------------------------------------------------------------------- Python


OP_IMPORTS = """
from collections.abc import Mapping
from typing import Literal
from manifests.load import schema
from manifests.records import Document
from pipelines.filters.op import Limit, Measured
"""
PRELUDE = (
    OP_IMPORTS
    + """
from packing.draws import *
from stores.store import Store
def save(state): pass
documents = Store.open("runs/mine/documents").head()
maths = code = captions = Store.open("runs/quickstart/samples").head()
saved, rank, world = None, 0, 1
"""
)


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "python"], ids=str)
def test_python_examples_run(block: Block, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(PRELUDE, "prelude", "exec"), module.__dict__)
        exec(compile("\n" * (block.line - 1) + block.text, str(block.page), "exec"), module.__dict__)


def example(page: str, marker: str) -> dict[str, object]:
    """Names of the Python example of a page that contains `marker`."""
    (block,) = [b for b in blocks() if b.page == ROOT / page and b.language == "python" and marker in b.text]
    module = types.ModuleType("worked_example")
    sys.modules["worked_example"] = module
    exec(compile("from __future__ import annotations\n" + OP_IMPORTS + block.text, page, "exec"), module.__dict__)
    return module.__dict__


def test_the_op_of_contributing_drops_lists_of_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a newcomer would add it: the class, one line in the table, one line in a manifest."""
    monkeypatch.setitem(OPS, "many_links", example("CONTRIBUTING.md", "class ManyLinks")["ManyLinks"])
    op = OPS["many_links"](kind="many_links", max_links_per_word=0.5)
    prose, links = _page("see https://example.org/a for more"), _page("https://example.org " * 9)
    assert op.apply(prose) is prose
    assert op.apply(links) == Drop("many_links", 1.0)


def _page(text: str) -> Document:
    return new_document("web", "page", "web", [Text(text)])


def test_the_source_of_contributing_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = documents.FormatReader("lyrics", (".lrc",), example("CONTRIBUTING.md", "LRC")["documents"])
    monkeypatch.setattr(documents, "READERS", (*documents.READERS, reader))
    monkeypatch.setitem(documents.BY_NAME, "lyrics", reader)
    monkeypatch.setitem(documents.BY_SUFFIX, ".lrc", reader)
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "song.lrc").write_text("[ti:Mill]\n[00:12.00]The wheel turns\n[00:15.30]and the river runs\n")
    (tmp_path / "songs" / "silence.lrc").write_text("[00:12.00]\n")
    snapshot = ingest(tmp_path / "songs", tmp_path / "store")
    assert [document.text for document in snapshot.records()] == ["The wheel turns\nand the river runs"]
    assert [(row["locator"], row["reason"]) for row in snapshot.quarantined().to_pylist()] == [
        ("silence.lrc", "no_text")
    ]


# ---------------------------------------------------------------------- links and names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    files = [str(file) for file in ROOT.rglob("*.py") if ".venv" not in file.parts]
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", text):
        assert any(file.endswith(f"/{name}") for file in files), f"{page.name} names {name}"


def test_the_readme_names_every_room_and_verb() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = [path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests", "benchmarks")]
    assert all(f"{room}/" in text for room in rooms)
    assert all(f"millrace {verb}" in text for verb in millrace.VERBS if verb not in ("train", "store"))


def test_the_walks_of_the_readme_name_files_that_exist() -> None:
    """A name without a room is in the folder of the file before it, or below."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    walks = [re.split(r"\s*→\s*", walk) for walk in re.findall(r"`([^`]*→[^`]*)`", text)]
    assert len(walks) == 3
    for walk in walks:
        folder = ROOT
        for name in walk:
            path = next((place for place in (ROOT / name, folder / name) if place.is_file()), None)
            assert path is not None, f"{name} of the walk {' → '.join(walk)}"
            folder = path.parent
