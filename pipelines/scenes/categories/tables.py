"""The category `table`: ruled tables, as Markdown or with questions about their cells.

Rows and columns of held-out tables never occur in training.
"""

from __future__ import annotations

from collections.abc import Sequence

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    Print,
    Sheet,
    encode,
    fitting_size,
    grainy,
    picture_size,
    shade,
    tint,
    typeface,
)
from pipelines.scenes.elements.entities import GOODS, NAMES, PLACES
from pipelines.scenes.elements.fact_text import Words, fact, join
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, asked_about, number
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

FORMATS = {"jpg": 0.45, "png": 0.4, "webp": 0.15}

COLUMNS: tuple[tuple[Pool[str], Pool[str]], ...] = (
    (GOODS, Pool("column", ("Price", "Weight", "Stock", "Sold"), ("Cost", "Boxes", "Ordered"), strict=True)),
    (NAMES, Pool("column", ("Age", "Points", "Books", "Games"), ("Height", "Rank", "Pages"), strict=True)),
    (PLACES, Pool("column", ("Hotels", "Bridges", "Parks", "Trains"), ("Museums", "Schools", "Wells"), strict=True)),
)
"""What rows stand for, and columns that suit it."""
CELL = Pool(
    "wording",
    train=(
        "Which number stands in the column {column} for {row}?",
        "What does the table give for {row} under {column}?",
    ),
    reserved=("Look up {row} in the column {column}.",),
)
SUM = Pool(
    "wording",
    train=("What is the sum of the column {column}?", "Add up the column {column}. What is the total?"),
    reserved=("What do all numbers under {column} make together?",),
)


def table(dice: Dice) -> Scene:
    """A ruled table; the text is either its Markdown or questions about its cells."""
    width, height = picture_size(dice, shortest_px=170)
    type_ = typeface(dice)
    entities, headings = dice.choice(COLUMNS)
    rows = dice.pick_some(entities, dice.whole(2, 5))
    columns = dice.pick_some(headings, dice.whole(1, 3))
    cells = [[dice.whole(1, 99) for _ in columns] for _ in rows]
    sheet = Sheet(width, height, tint(dice, dark=False))
    boxes = _draw_table(dice, sheet, type_, rows, columns, cells)
    file = encode(dice, grainy(dice, sheet.finish()), FORMATS)
    notes: dict[str, Json] = {"font": type_.face, "rows": rows, "columns": columns, "cells": cells, "cell_boxes": boxes}
    if dice.chance(0.5):
        return Scene((file, _markdown(type_, rows, columns, cells)), notes)
    row, column = dice.whole(0, len(rows) - 1), dice.whole(0, len(columns) - 1)
    cell, total = cells[row][column], sum(line[column] for line in cells)
    about_cell = dice.pick(CELL).format(column=columns[column], row=rows[row])
    about_sum = dice.pick(SUM).format(column=columns[column])
    return asked_about(
        dice,
        file,
        [
            Question("cell", about_cell, fact("value", cell), number(cell)),
            Question("sum", about_sum, fact("value", total), number(total)),
        ][: dice.whole(1, 2)],
        notes,
    )


def _draw_table(
    dice: Dice, sheet: Sheet, type_: Print, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[int]]
) -> Json:
    ink = tint(dice, dark=True)
    banded = dice.chance(0.5)
    width, height = sheet.width, sheet.height
    left, top, right, bottom = 0.05 * width, 0.06 * height, 0.95 * width, 0.94 * height
    line, room = (bottom - top) / (len(rows) + 1), (right - left) / (len(columns) + 1)
    size = min(0.55 * line, 0.3 * room)
    boxes: list[list[list[float]]] = []
    grid: list[list[str]] = [["", *columns], *([row, *map(str, line)] for row, line in zip(rows, cells, strict=True))]
    for j, texts in enumerate(grid):
        y = top + (j + 0.5) * line
        if j == 0 or (banded and j % 2 == 0):
            sheet.box((left, y - line / 2, right, y + line / 2), shade(ink, 0.62))
        found = []
        for i, text in enumerate(texts):
            if text:
                spelt = type_.spelt(text)
                fits = fitting_size(spelt, type_.face, size, 0.9 * room)
                ink_box = sheet.text((left + (i + 0.5) * room, y), spelt, type_.face, fits, ink)
                if i and j:
                    found.append(rounded(ink_box))
        if j:
            boxes.append(found)
    for j in range(len(rows) + 2):
        sheet.line(((left, top + j * line), (right, top + j * line)), ink, 0.8)
    for i in range(len(columns) + 2):
        sheet.line(((left + i * room, top), (left + i * room, bottom)), ink, 0.8)
    return boxes


def _markdown(type_: Print, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[int]]) -> Words:
    """The table as it would be typed, every cell a fact."""
    head = type_.spelt("| | " + " | ".join(columns) + " |") + "\n|" + "---|" * (len(columns) + 1)
    lines = [
        Words(f"| {type_.spelt(row)} | ") + join(" | ", [fact("value", cell) for cell in line]) + " |"
        for row, line in zip(rows, cells, strict=True)
    ]
    return join("\n", [Words(head), *lines])
