"""One scene in memory: the result of every category, before `pipelines/scenes/write.py` encodes it as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manifests.records import Json
from pipelines.scenes.elements.draw import EncodedMedia
from pipelines.scenes.elements.fact_text import FactText


@dataclass(frozen=True)
class Scene:
    """Media and texts of one future document, and its annotations."""

    parts: tuple[EncodedMedia | FactText, ...]
    """In reading order."""
    notes: Mapping[str, Json]
    """Annotations beyond the text: boxes, points, polygons, values, events, questions."""
