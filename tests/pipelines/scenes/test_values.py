"""Values of charts, tables, dials, mazes, figures and printed texts are measured again in the pixels."""

from __future__ import annotations

import itertools
import math
import re
from collections import deque

import numpy as np
import pytest
from PIL import ImageFont

from pipelines.scenes.categories.dials import SEGMENTS
from pipelines.scenes.elements.entities import font_files
from tests.pipelines.scenes.rendered import RenderedScene, filled, first_scenes, is_near, mean_color, smooth

WALK = {"up": (0, -1), "right": (1, 0), "down": (0, 1), "left": (-1, 0)}


def closeness(rgb: np.ndarray, color: list[int]) -> np.ndarray:
    """(H, W): largest difference of a channel."""
    return np.abs(smooth(rgb) - np.array(color)).max(axis=2)


# ---------------------------------------------------------------------------------------------- charts, tables


def test_bars_are_as_high_as_their_value_on_the_axis() -> None:
    bars = [(s, bar) for s in first_scenes("chart", 60) if s.notes["chart"] == "bar" for bar in s.notes["bars"]]
    assert len(bars) > 40
    for scene, bar in bars:
        axis, rgb = scene.notes["axis"], scene.pictures[0]
        middle = (bar["box"][0] + bar["box"][2]) / 2
        column = np.abs(rgb[:, int(middle) - 1 : int(middle) + 2].mean(axis=1) - np.array(bar["rgb"])).max(axis=1) < 50
        field = np.flatnonzero(column[int(axis["y_of_top"]) - 2 : int(axis["y_of_0"]) + 2]) + int(axis["y_of_top"]) - 2
        measured = (axis["y_of_0"] - field.min()) / (axis["y_of_0"] - axis["y_of_top"]) * axis["top"]
        assert measured == pytest.approx(bar["value"], abs=0.035 * axis["top"]), (scene.line["scene"], bar)
        assert dict(scene.notes["values"])[bar["label"]] == bar["value"]


def test_points_of_a_line_are_at_their_value() -> None:
    scenes = [s for s in first_scenes("chart", 60) if s.notes["chart"] == "line"]
    assert len(scenes) > 8
    for scene in scenes:
        axis, line = scene.notes["axis"], scene.notes["line"]
        span = axis["y_of_0"] - axis["y_of_top"]
        for (x, y), (_, value) in zip(line["points"], scene.notes["values"], strict=True):
            assert is_near(mean_color(scene.pictures[0], (x, y)), line["rgb"], 70), (scene.line["scene"], value)
            assert (axis["y_of_0"] - y) / span * axis["top"] == pytest.approx(value, abs=0.01 * axis["top"])


def test_slices_of_a_pie_cover_their_share_of_the_circle() -> None:
    scenes = [s for s in first_scenes("chart", 60) if s.notes["chart"] == "pie"]
    assert len(scenes) > 8
    for scene in scenes:
        rgb = smooth(scene.pictures[0])
        rows, columns = np.indices(rgb.shape[:2])
        (x, y), radius = scene.notes["center"], scene.notes["radius"]
        disc = np.hypot(columns - x, rows - y) < 0.9 * radius
        colors = np.array([piece["rgb"] for piece in scene.notes["slices"]])
        nearest = np.abs(rgb[disc][:, None] - colors[None]).sum(axis=2).argmin(axis=1)
        for i, piece in enumerate(scene.notes["slices"]):
            assert (nearest == i).mean() * 100 == pytest.approx(piece["value"], abs=4), scene.line["scene"]
        assert sum(piece["value"] for piece in scene.notes["slices"]) == 100


def test_answers_about_charts_follow_from_their_values() -> None:
    for scene in first_scenes("chart", 60):
        values = dict(scene.notes["values"])
        for question in scene.notes.get("questions", []):
            named = sorted((q for q in values if q in question["question"]), key=question["question"].index)
            match question["kind"]:
                case "value_of":
                    assert int(question["answer"]) == values[named[-1]]
                case "difference":
                    assert int(question["answer"]) == values[named[0]] - values[named[1]]
                case "extreme":
                    end = max if "highest" in question["question"] else min
                    assert question["answer"] == end(values, key=values.__getitem__)
        if "questions" not in scene.notes:
            assert scene.facts("value") == [str(value) for value in values.values()]


def test_tables_have_ink_in_every_cell_and_a_text_that_matches_the_cells() -> None:
    for scene in first_scenes("table", 25):
        rgb, notes = scene.pictures[0], scene.notes
        for row in notes["cell_boxes"]:
            for left, top, right, bottom in row:
                cell = rgb[int(top) : math.ceil(bottom), int(left) : math.ceil(right)].mean(axis=2)
                assert np.ptp(cell) > 60
        if "questions" not in notes:
            lines = scene.text.splitlines()
            cells = [[int(cell) for cell in re.findall(r"\| (\d+) (?=\|)", line)] for line in lines[2:]]
            assert cells == notes["cells"]
            assert scene.facts("value") == [str(cell) for row in notes["cells"] for cell in row]
        for question in notes.get("questions", []):
            column = next(i for i, name in enumerate(notes["columns"]) if name in question["question"])
            numbers = [row[column] for row in notes["cells"]]
            if question["kind"] == "sum":
                assert int(question["answer"]) == sum(numbers)
            else:
                assert int(question["answer"]) == next(
                    number for name, number in zip(notes["rows"], numbers, strict=True) if name in question["question"]
                )


# ---------------------------------------------------------------------------------------------- dials


def hands_on_ring(scene: RenderedScene, share: float) -> list[float]:
    """Directions of the hands that cross the ring at this share of the radius, in degrees clockwise from the top."""
    rgb = scene.pictures[0]
    (x, y), radius = scene.notes["center"], scene.notes["radius"] * share
    degrees = np.arange(0, 360, 0.5)
    across = x + radius * np.sin(np.radians(degrees)) - 0.5
    down = y - radius * np.cos(np.radians(degrees)) - 0.5
    ring = smooth(rgb)[np.rint(down).astype(int), np.rint(across).astype(int)]
    plate = np.median(ring, axis=0)
    off = np.abs(ring - plate).max(axis=1)
    hit = off > 0.5 * off.max()
    if hit.all():
        return []
    first = int(np.flatnonzero(~hit)[0])
    hit, turned = np.roll(hit, -first), np.roll(degrees, -first)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], hit.astype(int), [0]))))
    return [float((turned[a] + ((b - a) * 0.5) / 2) % 360) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def turn(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


def dials(kind: str) -> list[RenderedScene]:
    scenes = [scene for scene in first_scenes("dial", 90) if scene.notes["dial"] == kind]
    assert len(scenes) >= 8
    return scenes


def test_the_hands_of_a_clock_show_the_time_in_the_text() -> None:
    for scene in dials("clock"):
        (value,) = scene.facts("value")
        hour, minute = map(int, value.split(":"))
        (long,) = hands_on_ring(scene, 0.53)
        assert turn(long, 6 * minute) < 5, scene.line["scene"]
        short = 30 * (hour % 12) + minute / 2
        assert min(turn(hand, short) for hand in hands_on_ring(scene, 0.36)) < 8, scene.line["scene"]


def test_the_needle_of_a_gauge_points_to_its_value() -> None:
    for scene in dials("gauge"):
        (needle,) = hands_on_ring(scene, 0.4)
        measured = ((needle + 120) % 360) / 240 * scene.notes["top"]
        assert measured == pytest.approx(float(scene.notes["value"]), abs=scene.notes["top"] * 0.025)


def test_the_column_of_a_thermometer_ends_at_its_value() -> None:
    for scene in dials("thermometer"):
        scale, column = scene.notes["scale"], scene.notes["column"]
        pixels = closeness(scene.pictures[0], column["rgb"])[:, int(column["x"])] < 60
        top = np.flatnonzero(pixels).min()
        share = (scale["y_of_low"] - top) / (scale["y_of_low"] - scale["y_of_high"])
        measured = scale["low"] + share * (scale["high"] - scale["low"])
        assert measured == pytest.approx(int(scene.notes["value"]), abs=2.0), scene.line["scene"]


def test_the_lit_segments_of_a_display_spell_its_digits() -> None:
    places = {"a": (0.5, 0.07), "b": (0.88, 0.27), "c": (0.88, 0.73), "d": (0.5, 0.93), "e": (0.12, 0.73),
              "f": (0.12, 0.27), "g": (0.5, 0.5)}  # fmt: skip
    digits = {"".join(sorted(segments)): digit for digit, segments in SEGMENTS.items()}
    for scene in dials("display"):
        displayed = ""
        for left, top, right, bottom in scene.notes["digit_boxes"]:
            wide, high = right - left, bottom - top
            lit = [
                segment
                for segment, (u, v) in places.items()
                if is_near(mean_color(scene.pictures[0], (left + u * wide, top + v * high)), scene.notes["rgb"], 70)
            ]
            displayed += digits["".join(sorted(lit))]
        assert displayed == scene.notes["value"], scene.line["scene"]


# ---------------------------------------------------------------------------------------------- mazes


def test_walls_of_a_maze_match_the_pixels_and_its_path_is_the_shortest() -> None:
    for scene in first_scenes("maze", 25):
        maze = scene.notes["maze"]
        passages = passages_in_pixels(
            smooth(scene.pictures[0]), maze["columns"], maze["rows"], **scene.notes["cell_px"]
        )
        assert passages == maze["free"], scene.line["scene"]
        assert shortest(passages, maze["columns"], maze["start"], maze["goal"]) == len(scene.notes["way"])


def passages_in_pixels(rgb: np.ndarray, columns: int, rows: int, cell: int, edge: int) -> list[str]:
    """First letters of the moves without a wall, for each cell, row by row, measured in the pixels."""
    background = mean_color(rgb, (edge / 2, edge / 2))
    contrast = np.abs(rgb[edge, edge] - background).max()  # of the corner where two outer walls meet

    def free(x: int, y: int, move: str) -> bool:
        """Return whether the middle of the border between two cells has the color of the background."""
        across = round(edge + (x + 0.5 + WALK[move][0] / 2) * cell)
        down = round(edge + (y + 0.5 + WALK[move][1] / 2) * cell)
        around = rgb[down - 1 : down + 1, across - 1 : across + 1]
        return bool(np.abs(around - background).max() < 0.45 * contrast)

    return ["".join(move[0] for move in WALK if free(x, y, move)) for y in range(rows) for x in range(columns)]


def shortest(passages: list[str], columns: int, start: list[int], goal: list[int]) -> int:
    """Number of moves between two cells, by breadth-first search."""
    queue, steps = deque([tuple(start)]), {tuple(start): 0}
    while queue:
        x, y = queue.popleft()
        for move, (dx, dy) in WALK.items():
            if move[0] in passages[y * columns + x] and (x + dx, y + dy) not in steps:
                steps[x + dx, y + dy] = steps[x, y] + 1
                queue.append((x + dx, y + dy))
    return steps[tuple(goal)]


# ---------------------------------------------------------------------------------------------- figures


def opening(tip: list[float], one: list[float], other: list[float]) -> float:
    """Angle between two arms, in degrees."""
    return turn(
        math.degrees(math.atan2(one[1] - tip[1], one[0] - tip[0])),
        math.degrees(math.atan2(other[1] - tip[1], other[0] - tip[0])),
    )


def crossing(one: list[list[float]], other: list[list[float]]) -> bool:
    """Return whether two lines cross: the ends of each are on different sides of the other."""

    def side(a: list[float], b: list[float], p: list[float]) -> bool:
        return (b[0] - a[0]) * (p[1] - a[1]) > (b[1] - a[1]) * (p[0] - a[0])

    return side(*one, other[0]) != side(*one, other[1]) and side(*other, one[0]) != side(*other, one[1])


def test_figures_are_drawn_to_the_scale_of_their_answer() -> None:
    kinds = set()
    for scene in first_scenes("geometry", 70):
        notes = scene.notes
        kinds.add(notes["figure"])
        (question,) = notes["questions"]
        answer = question["answer"]
        match notes["figure"]:
            case "third_angle":
                first, second, third = notes["corners"]
                assert opening(third, first, second) == pytest.approx(int(answer), abs=1)
            case "angle":
                one, tip, other = notes["corners"]
                assert opening(tip, one, other) == pytest.approx(int(answer), abs=1)
            case "rectangle_area" | "rectangle_perimeter":
                wide, high = notes["sides"]
                left, top, right, bottom = notes["box"]
                assert (right - left) / (bottom - top) == pytest.approx(wide / high, rel=0.03)
                assert int(answer) == (wide * high if notes["figure"].endswith("area") else 2 * wide + 2 * high)
            case "hypotenuse":
                high, wide = notes["sides"]
                assert int(answer) == math.hypot(high, wide)
            case "grid_area":
                corners = notes["grid_corners"]
                inside = sum(
                    filled([[100 * x, 100 * y] for x, y in corners], (600, 800))[50 * j + 25, 50 * i + 25]
                    for j in range(12)
                    for i in range(16)
                )
                assert inside / 4 == pytest.approx(float(answer), abs=2.5)  # counted on a raster of half squares
            case "coordinates":
                assert is_near(mean_color(scene.pictures[0], notes["point"]), notes["rgb"], 60)
            case "crossings":
                count = sum(crossing(one, other) for one, other in itertools.combinations(notes["lines"], 2))
                assert int(answer) == count
    assert len(kinds) == 8


def test_a_figure_is_filled_between_its_corners() -> None:
    for scene in first_scenes("geometry", 70):
        if scene.notes["figure"] in ("hypotenuse", "grid_area"):
            rgb = scene.pictures[0]
            middle = np.mean(scene.notes["corners"], axis=0)
            assert not is_near(mean_color(rgb, middle), [int(c) for c in mean_color(rgb, (4, 4))], 30), scene.line[
                "scene"
            ]


# ---------------------------------------------------------------------------------------------- print


def test_all_ink_is_inside_the_polygons_of_the_lines() -> None:
    for scene in first_scenes("reading", 50):
        if scene.notes["print"] == "receipt":
            continue  # its rule is ink that belongs to no line
        rgb = smooth(scene.pictures[0])
        background = np.median(rgb.reshape(-1, 3), axis=0)
        ink = np.abs(rgb - background).max(axis=2) > 70
        around = np.zeros_like(ink)
        for line in scene.notes["lines"]:
            a, b, _, d = polygon = np.array(line["polygon"])
            along, down = 2.5 * (b - a) / math.dist(a, b), 2.5 * (d - a) / math.dist(a, d)
            grown = polygon + np.array([-along - down, along - down, along + down, down - along])
            inside = filled(grown.tolist(), rgb.shape)
            assert (ink & inside).any(), (scene.line["scene"], line)
            around |= inside
        assert (ink & ~around).sum() <= 0.01 * ink.sum(), scene.line["scene"]


def test_the_aspect_of_a_printed_line_is_that_of_its_text_in_the_annotated_face() -> None:
    """Another text in the same face, or the same text in another face, has another aspect."""
    for scene in first_scenes("reading", 50):
        face = ImageFont.truetype(str(font_files()[scene.notes["font"]]), 200, layout_engine=ImageFont.Layout.BASIC)
        if scene.notes["print"] == "receipt":
            continue
        for line in scene.notes["lines"]:
            a, b, _, d = line["polygon"]
            left, top, right, bottom = face.getbbox(line["text"])
            drawn = math.dist(a, b) / math.dist(a, d)
            assert drawn == pytest.approx((right - left) / (bottom - top), rel=0.12), (scene.line["scene"], line)


def test_facts_of_a_printed_text_equal_its_lines() -> None:
    for scene in first_scenes("reading", 50):
        lines = [line["text"] for line in scene.notes["lines"]]
        facts = [*scene.facts("text"), *scene.facts("value")]
        match scene.notes["print"]:
            case "number":
                assert facts == lines
            case "sign":
                assert facts == [" ".join(lines)]
            case "notice":
                assert "\n".join(facts) == "\n".join(lines)
            case "receipt" if "questions" in scene.notes:
                prices = [float(line.rpartition(" ")[2]) for line in lines[1:]]
                assert facts == [f"{sum(prices[:-1]):.2f}"]
                assert float(facts[0]) == prices[-1]
            case "receipt":
                assert facts == lines
