"""Checkable answers of a row: the final answer of a problem, the tests of code, the choices of a question.

`ingest/readers/row_files.py` puts them into the notes, under names that do not depend on the data set: `answer` (text),
`answers` (any of several), `choices`, `tests` (a program or a list, as in the row), `entry_point` (the function that
the tests call).
"""

from __future__ import annotations

import re

from manifests.records import Json

TESTS = ("test", "tests", "test_list", "test_cases", "input_output")
ANSWERS = ("final_answer", "answer", "expected_answer", "ground_truth")
SOLUTIONS = ("solution", "answer", "response", "output")
CHOICES = ("choices", "options")
MOST_ANSWER_CHARACTERS = 200
"""A longer value, or one of several lines, is a solution. In it the answer follows `####` or is in a `\\boxed{}`."""

_AFTER_HASHES = re.compile(r"####[ \t]*(\S[^\n]*?)[ \t]*$", re.MULTILINE)
_BOX = "\\boxed{"


def checkable(row: Json) -> dict[str, Json]:
    """Return the notes of a row; empty if nothing in it can be checked."""
    if not isinstance(row, dict):
        return {}
    notes: dict[str, Json] = {}
    answer = _answer(row)
    if answer:
        notes["answer"] = answer
    several = row.get("answers")
    if isinstance(several, list) and several and all(isinstance(item, str) for item in several):
        notes["answers"] = several
    for name, fields in (("tests", TESTS), ("choices", CHOICES), ("entry_point", ("entry_point",))):
        value = next((row[field] for field in fields if row.get(field)), None)
        if isinstance(value, str | list | dict):
            notes[name] = value
    return notes


def locate(answer: Json, text: str, start: int = 0) -> tuple[int, int] | None:
    """Return (start, stop) of the last occurrence of an answer in `text[start:]` that is not part of a longer word or
    number; None if there is none."""
    if not isinstance(answer, str) or not answer:
        return None
    at = text.rfind(answer, start)
    while at >= 0:
        before, after = text[at - 1 : at] if at > start else "", text[at + len(answer) : at + len(answer) + 1]
        joins = (before + answer[:1]).isalnum() and before, (answer[-1:] + after).isalnum() and after
        if not any(joins):
            return at, at + len(answer)
        at = text.rfind(answer, start, at + len(answer) - 1)
    return None


def _answer(row: dict[str, Json]) -> str:
    """Final answer of a row, or "": after `####`, in a short answer field, or in the last `\\boxed{}`."""
    for name in SOLUTIONS:
        value = row.get(name)
        if isinstance(value, str) and (matches := _AFTER_HASHES.findall(value)):
            return matches[-1]
    for name in ANSWERS:
        value = row.get(name)
        words = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
        if words and len(words) <= MOST_ANSWER_CHARACTERS and "\n" not in words and _BOX not in words:
            return words
    return next((box for name in SOLUTIONS if isinstance(row.get(name), str) and (box := boxed(row[name]))), "")


def boxed(text: str) -> str:
    """Return the content of the last `\\boxed{...}`, with matched braces; "" if there is none."""
    start = text.rfind(_BOX)
    depth = 0
    for at in range(start, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if text[at] == "}" and depth == 0:
            return text[start + len(_BOX) : at].strip()
    return ""
