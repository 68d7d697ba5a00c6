"""The category `reading`: rendered text in many faces. Big numbers, signs, notices and receipts.

Type families, names and words of held-out scenes never occur in training. Notes hold every line with the polygon
around its ink, also when the sheet lies askew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    File,
    Point,
    Print,
    Rgb,
    Sheet,
    encode,
    fitting_size,
    grainy,
    jittered,
    picture_size,
    text_width,
    tint,
    typeface,
)
from pipelines.scenes.elements.entities import GOODS, NAMES, PLACES, SIGNS, THINGS, VERBS
from pipelines.scenes.elements.fact_text import Words, article, fact, fill, join
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, asked_about, number, spelling
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

TELL = {
    "number": Pool("wording", ("The number is {text}.", "The picture shows the number {text}."), ("Number: {text}.",)),
    "sign": Pool("wording", ("The sign says: {text}", "On the sign stands: {text}"), ("Written there: {text}",)),
    "notice": Pool("wording", ("The text reads:\n{text}", "{text}"), ("Transcription:\n{text}",)),
    "receipt": Pool("wording", ("The receipt reads:\n{text}", "{text}"), ("Transcription:\n{text}",)),
}
ASK = {
    "number": Pool("wording", ("Which number do you see?", "What number is written here?"), ("Read the number.",)),
    "sign": Pool("wording", ("What does the sign say?", "Read the sign."), ("Which words are written here?",)),
    "notice": Pool("wording", ("What is written here?", "Copy the text."), ("Type what you read.",)),
    "receipt": Pool("wording", ("What is the total?", "How much was paid in all?"), ("Which sum was to pay?",)),
}


@dataclass(frozen=True)
class _Page:
    """A sheet with its lines, before it is laid askew."""

    image: Image.Image
    ground: Rgb
    lines: tuple[tuple[str, tuple[float, ...]], ...]
    """(text, box of its ink in pixels)"""


def reading(dice: Dice) -> Scene:
    kind = dice.weighted({"number": 0.4, "sign": 0.25, "notice": 0.2, "receipt": 0.15})
    type_ = typeface(dice)
    page, answer, form = _KINDS[kind](dice, type_)
    degrees = dice.uniform(-9, 9) if kind != "receipt" and dice.chance(0.4) else 0.0
    file, lines = _lay(dice, page, degrees)
    notes: dict[str, Json] = {"print": kind, "font": type_.face, "degrees": round(degrees, 1), "lines": lines}
    if dice.chance(0.5):
        text = answer if kind in ("number", "sign") else _lines_told(page)
        return Scene((file, fill(dice.pick(TELL[kind]), text=text)), notes)
    return asked_about(dice, file, [Question(f"read_{kind}", dice.pick(ASK[kind]), answer, form)], notes)


def sentence(dice: Dice) -> str:
    """Something that somebody did somewhere."""
    return fill(
        "{name} {verb} {thing} in {place}.",
        name=dice.pick(NAMES),
        verb=dice.pick(VERBS),
        thing=article(Words(dice.pick(THINGS))),
        place=dice.pick(PLACES),
    ).text


def _number(dice: Dice, type_: Print) -> tuple[_Page, Words, Json]:
    digits = dice.until_ours(
        lambda: str(dice.whole(*dice.choice(((0, 9), (10, 99), (100, 999))))), lambda text: ["number", text]
    )
    page = _poster(dice, type_, [digits], picture_size(dice, longest_px=300))
    return page, fact("value", digits), number(int(digits))


def _sign(dice: Dice, type_: Print) -> tuple[_Page, Words, Json]:
    said = type_.spelt(dice.pick(SIGNS).format(n=dice.whole(1, 40)))
    words = said.split()
    cut = len(words) // 2 if len(words) > 2 else len(words)
    lines = [" ".join(part) for part in (words[:cut], words[cut:]) if part]
    page = _poster(dice, type_, lines, picture_size(dice, shortest_px=100))
    return page, fact("text", said), spelling(said)


def _poster(dice: Dice, type_: Print, lines: Sequence[str], size: tuple[int, int]) -> _Page:
    """Few words, as large as they can be: dark on light, light on dark, or light on a colour."""
    width, height = size
    dark = dice.chance(0.4)
    ground = jittered(dice, dice.choice(("red", "green", "blue", "purple"))) if dark else tint(dice, dark=False)
    if dark and dice.chance(0.4):
        ground = tint(dice, dark=True)
    ink = tint(dice, not dark)
    sheet = Sheet(width, height, ground)
    room = 0.86 * height / len(lines)
    largest = dice.uniform(0.6, 0.95) * room
    size_px = min(fitting_size(line, type_.face, largest, 0.82 * width) for line in lines)
    top = height / 2 - room * (len(lines) - 1) / 2
    found = tuple(
        (line, sheet.text((width / 2, top + i * room), line, type_.face, size_px, ink)) for i, line in enumerate(lines)
    )
    return _Page(sheet.finish(), ground, found)


def _notice(dice: Dice, type_: Print) -> tuple[_Page, Words, Json]:
    """Two to four sentences, set ragged right."""
    width, height = picture_size(dice, shortest_px=200)
    text = type_.spelt(" ".join(sentence(dice) for _ in range(dice.whole(2, 4))))
    size = 0.1 * min(width, height)
    lines = _wrapped(text, type_.face, size, 0.86 * width)
    while len(lines) * 1.25 * size > 0.86 * height:
        size *= 0.9
        lines = _wrapped(text, type_.face, size, 0.86 * width)
    ground, ink = tint(dice, dark=False), tint(dice, dark=True)
    sheet = Sheet(width, height, ground)
    left, top = 0.07 * width, (height - len(lines) * 1.25 * size) / 2 + size
    found = tuple(
        (line, sheet.text((left, top + 1.25 * i * size), line, type_.face, size, ink, "ls"))
        for i, line in enumerate(lines)
    )
    words = fact("text", "\n".join(lines))
    return _Page(sheet.finish(), ground, found), words, spelling(words.text)


def _wrapped(text: str, face: str, size: float, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, face, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _receipt(dice: Dice, type_: Print) -> tuple[_Page, Words, Json]:
    """Goods with prices in cents, and their sum."""
    goods = dice.pick_some(GOODS, dice.whole(2, 5))
    cents = [5 * dice.whole(10, 199) for _ in goods]
    total = f"{sum(cents) // 100}.{sum(cents) % 100:02d}"
    width = dice.whole(130, 240)
    size = width * 0.1
    rows = [(good, f"{price // 100}.{price % 100:02d}") for good, price in zip(goods, cents, strict=True)]
    rows.append(("Total", total))
    height = round((len(rows) + 2) * 1.3 * size)
    ground, ink = tint(dice, dark=False), tint(dice, dark=True)
    sheet = Sheet(width, height, ground)
    head = type_.spelt(f"{dice.pick(PLACES)} market")
    found = [(head, sheet.text((width / 2, 1.1 * size), head, type_.face, size, ink, "ms"))]
    for i, (good, price) in enumerate(rows):
        y = (2.6 + 1.3 * i) * size
        left = sheet.text((0.08 * width, y), type_.spelt(good), type_.face, size, ink, "ls")
        right = sheet.text((0.92 * width, y), price, type_.face, size, ink, "rs")
        box = (left[0], min(left[1], right[1]), right[2], max(left[3], right[3]))
        found.append((f"{type_.spelt(good)} {price}", box))
    sheet.line(((0.08 * width, y - 1.0 * size), (0.92 * width, y - 1.0 * size)), ink, 0.06 * size)
    return _Page(sheet.finish(), ground, tuple(found)), fact("value", total), number(float(total))


def _lines_told(page: _Page) -> Words:
    return join("\n", [fact("text", line) for line, _ in page.lines])


_KINDS: dict[str, Callable[[Dice, Print], tuple[_Page, Words, Json]]] = {
    "number": _number,
    "sign": _sign,
    "notice": _notice,
    "receipt": _receipt,
}


def _lay(dice: Dice, page: _Page, degrees: float) -> tuple[File, list[Json]]:
    """Turn the page counter-clockwise about its centre, within its frame, and say where its lines went."""
    image = page.image
    width, height = image.size
    if degrees:
        image = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=page.ground)
    sine, cosine = math.sin(math.radians(-degrees)), math.cos(math.radians(-degrees))

    def turned(x: float, y: float) -> Point:
        u, v = x - width / 2, y - height / 2
        return width / 2 + cosine * u - sine * v, height / 2 + sine * u + cosine * v

    lines = [
        {
            "text": text,
            "polygon": [rounded(turned(x, y)) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))],
        }
        for text, (left, top, right, bottom) in page.lines
    ]
    return encode(dice, grainy(dice, image)), lines
