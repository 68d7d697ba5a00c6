"""`ingest_repository`: a code repository to documents that each hold several files, in reading order.

The README comes first, then the files by path; a Python file follows the files of the repository that it imports. With
`history`, every issue, review or commit becomes a document of its own. `walk.py` lists the files, `filter` comes next.
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
from pipelines.external_files import missing_file
from pipelines.ingest.annotations.fields import NO_RIGHTS, RecordRights, kept_notes, record_rights
from pipelines.ingest.formats.file import FolderFile, read_file, resolve_inside
from pipelines.ingest.formats.rows import read_rows
from pipelines.ingest.formats.suffixes import CODES, JSONS, MARKDOWNS, TEXTS
from pipelines.ingest.formats.text import check_text, decode_text
from pipelines.ingest.readers.context import new_document, refuse
from pipelines.ingest.walk import walk_folder
from pipelines.node import Attempt, DocumentsNode, Inputs, Mistake, Survey, Unit, UnitTask
from stores.store import UnitWriter

MOST_FILE_BYTES = 1 << 20
"""Larger files are refused: most of them are generated."""

_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^()]*\)|[^\n#]*)|import[ \t]+([^\n#]+))", re.M)


@schema
class IngestRepository(DocumentsNode):
    """Ingest the text files under `path`; hidden files are skipped. A document is identified by the path of its first
    file."""

    READS: ClassVar[frozenset[str]] = frozenset()
    PLACES: ClassVar[frozenset[str]] = frozenset({"path"})
    RENAMED: ClassVar[Mapping[str, str]] = {"licence": "license"}

    kind: Literal["ingest_repository"]
    path: str
    """Folder of the repository."""
    max_document_bytes: int = 256 << 10
    """Files are joined up to this size; a larger file is a document alone."""
    history: tuple[str, ...] = ()
    """Patterns of relative paths of JSON lines with issues, reviews or commits, e.g. `history/*.jsonl`."""
    exclude: tuple[str, ...] = ()
    """Patterns of relative paths to leave out."""
    license: str = ""
    """License of the records that state none."""
    origin: str = ""
    """Origin of the records that state none, e.g. the repository's URL."""
    consent: str = ""
    """Consent of the makers of the records that state none."""

    @property
    def _base(self) -> Path:
        return Path(self.path).expanduser()

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        yield from missing_file(("path",), self.path)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        files, refused = walk_folder(self._base, self.exclude, frozenset())
        history = [file for file in files if self._is_history(file)]
        others = [file for file in files if not self._is_history(file)]
        sources = [file for file in others if _is_text(file)]
        refusals = [(file.locator, "unsupported_format", "not a file of text") for file in others if not _is_text(file)]
        refusals += [(file.locator, file.reason, file.message) for file in refused]
        units = [_unit(group) for group in joined(ordered(self._base, sources), self.max_document_bytes)]
        units += [_unit([file]) for file in history]
        if not units:
            raise ManifestError("there are no files of text", where=self.path, fix="set path to a repository")
        if refusals:
            content = digest(*(word for refusal in refusals for word in refusal))
            units.append(Unit("others", content, tuple(refusals)))
        return Survey(tuple(units), {"normalize": normalize.VERSION})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        if task.unit.name == "others":
            for locator, reason, message in task.unit.data:
                attempt(locator, refuse, reason, message)
            return
        group: tuple[FolderFile, ...] = task.unit.data
        if self._is_history(group[0]):
            documents = self._threads(task.node, group[0], attempt)
        else:
            documents = iter([self._joined_files(task.node, group, attempt)])
        for document in documents:
            if document is not None:
                attempt.store(document.locator, document)

    def _is_history(self, file: FolderFile) -> bool:
        return file.suffix in JSONS and any(fnmatch(file.path, pattern) for pattern in self.history)

    def _joined_files(self, node: str, group: Sequence[FolderFile], attempt: Attempt) -> Document | None:
        """Document of several files. A file that can't be read is left out; None if no file can."""
        contents = [(file, attempt(file.locator, _content, self._base, file)) for file in group]
        kept = [(file.locator, content) for file, content in contents if content is not None]
        if not kept:
            return None
        words = "\n\n".join(f"File: {path}\n\n{content.strip(chr(10))}" for path, content in kept)
        notes: dict[str, Json] = {"files": [path for path, _ in kept]}
        return attempt(group[0].locator, self._document, node, group[0].locator, words, notes)

    def _threads(self, node: str, file: FolderFile, attempt: Attempt) -> Iterator[Document | None]:
        """Documents of the issues, reviews or commits in a file of JSON lines."""
        for piece in file.pieces:
            for place, parse in read_rows(resolve_inside(self._base, file.path), file.suffix, piece):
                yield attempt(file.locator + place, self._thread, node, file.locator + place, parse)

    def _thread(self, node: str, locator: str, parse: Callable[[], Json]) -> Document:
        row = parse()
        return self._document(node, locator, thread_text(row), kept_notes(row), record_rights(row))

    def _document(
        self, node: str, locator: str, words: str, notes: Mapping[str, Json], rights: RecordRights = NO_RIGHTS
    ) -> Document:
        rights = rights.or_else(RecordRights(self.license, self.origin, self.consent))
        return new_document(node, locator, "code", [Text(words)], (), notes, rights)


def _is_text(file: FolderFile) -> bool:
    name = PurePosixPath(file.path).name
    return file.suffix in (*CODES, *MARKDOWNS, *TEXTS) or name in ("README", "Makefile", "Dockerfile")


def _content(base: Path, file: FolderFile) -> str:
    return decode_text(read_file(base, file, MOST_FILE_BYTES))[0]


def _unit(group: Sequence[FolderFile]) -> Unit:
    content = digest(*(word for file in group for word in (file.locator, file.digest)))
    stem = re.sub(r"[^a-z0-9]+", "-", group[0].path.lower()).strip("-")[:40] or "unit"
    return Unit(f"{stem}-{digest(group[0].locator)[:8]}", content, tuple(group), sum(file.size for file in group))


# --------------------------------------------------------------------------------------------------- order of files


def joined(ordered: Sequence[FolderFile], most_bytes: int) -> Iterator[list[FolderFile]]:
    """Group neighboring files, each group as large as `most_bytes` allows and at least one file."""
    group: list[FolderFile] = []
    size = 0
    for file in ordered:
        if group and size + file.size > most_bytes:
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group


def ordered(base: Path, files: Sequence[FolderFile]) -> list[FolderFile]:
    """Sort files: READMEs of the top folder, then by path, each Python file after the files that it imports.

    A circle of imports is broken at the import that closes it.
    """
    by_path = {file.path: file for file in files}
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
                waiting += [(target, False) for target in reversed(imported.get(path, []))]
    return [by_path[path] for path in order]


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(base: Path, file: FolderFile, modules: Mapping[str, str]) -> list[str]:
    """Paths of the files that a Python file imports, in the order of its import lines.

    A file that can't be read imports none; it goes to quarantine when it is ingested.

    Args:
        modules: dotted name -> path of every Python file of the repository.
    """
    try:
        content = _content(base, file)
    except RecordError:
        return []
    package = _module(file.path).split(".")
    if not file.path.endswith("__init__.py"):
        package = package[:-1]
    paths: dict[str, None] = {}
    for origin, names, plain in _IMPORT.findall(content):
        wanted = [name.split()[0] for name in plain.split(",") if name.split()]
        if origin:
            dots = len(origin) - len(origin.lstrip("."))
            parents = package[: len(package) - dots + 1] if dots else []
            module = ".".join([*parents, *filter(None, [origin.lstrip(".")])])
            wanted = [f"{module}.{name}" for name in re.findall(r"\w+", names)] + [module]
        paths |= dict.fromkeys(modules[name] for name in wanted if name in modules and modules[name] != file.path)
    return list(paths)


# ------------------------------------------------------------------------------------------- issues, reviews, commits


def thread_text(row: Json) -> str:
    """Return title, body, changes and answers of an issue, a pull request, a review or a commit.

    Rows of GH Archive hold these in `payload`. Raises RecordError `no_text_field`.
    """
    if isinstance(row, dict) and isinstance(payload := row.get("payload"), dict):
        about = payload.get("pull_request") or payload.get("issue") or payload
        answers = [payload[name] for name in ("review", "comment") if isinstance(payload.get(name), dict)]
        row = (about if isinstance(about, dict) else {}) | ({"comments": answers} if answers else {})
    if not isinstance(row, dict):
        raise RecordError("no_text_field", f"a {type(row).__name__} where an issue, review or commit was expected")
    pieces = [_field_text(row, name) for name in ("title", "message", "body", "diff_hunk", "patch", "diff")]
    for name in ("commits", "reviews", "comments"):
        replies = row.get(name)
        if isinstance(replies, list):
            pieces += [_answer(reply) for reply in replies if isinstance(reply, dict)]
    whole = "\n\n".join(filter(None, pieces))
    if not whole:
        raise RecordError("no_text_field", "neither title, message, body nor patch")
    return check_text(whole)


def _field_text(row: Mapping[str, Json], name: str) -> str:
    value = row.get(name)
    return value.strip("\n") if isinstance(value, str) and value.strip() else ""


def _answer(row: Mapping[str, Json]) -> str:
    """Text of a comment, review or commit, after the name of its author."""
    user = row.get("user") or row.get("author")
    name = user.get("login") or user.get("name") if isinstance(user, dict) else user
    fields = ("path", "diff_hunk", "message", "body", "patch")
    words = "\n".join(filter(None, (_field_text(row, field) for field in fields)))
    return f"{name}: {words}" if words and isinstance(name, str) else words
