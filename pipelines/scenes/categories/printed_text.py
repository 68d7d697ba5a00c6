"""The category `reading`: printed text in many typefaces, as large numbers, signs, notices and receipts.

Type families, names and words of held-out scenes never occur in training. The annotations give the text of every line
and the polygon around its ink, also in rotated pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    XY,
    Canvas,
    EncodedMedia,
    Rgb,
    Typeface,
    add_grain,
    encode_image,
    fitting_size,
    jittered_color,
    pick_typeface,
    picture_size,
    text_width,
    tint,
)
from pipelines.scenes.elements.entities import GOODS, NAMES, PLACES, SIGNS, THINGS, VERBS
from pipelines.scenes.elements.fact_text import FactText, fact, fill_template, join_texts, with_article
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, number_form, question_scene, spelling_form
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

DESCRIPTIONS = {
    "number": Pool("wording", ("The number is {text}.", "The picture shows the number {text}."), ("Number: {text}.",)),
    "sign": Pool("wording", ("The sign says: {text}", "On the sign stands: {text}"), ("Written there: {text}",)),
    "notice": Pool("wording", ("The text reads:\n{text}", "{text}"), ("Transcription:\n{text}",)),
    "receipt": Pool("wording", ("The receipt reads:\n{text}", "{text}"), ("Transcription:\n{text}",)),
}
QUESTIONS = {
    "number": Pool("wording", ("Which number do you see?", "What number is written here?"), ("Read the number.",)),
    "sign": Pool("wording", ("What does the sign say?", "Read the sign."), ("Which words are written here?",)),
    "notice": Pool("wording", ("What is written here?", "Copy the text."), ("Type what you read.",)),
    "receipt": Pool("wording", ("What is the total?", "How much was paid in all?"), ("Which sum was to pay?",)),
}


@dataclass(frozen=True)
class _PrintedText:
    """A picture of text before its rotation."""

    image: Image.Image
    background: Rgb
    lines: tuple[tuple[str, tuple[float, ...]], ...]
    """(text, box of its ink in pixels) of each line"""


def reading(rng: SceneRng) -> Scene:
    """Draw a text; the caption repeats it, or a question asks for it."""
    kind = rng.weighted_choice({"number": 0.4, "sign": 0.25, "notice": 0.2, "receipt": 0.15})
    typeface = pick_typeface(rng)
    page, answer, form = _KINDS[kind](rng, typeface)
    degrees = rng.uniform(-9, 9) if kind != "receipt" and rng.chance(0.4) else 0.0
    file, lines = _rotate(rng, page, degrees)
    notes: dict[str, Json] = {"print": kind, "font": typeface.face, "degrees": round(degrees, 1), "lines": lines}
    if rng.chance(0.5):
        text = answer if kind in ("number", "sign") else _lines_text(page)
        return Scene((file, fill_template(rng.pick(DESCRIPTIONS[kind]), text=text)), notes)
    return question_scene(rng, file, [Question(f"read_{kind}", rng.pick(QUESTIONS[kind]), answer, form)], notes)


def sentence(rng: SceneRng) -> str:
    """A random sentence: `Ada painted a lantern in Bergen.`"""
    return fill_template(
        "{name} {verb} {thing} in {place}.",
        name=rng.pick(NAMES),
        verb=rng.pick(VERBS),
        thing=with_article(FactText(rng.pick(THINGS))),
        place=rng.pick(PLACES),
    ).text


def _number(rng: SceneRng, typeface: Typeface) -> tuple[_PrintedText, FactText, Json]:
    digits = rng.draw_in_split(
        lambda: str(rng.integer(*rng.choice(((0, 9), (10, 99), (100, 999))))), lambda text: ["number", text]
    )
    page = _poster(rng, typeface, [digits], picture_size(rng, longest_px=300))
    return page, fact("value", digits), number_form(int(digits))


def _sign(rng: SceneRng, typeface: Typeface) -> tuple[_PrintedText, FactText, Json]:
    text = typeface.displayed(rng.pick(SIGNS).format(n=rng.integer(1, 40)))
    words = text.split()
    cut = len(words) // 2 if len(words) > 2 else len(words)
    lines = [" ".join(part) for part in (words[:cut], words[cut:]) if part]
    page = _poster(rng, typeface, lines, picture_size(rng, shortest_px=100))
    return page, fact("text", text), spelling_form(text)


def _poster(rng: SceneRng, typeface: Typeface, lines: Sequence[str], size: tuple[int, int]) -> _PrintedText:
    """Draw few words as large as they fit: dark on light, light on dark, or light on a color."""
    width, height = size
    dark = rng.chance(0.4)
    background = jittered_color(rng, rng.choice(("red", "green", "blue", "purple"))) if dark else tint(rng, dark=False)
    if dark and rng.chance(0.4):
        background = tint(rng, dark=True)
    text_rgb = tint(rng, not dark)
    canvas = Canvas(width, height, background)
    room = 0.86 * height / len(lines)
    largest = rng.uniform(0.6, 0.95) * room
    size_px = min(fitting_size(line, typeface.face, largest, 0.82 * width) for line in lines)
    top = height / 2 - room * (len(lines) - 1) / 2
    lines_with_boxes = tuple(
        (line, canvas.text((width / 2, top + i * room), line, typeface.face, size_px, text_rgb))
        for i, line in enumerate(lines)
    )
    return _PrintedText(canvas.finish(), background, lines_with_boxes)


def _notice(rng: SceneRng, typeface: Typeface) -> tuple[_PrintedText, FactText, Json]:
    """Two to four sentences, left-aligned."""
    width, height = picture_size(rng, shortest_px=200)
    text = typeface.displayed(" ".join(sentence(rng) for _ in range(rng.integer(2, 4))))
    size = 0.1 * min(width, height)
    lines = _wrapped(text, typeface.face, size, 0.86 * width)
    while len(lines) * 1.25 * size > 0.86 * height:
        size *= 0.9
        lines = _wrapped(text, typeface.face, size, 0.86 * width)
    background, text_rgb = tint(rng, dark=False), tint(rng, dark=True)
    canvas = Canvas(width, height, background)
    left, top = 0.07 * width, (height - len(lines) * 1.25 * size) / 2 + size
    lines_with_boxes = tuple(
        (line, canvas.text((left, top + 1.25 * i * size), line, typeface.face, size, text_rgb, "ls"))
        for i, line in enumerate(lines)
    )
    words = fact("text", "\n".join(lines))
    return _PrintedText(canvas.finish(), background, lines_with_boxes), words, spelling_form(words.text)


def _wrapped(text: str, face: str, size: float, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, face, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _receipt(rng: SceneRng, typeface: Typeface) -> tuple[_PrintedText, FactText, Json]:
    """Two to five goods with prices, and the total."""
    goods = rng.pick_many(GOODS, rng.integer(2, 5))
    cents = [5 * rng.integer(10, 199) for _ in goods]
    total = f"{sum(cents) // 100}.{sum(cents) % 100:02d}"
    width = rng.integer(130, 240)
    size = width * 0.1
    rows = [(good, f"{price // 100}.{price % 100:02d}") for good, price in zip(goods, cents, strict=True)]
    rows.append(("Total", total))
    height = round((len(rows) + 2) * 1.3 * size)
    background, text_rgb = tint(rng, dark=False), tint(rng, dark=True)
    canvas = Canvas(width, height, background)
    head = typeface.displayed(f"{rng.pick(PLACES)} market")
    lines_with_boxes = [(head, canvas.text((width / 2, 1.1 * size), head, typeface.face, size, text_rgb, "ms"))]
    for i, (good, price) in enumerate(rows):
        y = (2.6 + 1.3 * i) * size
        left = canvas.text((0.08 * width, y), typeface.displayed(good), typeface.face, size, text_rgb, "ls")
        right = canvas.text((0.92 * width, y), price, typeface.face, size, text_rgb, "rs")
        box = (left[0], min(left[1], right[1]), right[2], max(left[3], right[3]))
        lines_with_boxes.append((f"{typeface.displayed(good)} {price}", box))
    canvas.line(((0.08 * width, y - 1.0 * size), (0.92 * width, y - 1.0 * size)), text_rgb, 0.06 * size)
    return (
        _PrintedText(canvas.finish(), background, tuple(lines_with_boxes)),
        fact("value", total),
        number_form(float(total)),
    )


def _lines_text(page: _PrintedText) -> FactText:
    return join_texts("\n", [fact("text", line) for line, _ in page.lines])


_KINDS: dict[str, Callable[[SceneRng, Typeface], tuple[_PrintedText, FactText, Json]]] = {
    "number": _number,
    "sign": _sign,
    "notice": _notice,
    "receipt": _receipt,
}


def _rotate(rng: SceneRng, page: _PrintedText, degrees: float) -> tuple[EncodedMedia, list[Json]]:
    """Rotate the picture counterclockwise about its center, keep its size, and encode it.

    Returns:
        (file, annotations of the lines: text and polygon after the rotation)
    """
    image = page.image
    width, height = image.size
    if degrees:
        image = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=page.background)
    sine, cosine = math.sin(math.radians(-degrees)), math.cos(math.radians(-degrees))

    def turned(x: float, y: float) -> XY:
        u, v = x - width / 2, y - height / 2
        return width / 2 + cosine * u - sine * v, height / 2 + sine * u + cosine * v

    lines = [
        {
            "text": text,
            "polygon": [rounded(turned(x, y)) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))],
        }
        for text, (left, top, right, bottom) in page.lines
    ]
    return encode_image(rng, add_grain(rng, image)), lines
