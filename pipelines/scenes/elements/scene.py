"""What every maker returns: one document to be, before it is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manifests.records import Json
from pipelines.scenes.elements.draw import File
from pipelines.scenes.elements.fact_text import Words


@dataclass(frozen=True)
class Scene:
    parts: tuple[File | Words, ...]
    """In reading order."""
    notes: Mapping[str, Json]
    """What is true of the media beyond what the text says: boxes, points, polygons, values, events, questions."""
