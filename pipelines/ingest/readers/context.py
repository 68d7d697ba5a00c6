"""Arguments of a reader: the files to read (`FolderItem`), and folder, rules and quarantine (`ReadContext`).

`ingest/pairing.py` makes the items, `ingest/documents.py` passes each item to its reader. A reader makes its documents
with `ReadContext.document`. It calls every step that a bad file can break through `ReadContext.attempt`, the only place
that catches a RecordError and puts the record into quarantine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from manifests.errors import RecordError
from manifests.records import Document, Fact, Json, Part, ShapeKind, digest, record_id
from pipelines.edits.normalize import normalize
from pipelines.ingest.annotations.captions import Fallback
from pipelines.ingest.annotations.fields import NO_RIGHTS, RecordRights
from pipelines.ingest.formats.file import FilePiece, FolderFile, check_unchanged, resolve_inside
from pipelines.ingest.formats.html import Extractor
from pipelines.node import Attempt

MOST_MEDIA_BYTES = 256 << 20
"""Media bytes of one document, which is held in memory as a whole."""

P = ParamSpec("P")


@dataclass(frozen=True)
class FolderItem:
    """The input of one call of a reader: a file or a piece of it, with the files that belong to it."""

    reader: str
    """Name of a reader in `ingest/documents.py`, or `refused`."""
    locator: str
    """Path of the file as printable text; with `#ID` for one image of an annotation file."""
    file: FolderFile | None
    """None only where `reader` is `refused`."""
    piece: FilePiece | None = None
    captions: tuple[FolderFile, ...] = ()
    """Files that may hold the caption of an image or video, best first."""
    media: Mapping[str, FolderFile] | None = None
    """Files that a text document or a table refers to, by the path that it gives. Some may be no media."""
    annotation: str = ""
    """JSON about one image, from a file that describes many (`annotations/coco.py`)."""
    refusal: tuple[str, str] = ("", "")
    """(reason, message) of a file that no reader opens."""

    @property
    def digest(self) -> str:
        """Digest of every byte that this item reads, and of how it is read."""
        files = [(self.locator, self.piece.sha256 if self.piece else self.file.digest if self.file else "")]
        files += [(file.locator, file.digest) for file in self.captions]
        files += [(file.locator, file.digest) for _, file in sorted((self.media or {}).items())]
        return digest(self.reader, self.annotation, *self.refusal, *(word for pair in files for word in pair))

    @property
    def size(self) -> int:
        """Bytes to read, captions not counted."""
        own = self.piece.stop - self.piece.start if self.piece else self.file.size if self.file else 0
        return own + sum(file.size for file in (self.media or {}).values())


@dataclass(frozen=True)
class ReadRules:
    """The parameters of `ingest_folder` that decide how files are read; `folder.py` documents them."""

    text_domain: str
    text_fields: tuple[str, ...]
    caption_fallback: Fallback
    shapes_in_text: tuple[ShapeKind, ...]
    rights: RecordRights
    """Rights of the records that state none."""
    html_extractor: Extractor = "resiliparse"
    pdf_dpi: int = 144
    pdf_pages: int = 16


@dataclass(frozen=True)
class ReadContext:
    """Folder, rules and quarantine of one unit of an ingest node, for its readers."""

    base: Path
    """Folder to which the paths of files are relative."""
    source: str
    """Name of the ingest node."""
    rules: ReadRules
    attempt: Attempt
    """Quarantine and counters of the unit; `pipelines/node.py` describes its methods."""

    def attempt_document(
        self, locator: str, make: Callable[P, Document], *arguments: P.args, **named: P.kwargs
    ) -> tuple[Document, ...]:
        """Return the document `make(*arguments)`; nothing if it failed and the record is in quarantine."""
        document = self.attempt(locator, make, *arguments, **named)
        return () if document is None else (document,)

    def refuse(self, locator: str, reason: str, message: str) -> None:
        """Put a record into quarantine."""
        self.attempt(locator, refuse, reason, message)

    def path(self, file: FolderFile) -> Path:
        """Return the real path of a file. Raises StoreError if the file has changed since the survey."""
        check_unchanged(self.base, file)
        return resolve_inside(self.base, file.path)

    def document(
        self,
        locator: str,
        domain: str,
        parts: Sequence[Part],
        facts: Sequence[Fact] = (),
        notes: Mapping[str, Json] | None = None,
        rights: RecordRights = NO_RIGHTS,
    ) -> Document:
        """Return a document of this source. The rules fill in the rights that the record does not state.

        Raises:
            RecordError: as `new_document`.
        """
        return new_document(self.source, locator, domain, parts, facts, notes, rights.or_else(self.rules.rights))


def new_document(
    source: str,
    locator: str,
    domain: str,
    parts: Sequence[Part],
    facts: Sequence[Fact] = (),
    notes: Mapping[str, Json] | None = None,
    rights: RecordRights = NO_RIGHTS,
) -> Document:
    """Return a document of an ingest node, with its text in Unicode normal form.

    Every ingest node makes its documents here.

    Args:
        source: name of the ingest node. It decides the id of the document, together with `locator`.
    Raises:
        RecordError: the reasons of `normalize`.
    """
    identity = record_id(source, locator)
    document = Document(
        identity,
        source,
        locator,
        domain,
        tuple(parts),
        tuple(facts),
        dict(notes or {}),
        license=rights.license,
        origin=rights.origin,
        consent=rights.consent,
    )
    return normalize(document)


def refuse(reason: str, message: str) -> None:
    """Raise RecordError. `attempt(locator, refuse, reason, message)` puts a record into quarantine."""
    raise RecordError(reason, message)


def encoding_note(encoding: str) -> dict[str, Json]:
    """Return `notes.encoding`; empty for UTF-8."""
    return {} if encoding == "utf-8" else {"encoding": encoding}
