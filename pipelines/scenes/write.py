"""Table of the categories, and writing of a range of scenes as media files and annotation lines.

The functions of `categories/` draw, `generate.py` decides how many scenes of each category, and
`pipelines/ingest/scenes.py` reads the files. Every scene is a function of (seed, split, category, ordinal): it does not
depend on the worker that draws it, nor on the scenes drawn before.
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
from pipelines.scenes.elements.draw import EncodedMedia
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import SceneRng, Split

ANNOTATIONS = "annotations.jsonl"
"""File of a folder with one JSON line per scene."""


@dataclass(frozen=True)
class Category:
    """A kind of scene."""

    make: Callable[[SceneRng], Scene]
    domain: str
    """Domain of the documents that ingest makes of its scenes."""


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
"""Folder, in the training split, of the records that are damaged on purpose."""


@dataclass(frozen=True)
class SceneRange:
    """The scenes `start` to `stop` (exclusive) of one category, which share a folder."""

    split: Split
    category: str
    start: int
    stop: int

    @property
    def path(self) -> Path:
        """Folder of the range, relative to the folder of the node."""
        return Path(self.split) / self.category / f"{self.start:06d}"


def write_range(seed: int, scenes: SceneRange, folder: Path) -> None:
    """Draw a range and rename its folder into place, so that a kill leaves the whole folder or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(leftover)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir()
    with (partial / ANNOTATIONS).open("wb") as annotations:
        for ordinal in range(scenes.start, scenes.stop):
            line, files = render_scene(seed, scenes.split, scenes.category, ordinal)
            for name, content in files.items():
                (partial / name).write_bytes(content)
            annotations.write(line + b"\n")
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def render_scene(seed: int, split: Split, category: str, ordinal: int) -> tuple[bytes, dict[str, bytes]]:
    """Return one scene as files: (annotation line, file name -> content)."""
    rng = SceneRng(seed, split, category, ordinal)
    if category != DAMAGED:
        line, files = _annotation(CATEGORIES[category], category, rng, ordinal, CATEGORIES[category].make(rng), {})
        return canonical_json(line).encode(), files
    name, kind = damage.damage_at(ordinal)
    base = "clip" if kind.format == "mp4" else "caption"
    scene = damage.undamaged_scene(rng, ordinal)
    return kind.apply(*_annotation(CATEGORIES[base], category, rng, ordinal, scene, {"damage": name}))


def _annotation(
    category: Category, folder: str, rng: SceneRng, ordinal: int, scene: Scene, extra_notes: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, bytes]]:
    """Return (annotation, file name -> content) of a drawn scene; `folder` is its category, or `DAMAGED`."""
    parts: list[Json] = []
    facts: list[Json] = []
    files: dict[str, bytes] = {}
    for i, part in enumerate(scene.parts):
        if isinstance(part, EncodedMedia):
            name = f"{ordinal:06d}{'' if i == 0 else f'-{i}'}.{part.format}"
            files[name] = part.payload
            sha256 = hashlib.sha256(part.payload).hexdigest()
            parts.append({"file": name, "sha256": sha256, "width_px": part.width_px, "height_px": part.height_px})
        else:
            parts.append({"text": part.text})
            facts += [{"name": name, "part": i, "start": start, "stop": stop} for name, start, stop in part.facts]
    line = {
        "scene": f"{rng.split}/{folder}/{ordinal:06d}",
        "domain": category.domain,
        "parts": parts,
        "facts": facts,
        "notes": {**scene.notes, "reserved": sorted(rng.reserved_pools), **extra_notes},
    }
    return line, files
