"""`ingest_folder`: any folder of ordinary files becomes a store of documents.

Raw files -> documents -> `filter`. `ingest/walk.py` lists what is there, `pairing.py` says what belongs together,
`ingest/documents.py` makes documents of it; rows that hold conversations become documents that do. What can't be read
ends in quarantine with its path and a reason; nothing is left out silently but hidden files.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import ShapeKind, TextDomain, digest
from pipelines.edits import normalize
from pipelines.ingest.annotations import captions
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.documents import documents
from pipelines.ingest.formats import html
from pipelines.ingest.formats.suffixes import CUT_AT_LINES
from pipelines.ingest.pairing import pair
from pipelines.ingest.readers.context import FolderItem, ReadContext, ReadRules
from pipelines.ingest.walk import walk_folder
from pipelines.node import Attempt, Inputs, Survey, Unit, UnitTask
from stores.store import StoreKind, UnitWriter

UNIT_BYTES = 32 << 20
UNIT_ITEMS = 512


@schema
class Folder:
    """What nodes that read a folder have in common, wherever it comes from."""

    PRODUCT: ClassVar[StoreKind] = "documents"
    READS: ClassVar[frozenset[str]] = frozenset()
    VERSION: ClassVar[int] = 10

    text_domain: TextDomain = "knowledge"
    """Of plain text and of rows without media; code is recognised by its ending."""
    text_fields: tuple[str, ...] = ()
    """Fields of a JSON record or table row that make its text, instead of the rules in
    `ingest/annotations/fields.py`."""
    caption_fallback: captions.Fallback = "folder_name"
    """What stands for the caption of a picture or clip that has none: words of its folder's name or of its own, and of
    the other where that has no words."""
    shapes_in_text: tuple[ShapeKind, ...] = ("box", "point")
    """Which kinds of shapes the text of an annotated picture spells out, beside names and counts; `notes.shapes` has
    all of them."""
    html_extractor: html.Extractor = "resiliparse"
    """What finds the main text of web pages: `resiliparse` is the faster one, `trafilatura` needs
    `pip install 'millrace[trafilatura]'`."""
    pdf_dpi: int = 144
    """Of the pictures that pages of PDF files become: 36 to 600."""
    pdf_pages: int = 16
    """Of a PDF file in one document; a longer file becomes several."""
    exclude: tuple[str, ...] = ()
    """Patterns of relative paths to leave out, e.g. `*.csv` or `drafts/*`."""
    licence: str = ""
    """Of every record that has no field `licence` or `license` of its own; an SPDX identifier where there is one."""
    origin: str = ""
    """Where the records came from that have no field `url`, `origin` or `source_url`."""
    consent: str = ""
    """What the makers agreed to, of records without a field `consent`."""

    def __post_init__(self) -> None:
        if not 36 <= self.pdf_dpi <= 600 or self.pdf_pages < 1:
            raise ValueError("pdf_dpi lies in [36, 600], pdf_pages is at least 1")

    def reads(self) -> tuple[str, ...]:
        return ()

    def place(self, node: str) -> Path:
        """The folder, or one file. `node` is for what is said where there is none."""
        raise NotImplementedError

    @property
    def _rights(self) -> RecordRights:
        return RecordRights(self.licence, self.origin, self.consent)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        place = self.place(name)
        found, refused = walk_folder(place, self.exclude, CUT_AT_LINES)
        items = pair(_base(place), found, refused, self.text_fields)
        if not items:
            raise ManifestError("there are no files to ingest", where=str(place), fix="name a folder with data")
        readers = ("pillow", "av", "charset-normalizer", "resiliparse")
        facts = {"normalise": normalize.VERSION, **{name: version(name) for name in readers}}
        if any(item.reader == "pdf" for item in items):
            facts["pypdfium2"] = version("pypdfium2")
        if any(item.reader in ("page", "archive") for item in items):
            try:
                facts[self.html_extractor] = version(self.html_extractor)
                importlib.import_module(self.html_extractor)
            except ImportError as error:
                fix = f"pip install 'millrace[{self.html_extractor}]'"
                raise ManifestError(
                    f"{self.html_extractor}: {error}", where=f"{name}.html_extractor", fix=fix
                ) from None
        return Survey(tuple(units(items)), facts)

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
class IngestFolder(Folder):
    """Every file under `path`. Documents are known by their relative path, so the folder may be moved."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"path"})

    kind: Literal["ingest_folder"]
    path: str

    def place(self, node: str) -> Path:
        return Path(self.path).expanduser()


def _base(place: Path) -> Path:
    """What relative paths begin at."""
    return place.parent if place.is_file() else place


def units(items: Sequence[FolderItem]) -> Iterator[Unit]:
    """Neighbouring items, cut where a path's digest says so: a new file changes its own unit and no other."""
    kept: list[FolderItem] = []
    size = 0
    for item in items:
        kept.append(item)
        size += item.size
        if size >= UNIT_BYTES or len(kept) >= UNIT_ITEMS or int(digest(item.locator)[:4], 16) % 64 == 0:
            yield _unit(kept)
            kept, size = [], 0
    if kept:
        yield _unit(kept)


def _unit(items: list[FolderItem]) -> Unit:
    content = digest(*(item.digest for item in items))
    first = re.sub(r"[^a-z0-9]+", "-", items[0].locator.lower()).strip("-")[:40]
    start = items[0].piece.start if items[0].piece else 0
    size_bytes = sum(item.size for item in items)
    return Unit(f"{first or 'unit'}-{digest(items[0].locator, str(start))[:8]}", content, tuple(items), size_bytes)
