"""The category `table`: tables with rules, as Markdown or with questions about their cells.

Row labels and column headings of held-out tables never occur in training.
"""

from __future__ import annotations

from collections.abc import Sequence

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    Canvas,
    Typeface,
    add_grain,
    encode_image,
    fitting_size,
    pick_typeface,
    picture_size,
    shade,
    tint,
)
from pipelines.scenes.elements.entities import GOODS, NAMES, PLACES
from pipelines.scenes.elements.fact_text import FactText, fact, join_texts
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, number_form, question_scene
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

FORMATS = {"jpg": 0.45, "png": 0.4, "webp": 0.15}

COLUMNS: tuple[tuple[Pool[str], Pool[str]], ...] = (
    (GOODS, Pool("column", ("Price", "Weight", "Stock", "Sold"), ("Cost", "Boxes", "Ordered"), strict=True)),
    (NAMES, Pool("column", ("Age", "Points", "Books", "Games"), ("Height", "Rank", "Pages"), strict=True)),
    (PLACES, Pool("column", ("Hotels", "Bridges", "Parks", "Trains"), ("Museums", "Schools", "Wells"), strict=True)),
)
"""(labels of the rows, column headings that fit them)"""
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


def table(rng: SceneRng) -> Scene:
    """Draw a table; the text is its Markdown or one or two questions about its cells."""
    width, height = picture_size(rng, shortest_px=170)
    typeface = pick_typeface(rng)
    entities, headings = rng.choice(COLUMNS)
    rows = rng.pick_many(entities, rng.integer(2, 5))
    columns = rng.pick_many(headings, rng.integer(1, 3))
    cells = [[rng.integer(1, 99) for _ in columns] for _ in rows]
    canvas = Canvas(width, height, tint(rng, dark=False))
    boxes = _draw_table(rng, canvas, typeface, rows, columns, cells)
    file = encode_image(rng, add_grain(rng, canvas.finish()), FORMATS)
    notes: dict[str, Json] = {
        "font": typeface.face,
        "rows": rows,
        "columns": columns,
        "cells": cells,
        "cell_boxes": boxes,
    }
    if rng.chance(0.5):
        return Scene((file, _markdown(typeface, rows, columns, cells)), notes)
    row, column = rng.integer(0, len(rows) - 1), rng.integer(0, len(columns) - 1)
    cell, total = cells[row][column], sum(line[column] for line in cells)
    about_cell = rng.pick(CELL).format(column=columns[column], row=rows[row])
    about_sum = rng.pick(SUM).format(column=columns[column])
    return question_scene(
        rng,
        file,
        [
            Question("cell", about_cell, fact("value", cell), number_form(cell)),
            Question("sum", about_sum, fact("value", total), number_form(total)),
        ][: rng.integer(1, 2)],
        notes,
    )


def _draw_table(
    rng: SceneRng,
    canvas: Canvas,
    typeface: Typeface,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[int]],
) -> Json:
    ink = tint(rng, dark=True)
    banded = rng.chance(0.5)
    width, height = canvas.width, canvas.height
    left, top, right, bottom = 0.05 * width, 0.06 * height, 0.95 * width, 0.94 * height
    line, room = (bottom - top) / (len(rows) + 1), (right - left) / (len(columns) + 1)
    size = min(0.55 * line, 0.3 * room)
    boxes: list[list[list[float]]] = []
    grid: list[list[str]] = [["", *columns], *([row, *map(str, line)] for row, line in zip(rows, cells, strict=True))]
    for j, texts in enumerate(grid):
        y = top + (j + 0.5) * line
        if j == 0 or (banded and j % 2 == 0):
            canvas.box((left, y - line / 2, right, y + line / 2), shade(ink, 0.62))
        row_boxes = []
        for i, text in enumerate(texts):
            if text:
                displayed = typeface.displayed(text)
                fits = fitting_size(displayed, typeface.face, size, 0.9 * room)
                ink_box = canvas.text((left + (i + 0.5) * room, y), displayed, typeface.face, fits, ink)
                if i and j:
                    row_boxes.append(rounded(ink_box))
        if j:
            boxes.append(row_boxes)
    for j in range(len(rows) + 2):
        canvas.line(((left, top + j * line), (right, top + j * line)), ink, 0.8)
    for i in range(len(columns) + 2):
        canvas.line(((left + i * room, top), (left + i * room, bottom)), ink, 0.8)
    return boxes


def _markdown(
    typeface: Typeface, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[int]]
) -> FactText:
    """The table as Markdown, in which every number is a fact."""
    head = typeface.displayed("| | " + " | ".join(columns) + " |") + "\n|" + "---|" * (len(columns) + 1)
    lines = [
        FactText(f"| {typeface.displayed(row)} | ") + join_texts(" | ", [fact("value", cell) for cell in line]) + " |"
        for row, line in zip(rows, cells, strict=True)
    ]
    return join_texts("\n", [FactText(head), *lines])
