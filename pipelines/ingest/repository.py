"""`ingest_repository`: one code repository becomes documents of many files, in an order in which they can be read.

README first, then files by path, each Python file behind those of the repository that it imports. What an issue,
review or commit says becomes a document of its own, where JSON lines of them are given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from manifests.errors import ManifestError, RecordError
from manifests.load import schema
from manifests.records import Document, Json, Text, digest
from pipelines.edits import normalize
from pipelines.ingest.annotations import fields
from pipelines.ingest.formats import text
from pipelines.ingest.formats.file import FolderFile, read_file, resolve_inside
from pipelines.ingest.formats.rows import read_rows
from pipelines.ingest.formats.suffixes import CODES, JSONS, MARKDOWNS, TEXTS
from pipelines.ingest.readers.context import new_document, refuse
from pipelines.ingest.walk import walk_folder
from pipelines.node import Attempt, Inputs, Survey, Unit, UnitTask
from stores.store import StoreKind, UnitWriter

MOST_FILE_BYTES = 1 << 20
"""Larger ones are generated, as a rule."""

_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^()]*\)|[^\n#]*)|import[ \t]+([^\n#]+))", re.M)


@schema
class IngestRepository:
    """The text files under `path`; hidden ones are skipped. A document is known by the path of its first file."""

    PRODUCT: ClassVar[StoreKind] = "documents"
    READS: ClassVar[frozenset[str]] = frozenset()
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset({"path"})

    kind: Literal["ingest_repository"]
    path: str
    max_document_bytes: int = 256 << 10
    """Files are joined up to here; a larger one is a document alone."""
    history: tuple[str, ...] = ()
    """Patterns of relative paths of JSON lines with issues, reviews or commits, e.g. `history/*.jsonl`."""
    exclude: tuple[str, ...] = ()
    licence: str = ""
    origin: str = ""
    consent: str = ""

    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def _base(self) -> Path:
        return Path(self.path).expanduser()

    def survey(self, name: str, inputs: Inputs) -> Survey:
        found, refused = walk_folder(self._base, self.exclude, frozenset())
        told = [file for file in found if self._is_history(file)]
        rest = [file for file in found if not self._is_history(file)]
        wanted = [file for file in rest if _is_text(file)]
        neither = [file for file in rest if not _is_text(file)]
        others = [(file.locator, "unsupported_format", "not a file of text") for file in neither]
        others += [(one.locator, one.reason, one.message) for one in refused]
        units = [_unit(group) for group in joined(ordered(self._base, wanted), self.max_document_bytes)]
        units += [_unit([file]) for file in told]
        if not units:
            raise ManifestError("there are no files of text", where=self.path, fix="set path to a repository")
        if others:
            units.append(Unit("others", digest(*(word for one in others for word in one)), tuple(others)))
        return Survey(tuple(units), {"normalise": normalize.VERSION})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        if task.unit.name == "others":
            for locator, reason, message in task.unit.data:
                attempt(locator, refuse, reason, message)
            return
        group: tuple[FolderFile, ...] = task.unit.data
        if self._is_history(group[0]):
            made = self._history(task.node, group[0], attempt)
        else:
            made = iter([self._joined(task.node, group, attempt)])
        for document in made:
            if document is not None:
                attempt.store(document.locator, document)

    def _is_history(self, file: FolderFile) -> bool:
        return file.suffix in JSONS and any(fnmatch(file.path, pattern) for pattern in self.history)

    def _joined(self, node: str, group: Sequence[FolderFile], attempt: Attempt) -> Document | None:
        """A file that is no text is left out; it costs no other."""
        read = [(file, attempt(file.locator, _content, self._base, file)) for file in group]
        kept = [(file.locator, content) for file, content in read if content is not None]
        if not kept:
            return None
        words = "\n\n".join(f"File: {path}\n\n{content.strip(chr(10))}" for path, content in kept)
        notes: dict[str, Json] = {"files": [path for path, _ in kept]}
        return attempt(group[0].locator, self._document, node, group[0].locator, words, notes)

    def _history(self, node: str, file: FolderFile, attempt: Attempt) -> Iterator[Document | None]:
        for piece in file.pieces:
            for at, parse in read_rows(resolve_inside(self._base, file.path), file.suffix, piece):
                yield attempt(file.locator + at, self._told, node, file.locator + at, parse)

    def _told(self, node: str, locator: str, parse: Callable[[], Json]) -> Document:
        row = parse()
        return self._document(node, locator, thread(row), fields.kept_notes(row), fields.record_rights(row))

    def _document(
        self,
        node: str,
        locator: str,
        words: str,
        notes: Mapping[str, Json],
        said: fields.RecordRights = fields.NO_RIGHTS,
    ) -> Document:
        rights = said.or_else(fields.RecordRights(self.licence, self.origin, self.consent))
        return new_document(node, locator, "code", [Text(words)], (), notes, rights)


def _is_text(file: FolderFile) -> bool:
    name = PurePosixPath(file.path).name
    return file.suffix in (*CODES, *MARKDOWNS, *TEXTS) or name in ("README", "Makefile", "Dockerfile")


def _content(base: Path, file: FolderFile) -> str:
    return text.decode_text(read_file(base, file, MOST_FILE_BYTES))[0]


def _unit(group: Sequence[FolderFile]) -> Unit:
    content = digest(*(word for file in group for word in (file.locator, file.digest)))
    stem = re.sub(r"[^a-z0-9]+", "-", group[0].path.lower()).strip("-")[:40] or "unit"
    return Unit(f"{stem}-{digest(group[0].locator)[:8]}", content, tuple(group), sum(file.size for file in group))


# --------------------------------------------------------------------------------------------------------- the order


def joined(ordered: Sequence[FolderFile], most_bytes: int) -> Iterator[list[FolderFile]]:
    """Neighbours, as many as fit."""
    group: list[FolderFile] = []
    held = 0
    for file in ordered:
        if group and held + file.size > most_bytes:
            yield group
            group, held = [], 0
        group.append(file)
        held += file.size
    if group:
        yield group


def ordered(base: Path, found: Sequence[FolderFile]) -> list[FolderFile]:
    """READMEs of the top first, then by path, each file behind what it imports; circles break where they are met."""
    by_path = {file.path: file for file in found}
    modules = {_module(path): path for path in by_path if path.endswith(".py")}
    modules = {name.removeprefix("src."): path for name, path in modules.items()} | modules
    imported = {path: _imports(base, file, modules) for path, file in by_path.items() if path.endswith(".py")}
    order: dict[str, None] = {}
    seen: set[str] = set()
    for first in sorted(by_path, key=lambda path: (not path.lower().startswith("readme"), path)):
        waiting = [(first, False)]
        while waiting:
            path, is_done = waiting.pop()
            if is_done:
                order[path] = None
            elif path not in seen:
                seen.add(path)
                waiting.append((path, True))
                waiting += [(one, False) for one in reversed(imported.get(path, []))]
    return [by_path[path] for path in order]


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(base: Path, file: FolderFile, modules: Mapping[str, str]) -> list[str]:
    """Paths of the repository that a Python file imports, as they stand there. A file that can't be read imports none
    now; its reader says why."""
    try:
        content = _content(base, file)
    except RecordError:
        return []
    package = _module(file.path).split(".")
    if not file.path.endswith("__init__.py"):
        package = package[:-1]
    found: dict[str, None] = {}
    for origin, names, plain in _IMPORT.findall(content):
        wanted = [one.split()[0] for one in plain.split(",") if one.split()]
        if origin:
            dots = len(origin) - len(origin.lstrip("."))
            above = package[: len(package) - dots + 1] if dots else []
            module = ".".join([*above, *filter(None, [origin.lstrip(".")])])
            wanted = [f"{module}.{name}" for name in re.findall(r"\w+", names)] + [module]
        found |= dict.fromkeys(modules[one] for one in wanted if one in modules and modules[one] != file.path)
    return list(found)


# ------------------------------------------------------------------------------------------- issues, reviews, commits


def thread(row: Json) -> str:
    """Title, body, changes and what was answered, of an issue, a pull request or a commit; rows of GH Archive hold
    theirs in `payload`. Raises RecordError `no_text_field`."""
    if isinstance(row, dict) and isinstance(payload := row.get("payload"), dict):
        about = payload.get("pull_request") or payload.get("issue") or payload
        answers = [payload[name] for name in ("review", "comment") if isinstance(payload.get(name), dict)]
        row = (about if isinstance(about, dict) else {}) | ({"comments": answers} if answers else {})
    if not isinstance(row, dict):
        raise RecordError("no_text_field", f"a {type(row).__name__} where an issue, review or commit was expected")
    pieces = [_said(row, name) for name in ("title", "message", "body", "diff_hunk", "patch", "diff")]
    for name in ("commits", "reviews", "comments"):
        told = row.get(name)
        pieces += [_answer(one) for one in (told if isinstance(told, list) else []) if isinstance(one, dict)]
    whole = "\n\n".join(filter(None, pieces))
    if not whole:
        raise RecordError("no_text_field", "neither title, message, body nor patch")
    return text.check_text(whole)


def _said(row: Mapping[str, Json], name: str) -> str:
    value = row.get(name)
    return value.strip("\n") if isinstance(value, str) and value.strip() else ""


def _answer(row: Mapping[str, Json]) -> str:
    user = row.get("user") or row.get("author")
    name = user.get("login") or user.get("name") if isinstance(user, dict) else user
    words = "\n".join(filter(None, (_said(row, one) for one in ("path", "diff_hunk", "message", "body", "patch"))))
    return f"{name}: {words}" if words and isinstance(name, str) else words
