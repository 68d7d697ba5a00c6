"""Questions with computed answers, and answer forms: rules by which a program checks an answer.

Every category that asks uses the `Question` defined here. The forms follow the outcome rewards of the Kimi K2.5 report
(section on visual reinforcement learning: counts, boxes and points, polygons by mask IoU, OCR by edit distance).
Coordinates in texts and forms are fractions of width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manifests.records import Json
from pipelines.scenes.elements.draw import EncodedMedia
from pipelines.scenes.elements.fact_text import FactText, fill_template, join_texts
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

# ---------------------------------------------------------------------------------------------- answer forms


def exact_form(*accepted: str) -> Json:
    """Form: one of these strings; case, spaces around it and a final period are ignored."""
    return {"form": "exact", "accepted": list(accepted)}


def number_form(value: float, tolerance: float = 0) -> Json:
    """Form: a number at most `tolerance` away from `value`."""
    return {"form": "number", "value": value, "tolerance": tolerance}


def spelling_form(text: str) -> Json:
    """Form: a transcription, scored by edit distance over length."""
    return {"form": "spelling", "value": text}


def box_form(box: Sequence[float], least_iou: float = 0.5) -> Json:
    """Form: [left, top, right, bottom] with at least this intersection over union with `box`."""
    return {"form": "box", "value": list(box), "least_iou": least_iou}


def point_form(inside: Sequence[Sequence[float]]) -> Json:
    """Form: a point (x, y) inside this polygon."""
    return {"form": "point", "inside": [list(corner) for corner in inside]}


def polygon_form(corners: Sequence[Sequence[float]], least_iou: float = 0.5) -> Json:
    """Form: corners [(x, y), ...] of an area with at least this intersection over union with the polygon."""
    return {"form": "polygon", "value": [list(corner) for corner in corners], "least_iou": least_iou}


# ---------------------------------------------------------------------------------------------- questions in text


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the form that checks answers."""

    kind: str
    text: str
    answer: FactText
    """A short answer; its facts name the attribute asked for."""
    form: Json


CONVERSATION_TEMPLATES = Pool(
    "manner",
    train=("Question: {asked}\nAnswer: {answer}", "Q: {asked}\nA: {answer}", "{asked} {answer}"),
    reserved=("Asked: {asked}\nReply: {answer}",),
)


def write_questions(rng: SceneRng, questions: Sequence[Question]) -> tuple[FactText, list[Json]]:
    """Write questions and answers as one text.

    Returns:
        (text, annotations): each whole answer is a fact `answer` of the text; one annotation per question.
    """
    template = rng.pick(CONVERSATION_TEMPLATES)
    turns = []
    for question in questions:
        answer = question.answer
        marked = FactText(answer.text, (*answer.facts, ("answer", 0, len(answer.text))))
        turns.append(fill_template(template, asked=question.text, answer=marked))
    notes = [
        {"kind": question.kind, "question": question.text, "answer": question.answer.text} | question.form
        for question in questions
    ]
    return join_texts("\n", turns), notes


def question_scene(rng: SceneRng, file: EncodedMedia, questions: Sequence[Question], notes: dict[str, Json]) -> Scene:
    """A scene of one picture and questions about it."""
    text, annotations = write_questions(rng, questions)
    return Scene((file, text), notes | {"questions": annotations})
