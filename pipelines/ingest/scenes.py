"""`ingest_scenes`: the folder of a node `scenes` to a store of documents.

`scenes` writes JSON lines and media files; this node reads them, and `filter` comes next. Facts and notes are taken
over. Media are decoded and compared with their line. Records that `scenes` damaged on purpose go to quarantine, each
with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from manifests.errors import ManifestError, RecordError
from manifests.load import schema
from manifests.records import Document, Fact, Json, Media, Part, Text, digest
from pipelines.edits import normalize
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.formats.media import make_image, make_video
from pipelines.ingest.formats.rows import parse_json
from pipelines.ingest.readers.context import new_document
from pipelines.node import Attempt, DocumentsNode, Inputs, Mistake, Node, Survey, Unit, UnitTask, name_node
from stores.store import UnitWriter

ANNOTATIONS = "annotations.jsonl"
RIGHTS = RecordRights(origin="drawn by millrace")


@schema
class IngestScenes(DocumentsNode):
    """Ingest the scenes of one split. Locators are split, category and ordinal: `train/caption/000017`."""

    READS: ClassVar[frozenset[str]] = frozenset({"folder"})
    VERSION: ClassVar[int] = 4

    kind: Literal["ingest_scenes"]
    input: str
    """A node of kind `scenes`."""
    split: Literal["train", "held_out"] = "train"
    """Split to read."""
    categories: tuple[str, ...] = ()
    """Categories to read; all of them, with the damaged records, if none is given."""

    def check(self, name: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
        kind = nodes[self.input].kind
        if kind != "scenes":
            yield Mistake(("input",), f"{self.input} ({kind}) makes no scenes", name_node("scenes", nodes))

    def survey(self, name: str, inputs: Inputs) -> Survey:
        """One unit per annotation file. Its digest covers the media too, because the lines hold their digests."""
        folder = inputs[self.input].folder
        units = []
        for file in sorted((folder / self.split).glob(f"*/*/{ANNOTATIONS}")):
            category, start = file.parts[-3:-1]
            if not self.categories or category in self.categories:
                with file.open("rb") as opened:
                    content = file_digest(opened, "sha256").hexdigest()
                path = file.relative_to(folder).as_posix()
                units.append(Unit(f"{category}-{start}", digest(path, content), path))
        if not units:
            wanted = f"categories {', '.join(self.categories)}" if self.categories else "scenes"
            message = f"there are no {wanted} in split {self.split}"
            raise ManifestError(message, where=name, fix=f"give {self.input} counts above 0 for them")
        facts = {"normalize": normalize.VERSION, "pillow": version("pillow"), "av": version("av")}
        return Survey(tuple(units), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        file = task.inputs[self.input].folder / task.unit.data
        category, start = file.parts[-3:-1]
        for i, line in enumerate(file.read_bytes().splitlines()):
            locator = f"{self.split}/{category}/{int(start) + i:06d}"
            document = attempt(locator, read_scene, line, file.parent, task.node, locator)
            if document is not None:
                attempt.store(locator, document)


def read_scene(line: bytes, folder: Path, source: str, locator: str) -> Document:
    """Return the document of one annotation line and the media files that it names.

    Args:
        folder: where the media files are.
        source: name of the ingest node.
    Raises:
        RecordError: `bad_annotation`, `bad_fact`, `missing_media`, `media_outside`, `changed_media`, `wrong_size`, and
            the reasons of `parse_json`, of the decoders and of `normalize`.
    """
    scene = parse_json(line)
    try:
        written = [part.get("text", part) for part in scene["parts"]]
        facts = tuple(Fact(fact["name"], fact["part"], fact["start"], fact["stop"]) for fact in scene["facts"])
        domain, notes = scene["domain"], scene["notes"] | {"scene": scene["scene"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError("bad_annotation", f"{type(error).__name__}: {error}") from None
    _check_facts(facts, written)
    parts: list[Part] = [Text(part) if isinstance(part, str) else _medium(folder, part) for part in written]
    notes |= _shape_notes(notes, parts)
    return new_document(source, locator, domain, parts, facts, notes, RIGHTS)


def _check_facts(facts: Sequence[Fact], parts: Sequence[Json]) -> None:
    """Raises RecordError `bad_fact` for a fact outside the text of its part."""
    for fact in facts:
        text = parts[fact.part] if 0 <= fact.part < len(parts) else None
        if not isinstance(text, str) or not 0 <= fact.start < fact.stop <= len(text):
            raise RecordError("bad_fact", f"{fact.name} at {fact.start}..{fact.stop} of part {fact.part}")


def _shape_notes(notes: Json, parts: Sequence[Part]) -> Json:
    """`notes.shapes` of a scene with one image, which samples and packs carry along (docs/loader.md)."""
    media = [part for part in parts if isinstance(part, Media)]
    if len(media) != 1 or media[0].kind != "image" or "things" not in notes:
        return {}
    shapes = []
    for thing in notes["things"]:
        left, top, right, bottom = thing["box"]
        corners = {"point": [thing["point"]], "box": [[left, top], [right, bottom]], "polygon": thing.get("polygon")}
        name = f"{thing['color']} {thing['shape']}"
        shapes += [{"media": 0, "kind": kind, "name": name, "corners": at} for kind, at in corners.items() if at]
    return {"shapes": shapes}


def _medium(folder: Path, part: Json) -> Media:
    name = part["file"]
    if Path(name).name != name:
        raise RecordError("media_outside", f"{name} is not in the folder of its annotation")
    try:
        payload = (folder / name).read_bytes()
    except FileNotFoundError:
        raise RecordError("missing_media", f"there is no {name}") from None
    medium = make_video(payload) if name.endswith(".mp4") else make_image(payload)
    if medium.digest != part["sha256"]:
        raise RecordError("changed_media", f"{name} is not the file that was annotated")
    if (medium.width_px, medium.height_px) != (part["width_px"], part["height_px"]):
        annotated = f"{part['width_px']} x {part['height_px']} px"
        message = f"{name} is annotated as {annotated}, it has {medium.width_px} x {medium.height_px} px"
        raise RecordError("wrong_size", message)
    return medium
