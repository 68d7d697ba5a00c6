"""COCO: one JSON file about many pictures. Objects with boxes and polygons, keypoints, captions, referring expressions.

`pairing.py` calls `scan`, which makes one item of every picture, so that a large file becomes many units and a changed
annotation re-does its own; `ingest/documents.py` calls `read` on what such an item carries. Understood:

    images        id, file_name (LVIS: coco_url), width, height
    categories    id, name, keypoints
    annotations   image_id, category_id, bbox, segmentation, keypoints, iscrowd; or caption
    refs          ann_id, sentences [{sent}]: RefCOCO; an annotation may have `sentences` of its own as well
    licenses      id, name: of the images that say so

Masks in run lengths become polygons (`ingest/annotations/rle.py`). Polygons whose edges cross are left out and counted,
their boxes stay. A crowd is one box for many things, so what has its name is not counted on that picture.
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
from pipelines.ingest.annotations import fields, rle
from pipelines.ingest.annotations.shapes import AnnotatedImage, Instance, box, name_of, numbers, polygon
from pipelines.ingest.formats import rows, text
from pipelines.ingest.formats.file import FolderFile, resolve_inside

MOST_BYTES = 512 << 20
"""Of a file; instances_train2017.json has 448 MiB. The survey needs about six times as much memory."""
MOST_ID_CHARACTERS = 200
MOST_ELEMENT_CHARACTERS = 4 << 20
"""Of one annotation; the whole file is never parsed at once."""
IDS = {
    "images": ("id", "file_name", "coco_url", "license"),
    "categories": ("id",),
    "annotations": ("id", "image_id", "category_id"),
    "refs": ("ann_id",),
    "licenses": ("id",),
}
"""Lists of a file, and the fields by which their elements are known."""

_FIRST_KEY = re.compile(rb'\s*\{\s*"(?:info|licenses|images|annotations|categories|type|refs)"\s*:')
_KEY = re.compile(r'\s*"([^"\\]{0,200})"\s*:\s*')
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class CocoImage:
    """What a file says about one picture, still as JSON."""

    id: str
    file_name: str
    annotation: str
    """A map of lists as in the file, with nothing in them but what concerns this picture."""


@dataclass(frozen=True)
class CocoFile:
    images: tuple[CocoImage, ...]
    unlisted: int
    """Annotations of pictures that the file doesn't list."""


def looks_like(base: Path, file: FolderFile) -> bool:
    """A first look at some bytes: whether `scan` should try."""
    if file.suffix != ".json" or not file.size:
        return False
    with resolve_inside(base, file.path).open("rb") as opened:
        if not _FIRST_KEY.match(opened.read(200)):
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as seen:
            return all(seen.find(f'"{name}"'.encode()) >= 0 for name in ("images", "annotations"))


def scan_coco(data: bytes) -> CocoFile:
    """Pictures of a file in its order. Raises RecordError: `bad_json`, `too_deep`, `too_large`, `bad_annotation`."""
    found: dict[str, list[tuple[dict[str, str], str]]] = {name: [] for name in IDS}
    for name, value, written in _elements(text.decode_text(data)[0]):
        if name in found and isinstance(value, dict):
            kept = {field: str(value[field]) for field in IDS[name] if isinstance(value.get(field), int | str)}
            found[name].append((kept, written))
    categories = {kept.get("id"): written for kept, written in found["categories"]}
    licences = {kept.get("id"): written for kept, written in found["licenses"]}
    about: dict[str, dict[str, list[str]]] = {}
    names: dict[str, str] = {}
    for kept, written in found["images"]:
        picture, called = kept.get("id"), kept.get("file_name") or _in_url(kept.get("coco_url", ""))
        if not picture or len(picture) > MOST_ID_CHARACTERS or picture in about or not called:
            raise RecordError("bad_annotation", f"no id, no name or twice: image {text.printable(repr(kept)[:80])}")
        licence = licences.get(kept.get("license", ""))
        names[picture] = called
        about[picture] = {"images": [written], "annotations": [], "categories": [], "refs": []}
        about[picture]["licenses"] = [licence] if licence else []
    unlisted = 0
    refs: dict[str | None, list[str]] = defaultdict(list)
    for kept, written in found["refs"]:
        refs[kept.get("ann_id")].append(written)
    for kept, written in found["annotations"]:
        lists = about.get(kept.get("image_id", ""))
        if lists is None:
            unlisted += 1
            continue
        lists["annotations"].append(written)
        lists["refs"] += refs.get(kept.get("id"), [])
        category = categories.get(kept.get("category_id"))
        if category is not None and category not in lists["categories"]:
            lists["categories"].append(category)
    return CocoFile(tuple(CocoImage(one, names[one], _joined(lists)) for one, lists in about.items()), unlisted)


def _in_url(url: str) -> str:
    """LVIS names its pictures so: folder and file."""
    return "/".join(urlsplit(url).path.split("/")[-2:]) if url.startswith("http") else ""


def _joined(lists: dict[str, list[str]]) -> str:
    return "{" + ",".join(f'"{name}":[{",".join(written)}]' for name, written in sorted(lists.items())) + "}"


def _elements(content: str) -> Iterator[tuple[str, Json, str]]:
    """(key, value, as it is written) of the elements of each list in a map, and of its values that are no lists."""
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
                at = _behind(content, stop, "]")
            at += 1
        else:
            value, at = _element(content, at)
        at = _behind(content, at, "}")


def _opened(content: str, at: int, bracket: str) -> int:
    start = _space(content, at)
    if not content.startswith(bracket, start):
        raise RecordError("bad_json", f"no {bracket} at character {start}")
    return _space(content, start + 1)


def _behind(content: str, at: int, end: str) -> int:
    """Where the next element begins, or where its list ends."""
    at = _space(content, at)
    if content.startswith(",", at):
        return _space(content, at + 1)
    if not content.startswith(end, at):
        raise RecordError("bad_json", f"no comma or {end} at character {at}")
    return at


def _space(content: str, at: int) -> int:
    found = _SPACE.match(content, at)
    return found.end() if found else at


def _element(content: str, at: int) -> tuple[Json, int]:
    """One value and where it ends. Small windows first: the parser is shown no more than it needs."""
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
        if length < len(part) or at + length == len(content):  # a number could go on behind the window
            return value, at + length
    raise RecordError("too_large", f"an element of more than {MOST_ELEMENT_CHARACTERS} characters, or none, at {at}")


# ----------------------------------------------------------------------------------------------------- one picture


@dataclass(frozen=True)
class CocoLabels:
    captions: tuple[str, ...]
    annotated: AnnotatedImage | None
    """None where there are captions."""
    rights: fields.RecordRights


def read_labels(told: str) -> CocoLabels:
    """What a `Picture` tells. Raises RecordError: `bad_annotation`, and what the JSON reader raises."""
    lists: dict[str, list[dict[str, Json]]] = rows.parse_json(told)
    (image,), annotations = lists["images"], lists["annotations"]
    licence = next((one.get("name") for one in lists["licenses"]), None)
    origin = image.get("flickr_url") or image.get("coco_url")
    rights = fields.record_rights({"licence": licence, "url": origin}).or_else(fields.record_rights(image))
    captions = tuple(
        text.check_text(one["caption"].strip()) for one in annotations if isinstance(one.get("caption"), str)
    )
    if captions and not any("bbox" in one for one in annotations):
        return CocoLabels(captions, None, rights)
    left_out: list[str] = []
    referring = [(one, name) for one in annotations for name in _expressions(one, lists["refs"])]
    if referring:
        instances = [_instance(one, name_of(name), (), left_out) for one, name in referring]
    else:
        kinds = {str(one["id"]): one for one in lists["categories"]}
        instances = [_of_kind(one, kinds.get(str(one.get("category_id"))), left_out) for one in annotations]
    width, height = image.get("width"), image.get("height")
    size = (width, height) if isinstance(width, int) and isinstance(height, int) and width and height else None
    return CocoLabels((), AnnotatedImage(tuple(instances), size, not referring, tuple(left_out)), rights)


def _expressions(annotation: dict[str, Json], refs: list[dict[str, Json]]) -> Iterator[Json]:
    """Sentences that refer to this thing and no other."""
    own = [one for one in refs if str(one.get("ann_id")) == str(annotation.get("id"))]
    for one in (annotation, *own):
        said = one.get("sentences", [one["caption"]] if isinstance(one.get("caption"), str) else [])
        if not isinstance(said, list):
            raise RecordError("bad_annotation", "sentences that are no list")
        for sentence in said:
            yield (sentence.get("raw") or sentence.get("sent")) if isinstance(sentence, dict) else sentence


def _of_kind(annotation: dict[str, Json], kind: dict[str, Json] | None, left_out: list[str]) -> Instance:
    if kind is None:
        raise RecordError("bad_annotation", f"no category {text.printable(repr(annotation.get('category_id'))[:40])}")
    keypoints = kind.get("keypoints", [])
    return _instance(annotation, name_of(kind.get("name")), keypoints if isinstance(keypoints, list) else [], left_out)


def _instance(annotation: dict[str, Json], name: str, keypoints: Sequence[Json], left_out: list[str]) -> Instance:
    several = bool(annotation.get("iscrowd"))
    shapes: list[Shape] = []
    if "bbox" in annotation:
        left, top, width, height = numbers(annotation["bbox"], 4)
        shapes.append(box(name, left, top, left + width, top + height))
    outline = annotation.get("segmentation", [])
    if isinstance(outline, dict):
        pieces, lost = rle.outlines(outline)
        left_out += lost
    elif isinstance(outline, list):
        pieces = [[(x, y) for x, y in _groups(corners, 2)] for corners in outline]
    else:
        raise RecordError("bad_annotation", "a segmentation that is neither polygons nor run lengths")
    for piece in pieces:
        try:
            shapes.append(polygon(name, piece))
        except RecordError as error:  # common in such files; the box says where the thing is, too
            if error.reason != "crossing_polygon":
                raise
            left_out.append(error.reason)
    points = _groups(annotation.get("keypoints", []), 3)
    for part, (x, y, seen) in zip(keypoints, points, strict=False):
        if seen:  # 0: not labelled
            shapes.append(Shape("point", f"{name} {name_of(part)}", ((x, y),)))
    return Instance(name, tuple(shapes), several)


def _groups(value: Json, each: int) -> list[tuple[float, ...]]:
    flat = numbers(value)
    if len(flat) % each:
        raise RecordError("bad_annotation", f"{len(flat)} coordinates in groups of {each}")
    return list(zip(*(flat[i::each] for i in range(each)), strict=True))
