"""Vocabulary of the scenes: colors, shapes, backdrops, type families, names and words, each with its reserved part.

docs/scenes.md lists the reserved values, which training scenes never show. Font files come from the `font-*` packages:
their entry points name the files, and `FONT_FACES` names every face in use, so that other installed fonts change
nothing.
"""

from __future__ import annotations

import functools
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

from manifests.errors import ManifestError
from manifests.extras import install
from pipelines.scenes.elements.split import Pool


@dataclass(frozen=True)
class HueRange:
    """Range of a named color in HSV, narrow enough that no other name fits it."""

    degrees: float
    """Middle of the hue."""
    spread: float
    """Largest deviation from the middle, in degrees."""
    saturation: tuple[float, float]
    """(lowest, highest)"""
    value: tuple[float, float]
    """(lowest, highest)"""


COLORS = {
    "red": HueRange(0, 5, (0.85, 1.0), (0.80, 0.95)),
    "orange": HueRange(28, 3, (0.90, 1.0), (0.95, 1.0)),
    "yellow": HueRange(54, 3, (0.80, 1.0), (0.90, 1.0)),
    "green": HueRange(125, 10, (0.65, 0.9), (0.50, 0.72)),
    "cyan": HueRange(185, 5, (0.70, 0.9), (0.82, 0.95)),
    "blue": HueRange(226, 6, (0.75, 0.95), (0.75, 0.95)),
    "purple": HueRange(276, 6, (0.60, 0.85), (0.48, 0.66)),
    "pink": HueRange(328, 6, (0.40, 0.58), (0.95, 1.0)),
}

SIMPLE_SHAPES = ("circle", "square", "triangle", "star", "cross")
"""The shapes of captions: few, so that a small model learns them from some thousand small pictures."""
SHAPES = (*SIMPLE_SHAPES, "heart", "hexagon", "arrow")

ColorShape = tuple[str, str]
"""(color, shape)"""

RESERVED_PAIRS: tuple[ColorShape, ...] = tuple((color, SHAPES[(3 * i + 2) % 8]) for i, color in enumerate(COLORS))
"""One shape of each color and one color of each shape: a held-out pair is new, its two words are not."""


def _pairs(name: str, shapes: tuple[str, ...]) -> Pool[ColorShape]:
    every = [(color, shape) for color in COLORS for shape in shapes]
    return Pool(
        name,
        train=tuple(pair for pair in every if pair not in RESERVED_PAIRS),
        reserved=tuple(pair for pair in every if pair in RESERVED_PAIRS),
    )


SIMPLE_PAIRS = _pairs("pair", SIMPLE_SHAPES)
PAIRS = _pairs("pair", SHAPES)

BACKDROPS = Pool(
    "backdrop",
    train=("plain", "plain", "gradient", "striped", "clouded", "dotted"),
    reserved=("checked", "ringed"),
)

FONT_FACES = {
    "amatic-sc": ("AmaticSCBold",),
    "caladea": ("Caladea", "CaladeaBold", "CaladeaItalic", "CaladeaBoldItalic"),
    "fredoka-one": ("FredokaOne",),
    "hanken-grotesk": ("HankenGrotesk", "HankenGroteskSemiBold", "HankenGroteskItalic"),
    "intuitive": ("Intuitive",),
    "lato": ("Lato", "LatoBold", "LatoItalic", "LatoBlack"),
    "manrope": ("Manrope", "ManropeMedium", "ManropeExtraBold"),
    "source-sans-pro": ("SourceSansPro", "SourceSansProSemibold", "SourceSansProIt", "SourceSansProBlack"),
    "source-serif-pro": ("SourceSerifPro", "SourceSerifProSemibold", "SourceSerifProIt", "SourceSerifProBlack"),
}
"""Family (package `font-FAMILY`) -> faces that stay readable at small sizes."""

FONT_FAMILIES = Pool(
    "font",
    train=("amatic-sc", "caladea", "fredoka-one", "lato", "manrope", "source-sans-pro"),
    reserved=("hanken-grotesk", "intuitive", "source-serif-pro"),
    strict=True,
)
CAPITALS_ONLY = frozenset({"amatic-sc"})
"""Families without lower-case letters."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = Pool(
    "name",
    train=_words(
        "Ada Bruno Chloe Daniel Elena Farid Grace Hugo Ines Jonas Kofi Lena Mateo Nadia Oscar Priya Quinn "
        "Rosa Samir Tara Ulla Viktor Wanda Yusuf"
    ),
    reserved=_words("Amara Boris Celine Dmitri Edith Felix Greta Hamid"),
    strict=True,
)
GOODS = Pool(
    "goods",
    train=_words(
        "apples bread carrots eggs flour grapes honey lemons milk onions pasta rice salt soap sugar tea "
        "tomatoes candles paper pencils"
    ),
    reserved=_words("beans cheese figs garlic oats olives pears walnuts"),
    strict=True,
)
PLACES = Pool(
    "place",
    train=_words("Bergen Cairo Dublin Genoa Hanoi Kyoto Lima Lisbon Madrid Nairobi Oslo Porto Quito Riga Turin Vienna"),
    reserved=_words("Accra Basel Cusco Delft Izmir Malmo Pune Tunis"),
    strict=True,
)
SIGNS = Pool(
    "sign",
    train=(
        "Open", "Closed", "Exit", "Push", "Pull", "Stop", "Quiet please", "Wet paint", "No parking", "Tickets",
        "Platform {n}", "Room {n}", "Gate {n}", "Floor {n}", "Bus {n}", "Way out", "Lost and found", "Fresh fish",
        "Library", "Museum", "Please knock", "Mind the step", "Bicycles only", "Staff only", "Car park {n}",
        "Coffee and cake", "Ring the bell", "Back in {n} minutes", "Keep left", "Post office",
    ),
    reserved=(
        "Enter", "Taxi {n}", "Berth {n}", "Hall {n}", "Garden center", "Night bell", "Slow down", "Hot soup",
        "Keep the door shut", "Meet here", "Locker {n}", "Repairs while you wait",
    ),
    strict=True,
)  # fmt: skip
"""Texts of signs; `{n}` stands for a number."""

VERBS = Pool(
    "verb",
    train=("painted", "carried", "found", "sold", "repaired", "counted", "borrowed", "photographed", "sketched"),
    reserved=("polished", "wrapped", "weighed", "hid"),
    strict=True,
)
THINGS = Pool(
    "thing",
    train=_words("lantern kettle ladder violin basket compass blanket bicycle teapot hammer mirror window"),
    reserved=_words("anchor barrel cradle drum easel"),
    strict=True,
)


@functools.cache
def font_files() -> dict[str, Path]:
    """Return face name -> file for every face in `FONT_FACES`. Raises ManifestError for a family that is missing."""
    installed: dict[str, str] = {}
    for group in ("fonts_ttf", "fonts_otf"):  # one family ships OpenType outlines only
        for entry in importlib.metadata.entry_points(group=group):
            if entry.dist is not None and entry.dist.name.replace("_", "-").removeprefix("font-") in FONT_FACES:
                installed = dict(entry.load()) | installed
    for family, faces in FONT_FACES.items():
        missing = [face for face in faces if face not in installed]
        if missing:
            raise ManifestError(
                f"scenes need the font family {family}; no installed package contains its face {missing[0]}",
                where="fonts",
                fix=install("scenes"),
            )
    return {face: Path(installed[face]) for faces in FONT_FACES.values() for face in faces}


@functools.lru_cache(maxsize=256)
def font(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    """Load a face, at most once per size. Its layout is basic: some Pillow builds lack the library for complex text."""
    return ImageFont.truetype(str(font_files()[face]), size_px, layout_engine=ImageFont.Layout.BASIC)
