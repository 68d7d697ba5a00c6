"""`ingest_scenes`: the folder that the node `scenes` wrote becomes a store of documents.

JSON lines and media files -> documents -> `filter`. Facts and notes arrive as they were written; media are decoded and
compared with what the line says of them. The records that are broken on purpose end in quarantine, each with its
reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from manifests.errors import ManifestError, RecordError
from manifests.load import schema
from manifests.records import Document, Fact, Json, Media, Part, Text, digest
from pipelines.edits import normalize
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.formats import media, rows
from pipelines.ingest.readers.context import new_document
from pipelines.node import Attempt, Inputs, ProductKind, Survey, Unit, UnitTask
from stores.store import UnitWriter

ANNOTATIONS = "annotations.jsonl"
RIGHTS = RecordRights(origin="drawn by millrace")


@schema
class IngestScenes:
    """The scenes of one split. A document is known by split, category and ordinal: `train/caption/000017`."""

    PRODUCT: ClassVar[ProductKind] = "documents"
    READS: ClassVar[frozenset[str]] = frozenset({"folder"})
    VERSION: ClassVar[int] = 4
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["ingest_scenes"]
    input: str
    """A node of kind `scenes`."""
    split: Literal["train", "held_out"] = "train"
    categories: tuple[str, ...] = ()
    """None given: all, with what is damaged on purpose."""

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        """One unit per annotation file. Its digest speaks for the media too: the lines name theirs."""
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
            which = f"categories {', '.join(self.categories)}" if self.categories else "scenes"
            raise ManifestError(
                f"there are no {which} in split {self.split}",
                where=name,
                fix=f"give {self.input} counts above 0 for them",
            )
        facts = {"normalise": normalize.VERSION, "pillow": version("pillow"), "av": version("av")}
        return Survey(tuple(units), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        file = task.inputs[self.input].folder / task.unit.data
        category, start = file.parts[-3:-1]
        for i, line in enumerate(file.read_bytes().splitlines()):
            locator = f"{self.split}/{category}/{int(start) + i:06d}"
            document = attempt(locator, read, line, file.parent, task.node, locator)
            if document is not None:
                attempt.store(locator, document)


def read(line: bytes, folder: Path, source: str, locator: str) -> Document:
    """One annotation line and the media it names, in `folder`, as a document.

    Raises RecordError: reasons of the JSON reader, of the decoders and of `normalize`, and `bad_annotation`,
    `bad_fact`, `missing_media`, `media_outside`, `changed_media`, `wrong_size`.
    """
    scene = rows.parse_json(line)
    try:
        named = [part.get("text", part) for part in scene["parts"]]
        facts = tuple(Fact(fact["name"], fact["part"], fact["start"], fact["stop"]) for fact in scene["facts"])
        domain, notes = scene["domain"], scene["notes"] | {"scene": scene["scene"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError("bad_annotation", f"{type(error).__name__}: {error}") from None
    _check_facts(facts, named)
    parts: list[Part] = [Text(part) if isinstance(part, str) else _medium(folder, part) for part in named]
    notes |= _shapes(notes, parts)
    return new_document(source, locator, domain, parts, facts, notes, RIGHTS)


def _check_facts(facts: Sequence[Fact], parts: Sequence[Json]) -> None:
    for fact in facts:
        text = parts[fact.part] if 0 <= fact.part < len(parts) else None
        if not isinstance(text, str) or not 0 <= fact.start < fact.stop <= len(text):
            raise RecordError("bad_fact", f"{fact.name} at {fact.start}..{fact.stop} of part {fact.part}")


def _shapes(notes: Json, parts: Sequence[Part]) -> Json:
    """What is drawn on a scene of one picture, in the form that samples and packs carry along."""
    shown = [part for part in parts if isinstance(part, Media)]
    if len(shown) != 1 or shown[0].kind != "image" or "things" not in notes:
        return {}
    found = []
    for thing in notes["things"]:
        left, top, right, bottom = thing["box"]
        corners = {"point": [thing["point"]], "box": [[left, top], [right, bottom]], "polygon": thing.get("polygon")}
        name = f"{thing['colour']} {thing['shape']}"
        found += [{"media": 0, "kind": kind, "name": name, "corners": at} for kind, at in corners.items() if at]
    return {"shapes": found}


def _medium(folder: Path, part: Json) -> Media:
    name = part["file"]
    if Path(name).name != name:
        raise RecordError("media_outside", f"{name} does not lie beside its annotation")
    try:
        payload = (folder / name).read_bytes()
    except FileNotFoundError:
        raise RecordError("missing_media", f"there is no {name}") from None
    medium = media.make_video(payload) if name.endswith(".mp4") else media.make_image(payload)
    if medium.digest != part["sha256"]:
        raise RecordError("changed_media", f"{name} is not the file that was annotated")
    if (medium.width_px, medium.height_px) != (part["width_px"], part["height_px"]):
        said = f"{part['width_px']} x {part['height_px']} px"
        raise RecordError("wrong_size", f"{name} is said to have {said}, it has {medium.width_px} x {medium.height_px}")
    return medium
