"""`ingest_folder`: any folder of ordinary files to a store of documents.

`walk.py` lists the files, `pairing.py` groups them into items, this node cuts the items into units, and `documents.py`
reads them. `ingest_hub` (`hub.py`) reads a fetched folder in the same way. Files that can't be read go to quarantine
with path and reason; only hidden files are skipped silently.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import ShapeKind, TextDomain, digest
from pipelines.edits import normalize
from pipelines.external_files import missing_file
from pipelines.ingest.annotations.captions import Fallback
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.documents import documents
from pipelines.ingest.formats.html import Extractor
from pipelines.ingest.formats.suffixes import CUT_AT_LINES
from pipelines.ingest.pairing import pair
from pipelines.ingest.readers.context import FolderItem, ReadContext, ReadRules
from pipelines.ingest.walk import walk_folder
from pipelines.node import Attempt, DocumentsNode, Inputs, Mistake, Survey, Unit, UnitTask
from stores.store import UnitWriter

UNIT_BYTES = 32 << 20
UNIT_ITEMS = 512


@schema
class FilesNode(DocumentsNode):
    """Base of the nodes that read a folder of ordinary files."""

    READS: ClassVar[frozenset[str]] = frozenset()
    VERSION: ClassVar[int] = 11
    RENAMED: ClassVar[Mapping[str, str]] = {"licence": "license"}

    text_domain: TextDomain = "knowledge"
    """Domain of plain text, and of rows without media. Files with the suffix of a programming language are `code`."""
    text_fields: tuple[str, ...] = ()
    """Fields of a JSON record or table row that are its text. Without them, the rules of
    `ingest/annotations/fields.py` choose."""
    caption_fallback: Fallback = "folder_name"
    """Caption of an image or video that has none: the words of its folder's name or of its own name. If that name has
    no words, those of the other."""
    shapes_in_text: tuple[ShapeKind, ...] = ("box", "point")
    """Kinds of shapes that are spelled out in the text of an annotated image. `notes.shapes` has all of them."""
    html_extractor: Extractor = "resiliparse"
    """Library that finds the main text of web pages. `resiliparse` is faster; `trafilatura` needs
    `pip install 'millrace[trafilatura]'`."""
    pdf_dpi: int = 144
    """Resolution at which the pages of PDF files are drawn, 36 to 600."""
    pdf_pages: int = 16
    """Pages per document. A longer PDF file becomes several documents."""
    exclude: tuple[str, ...] = ()
    """Patterns of relative paths to leave out, e.g. `*.csv` or `drafts/*`."""
    license: str = ""
    """License of the records without a field `license` or `licence`; an SPDX identifier where there is one."""
    origin: str = ""
    """Origin of the records without a field `url`, `origin` or `source_url`."""
    consent: str = ""
    """Consent of the makers of the records without a field `consent`."""

    def __post_init__(self) -> None:
        if not 36 <= self.pdf_dpi <= 600 or self.pdf_pages < 1:
            raise ValueError("pdf_dpi must be in [36, 600], and pdf_pages at least 1")

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        if importlib.util.find_spec(self.html_extractor) is None:
            fix = f"pip install 'millrace[{self.html_extractor}]'"
            yield Mistake(("html_extractor",), f"{self.html_extractor} is not installed", fix)

    def place(self, node: str) -> Path:
        """Return the folder, or a single file. Raises ManifestError, which names `node`, if there is none."""
        raise NotImplementedError

    @property
    def _rights(self) -> RecordRights:
        return RecordRights(self.license, self.origin, self.consent)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        place = self.place(name)
        files, refused = walk_folder(place, self.exclude, CUT_AT_LINES)
        items = pair(_base(place), files, refused, self.text_fields)
        if not items:
            raise ManifestError("there are no files to ingest", where=str(place), fix="name a folder with data")
        libraries = ("pillow", "av", "charset-normalizer", "resiliparse")
        facts = {"normalize": normalize.VERSION, **{library: version(library) for library in libraries}}
        readers = {item.reader for item in items}
        if "pdf" in readers:
            facts["pypdfium2"] = version("pypdfium2")
        if readers & {"page", "archive"}:
            facts[self.html_extractor] = self._extractor_version(name)
        return Survey(tuple(units(items)), facts)

    def _extractor_version(self, name: str) -> str:
        """Import the extractor and return its version. `name` is the node's, for the message."""
        try:
            installed = version(self.html_extractor)
            importlib.import_module(self.html_extractor)
        except ImportError as error:
            message = f"{self.html_extractor}: {error}"
            fix = f"pip install 'millrace[{self.html_extractor}]'"
            raise ManifestError(message, where=f"{name}.html_extractor", fix=fix) from None
        return installed

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        rules = ReadRules(
            self.text_domain,
            self.text_fields,
            self.caption_fallback,
            self.shapes_in_text,
            self._rights,
            self.html_extractor,
            self.pdf_dpi,
            self.pdf_pages,
        )
        context = ReadContext(_base(self.place(task.node)), task.node, rules, attempt)
        for item in task.unit.data:
            for document in documents(item, context):
                attempt.store(document.locator, document)


@schema
class IngestFolder(FilesNode):
    """Ingest every file under `path`. Documents are identified by relative paths, so the folder may be moved."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"path"})

    kind: Literal["ingest_folder"]
    path: str
    """A folder, or a single file."""

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        yield from missing_file(("path",), self.path)
        yield from super().missing(elsewhere)

    def place(self, node: str) -> Path:
        return Path(self.path).expanduser()


def _base(place: Path) -> Path:
    """Folder to which the paths of files are relative."""
    return place.parent if place.is_file() else place


def units(items: Sequence[FolderItem]) -> Iterator[Unit]:
    """Group neighboring items into units of at most 512 items, and about 32 MB.

    A unit also ends behind an item with probability 1/64, by the digest of its locator. A new file therefore changes
    its own unit alone.
    """
    group: list[FolderItem] = []
    size = 0
    for item in items:
        group.append(item)
        size += item.size
        if size >= UNIT_BYTES or len(group) >= UNIT_ITEMS or int(digest(item.locator)[:4], 16) % 64 == 0:
            yield _unit(group, size)
            group, size = [], 0
    if group:
        yield _unit(group, size)


def _unit(items: list[FolderItem], size: int) -> Unit:
    content = digest(*[item.digest for item in items])
    stem = re.sub(r"[^a-z0-9]+", "-", items[0].locator.lower()).strip("-")[:40]
    start = items[0].piece.start if items[0].piece else 0
    return Unit(f"{stem or 'unit'}-{digest(items[0].locator, str(start))[:8]}", content, tuple(items), size)
