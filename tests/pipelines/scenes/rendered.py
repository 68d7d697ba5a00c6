"""Helpers of the tests of scenes: scenes decoded from their files, and measurements in pixels.

The measurements share no code with the drawing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from manifests.records import Json
from pipelines.scenes.write import render_scene
from stores.media.image import decode_rgb


@dataclass(frozen=True, eq=False)
class RenderedScene:
    """One scene, decoded from its annotation line and files."""

    line: dict[str, Json]
    files: dict[str, bytes]

    @property
    def notes(self) -> dict[str, Json]:
        return self.line["notes"]

    @property
    def text(self) -> str:
        return "\n".join(part["text"] for part in self.line["parts"] if "text" in part)

    @property
    def pictures(self) -> list[np.ndarray]:
        """(H, W, 3) int16, upright, in the order of parts."""
        names = [part["file"] for part in self.line["parts"] if "file" in part]
        return [decode_rgb(self.files[name]).astype(np.int16) for name in names]

    def facts(self, name: str) -> list[str]:
        """Texts of all facts with this name."""
        parts = self.line["parts"]
        return [parts[f["part"]]["text"][f["start"] : f["stop"]] for f in self.line["facts"] if f["name"] == name]


@cache
def rendered(split: str, category: str, ordinal: int, seed: int = 0) -> RenderedScene:
    line, files = render_scene(seed, split, category, ordinal)  # type: ignore[arg-type]
    return RenderedScene(json.loads(line), files)


def first_scenes(category: str, count: int, split: str = "train") -> Iterator[RenderedScene]:
    for ordinal in range(count):
        yield rendered(split, category, ordinal)


def mean_color(rgb: np.ndarray, point: Sequence[float], reach: int = 1) -> np.ndarray:
    """Mean color of the (2 reach + 1)^2 pixels around a point, (3,) float."""
    x, y = int(point[0]), int(point[1])
    return rgb[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].mean(axis=(0, 1))


def is_near(color: np.ndarray, rgb: Sequence[int], within: float = 45) -> bool:
    return bool(np.abs(color - np.array(rgb)).max() <= within)


def smooth(rgb: np.ndarray) -> np.ndarray:
    """3 x 3 box blur, which reduces grain to a third. (H, W, 3) float."""
    padded = np.pad(rgb.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = rgb.shape[:2]
    return sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9  # type: ignore[return-value]


def filled(corners: Sequence[Sequence[float]], shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: pixels inside a polygon."""
    mask = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(mask).polygon([(x - 0.5, y - 0.5) for x, y in corners], fill=1)
    return np.asarray(mask)


def islands(mask: np.ndarray, least: int) -> list[np.ndarray]:
    """Connected components of a mask with at least `least` pixels, from left to right.

    Each row is divided into runs; runs that touch in neighboring rows form one component.

    Returns:
        (n, 2) arrays of row and column.
    """
    runs: list[tuple[int, int, int]] = []
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    above: list[int] = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
        here = []
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            parent.append(len(runs))
            runs.append((y, int(start), int(stop)))
            here.append(len(runs) - 1)
            for other in above:
                if runs[other][1] < stop and start < runs[other][2]:
                    parent[root(other)] = root(len(runs) - 1)
        above = here
    parts: dict[int, list[tuple[int, int]]] = {}
    for i, (y, start, stop) in enumerate(runs):
        parts.setdefault(root(i), []).extend((y, x) for x in range(start, stop))
    components = [np.array(part) for part in parts.values() if len(part) >= least]
    return sorted(components, key=lambda part: part[:, 1].min() + part[:, 1].max())
