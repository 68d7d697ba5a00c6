"""Which files of a folder belong together: a picture and its caption, a document and its figures, a table and its rows.

Files from `pipelines/ingest/walk.py` become items, each the work of one reader; `pipelines/ingest/folder.py` groups
items into units. A medium that a document or a table refers to is not a record of its own, and neither is the caption
beside a picture. Everything else is: what no reader takes becomes an item too, and ends in quarantine by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path

from manifests.errors import RecordError
from manifests.records import digest
from pipelines.ingest.annotations import coco, conversations, fields, labels
from pipelines.ingest.annotations.captions import is_table
from pipelines.ingest.formats import html, markdown, rows, text
from pipelines.ingest.suffixes import CAPTIONS, DATASET_NOTES, READERS
from pipelines.ingest.walk import File, Piece, Refused, read

MOST_MARKDOWN_BYTES = 16 << 20
ANNOTATION_FOLDERS = ("Annotations", "annotations", "labels", "captions", "alto", "hocr", "subtitles")
"""Beside a folder of pictures or clips, as Pascal VOC has it."""
LISTED_FOLDERS = ("tables", "box")
"""The same with CSV files: tables that charts show, outlined lines of print."""
LOOK_ROWS = 20
"""Rows of a table that are looked at to tell whether it is one of captions."""


MOST_NAMESAKES = 1000
"""Pictures of one name in different folders, among which the one that is meant is looked for."""


@dataclass(frozen=True)
class Item:
    """What one reader takes at a time."""

    reader: str
    """A value of `READERS`, `annotated` or `refused`."""
    locator: str
    file: File | None
    piece: Piece | None = None
    captions: tuple[File, ...] = ()
    """Files beside a medium that may hold its caption, best first."""
    media: Mapping[str, File] | None = None
    """For documents and tables: files of the folder that they show, by path; not all of them are pictures or clips."""
    told: str = ""
    """What a file about many pictures says of this one."""
    refusal: tuple[str, str] = ("", "")
    """(reason, message) of what is not opened."""

    @property
    def digest(self) -> str:
        files = [(self.locator, self.piece.sha256 if self.piece else self.file.digest if self.file else "")]
        files += [(file.locator, file.digest) for file in self.captions]
        files += [(file.locator, file.digest) for _, file in sorted((self.media or {}).items())]
        return digest(self.reader, self.told, *self.refusal, *(word for pair in files for word in pair))

    @property
    def size(self) -> int:
        own = self.piece.stop - self.piece.start if self.piece else self.file.size if self.file else 0
        return own + sum(file.size for file in (self.media or {}).values())


def pair(base: Path, files: Sequence[File], refused: Sequence[Refused], text_fields: Sequence[str]) -> list[Item]:
    """Every file under the folder as part of exactly one item or more, in the order of their locators."""
    by_path = {file.path: file for file in files}
    named = _by_name(files)
    items = [Item("refused", one.locator, None, refusal=(one.reason, one.message)) for one in refused]
    taken: set[str] = set()
    singles: list[File] = []
    for file in files:
        if _describes_a_dataset(file, files):
            continue
        reader = READERS.get(file.suffix) or READERS.get("." + file.suffix.rpartition(".")[2])
        if coco.looks_like(base, file) and (about := _of_many(base, file, by_path, named)):
            items += about
            taken |= {item.file.path for item in about if item.file and item.reader == "annotated"}
        elif reader in ("markdown", "rows", "page"):
            media = _referenced(base, file, reader, by_path, named, text_fields)
            taken |= {one.path for one in media.values() if is_medium(one)}
            for piece in file.pieces:
                items.append(Item(reader, file.locator, file, piece, media=media))
        else:
            singles.append(file)
    captions = {file.path: _captions(file, by_path) for file in singles if is_medium(file) and file.path not in taken}
    for file in singles:  # the chart that a question is about, with its table
        if file.path in taken and (tables := tuple(filter(is_table, _captions(file, by_path)))):
            captions[file.path] = tables
            taken.remove(file.path)
    taken |= {caption.path for found in captions.values() for caption in found}
    # A caption beside a picture has been listed as a document of rows by now if it is JSON; it is none.
    items = [item for item in items if item.reader != "rows" or (item.file and item.file.path not in taken)]
    items += (item for file in singles if file.path not in taken for item in _single(file, captions.get(file.path, ())))
    return sorted(items, key=lambda item: (item.locator, item.piece.start if item.piece else 0))


def _single(file: File, captions: Sequence[File]) -> Iterator[Item]:
    reader = READERS.get(file.suffix, "" if "." in file.path.rpartition("/")[2] else "text")
    if not reader:
        what = f"{file.suffix or 'no'} files are not read"
        yield Item("refused", file.locator, file, refusal=("unsupported_format", what))
    for piece in file.pieces if reader else ():
        yield Item(reader, file.locator, file, piece, captions=tuple(captions))


def _describes_a_dataset(file: File, files: Sequence[File]) -> bool:
    folder, slash, name = file.path.rpartition("/")
    return name in DATASET_NOTES and any(
        one.path.startswith(folder + slash) and one.suffix == ".arrow" for one in files
    )


def is_medium(file: File) -> bool:
    return READERS.get(file.suffix) in ("image", "video")


def _captions(medium: File, by_path: Mapping[str, File]) -> tuple[File, ...]:
    folder, slash, name = medium.path.rpartition("/")
    stem = name.rpartition(".")[0]
    parent, parent_slash, _ = folder.rpartition("/")
    folders = [folder + slash, *(parent + parent_slash + beside + "/" for beside in ANNOTATION_FOLDERS)]
    names = [f"{place}{stem}{suffix}" for place in folders for suffix in CAPTIONS]
    names += [f"{parent}{parent_slash}{beside}/{stem}.csv" for beside in LISTED_FOLDERS]
    return tuple(by_path[name] for name in names if name in by_path)


def _by_name(files: Sequence[File]) -> dict[str, list[File]]:
    """Pictures and clips by the last part of their path, with its ending and without."""
    named = defaultdict(list)
    for file in files:
        if is_medium(file):
            name = file.path.rpartition("/")[2]
            named[name].append(file)
            named[name.rpartition(".")[0]].append(file)
    return {name: found for name, found in named.items() if len(found) <= MOST_NAMESAKES}


def _elsewhere(path: str, file: File, named: Mapping[str, Sequence[File]]) -> File | None:
    """The medium whose path ends as one that is not there: annotations often lie in a folder of their own. Of several
    the one that shares most folders with `file`, if that is one."""
    end = path.removeprefix(file.path.rpartition("/")[0] + "/")
    found = [one for one in named.get(end.rpartition("/")[2], ()) if _ends(one.path, end)]
    near = [len(commonpath([f"/{one.path}", f"/{file.path}"])) for one in found]
    return found[near.index(max(near))] if found and near.count(max(near)) == 1 else None


def _ends(path: str, end: str) -> bool:
    """Whether a path ends so, perhaps without its ending."""
    return any(f"/{one}".endswith(f"/{end}") for one in (path, path.rpartition(".")[0]))


def _of_many(base: Path, file: File, by_path: Mapping[str, File], named: Mapping[str, Sequence[File]]) -> list[Item]:
    """One item for each picture that a COCO file lists; none if it turns out to be another kind of file."""
    try:
        scanned = coco.scan(read(base, file, coco.MOST_BYTES))
    except RecordError as error:
        return [Item("refused", file.locator, file, refusal=(error.reason, error.message))]
    items = []
    for picture in scanned.pictures:
        locator = f"{file.locator}#{text.printable(picture.id)}"
        try:
            path = markdown.resolve(picture.file_name, file.path)
        except RecordError as error:
            items.append(Item("refused", locator, None, refusal=(error.reason, error.message)))
            continue
        medium = by_path.get(path) or _elsewhere(path, file, named)
        if medium is None or not is_medium(medium):
            why = f"{text.printable(picture.file_name[:200])} is no picture of the folder"
            items.append(Item("refused", locator, None, refusal=("missing_media", why)))
        else:
            items.append(Item("annotated", locator, medium, told=picture.told))
    if scanned.pictures and scanned.astray:
        why = f"{scanned.astray} annotations of pictures that it does not list"
        items.append(Item("refused", file.locator, file, refusal=("unknown_picture", why)))
    return items


def _referenced(
    base: Path,
    file: File,
    reader: str,
    by_path: Mapping[str, File],
    named: Mapping[str, Sequence[File]],
    text_fields: Sequence[str],
) -> dict[str, File]:
    """Files of the folder that a document or table refers to, by the path that it names. What can't be read now is
    reported by its reader."""
    try:
        if reader == "markdown":
            content = text.decode(read(base, file, MOST_MARKDOWN_BYTES))[0]
            targets = [link.target for link in markdown.read(content).links]
        elif reader == "page":
            targets = list(html.pictures(read(base, file, MOST_MARKDOWN_BYTES)))
        else:
            targets = list(_row_references(base, file, text_fields))
    except RecordError:
        return {}
    found: dict[str, File] = {}
    for target in targets:
        try:
            path = markdown.resolve(target, file.path)
        except RecordError:
            continue
        known = by_path.get(path) or (_elsewhere(path, file, named) if reader == "rows" else None)
        if known is not None:
            found[path] = known
    return found


def _row_references(base: Path, file: File, text_fields: Sequence[str]) -> Iterator[str]:
    """The media of a table of captions; nothing once its first rows show that it is none. Conversations are read to the
    end: many are about no picture, and the next one is."""
    seen = found = talks = 0
    for piece in file.pieces:
        for _, parse in rows.rows(base / file.path, file.suffix, piece):
            seen += 1
            try:
                row = fields.asked(parse())
            except RecordError:
                continue
            if not text_fields and conversations.holds_one(row):
                talks += 1
                yield from conversations.references(row)
            elif fields.has_text(row, text_fields) or labels.in_row(row):
                targets = [target for target in fields.references(row) if not target.startswith("data:")]
                found += len(targets)
                yield from targets
            if seen >= LOOK_ROWS and not found and not talks:
                return
