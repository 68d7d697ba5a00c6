"""`ingest_stdlib`: documentation and library of the running Python, real text that every machine has.

Python's language reference (the topics of `help()`) and docstrings become documents of the domain `knowledge`, library
modules documents of the domain `code`; `filter` comes next. Modules are taken in the order of a hash of their names
until a budget in bytes is used. The library differs between Python versions, so its digests are part of the node's
inputs, and no test compares its content with a fixed digest.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Literal

from manifests.errors import ManifestError, RecordError
from manifests.load import schema
from manifests.records import Document, Text, digest
from pipelines.edits import normalize
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.formats.text import decode_text
from pipelines.ingest.readers.context import new_document
from pipelines.node import Attempt, DocumentsNode, Inputs, Survey, Unit, UnitTask
from stores.store import UnitWriter

LEFT_OUT = frozenset(
    {
        *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"),
        *("encodings", "pydoc_data", "lib-dynload", "ensurepip", "msilib", "__pycache__"),
    }
)
"""Folders that are skipped: tests, demo programs, tables of code points, packages that are not Python's own."""
MOST_MODULE_BYTES = 96 << 10
LEAST_TEXT = 200
"""Characters. A module with less documentation is no record."""
DOCUMENTED = 0.2
"""Estimated share of signatures and docstrings in a module, the average over Python 3.11. Parsing every module for an
exact budget would cost two seconds at every start."""
TOPICS = "pydoc_data/topics.py"
RIGHTS = RecordRights(license="PSF-2.0", origin="CPython standard library")


@schema
class IngestStdlib(DocumentsNode):
    """Ingest a part of Python's library. Nodes with different `split` share no module, neither text nor code."""

    READS: ClassVar[frozenset[str]] = frozenset()
    VERSION: ClassVar[int] = 2

    kind: Literal["ingest_stdlib"]
    split: Literal["train", "held_out"] = "train"
    """Part of the modules and topics to read."""
    held_out_share: float = 0.05
    """Share of the modules and topics that are held out."""
    text_bytes: int = 3_000_000
    """Approximate bytes of documentation."""
    code_bytes: int = 1_500_000
    """Approximate bytes of code."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        root = Path(sysconfig.get_path("stdlib"))
        buckets: defaultdict[str, list[LibraryFile]] = defaultdict(list)
        for file in self._chosen(root):
            buckets[_hash(file.path)[:1]].append(file)
        if not buckets:
            fix = "use a Python whose library is installed as .py files, or take this node out of the manifest"
            raise ManifestError(f"this Python has no library sources under {root}", where=name, fix=fix)
        units = []
        for key, files in sorted(buckets.items()):
            content = digest(*(word for file in files for word in (file.path, file.sha256, file.use)))
            units.append(Unit(f"bucket-{key}", content, files))
        return Survey(tuple(units), {"normalize": normalize.VERSION, "ast": list(sys.version_info[:2])})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        root = Path(sysconfig.get_path("stdlib"))
        for file in task.unit.data:
            for locator, make_text in self._records(root, file):
                document = attempt(locator, _document, task.node, locator, make_text)
                if document is not None:
                    attempt.store(locator, document)

    def _records(self, root: Path, file: LibraryFile) -> Iterator[tuple[str, Callable[[], str]]]:
        """(locator, function that returns the text) of each document of a file."""
        if file.use == "topics":
            for topic, text in sorted(_topics().items()):
                if self._in_split(topic):
                    yield f"topics/{topic}", partial(str, text)
            return
        content = (root / file.path).read_bytes()
        if file.use == "source":
            yield f"source/{file.path}", lambda: decode_text(content)[0]
        elif len(documentation := _module_documentation(file.path, content)) >= LEAST_TEXT:
            yield f"docstrings/{file.path}", lambda: documentation

    def _in_split(self, name: str) -> bool:
        held_out = int(_hash("split " + name)[:8], 16) < self.held_out_share * 2**32
        return held_out == (self.split == "held_out")

    def _chosen(self, root: Path) -> Iterator[LibraryFile]:
        """Topics first, then modules in the order of their hash, until the budgets of text and of code are used."""
        text_left, code_left = self.text_bytes, self.code_bytes
        topics = root / TOPICS
        if topics.is_file():
            content = topics.read_bytes()
            text_left -= len(content)
            yield LibraryFile(TOPICS, sha256(content).hexdigest(), "topics")
        relative = (path.relative_to(root) for path in root.rglob("*.py"))
        modules = [path.as_posix() for path in relative if not LEFT_OUT & set(path.parts)]
        for path in sorted(modules, key=_hash):
            if not self._in_split(path):
                continue
            content = (root / path).read_bytes()
            if len(content) > MOST_MODULE_BYTES:
                continue
            if text_left > 0:
                text_left -= int(DOCUMENTED * len(content))
                yield LibraryFile(path, sha256(content).hexdigest(), "docstrings")
            if code_left > 0 and len(content) >= LEAST_TEXT:
                code_left -= len(content)
                yield LibraryFile(path, sha256(content).hexdigest(), "source")
            if text_left <= 0 and code_left <= 0:
                return


@dataclass(frozen=True)
class LibraryFile:
    """One use of a file of Python's library."""

    path: str
    """Relative to the library's folder."""
    sha256: str
    use: Literal["topics", "docstrings", "source"]


def _document(node: str, locator: str, make_text: Callable[[], str]) -> Document:
    text = make_text()
    if not text.strip():
        raise RecordError("no_text")
    domain = "code" if locator.startswith("source/") else "knowledge"
    return new_document(node, locator, domain, [Text(text)], rights=RIGHTS)


def _topics() -> dict[str, str]:
    """Topics of `help()` by name; empty for a Python without them."""
    if importlib.util.find_spec("pydoc_data") is None:
        return {}
    from pydoc_data.topics import topics

    return topics


def _module_documentation(path: str, content: bytes) -> str:
    """Signatures and docstrings of a module in the order of the file; "" for a file that can't be parsed."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return ""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return "\n\n".join([f"{module}", *_docstrings(tree, "")]) + "\n"


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, prefix: str) -> Iterator[str]:
    if docstring := ast.get_docstring(node):
        yield docstring
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            below = list(_docstrings(inner, f"{prefix}{inner.name}."))
            if below:
                signature = "" if isinstance(inner, ast.ClassDef) else f"({ast.unparse(inner.args)})"
                yield f"{prefix}{inner.name}{signature}"
                yield from below


def _hash(name: str) -> str:
    return sha256(name.encode()).hexdigest()
