"""COCO annotation files: one JSON file about many images, with boxes, polygons, keypoints, captions, expressions.

`ingest/pairing.py` calls `scan_coco`, which cuts the file into one JSON text per image. A large file thus becomes many
units, and a changed annotation concerns its own unit. `ingest/readers/media_files.py` calls `read_labels` on such a
text. Understood:

    images        id, file_name (LVIS: coco_url), width, height
    categories    id, name, keypoints
    annotations   image_id, category_id, bbox, segmentation, keypoints, iscrowd; or caption
    refs          ann_id, sentences [{sent}]: RefCOCO; an annotation may have `sentences` of its own as well
    licenses      id, name: of the images that refer to them

Run-length masks become polygons (`rle.py`). Polygons whose edges cross are left out and counted; their boxes stay. A
crowd is one box for many things, so nothing of its name is counted on that image.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from manifests.errors import RecordError
from manifests.records import Json, Shape
from pipelines.ingest.annotations import rle
from pipelines.ingest.annotations.fields import RecordRights, record_rights
from pipelines.ingest.annotations.shapes import AnnotatedImage, Instance, box, name_of, numbers, polygon
from pipelines.ingest.formats.file import FolderFile, resolve_inside
from pipelines.ingest.formats.rows import parse_json
from pipelines.ingest.formats.text import check_text, decode_text, printable

MOST_BYTES = 512 << 20
"""Largest file; instances_train2017.json has 448 MiB. The survey needs about six times as much memory."""
MOST_ID_CHARACTERS = 200
MOST_ELEMENT_CHARACTERS = 4 << 20
"""Longest annotation. The file as a whole is never parsed at once."""
IDS = {
    "images": ("id", "file_name", "coco_url", "license"),
    "categories": ("id",),
    "annotations": ("id", "image_id", "category_id"),
    "refs": ("ann_id",),
    "licenses": ("id",),
}
"""Lists of a file, and the fields that link their elements."""

_FIRST_KEY = re.compile(rb'\s*\{\s*"(?:info|licenses|images|annotations|categories|type|refs)"\s*:')
_KEY = re.compile(r'\s*"([^"\\]{0,200})"\s*:\s*')
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class CocoImage:
    """The part of a file that is about one image."""

    id: str
    file_name: str
    annotation: str
    """JSON: a map of the file's lists, with only the elements that concern this image."""


@dataclass(frozen=True)
class CocoFile:
    """A file, cut by image."""

    images: tuple[CocoImage, ...]
    unlisted: int
    """Number of annotations of images that the file does not list."""


def looks_like(base: Path, file: FolderFile) -> bool:
    """Whether a JSON file begins like COCO and names its lists, so that `scan_coco` should try it."""
    if not file.size:
        return False
    with resolve_inside(base, file.path).open("rb") as opened:
        if not _FIRST_KEY.match(opened.read(200)):
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(f'"{name}"'.encode()) >= 0 for name in ("images", "annotations"))


def scan_coco(data: bytes) -> CocoFile:
    """Cut a file by image, in its own order.

    Raises RecordError: `bad_json`, `too_deep`, `too_large`, `bad_annotation`, and the reasons of `decode_text`.
    """
    elements: dict[str, list[tuple[dict[str, str], str]]] = {name: [] for name in IDS}
    for name, value, written in _elements(decode_text(data)[0]):
        if name in elements and isinstance(value, dict):
            ids = {field: str(value[field]) for field in IDS[name] if isinstance(value.get(field), int | str)}
            elements[name].append((ids, written))
    categories = {ids.get("id"): written for ids, written in elements["categories"]}
    licenses = {ids.get("id"): written for ids, written in elements["licenses"]}
    by_image: dict[str, dict[str, list[str]]] = {}
    names: dict[str, str] = {}
    for ids, written in elements["images"]:
        image, name = ids.get("id"), ids.get("file_name") or _name_in_url(ids.get("coco_url", ""))
        if not image or len(image) > MOST_ID_CHARACTERS or image in by_image or not name:
            raise RecordError("bad_annotation", f"no id, no name or twice: image {printable(repr(ids)[:80])}")
        license = licenses.get(ids.get("license", ""))
        names[image] = name
        by_image[image] = {"images": [written], "annotations": [], "categories": [], "refs": []}
        by_image[image]["licenses"] = [license] if license else []
    unlisted = 0
    refs: dict[str | None, list[str]] = defaultdict(list)
    for ids, written in elements["refs"]:
        refs[ids.get("ann_id")].append(written)
    for ids, written in elements["annotations"]:
        lists = by_image.get(ids.get("image_id", ""))
        if lists is None:
            unlisted += 1
            continue
        lists["annotations"].append(written)
        lists["refs"] += refs.get(ids.get("id"), [])
        category = categories.get(ids.get("category_id"))
        if category is not None and category not in lists["categories"]:
            lists["categories"].append(category)
    return CocoFile(tuple(CocoImage(id, names[id], _joined(lists)) for id, lists in by_image.items()), unlisted)


def _name_in_url(url: str) -> str:
    """Folder and file at the end of a URL, by which LVIS names its images; "" for anything else."""
    return "/".join(urlsplit(url).path.split("/")[-2:]) if url.startswith("http") else ""


def _joined(lists: dict[str, list[str]]) -> str:
    return "{" + ",".join(f'"{name}":[{",".join(written)}]' for name, written in sorted(lists.items())) + "}"


def _elements(content: str) -> Iterator[tuple[str, Json, str]]:
    """(key, value, its JSON text) of each element of each list in a map. Values that are no lists are skipped."""
    at = _opened(content, 0, "{")
    while not content.startswith("}", at):
        key = _KEY.match(content, at)
        if key is None:
            raise RecordError("bad_json", f"no key at character {at}")
        at = key.end()
        if content.startswith("[", at):
            at = _opened(content, at, "[")
            while not content.startswith("]", at):
                value, stop = _element(content, at)
                yield key[1], value, content[at:stop]
                at = _next_element(content, stop, "]")
            at += 1
        else:
            _, at = _element(content, at)
        at = _next_element(content, at, "}")


def _opened(content: str, at: int, bracket: str) -> int:
    """Offset of the first element behind an opening bracket at `at`."""
    start = _skip_space(content, at)
    if not content.startswith(bracket, start):
        raise RecordError("bad_json", f"no {bracket} at character {start}")
    return _skip_space(content, start + 1)


def _next_element(content: str, at: int, end: str) -> int:
    """Offset of the element after a comma at `at`, or of the closing bracket `end`."""
    at = _skip_space(content, at)
    if content.startswith(",", at):
        return _skip_space(content, at + 1)
    if not content.startswith(end, at):
        raise RecordError("bad_json", f"no comma or {end} at character {at}")
    return at


def _skip_space(content: str, at: int) -> int:
    match = _SPACE.match(content, at)
    return match.end() if match else at


def _element(content: str, at: int) -> tuple[Json, int]:
    """(value, offset of its end). A small window of the text is tried first, because the parser copies it."""
    for window in (1 << 12, 1 << 16, MOST_ELEMENT_CHARACTERS):
        part = content[at : at + window]
        try:
            value, length = _DECODER.raw_decode(part)
        except RecursionError:
            raise RecordError("too_deep", "nested too deeply") from None
        except ValueError as error:
            if len(part) < window:
                raise RecordError("bad_json", f"{error}, from character {at} on") from None
            continue
        if length < len(part) or at + length == len(content):  # else a number could continue behind the window
            return value, at + length
    raise RecordError("too_large", f"an element of more than {MOST_ELEMENT_CHARACTERS} characters, or none, at {at}")


# ------------------------------------------------------------------------------------------------------- one image


@dataclass(frozen=True)
class CocoLabels:
    """Captions or shapes of one image."""

    captions: tuple[str, ...]
    annotated: AnnotatedImage | None
    """None if there are captions."""
    rights: RecordRights


def read_labels(annotation: str) -> CocoLabels:
    """Read `CocoImage.annotation`.

    Raises RecordError: `bad_annotation`, and the reasons of `parse_json` and `check_text`.
    """
    lists: dict[str, list[dict[str, Json]]] = parse_json(annotation)
    (image,), annotations = lists["images"], lists["annotations"]
    license = next((element.get("name") for element in lists["licenses"]), None)
    origin = image.get("flickr_url") or image.get("coco_url")
    rights = record_rights({"license": license, "url": origin}).or_else(record_rights(image))
    written = [element["caption"] for element in annotations if isinstance(element.get("caption"), str)]
    captions = tuple(check_text(caption.strip()) for caption in written)
    if captions and not any("bbox" in element for element in annotations):
        return CocoLabels(captions, None, rights)
    left_out: list[str] = []
    referring = [(element, words) for element in annotations for words in _expressions(element, lists["refs"])]
    if referring:
        instances = [_instance(element, name_of(words), (), left_out) for element, words in referring]
    else:
        categories = {str(category["id"]): category for category in lists["categories"]}
        instances = [
            _of_category(element, categories.get(str(element.get("category_id"))), left_out) for element in annotations
        ]
    width, height = image.get("width"), image.get("height")
    size = (width, height) if isinstance(width, int) and isinstance(height, int) and width and height else None
    return CocoLabels((), AnnotatedImage(tuple(instances), size, not referring, tuple(left_out)), rights)


def _expressions(annotation: dict[str, Json], refs: list[dict[str, Json]]) -> Iterator[Json]:
    """Expressions that refer to one thing, of the annotation itself and of the `refs` with its id."""
    own = [ref for ref in refs if str(ref.get("ann_id")) == str(annotation.get("id"))]
    for element in (annotation, *own):
        sentences = element.get("sentences", [element["caption"]] if isinstance(element.get("caption"), str) else [])
        if not isinstance(sentences, list):
            raise RecordError("bad_annotation", f"sentences are a {type(sentences).__name__}, expected a list")
        for sentence in sentences:
            yield (sentence.get("raw") or sentence.get("sent")) if isinstance(sentence, dict) else sentence


def _of_category(annotation: dict[str, Json], category: dict[str, Json] | None, left_out: list[str]) -> Instance:
    if category is None:
        raise RecordError("bad_annotation", f"no category {printable(repr(annotation.get('category_id'))[:40])}")
    keypoints = category.get("keypoints", [])
    names = keypoints if isinstance(keypoints, list) else []
    return _instance(annotation, name_of(category.get("name")), names, left_out)


def _instance(annotation: dict[str, Json], name: str, keypoints: Sequence[Json], left_out: list[str]) -> Instance:
    """Shapes of one annotation.

    Args:
        keypoints: names of its points, in order.
        left_out: takes a reason for each polygon that is left out.
    """
    several = bool(annotation.get("iscrowd"))
    shapes: list[Shape] = []
    if "bbox" in annotation:
        left, top, width, height = numbers(annotation["bbox"], 4)
        shapes.append(box(name, left, top, left + width, top + height))
    segmentation = annotation.get("segmentation", [])
    if isinstance(segmentation, dict):
        pieces, reasons = rle.outlines(segmentation)
        left_out += reasons
    elif isinstance(segmentation, list):
        pieces = [[(x, y) for x, y in _groups(corners, 2)] for corners in segmentation]
    else:
        raise RecordError("bad_annotation", "a segmentation that is neither polygons nor run lengths")
    for piece in pieces:
        try:
            shapes.append(polygon(name, piece))
        except RecordError as error:  # common in such files, and the box shows the place as well
            if error.reason != "crossing_polygon":
                raise
            left_out.append(error.reason)
    points = _groups(annotation.get("keypoints", []), 3)
    for part, (x, y, visibility) in zip(keypoints, points, strict=False):
        if visibility:  # 0: the point has no label
            shapes.append(Shape("point", f"{name} {name_of(part)}", ((x, y),)))
    return Instance(name, tuple(shapes), several)


def _groups(value: Json, each: int) -> list[tuple[float, ...]]:
    """Numbers of a flat list in groups of `each`."""
    flat = numbers(value)
    if len(flat) % each:
        raise RecordError("bad_annotation", f"{len(flat)} coordinates in groups of {each}")
    return list(zip(*(flat[i::each] for i in range(each)), strict=True))
