"""The node `augment`: stores changed copies of pictures, with the shapes on them moved along.

documents or view -> augment -> documents, a source of its own beside the originals. Crops, turns and colors are those
of `packing/augment.py` at load time; here they are applied once and stored, and perspective and noise are added. The
same rule keeps texts true: a picture with facts keeps its geometry, with the fact `color` also its hue. All random
numbers are a hash of the document's id, so a copy is the same on every machine with these libraries.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from typing import Literal

import numpy as np
from PIL import Image, features

from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Media, Part, Point, Shape, derived_id, digest
from packing import augment
from packing.augment import Augmentation, ImageTransform
from packing.augment_shapes import Size, move_shapes
from pipelines.filters.op import concerns
from pipelines.node import Attempt, DocumentsNode, Inputs, Survey, UnitTask, units_below
from stores.media.image import decode_rgb
from stores.store import UnitWriter
from tokenization.encode import shapes_of

MOST_PERSPECTIVE = 0.2
"""Upper bound of `perspective`; beyond it the horizon of the changed picture comes near its edge."""
KEPT_NOTES = frozenset({"messages"})
"""Notes that a copy with another geometry keeps, besides `shapes`; other notes may hold coordinates."""
NOISE_ROWS = 256
"""Rows of a picture that get noise in one step."""
_DRAWN = 2**52
"""Range of a random number that is taken from a digest."""
_FOUR_BYTES_DEVIATION = 147.80
"""Standard deviation of the sum of four uniform bytes."""


@schema
class Augment(DocumentsNode):
    """Write `copies` changed documents for each document with a picture. Texts, facts and videos stay unchanged."""

    kind: Literal["augment"]
    input: str
    """Node with the documents."""
    domains: tuple[str, ...] = ()
    """Domains of the documents that are copied; empty: all."""
    copies: int = 1
    """Copies of each document with a picture."""
    seed: int = 0
    """Seed of all random changes."""
    least_area: float = 1.0
    """Smallest share of the picture area that a crop shows; its aspect ratio stays."""
    turn_degrees: float = 0.0
    """Crops are turned by up to this angle either way."""
    brightness: float = 0.0
    """0.2: all values are multiplied by 0.8 to 1.2."""
    contrast: float = 0.0
    """0.2: distances from mid-gray are multiplied by 0.8 to 1.2."""
    saturation: float = 0.0
    """0.2: saturation is multiplied by 0.8 to 1.2."""
    hue_degrees: float = 0.0
    """Hues are rotated by up to this angle either way."""
    facts_kept: tuple[str, ...] = ()
    """Names of facts that stay true of a crop."""
    perspective: float = 0.0
    """Largest share of the sides by which each corner moves inwards, as in a view from the side."""
    noise: float = 0.0
    """Standard deviation, in values of 0 to 255."""
    format: Literal["png", "jpg"] = "png"
    """Encoding of changed pictures."""
    quality: int = 90
    """JPEG quality; from 90 on without chroma subsampling."""

    def __post_init__(self) -> None:
        self.load_time  # noqa: B018  (validates the shared fields)
        if not 0 <= self.perspective <= MOST_PERSPECTIVE:
            raise ValueError(f"perspective is {self.perspective}, expected 0 to {MOST_PERSPECTIVE}")
        if not 0 <= self.noise <= 64:
            raise ValueError(f"noise is {self.noise}, expected 0 to 64")
        if self.copies < 1 or not 1 <= self.quality <= 100:
            message = f"copies is {self.copies} and quality {self.quality}"
            raise ValueError(f"{message}, expected at least 1 copy and a quality of 1 to 100")

    @property
    def load_time(self) -> Augmentation:
        """The part of the fields that the loader knows too."""
        shared = ("seed", "least_area", "turn_degrees", "brightness", "contrast", "saturation", "hue_degrees")
        values = {name: getattr(self, name) for name in (*shared, "facts_kept")}
        return Augmentation(sources=(self.input,), **values)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts: dict[str, Json] = {"pillow": version("pillow"), "augmentation": augment.VERSION}
        facts |= {library: features.version(library) for library in ("zlib", "jpg", "libjpeg_turbo")}
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        snapshot = task.inputs[self.input].snapshot
        unit = task.unit.data
        for document in snapshot.documents(snapshot.kept(unit.start, unit.stop).tolist()):
            if document.source == FORGOTTEN or not concerns(self.domains, document):
                continue
            if not any(medium.kind == "image" for medium in document.media):
                attempt.note("no_image")
                continue
            for copy in range(self.copies):
                locator = f"{document.id}/{copy}"
                made = attempt(locator, self._copy, document, copy, task.node)
                if made is None:
                    continue
                if made.parts == document.parts:
                    attempt.note("unchanged")
                else:
                    attempt.store(locator, replace(made, locator=locator))

    def _copy(self, document: Document, copy: int, node: str) -> Document:
        """Return copy number `copy` of a document."""
        shapes = shapes_of(document)
        facts = [fact.name for fact in document.facts]
        parts: list[Part] = []
        shape_notes: list[Json] = []
        same_geometry, ordinal = True, -1
        for part in document.parts:
            if isinstance(part, Media):
                ordinal += 1
                part_shapes: Sequence[Shape] = shapes.get(ordinal, ())
                if part.kind == "image":
                    size_px = (part.width_px, part.height_px)
                    change = self._draw((int(document.id, 16), ordinal, copy), size_px, facts)
                    part, part_shapes = self._changed(part, part_shapes, change)
                    same_geometry = same_geometry and change.transform.crop is None and change.perspective is None
                shape_notes += [{"media": ordinal, **_shape_note(shape)} for shape in part_shapes]
            parts.append(part)
        notes = {name: value for name, value in document.notes.items() if same_geometry or name in KEPT_NOTES}
        notes |= {"shapes": shape_notes} if shapes else {}
        return replace(
            document,
            id=derived_id((document.id,), node, copy),
            source=node,
            parts=tuple(parts),
            notes=notes | {"augmented": {"copy": copy, "seed": self.seed}},
            parents=(document.id,),
        )

    def _draw(self, key: tuple[int, int, int], size_px: Size, facts: Sequence[str]) -> _Change:
        """Draw the change of one picture; `key` is document, medium and copy, `facts` are the document's."""
        transform = augment.draw_transform(self.load_time, key, size_px, facts)
        salt = digest("offline", str(self.seed), *map(str, key))
        perspective = None
        if self.perspective and not set(facts) - set(self.facts_kept):
            view = size_px if transform.crop is None else (transform.crop.width_px, transform.crop.height_px)
            shares = [int(digest(salt, str(i))[:13], 16) / _DRAWN * self.perspective for i in range(8)]
            perspective = Perspective.from_shares(view, shares)
        return _Change(transform, perspective, int(digest(salt, "noise")[:32], 16))

    def _changed(self, medium: Media, shapes: Sequence[Shape], change: _Change) -> tuple[Media, Sequence[Shape]]:
        """Return the changed picture and the shapes on it.

        Raises:
            RecordError: the picture does not decode.
        """
        assert medium.payload is not None
        transform = change.transform
        if transform == augment.RESIZE_ONLY and change.perspective is None and not self.noise:
            return medium, shapes
        rgb = decode_rgb(medium.payload)
        if transform.crop is not None:
            rgb = transform.crop.cut(rgb)
        size_px = (rgb.shape[1], rgb.shape[0])
        if change.perspective is not None:
            rgb = change.perspective.apply(rgb)
        shapes = [moved for shape in shapes for moved in _moved(shape, change, size_px)]
        if transform.color is not None:
            rgb = transform.color.apply(rgb)
        if self.noise:
            rgb = add_noise(rgb, self.noise, change.noise_seed)
        payload = self._encoded(rgb)
        return Media(sha256(payload).hexdigest(), "image", self.format, *size_px, payload=payload), shapes

    def _encoded(self, rgb: np.ndarray) -> bytes:
        out = io.BytesIO()
        picture = Image.fromarray(np.ascontiguousarray(rgb))
        if self.format == "png":
            picture.save(out, "png", compress_level=6)
        else:
            picture.save(out, "jpeg", quality=self.quality, subsampling=0 if self.quality >= 90 else 2)
        return out.getvalue()


@dataclass(frozen=True, slots=True)
class _Change:
    """Random changes of one picture, in the order in which they are applied."""

    transform: ImageTransform
    perspective: Perspective | None
    noise_seed: int


@dataclass(frozen=True, slots=True)
class Perspective:
    """A projective map that stretches a quadrangle inside a picture to the whole picture; straight lines stay
    straight."""

    size_px: Size
    """Size of the picture, before and after."""
    back: tuple[float, ...]
    """(a, b, c, d, e, f, g, h) of the map from the changed picture to the original:
    x' = (a x + b y + c) / (g x + h y + 1), y' = (d x + e y + f) / (g x + h y + 1)."""

    @classmethod
    def from_shares(cls, size_px: Size, shares: Sequence[float]) -> Perspective:
        """Return the map of the quadrangle whose corners are moved inwards.

        Args:
            shares: 8 shares of the sides, (x, y) of each corner from the upper left clockwise.
        """
        width, height = size_px
        x0, y0, x1, y1, x2, y2, x3, y3 = shares
        corners = ((x0, y0), (1 - x1, y1), (1 - x2, 1 - y2), (x3, 1 - y3))
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = ((x * width, y * height) for x, y in corners)
        # From the unit square to the quadrangle, in closed form.
        across, down = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
        area = (x1 - x2) * (y3 - y2) - (x3 - x2) * (y1 - y2)
        g = (across * (y3 - y2) - (x3 - x2) * down) / area
        h = ((x1 - x2) * down - across * (y1 - y2)) / area
        unit = (x1 - x0 + g * x1, x3 - x0 + h * x3, x0, y1 - y0 + g * y1, y3 - y0 + h * y3, y0, g, h)
        sides = (width, height, 1, width, height, 1, width, height)
        return cls(size_px, tuple(round(value / side, 12) for value, side in zip(unit, sides, strict=True)))

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """Return the changed picture; (H, W, 3) uint8 before and after."""
        picture = Image.fromarray(np.ascontiguousarray(rgb))
        return np.asarray(
            picture.transform(self.size_px, Image.Transform.PERSPECTIVE, self.back, Image.Resampling.BICUBIC)
        )

    def map_point(self, point: Point) -> Point:
        """Return the place of an original point in the changed picture: the inverse of `back`, by its adjugate."""
        a, b, c, d, e, f, g, h = self.back
        x, y = point
        across = (e - f * h) * x + (c * h - b) * y + b * f - c * e
        down = (f * g - d) * x + (a - c * g) * y + c * d - a * f
        depth = (d * h - e * g) * x + (b * g - a * h) * y + a * e - b * d
        return across / depth, down / depth


def add_noise(rgb: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """Return (H, W, 3) uint8 with nearly normal noise, equal on every machine and with every version of numpy."""
    bits = np.random.Philox(key=seed)
    scale = round(deviation / _FOUR_BYTES_DEVIATION * (1 << 16))
    out = np.empty_like(rgb)
    for top in range(0, len(rgb), NOISE_ROWS):
        rows = rgb[top : top + NOISE_ROWS]
        drawn = bits.random_raw((rows.size + 1) // 2).astype("<u8").view(np.uint8).reshape(-1, 4)[: rows.size]
        added = ((drawn.sum(1, dtype=np.int32) - 510) * scale + (1 << 15)) >> 16
        out[top : top + NOISE_ROWS] = np.clip(rows + added.reshape(rows.shape), 0, 255)
    return out


def _moved(shape: Shape, change: _Change, size_px: Size) -> list[Shape]:
    """Return the visible parts of a shape after crop and perspective.

    A box is moved as a polygon and becomes a tight box at the end: the tight box of a turned box is larger than it,
    and moving that would enlarge it again.
    """
    kind = shape.kind
    if kind == "box":
        (left, top), (right, bottom) = shape.corners
        shape = Shape("polygon", shape.name, ((left, top), (right, top), (right, bottom), (left, bottom)))
    parts = [shape]
    if change.transform.crop is not None:
        parts = [part.shape for part in move_shapes(parts, change.transform.crop.affine(size_px), size_px)]
    if change.perspective is not None:
        parts = [part.shape for part in move_shapes(parts, change.perspective.map_point, size_px)]
    return [_box(part) for part in parts] if kind == "box" else parts


def _box(polygon: Shape) -> Shape:
    """Return the tight box around a polygon."""
    xs, ys = zip(*polygon.corners, strict=True)
    return Shape("box", polygon.name, ((min(xs), min(ys)), (max(xs), max(ys))))


def _shape_note(shape: Shape) -> dict[str, Json]:
    """Return a shape as in `notes.shapes`."""
    corners = [[round(x, 3), round(y, 3)] for x, y in shape.corners]
    return {"kind": shape.kind, "name": shape.name, "corners": corners}
