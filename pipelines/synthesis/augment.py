"""The node `augment`: copies of documents with their pictures changed, and what lies on them moved along.

documents or view -> augment -> filter ... `tokenise`, as a source beside the originals. What `packing/augment.py` does
at load time, crops, turns and colours, is done here once and stored, with perspective and noise besides. The same rule
holds for texts: a picture beside facts keeps its view, beside the fact `colour` its hue, too. All is drawn from the
document's id, so a picture is the same on every machine with these libraries.
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
"""With more, the horizon of a tilted picture comes near its edge."""
KEPT_NOTES = frozenset({"messages"})
"""What documents with another view keep of their notes beside `shapes`: others may say where something lies."""
NOISE_ROWS = 256
"""Of a picture, at a time."""
_DRAWN = 2**52
_FOUR_BYTES_DEVIATION = 147.80
"""Standard deviation of the sum of four bytes, each uniform."""


@schema
class Augment(DocumentsNode):
    """`copies` changed documents of each document with a picture. Its texts and facts stay; videos stay as they are."""

    kind: Literal["augment"]
    input: str
    domains: tuple[str, ...] = ()
    """None: all."""
    copies: int = 1
    seed: int = 0
    least_area: float = 1.0
    """This and what follows up to `facts_kept`: as in a stage's `augment` (docs/loader.md)."""
    turn_degrees: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue_degrees: float = 0.0
    facts_kept: tuple[str, ...] = ()
    perspective: float = 0.0
    """Each corner of what is seen is drawn in by up to such a share of the sides, as if looked at from aside."""
    noise: float = 0.0
    """Standard deviation, in values of 0 to 255."""
    format: Literal["png", "jpg"] = "png"
    """In which changed pictures are stored."""
    quality: int = 90
    """Of JPEG; without subsampling of colours from 90 on."""

    def __post_init__(self) -> None:
        self.as_loaded  # noqa: B018  (its limits hold here, too)
        if not 0 <= self.perspective <= MOST_PERSPECTIVE or not 0 <= self.noise <= 64:
            raise ValueError(f"perspective lies in [0, {MOST_PERSPECTIVE}], noise in [0, 64]")
        if self.copies < 1 or not 1 <= self.quality <= 100:
            raise ValueError("copies is at least 1, quality 1 to 100")

    @property
    def as_loaded(self) -> Augmentation:
        """What of it the loader does, too."""
        shared = ("seed", "least_area", "turn_degrees", "brightness", "contrast", "saturation", "hue_degrees")
        drawn = {name: getattr(self, name) for name in (*shared, "facts_kept")}
        return Augmentation(sources=(self.input,), **drawn)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts: dict[str, Json] = {"pillow": version("pillow"), "augmentation": augment.VERSION}
        facts |= {library: features.version(library) for library in ("zlib", "jpg", "libjpeg_turbo")}
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        snapshot = task.inputs[self.input].snapshot
        stretch = task.unit.data
        for document in snapshot.documents(snapshot.kept(stretch.start, stretch.stop).tolist()):
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
        shapes = shapes_of(document)
        parts: list[Part] = []
        lying: list[Json] = []
        same_view, ordinal = True, -1
        for part in document.parts:
            if isinstance(part, Media):
                ordinal += 1
                here: Sequence[Shape] = shapes.get(ordinal, ())
                if part.kind == "image":
                    size_px = (part.width_px, part.height_px)
                    told = [fact.name for fact in document.facts]
                    drawn = self._drawn((int(document.id, 16), ordinal, copy), size_px, told)
                    part, here = self._changed(part, here, drawn)
                    same_view = same_view and drawn.change.crop is None and drawn.tilt is None
                lying += [{"media": ordinal, **_told(shape)} for shape in here]
            parts.append(part)
        notes = {name: value for name, value in document.notes.items() if same_view or name in KEPT_NOTES}
        notes |= {"shapes": lying} if shapes else {}
        return replace(
            document,
            id=derived_id((document.id,), node, copy),
            source=node,
            parts=tuple(parts),
            notes=notes | {"augmented": {"copy": copy, "seed": self.seed}},
            parents=(document.id,),
        )

    def _drawn(self, place: tuple[int, int, int], size_px: Size, told: Sequence[str]) -> _Drawn:
        change = augment.draw_transform(self.as_loaded, place, size_px, told)
        key = digest("offline", str(self.seed), *map(str, place))
        tilt = None
        if self.perspective and not set(told) - set(self.facts_kept):
            seen = size_px if change.crop is None else (change.crop.width_px, change.crop.height_px)
            shares = [int(digest(key, str(i))[:13], 16) / _DRAWN * self.perspective for i in range(8)]
            tilt = Tilt.drawn_in(seen, shares)
        return _Drawn(change, tilt, int(digest(key, "noise")[:32], 16))

    def _changed(self, medium: Media, shapes: Sequence[Shape], drawn: _Drawn) -> tuple[Media, Sequence[Shape]]:
        assert medium.payload is not None
        change = drawn.change
        if change == augment.RESIZE_ONLY and drawn.tilt is None and not self.noise:
            return medium, shapes
        rgb = decode_rgb(medium.payload)
        size_px = (rgb.shape[1], rgb.shape[0])
        if change.crop is not None:
            rgb = change.crop.cut(rgb)
            size_px = (rgb.shape[1], rgb.shape[0])
        if drawn.tilt is not None:
            rgb = drawn.tilt.seen(rgb)
        shapes = [one for shape in shapes for one in _moved(shape, drawn, size_px)]
        if change.colour is not None:
            rgb = change.colour.apply(rgb)
        if self.noise:
            rgb = noisy(rgb, self.noise, drawn.noise_seed)
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
class _Drawn:
    change: ImageTransform
    tilt: Tilt | None
    noise_seed: int


@dataclass(frozen=True, slots=True)
class Tilt:
    """A quadrangle inside a picture, seen as the whole picture: a projective map, so straight lines stay straight."""

    size_px: Size
    back: tuple[float, ...]
    """Of what is seen to the picture: (a x + b y + c) / (g x + h y + 1), (d x + e y + f) / (g x + h y + 1)."""

    @classmethod
    def drawn_in(cls, size_px: Size, shares: Sequence[float]) -> Tilt:
        """`shares`: of the sides, by which each corner moves in, (x, y) from the upper left clockwise."""
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
        return cls(size_px, tuple(round(one / side, 12) for one, side in zip(unit, sides, strict=True)))

    def seen(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> the same."""
        picture = Image.fromarray(np.ascontiguousarray(rgb))
        return np.asarray(
            picture.transform(self.size_px, Image.Transform.PERSPECTIVE, self.back, Image.Resampling.BICUBIC)
        )

    def onto(self, point: Point) -> Point:
        """From the picture's coordinates to those of what is seen: `back`, inverted by its adjugate."""
        a, b, c, d, e, f, g, h = self.back
        x, y = point
        across = (e - f * h) * x + (c * h - b) * y + b * f - c * e
        down = (f * g - d) * x + (a - c * g) * y + c * d - a * f
        depth = (d * h - e * g) * x + (b * g - a * h) * y + a * e - b * d
        return across / depth, down / depth


def noisy(rgb: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 -> the same with noise that is close to normal, the same on every machine and version."""
    bits = np.random.Philox(key=seed)
    scale = round(deviation / _FOUR_BYTES_DEVIATION * (1 << 16))
    out = np.empty_like(rgb)
    for top in range(0, len(rgb), NOISE_ROWS):
        rows = rgb[top : top + NOISE_ROWS]
        drawn = bits.random_raw((rows.size + 1) // 2).astype("<u8").view(np.uint8).reshape(-1, 4)[: rows.size]
        added = ((drawn.sum(1, dtype=np.int32) - 510) * scale + (1 << 15)) >> 16
        out[top : top + NOISE_ROWS] = np.clip(rows + added.reshape(rows.shape), 0, 255)
    return out


def _moved(shape: Shape, drawn: _Drawn, size_px: Size) -> list[Shape]:
    """By the view, then by the tilt. A box goes by its outline and is tight again at the end only: what surrounds a
    turned box is larger than the box, and its image would surround that."""
    kind = shape.kind
    if kind == "box":
        (left, top), (right, bottom) = shape.corners
        shape = Shape("polygon", shape.name, ((left, top), (right, top), (right, bottom), (left, bottom)))
    parts = [shape]
    if drawn.change.crop is not None:
        parts = [seen.shape for seen in move_shapes(parts, drawn.change.crop.affine(size_px), size_px)]
    if drawn.tilt is not None:
        parts = [seen.shape for seen in move_shapes(parts, drawn.tilt.onto, size_px)]
    return [_box(part) for part in parts] if kind == "box" else parts


def _box(outline: Shape) -> Shape:
    xs, ys = zip(*outline.corners, strict=True)
    return Shape("box", outline.name, ((min(xs), min(ys)), (max(xs), max(ys))))


def _told(shape: Shape) -> dict[str, Json]:
    corners = [[round(x, 3), round(y, 3)] for x, y in shape.corners]
    return {"kind": shape.kind, "name": shape.name, "corners": corners}
