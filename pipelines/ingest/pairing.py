"""Files of a folder to items: an image and its caption, a document and its figures, a table and its rows.

`walk.py` lists the files, `folder.py` groups the items into units. An image or video that a document or a table refers
to belongs to it and is no record of its own; neither is the caption of an image. Every other file becomes an item, also
one that no reader opens: it ends in quarantine under its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonpath
from pathlib import Path

from manifests.errors import RecordError
from pipelines.ingest.annotations import coco
from pipelines.ingest.annotations.captions import is_table
from pipelines.ingest.documents import BY_SUFFIX, FormatReader, References
from pipelines.ingest.formats.file import FolderFile, read_file
from pipelines.ingest.formats.markdown import resolve_target
from pipelines.ingest.formats.suffixes import CAPTIONS, DATASET_NOTES, MEDIA_KINDS
from pipelines.ingest.formats.text import printable
from pipelines.ingest.readers.context import FolderItem
from pipelines.ingest.walk import RefusedFile

ANNOTATION_FOLDERS = ("Annotations", "annotations", "labels", "captions", "alto", "hocr", "subtitles")
"""Sister folders of a folder of images or videos that hold their captions or labels, as in Pascal VOC."""
CSV_FOLDERS = ("tables", "box")
"""Sister folders with CSV files: the tables that charts show, and outlined lines of print."""
MOST_NAMESAKES = 1000
"""A name that more media share is not searched."""


@dataclass(frozen=True)
class _Folder:
    """The files of an ingested folder, and its media by name."""

    base: Path
    files: Sequence[FolderFile]

    @cached_property
    def by_path(self) -> dict[str, FolderFile]:
        return {file.path: file for file in self.files}

    @cached_property
    def media_by_name(self) -> dict[str, list[FolderFile]]:
        """Images and videos by file name, with the suffix and without."""
        by_name = defaultdict(list)
        for file in self.files:
            if file.is_medium:
                name = file.path.rpartition("/")[2]
                by_name[name].append(file)
                by_name[name.rpartition(".")[0]].append(file)
        return {name: files for name, files in by_name.items() if len(files) <= MOST_NAMESAKES}

    @cached_property
    def dataset_notes(self) -> set[str]:
        """Paths of the JSON files that the library `datasets` saved above its Arrow files."""
        arrow_folders: set[str] = set()
        for file in self.files:
            folder = file.path if file.suffix == ".arrow" else ""
            while folder:
                folder = folder.rpartition("/")[0]
                arrow_folders.add(folder)
        candidates = {file.path: file.path.rpartition("/") for file in self.files}
        return {
            path for path, (folder, _, name) in candidates.items() if name in DATASET_NOTES and folder in arrow_folders
        }

    def search(self, path: str, near: FolderFile) -> FolderFile | None:
        """Find the medium whose path ends like `path`, where no file is at `path` itself.

        Of several media, the one that shares most folders with `near` is taken; None if that does not decide.
        """
        end = path.removeprefix(near.path.rpartition("/")[0] + "/")
        matches = [file for file in self.media_by_name.get(end.rpartition("/")[2], ()) if _ends_with(file.path, end)]
        shared = [len(commonpath([f"/{file.path}", f"/{near.path}"])) for file in matches]
        return matches[shared.index(max(shared))] if matches and shared.count(max(shared)) == 1 else None


def pair(
    base: Path, files: Sequence[FolderFile], refused: Sequence[RefusedFile], text_fields: Sequence[str]
) -> list[FolderItem]:
    """Return the items of a folder, sorted by locator. Every file is part of at least one item.

    Args:
        files, refused: the result of `walk_folder(base)`.
        text_fields: fields of a row that are its text; empty for the rules of `annotations/fields.py`.
    """
    folder = _Folder(base, files)
    items = [FolderItem("refused", file.locator, None, refusal=(file.reason, file.message)) for file in refused]
    owned: set[str] = set()
    singles: list[FolderFile] = []
    for file in files:
        if file.path in folder.dataset_notes:
            continue
        reader = BY_SUFFIX.get(file.suffix)
        if file.suffix == ".json" and coco.looks_like(base, file) and (annotated := _annotated_images(file, folder)):
            items += annotated
            owned |= {item.file.path for item in annotated if item.file and item.reader == "annotated"}
        elif reader is not None and reader.references is not None:
            media = _referenced(file, reader, reader.references, folder, text_fields)
            owned |= {medium.path for medium in media.values() if medium.is_medium}
            items += (FolderItem(reader.name, file.locator, file, piece, media=media) for piece in file.pieces)
        else:
            singles.append(file)
    media_files = [file for file in singles if file.suffix in MEDIA_KINDS]
    captions = {file.path: _captions(file, folder) for file in media_files if file.path not in owned}
    for file in singles:  # a chart with a table is a record of its own, although a question refers to it
        if file.path in owned and (tables := tuple(filter(is_table, _captions(file, folder)))):
            captions[file.path] = tables
            owned.remove(file.path)
    owned |= {caption.path for group in captions.values() for caption in group}
    # A JSON file that turned out to be a caption is in the list as an item of rows.
    items = [item for item in items if item.reader != "rows" or (item.file and item.file.path not in owned)]
    for file in singles:
        if file.path not in owned:
            items += _single_items(file, captions.get(file.path, ()))
    return sorted(items, key=lambda item: (item.locator, item.piece.start if item.piece else 0))


def _single_items(file: FolderFile, captions: tuple[FolderFile, ...]) -> list[FolderItem]:
    reader = BY_SUFFIX.get(file.suffix)
    if reader is None and "." in file.path.rpartition("/")[2]:
        message = f"{file.suffix or 'no'} files are not read"
        return [FolderItem("refused", file.locator, file, refusal=("unsupported_format", message))]
    name = reader.name if reader else "text"
    return [FolderItem(name, file.locator, file, piece, captions=captions) for piece in file.pieces]


def _captions(medium: FolderFile, folder: _Folder) -> tuple[FolderFile, ...]:
    """Files that may hold the caption of a medium, best first."""
    parent, slash, name = medium.path.rpartition("/")
    stem = name.rpartition(".")[0]
    above, above_slash, _ = parent.rpartition("/")
    places = [parent + slash, *(above + above_slash + sister + "/" for sister in ANNOTATION_FOLDERS)]
    paths = [f"{place}{stem}{suffix}" for place in places for suffix in CAPTIONS]
    paths += [f"{above}{above_slash}{sister}/{stem}.csv" for sister in CSV_FOLDERS]
    by_path = folder.by_path
    return tuple([by_path[path] for path in paths if path in by_path])


def _ends_with(path: str, end: str) -> bool:
    """Whether the last parts of a path, with its suffix or without, are those of `end`."""
    return any(f"/{candidate}".endswith(f"/{end}") for candidate in (path, path.rpartition(".")[0]))


def _annotated_images(file: FolderFile, folder: _Folder) -> list[FolderItem]:
    """One item for each image that a COCO file lists; empty if it lists none."""
    try:
        scanned = coco.scan_coco(read_file(folder.base, file, coco.MOST_BYTES))
    except RecordError as error:
        return [FolderItem("refused", file.locator, file, refusal=(error.reason, error.message))]
    items = []
    for image in scanned.images:
        locator = f"{file.locator}#{printable(image.id)}"
        try:
            path = resolve_target(image.file_name, file.path)
        except RecordError as error:
            items.append(FolderItem("refused", locator, None, refusal=(error.reason, error.message)))
            continue
        medium = folder.by_path.get(path) or folder.search(path, file)
        if medium is None or not medium.is_medium:
            message = f"{printable(image.file_name[:200])} is no image of the folder"
            items.append(FolderItem("refused", locator, None, refusal=("missing_media", message)))
        else:
            items.append(FolderItem("annotated", locator, medium, annotation=image.annotation))
    if scanned.images and scanned.unlisted:
        message = f"{scanned.unlisted} annotations of images that the file does not list"
        items.append(FolderItem("refused", file.locator, file, refusal=("unknown_picture", message)))
    return items


def _referenced(
    file: FolderFile, reader: FormatReader, references: References, folder: _Folder, text_fields: Sequence[str]
) -> dict[str, FolderFile]:
    """Files of the folder that a document or table refers to, by resolved path.

    A file that can't be read refers to none. Its reader reports the error later.
    """
    files: dict[str, FolderFile] = {}
    try:
        targets = list(references(folder.base, file, text_fields))
    except RecordError:
        return files
    for target in targets:
        try:
            path = resolve_target(target, file.path)
        except RecordError:
            continue
        match = folder.by_path.get(path) or (folder.search(path, file) if reader.searches else None)
        if match is not None:
            files[path] = match
    return files
