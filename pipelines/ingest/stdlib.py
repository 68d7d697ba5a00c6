"""`ingest_stdlib`: the running interpreter's own documentation and library, as real text that every machine has.

Raw files -> documents -> `filter`. Python's language reference (the topics of `help()`) and docstrings become documents
of the domain `knowledge`, library modules documents of the domain `code`. What is taken is decided by a hash of the
module's name under a budget in bytes. The files differ between Python versions, so their digests are inputs, and
nothing downstream is ever compared with a fixed digest.
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
from pipelines.ingest.formats import text
from pipelines.ingest.readers.context import new_document
from pipelines.node import Attempt, Inputs, Survey, Unit, UnitTask
from stores.store import StoreKind, UnitWriter

LEFT_OUT = frozenset(
    {
        *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"),
        *("encodings", "pydoc_data", "lib-dynload", "ensurepip", "msilib", "__pycache__"),
    }
)
"""Folders: tests, pictures of programs, tables of code points, what somebody else installed."""
MOST_MODULE_BYTES = 96 << 10
LEAST_TEXT = 200
"""Characters; a module with fewer documents nothing, and is no record."""
DOCUMENTED = 0.2
"""Share of a module's bytes that are signatures and docstrings, on average over Python 3.11: parsing every module only
to keep a budget exactly would cost two seconds at every start."""
TOPICS = "pydoc_data/topics.py"
RIGHTS = RecordRights(licence="PSF-2.0", origin="CPython standard library")


@schema
class IngestStdlib:
    """Two of these with different `split` share no module: neither its documentation nor its source."""

    PRODUCT: ClassVar[StoreKind] = "documents"
    READS: ClassVar[frozenset[str]] = frozenset()
    VERSION: ClassVar[int] = 2
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["ingest_stdlib"]
    split: Literal["train", "held_out"] = "train"
    held_out_share: float = 0.05
    """Of modules and topics."""
    text_bytes: int = 3_000_000
    """About how much documentation is taken."""
    code_bytes: int = 1_500_000

    def reads(self) -> tuple[str, ...]:
        return ()

    def survey(self, name: str, inputs: Inputs) -> Survey:
        root = Path(sysconfig.get_path("stdlib"))
        buckets: defaultdict[str, list[LibraryFile]] = defaultdict(list)
        for source in self._chosen(root):
            buckets[_hash(source.path)[:1]].append(source)
        if not buckets:
            fix = "use a Python whose library is installed as .py files, or take this node out of the manifest"
            raise ManifestError(f"this Python has no library sources under {root}", where=name, fix=fix)
        units = (
            Unit(f"bucket-{key}", digest(*(word for one in found for word in (one.path, one.sha256, one.use))), found)
            for key, found in sorted(buckets.items())
        )
        return Survey(tuple(units), {"normalise": normalize.VERSION, "ast": list(sys.version_info[:2])})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        root = Path(sysconfig.get_path("stdlib"))
        for source in task.unit.data:
            for locator, say in self._records(root, source):
                document = attempt(locator, _document, task.node, locator, say)
                if document is not None:
                    attempt.store(locator, document)

    def _records(self, root: Path, source: LibraryFile) -> Iterator[tuple[str, Callable[[], str]]]:
        """Locators, and functions that give the text."""
        if source.use == "topics":
            for topic, said in sorted(_topics().items()):
                if self._mine(topic):
                    yield f"topics/{topic}", partial(str, said)
            return
        content = (root / source.path).read_bytes()
        if source.use == "source":
            yield f"source/{source.path}", lambda: text.decode_text(content)[0]
        elif len(said := _docstrings(source.path, content)) >= LEAST_TEXT:
            yield f"docstrings/{source.path}", lambda: said

    def _mine(self, name: str) -> bool:
        held_out = int(_hash("split " + name)[:8], 16) < self.held_out_share * 2**32
        return held_out == (self.split == "held_out")

    def _chosen(self, root: Path) -> Iterator[LibraryFile]:
        """Topics first, then modules in the order of their hash: documentation and code until each budget is used."""
        text_left, code_left = self.text_bytes, self.code_bytes
        topics = root / TOPICS
        if topics.is_file():
            content = topics.read_bytes()
            text_left -= len(content)
            yield LibraryFile(TOPICS, sha256(content).hexdigest(), "topics")
        inside = (path.relative_to(root) for path in root.rglob("*.py"))
        modules = [path.as_posix() for path in inside if not LEFT_OUT & set(path.parts)]
        for path in sorted(modules, key=_hash):
            if not self._mine(path):
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
    path: str
    """Relative to the library."""
    sha256: str
    use: Literal["topics", "docstrings", "source"]


def _document(node: str, locator: str, say: Callable[[], str]) -> Document:
    said = say()
    if not said.strip():
        raise RecordError("no_text")
    domain = "code" if locator.startswith("source/") else "knowledge"
    return new_document(node, locator, domain, [Text(said)], rights=RIGHTS)


def _topics() -> dict[str, str]:
    if importlib.util.find_spec("pydoc_data") is None:
        return {}
    from pydoc_data.topics import topics

    return topics


def _docstrings(path: str, content: bytes) -> str:
    """What a module says about itself: signatures with their docstrings, in the order of the file."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return ""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return "\n\n".join([f"{module}", *_said(tree, "")]) + "\n"


def _said(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, prefix: str) -> Iterator[str]:
    if said := ast.get_docstring(node):
        yield said
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            below = list(_said(inner, f"{prefix}{inner.name}."))
            if below:
                signature = "" if isinstance(inner, ast.ClassDef) else f"({ast.unparse(inner.args)})"
                yield f"{prefix}{inner.name}{signature}"
                yield from below


def _hash(name: str) -> str:
    return sha256(name.encode()).hexdigest()
