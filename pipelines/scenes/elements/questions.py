"""Questions with computed answers, each with the form in which an answer can be judged without a judge.

The categories `question` (counting, comparing, naming, placing) and `grounding` (boxes, points, polygons) ask about
pictures of things; charts, dials, puzzles and print beside this file ask theirs with the same `Question`. The forms
follow the outcome rewards of the Kimi K2.5 report (section on visual reinforcement learning: counts, boxes and points,
polygons by mask IoU, OCR by edit distance). Coordinates in texts and forms are fractions of width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manifests.records import Json
from pipelines.scenes.elements.draw import File
from pipelines.scenes.elements.fact_text import Words, fill, join
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

# ---------------------------------------------------------------------------------------------- forms of answers


def exact(*accepted: str) -> Json:
    """One of these strings, without regard to case, spaces around it or a full stop."""
    return {"form": "exact", "accepted": list(accepted)}


def number(value: float, tolerance: float = 0) -> Json:
    """A number at most `tolerance` away."""
    return {"form": "number", "value": value, "tolerance": tolerance}


def spelling(text: str) -> Json:
    """A transcription, judged by edit distance over its length."""
    return {"form": "spelling", "value": text}


def box_form(box: Sequence[float], least_iou: float = 0.5) -> Json:
    """[left, top, right, bottom] with at least this intersection over union."""
    return {"form": "box", "value": list(box), "least_iou": least_iou}


def point_form(inside: Sequence[Sequence[float]]) -> Json:
    """(x, y) inside this polygon."""
    return {"form": "point", "inside": [list(corner) for corner in inside]}


def polygon_form(corners: Sequence[Sequence[float]], least_iou: float = 0.5) -> Json:
    """[(x, y), ...] whose area has at least this intersection over union with the polygon's."""
    return {"form": "polygon", "value": [list(corner) for corner in corners], "least_iou": least_iou}


# ---------------------------------------------------------------------------------------------- questions in text


@dataclass(frozen=True)
class Question:
    kind: str
    asked: str
    answer: Words
    """Terse; its facts say what kind of attribute it is."""
    form: Json


MANNERS = Pool(
    "manner",
    train=("Question: {asked}\nAnswer: {answer}", "Q: {asked}\nA: {answer}", "{asked} {answer}"),
    reserved=("Asked: {asked}\nReply: {answer}",),
)


def conversation(dice: Dice, questions: Sequence[Question]) -> tuple[Words, list[Json]]:
    """The text, in which each answer is also a fact `answer`, and the notes on the questions."""
    manner = dice.pick(MANNERS)
    turns = [
        fill(
            manner, asked=question.asked, answer=Words(question.answer.text, (*question.answer.facts, _whole(question)))
        )
        for question in questions
    ]
    notes = [
        {"kind": question.kind, "question": question.asked, "answer": question.answer.text} | question.form
        for question in questions
    ]
    return join("\n", turns), notes


def _whole(question: Question) -> tuple[str, int, int]:
    return ("answer", 0, len(question.answer.text))


def asked_about(dice: Dice, file: File, questions: Sequence[Question], notes: dict[str, Json]) -> Scene:
    """The scene most makers return: one picture, then questions about it."""
    words, described = conversation(dice, questions)
    return Scene((file, words), notes | {"questions": described})
