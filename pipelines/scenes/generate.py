"""The node `scenes`: a folder of drawn image and video files, with JSON lines that annotate everything on them.

It has no input. `pipelines/ingest/scenes.py` makes documents of the folder. docs/scenes.md describes categories and
files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import field
from importlib.metadata import version
from typing import ClassVar, Literal

from manifests.load import schema
from manifests.records import canonical_json, digest
from pipelines.node import FolderNode, Inputs, OutputFolder, Survey, Unit, UnitTask
from pipelines.scenes.damage import DAMAGES
from pipelines.scenes.elements.entities import font_files
from pipelines.scenes.elements.split import SPLITS, Split
from pipelines.scenes.write import CATEGORIES, DAMAGED, SceneRange, write_range

UNIT_SCENES = 250
"""Scenes of one folder and unit of work, which takes about a second."""

TRAIN = {
    "caption": 7000, "question": 160, "grounding": 100, "reading": 200, "table": 50, "chart": 80, "dial": 200,
    "maze": 40, "geometry": 60, "story": 30, "clip": 50,
}  # fmt: skip
HELD_OUT = {
    "caption": 640, "question": 20, "grounding": 10, "reading": 40, "table": 10, "chart": 20, "dial": 40,
    "maze": 10, "geometry": 20, "story": 10, "clip": 10,
}  # fmt: skip


@schema
class Scenes(FolderNode):
    """Draw a folder of visual tasks with annotations: about 8,900 media with the default counts.

    The splits share no layout, and held-out scenes contain values that training never shows.
    """

    READS: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["scenes"]
    seed: int = 0
    """Seed of all scenes."""
    train: dict[str, int] = field(default_factory=lambda: dict(TRAIN))
    """Training scenes per category; a category without a count is not drawn."""
    held_out: dict[str, int] = field(default_factory=lambda: dict(HELD_OUT))
    """Held-out scenes per category."""
    damaged: int = len(DAMAGES)
    """Training records that are damaged on purpose, by each kind of damage in turn."""

    def __post_init__(self) -> None:
        for counts in (self.train, self.held_out):
            unknown = sorted(set(counts) - set(CATEGORIES))
            if unknown:
                raise ValueError(f"no category {unknown[0]!r}; the categories are {', '.join(CATEGORIES)}")
        if min(0, self.damaged, *self.train.values(), *self.held_out.values()) < 0:
            raise ValueError("a count of scenes is negative, expected at least 0")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        """Split the scenes into units. Raises ManifestError for a type family that is not installed."""
        fonts = {face: hashlib.sha256(file.read_bytes()).hexdigest() for face, file in font_files().items()}
        facts = {"pillow": version("pillow"), "av": version("av"), "fonts": digest(canonical_json(fonts))}
        return Survey(tuple(self._units()), facts)

    def _units(self) -> Iterator[Unit]:
        wanted: list[tuple[Split, str, int]] = [
            (split, category, counts.get(category, 0))
            for split, counts in zip(SPLITS, (self.train, self.held_out), strict=True)
            for category in CATEGORIES
        ]
        for split, category, count in [*wanted, ("train", DAMAGED, self.damaged)]:
            for start in range(0, count, UNIT_SCENES):
                stop = min(count, start + UNIT_SCENES)
                scenes = SceneRange(split, category, start, stop)
                yield Unit(
                    f"{split}-{category}-{start:06d}", digest(canonical_json([split, category, start, stop])), scenes
                )

    def make(self, task: UnitTask, place: OutputFolder) -> list[str]:
        scenes: SceneRange = task.unit.data
        folder = place.folder / scenes.path
        write_range(self.seed, scenes, folder)
        return sorted(file.relative_to(place.run).as_posix() for file in folder.iterdir())
