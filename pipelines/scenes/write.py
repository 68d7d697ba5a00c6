"""From a category and an ordinal to files: the catalogue of scenes, and how a range of them is written.

Makers beside this file draw; `node.py` decides how many of what; `pipelines/ingest/scenes.py` reads the files. Every
scene is a function of (seed, split, category, ordinal), whoever draws it and whatever was drawn before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifests.records import Json, canonical_json
from pipelines.scenes import damage
from pipelines.scenes.categories.charts import chart
from pipelines.scenes.categories.clips import clip
from pipelines.scenes.categories.dials import dial
from pipelines.scenes.categories.geometry import geometry
from pipelines.scenes.categories.mazes import maze
from pipelines.scenes.categories.object_questions import grounding, question
from pipelines.scenes.categories.printed_text import reading
from pipelines.scenes.categories.scene_captions import caption
from pipelines.scenes.categories.stories import story
from pipelines.scenes.categories.tables import table
from pipelines.scenes.elements.draw import File
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Split

ANNOTATIONS = "annotations.jsonl"


@dataclass(frozen=True)
class Category:
    make: Callable[[Dice], Scene]
    domain: str
    """Of the documents that ingest makes."""


CATEGORIES: dict[str, Category] = {
    "caption": Category(caption, "caption"),
    "question": Category(question, "perception"),
    "grounding": Category(grounding, "perception"),
    "reading": Category(reading, "ocr"),
    "table": Category(table, "ocr"),
    "chart": Category(chart, "knowledge"),
    "dial": Category(dial, "knowledge"),
    "maze": Category(maze, "knowledge"),
    "geometry": Category(geometry, "knowledge"),
    "story": Category(story, "interleaved"),
    "clip": Category(clip, "video"),
}
DAMAGED = "damaged"
"""The folder of what is broken on purpose, among training scenes."""


@dataclass(frozen=True)
class Piece:
    """A range of scenes of one category, which share a folder."""

    split: Split
    category: str
    start: int
    stop: int

    @property
    def path(self) -> Path:
        return Path(self.split) / self.category / f"{self.start:06d}"


def write(seed: int, piece: Piece, folder: Path) -> None:
    """Draw a piece and put its folder in place at once: a kill leaves all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside.mkdir()
    with (aside / ANNOTATIONS).open("wb") as annotations:
        for ordinal in range(piece.start, piece.stop):
            line, files = written(seed, piece.split, piece.category, ordinal)
            for name, content in files.items():
                (aside / name).write_bytes(content)
            annotations.write(line + b"\n")
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)


def written(seed: int, split: Split, category: str, ordinal: int) -> tuple[bytes, dict[str, bytes]]:
    """One scene as it lies on disk: its annotation line, and its media by file name."""
    dice = Dice(seed, split, category, ordinal)
    if category != DAMAGED:
        line, files = _annotated(CATEGORIES[category], category, dice, ordinal, CATEGORIES[category].make(dice), {})
        return canonical_json(line).encode(), files
    name, spoilt = damage.kind(ordinal)
    base = "clip" if spoilt.format == "mp4" else "caption"
    scene = damage.good_scene(dice, ordinal)
    return spoilt.spoil(*_annotated(CATEGORIES[base], category, dice, ordinal, scene, {"damage": name}))


def _annotated(
    kind: Category, category: str, dice: Dice, ordinal: int, scene: Scene, more: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, bytes]]:
    parts: list[Json] = []
    facts: list[Json] = []
    files: dict[str, bytes] = {}
    for i, part in enumerate(scene.parts):
        if isinstance(part, File):
            name = f"{ordinal:06d}{'' if i == 0 else f'-{i}'}.{part.format}"
            files[name] = part.payload
            sha256 = hashlib.sha256(part.payload).hexdigest()
            parts.append({"file": name, "sha256": sha256, "width_px": part.width_px, "height_px": part.height_px})
        else:
            parts.append({"text": part.text})
            facts += [{"name": name, "part": i, "start": start, "stop": stop} for name, start, stop in part.facts]
    line = {
        "scene": f"{dice.split}/{category}/{ordinal:06d}",
        "domain": kind.domain,
        "parts": parts,
        "facts": facts,
        "notes": {**scene.notes, "reserved": sorted(dice.reserved), **more},
    }
    return line, files
