"""Annotations of captions, questions and groundings are measured again in the pixels."""

from __future__ import annotations

import colorsys
import itertools
import math
import re
from functools import cache

import numpy as np
import pytest

from pipelines.scenes.elements.entities import COLORS, SHAPES
from tests.pipelines.scenes.rendered import RenderedScene, filled, first_scenes, islands, mean_color, rendered, smooth

WORDS = ("zero", "one", "two", "three", "four", "five", "six")


def nearest_color(rgb: np.ndarray) -> str:
    """The color name with the closest middle hue; saturation separates pink from red."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))

    def distance(name: str) -> float:
        hues = COLORS[name]
        turn = abs((hue * 360 - hues.degrees + 180) % 360 - 180) / 180
        middle = [sum(span) / 2 for span in (hues.saturation, hues.value)]
        return turn * 4 + 0.3 * abs(saturation - middle[0]) + 0.3 * abs(value - middle[1])

    return min(COLORS, key=distance)


@cache
def things_in_pixels(scene: RenderedScene, picture: int = 0) -> list[np.ndarray]:
    """Pixels of every colored thing, from left to right: those with more saturation than a near-gray backdrop."""
    rgb = smooth(scene.pictures[picture])
    colorful = rgb.max(axis=2) - rgb.min(axis=2) > 52
    return islands(colorful, least=max(12, int(0.004 * colorful.size)))


@pytest.mark.parametrize("category", ["caption", "question", "grounding"])
def test_a_thing_has_its_annotated_color(category: str) -> None:
    for scene in first_scenes(category, 60):
        for thing in scene.notes["things"]:
            color = mean_color(scene.pictures[0], thing["point"], 2)
            assert nearest_color(color) == thing["color"], (scene.line["scene"], thing, color)


def test_the_count_in_a_caption_equals_the_count_in_the_pixels() -> None:
    for scene in first_scenes("caption", 90):
        (count,) = scene.facts("count")
        number = WORDS.index(count.lower()) if count.lower() in WORDS else int(count)
        assert len(things_in_pixels(scene)) == number == len(scene.notes["things"]), scene.line["scene"]


def test_colors_in_a_caption_follow_the_things_from_left_to_right() -> None:
    for scene in first_scenes("caption", 90):
        rgb = scene.pictures[0]
        by_eye = [nearest_color(np.median(rgb[part[:, 0], part[:, 1]], axis=0)) for part in things_in_pixels(scene)]
        assert scene.facts("color") == by_eye, scene.line["scene"]


def test_shapes_in_a_caption_equal_the_annotations_and_fill_their_boxes_accordingly() -> None:
    """A shape fills a share of its box: a circle pi/4, a triangle about a half, a star far less."""
    fills: dict[str, list[float]] = {}
    for scene in first_scenes("caption", 90):
        assert scene.facts("shape") == [thing["shape"] for thing in scene.notes["things"]]
        for thing, part in zip(scene.notes["things"], things_in_pixels(scene), strict=True):
            if thing["size"] != "small":
                high, wide = np.ptp(part, axis=0) + 1
                fills.setdefault(thing["shape"], []).append(len(part) / (high * wide))
    middle = {shape: float(np.median(values)) for shape, values in fills.items()}
    assert middle["circle"] == pytest.approx(np.pi / 4, abs=0.05)
    assert middle["square"] > 0.8 > middle["circle"] > middle["cross"] > middle["star"]
    assert middle["triangle"] == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("category", ["caption", "grounding"])
def test_boxes_fit_the_pixels_of_their_thing(category: str) -> None:
    for scene in first_scenes(category, 60):
        for thing, part in zip(scene.notes["things"], things_in_pixels(scene), strict=True):
            (top, left), (bottom, right) = part.min(axis=0), part.max(axis=0) + 1
            # A rim on color that is clipped to white or black may look gray; then the box is larger by the rim.
            slack = 3 + 0.1 * (thing["box"][2] - thing["box"][0])
            off = np.abs(np.array([left, top, right, bottom]) - thing["box"]).max()
            assert off <= slack, (scene.line["scene"], thing)


def test_polygons_cover_their_thing_and_contain_its_point() -> None:
    for scene in first_scenes("grounding", 60):
        for thing, part in zip(scene.notes["things"], things_in_pixels(scene), strict=True):
            inside = filled(thing["polygon"], scene.pictures[0].shape)
            x, y = (int(at) for at in thing["point"])
            assert inside[y, x]
            drawn = np.zeros_like(inside)
            drawn[part[:, 0], part[:, 1]] = True
            edge = sum(math.dist(a, b) for a, b in itertools.pairwise([*thing["polygon"], thing["polygon"][0]]))
            wrong = (inside ^ drawn).sum()
            assert wrong <= 3 * edge and wrong < 0.5 * inside.sum(), (scene.line["scene"], thing, wrong, edge)


def test_things_are_large_enough_to_be_visible_at_112_pixels() -> None:
    for scene in first_scenes("caption", 90):
        height, width = scene.pictures[0].shape[:2]
        for thing in scene.notes["things"]:
            left, top, right, bottom = thing["box"]
            # A square is the smallest in its circle, which has a radius of a tenth of the shorter side at least.
            assert max(right - left, bottom - top) >= 0.14 * min(width, height)


def test_most_captions_are_short_and_have_one_form() -> None:
    name = f"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
    short = [scene.text for scene in first_scenes("caption", 90) if scene.notes["length"] == "short"]
    assert len(short) > 60
    for text in short:
        assert re.fullmatch(rf"(1 object|[2-5] objects): {name}(, {name})*\.", text), text


def test_sizes_formats_and_aspects_vary_within_their_limits() -> None:
    scenes = list(first_scenes("caption", 90))
    sizes = [
        (part["width_px"], part["height_px"]) for scene in scenes for part in scene.line["parts"] if "file" in part
    ]
    assert min(min(size) for size in sizes) >= 84 and max(max(size) for size in sizes) <= 448
    assert max(max(size) / min(size) for size in sizes) <= 2.01
    assert len(set(sizes)) > 80
    assert {name.rpartition(".")[2] for scene in scenes for name in scene.files} == {"jpg", "png", "webp"}
    assert any(width > height for width, height in sizes) and any(width < height for width, height in sizes)


def test_pictures_of_a_story_match_the_text_between_them() -> None:
    kinds = set()
    for scene in first_scenes("story", 40):
        notes = scene.notes
        kinds.add(notes["story"])
        match notes["story"]:
            case "steps":
                shown = [
                    sorted(notes["things"][: i + 1], key=lambda t: t["point"][0]) for i in range(len(notes["things"]))
                ]
                assert scene.facts("color") == [thing["color"] for thing in notes["things"]]
            case "change":
                shown = [notes["before"], notes["after"]]
            case "album":
                shown = notes["things"]
                names = [[f"{thing['color']} {thing['shape']}" for thing in things] for things in shown]
                for question in notes.get("questions", []):
                    (name,) = {name for inside in names for name in inside if name in question["question"]}
                    assert [name in inside for inside in names].index(True) + 1 == int(question["answer"])
            case _:
                shown = [[], *(event["things"] for event in notes["events"])]
                shown = [shown[0] if i % 2 == 0 else shown[i // 2 + 1] for i in range(2 * len(notes["events"]))]
        assert len(shown) == len(scene.pictures)
        for i, things in enumerate(shown):
            if things:
                rgb = scene.pictures[i]
                by_eye = [
                    nearest_color(np.median(rgb[part[:, 0], part[:, 1]], axis=0)) for part in things_in_pixels(scene, i)
                ]
                assert by_eye == [thing["color"] for thing in things], (scene.line["scene"], i)
    assert kinds == {"steps", "change", "album", "day"}


# ---------------------------------------------------------------------------------------------- answers


def graded(form: dict, answer: str) -> bool:
    """Grade an answer by the forms of docs/scenes.md alone."""
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", answer)]
    match form["form"]:
        case "exact":
            return answer.strip().strip(".").lower() in [accepted.lower() for accepted in form["accepted"]]
        case "number":
            return len(numbers) == 1 and abs(numbers[0] - form["value"]) <= form["tolerance"] + 1e-9
        case "spelling":
            return answer == form["value"]
        case "box":
            return len(numbers) == 4 and box_iou(numbers, form["value"]) >= form["least_iou"]
        case "point":
            scaled = [[200 * x, 200 * y] for x, y in form["inside"]]
            x, y = (min(199, int(200 * n)) for n in numbers)
            return bool(filled(scaled, (200, 200))[y, x])
        case "polygon":
            one = filled([[200 * x, 200 * y] for x, y in zip(numbers[::2], numbers[1::2], strict=True)], (200, 200))
            other = filled([[200 * x, 200 * y] for x, y in form["value"]], (200, 200))
            return bool((one & other).sum() / (one | other).sum() >= form["least_iou"])
        case "moves":
            return walked(form["maze"], answer.split(", ")) == form["length"]
    raise AssertionError(form)


def box_iou(one: list[float], other: list[float]) -> float:
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return wide * high / (area - wide * high)


def walked(maze: dict, moves: list[str]) -> int | None:
    """Number of moves from start to goal; None if they hit a wall or end elsewhere."""
    x, y = maze["start"]
    for move in moves:
        if move[0] not in maze["free"][y * maze["columns"] + x]:
            return None
        dx, dy = {"up": (0, -1), "right": (1, 0), "down": (0, 1), "left": (-1, 0)}[move]
        x, y = x + dx, y + dy
    return len(moves) if [x, y] == list(maze["goal"]) else None


ASKING = ["question", "grounding", "reading", "table", "chart", "dial", "maze", "geometry", "story", "clip"]


@pytest.mark.parametrize("category", ASKING)
def test_every_answer_passes_its_form_and_some_answers_to_other_questions_fail_it(category: str) -> None:
    asked = [question for scene in first_scenes(category, 30) for question in scene.notes.get("questions", [])]
    assert asked
    for question in asked:
        assert graded(question, question["answer"]), question
    for kind in {question["kind"] for question in asked}:
        group = [question for question in asked if question["kind"] == kind]
        if len(group) > 8:
            assert not all(graded(one, other["answer"]) for one in group[:9] for other in group[:9]), kind


@pytest.mark.parametrize("category", ASKING)
def test_questions_are_in_the_text_and_answers_are_facts(category: str) -> None:
    for scene in first_scenes(category, 25):
        questions = scene.notes.get("questions", [])
        assert scene.facts("answer") == [question["answer"] for question in questions]
        for question in questions:
            assert question["question"] in scene.text


def test_answers_about_things_follow_from_the_things() -> None:
    for scene in first_scenes("question", 80):
        things = scene.notes["things"]
        height, width = scene.pictures[0].shape[:2]
        for question in scene.notes["questions"]:
            words = re.findall(r"[a-z]+", question["question"].lower())
            names = [t for t in things if f"{t['color']} {t['shape']}" in question["question"]]
            answer = question["answer"]
            match question["kind"]:
                case "count_all":
                    assert int(answer) == len(things)
                case "count_color":
                    (color,) = [word for word in words if word in COLORS]
                    assert int(answer) == sum(t["color"] == color for t in things)
                case "count_shape":
                    (shape,) = [word for word in words if word in SHAPES]
                    assert int(answer) == sum(t["shape"] == shape for t in things)
                case "color_of":
                    assert [t["color"] for t in things if t["shape"] in words] == [answer]
                case "shape_of":
                    assert [t["shape"] for t in things if t["color"] in words] == [answer]
                case "place_of":
                    x, y = names[0]["point"]
                    assert ("left" in answer) == (x / width < 1 / 3) and ("right" in answer) == (x / width > 2 / 3)
                    assert ("top" in answer) == (y / height < 1 / 3) and ("bottom" in answer) == (y / height > 2 / 3)
                case "larger":
                    area = {f"{t['color']} {t['shape']}": t["box"][2] - t["box"][0] for t in names}
                    assert len(area) == 2 and area[answer] > 1.05 * min(area.values())
                case "outermost":
                    end = (min if "left" in words else max)(things, key=lambda t: t["point"][0])
                    assert answer == f"{end['color']} {end['shape']}"
                case "side_of":
                    first, second = sorted(
                        names, key=lambda t: question["question"].index(f"{t['color']} {t['shape']}")
                    )
                    swapped = "On which side of" in question["question"] or "Seen from" in question["question"]
                    one, other = (second, first) if swapped else (first, second)
                    assert answer == ("left" if one["point"][0] < other["point"][0] else "right")
                case "exists":
                    assert (answer == "yes") == bool(names)
                case kind:
                    raise AssertionError(f"no check for {kind}")


def test_the_grader_of_these_tests_rejects_wrong_answers() -> None:
    form = {"form": "box", "value": [0.1, 0.1, 0.5, 0.5], "least_iou": 0.5}
    assert graded(form, "[0.1, 0.1, 0.5, 0.45]") and not graded(form, "[0.3, 0.3, 0.7, 0.7]")
    maze = rendered("train", "maze", 0).notes["maze"]
    way = rendered("train", "maze", 0).notes["way"]
    assert walked(maze, way) == len(way) and walked(maze, [*way, "up"]) is None
