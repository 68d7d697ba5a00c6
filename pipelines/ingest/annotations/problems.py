"""What of a row says how an answer is checked: the final answer of a problem, tests of code, choices.

Used by `ingest/documents.py`. It goes into the notes, under names that don't depend on the data set: `answer` (text),
`answers` (any of these), `choices`, `tests` (a program or list of them, as in the row), `entry_point` (the function
they call).
"""

from __future__ import annotations

import re

from manifests.records import Json

TESTS = ("test", "tests", "test_list", "test_cases", "input_output")
ANSWERS = ("final_answer", "answer", "expected_answer", "ground_truth")
SOLUTIONS = ("solution", "answer", "response", "output")
CHOICES = ("choices", "options")
MOST_ANSWER_CHARACTERS = 200
"""Longer ones, or ones of several lines, are explanations; in them the answer stands after `####` or in a box."""

_AFTER_HASHES = re.compile(r"####[ \t]*(\S[^\n]*?)[ \t]*$", re.MULTILINE)
_BOX = "\\boxed{"


def checkable(row: Json) -> dict[str, Json]:
    """The notes of a row; empty where nothing in it can be checked."""
    if not isinstance(row, dict):
        return {}
    notes: dict[str, Json] = {}
    answer = _answer(row)
    if answer:
        notes["answer"] = answer
    several = row.get("answers")
    if isinstance(several, list) and several and all(isinstance(one, str) for one in several):
        notes["answers"] = several
    for name, names in (("tests", TESTS), ("choices", CHOICES), ("entry_point", ("entry_point",))):
        value = next((row[one] for one in names if row.get(one)), None)
        if isinstance(value, str | list | dict):
            notes[name] = value
    return notes


def locate(answer: Json, text: str, start: int = 0) -> tuple[int, int] | None:
    """The last place of an answer in a text, from `start` on, where it is not a piece of a longer word or number."""
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
    for name in SOLUTIONS:
        value = row.get(name)
        if isinstance(value, str) and (found := _AFTER_HASHES.findall(value)):
            return found[-1]
    for name in ANSWERS:
        value = row.get(name)
        words = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
        if words and len(words) <= MOST_ANSWER_CHARACTERS and "\n" not in words and _BOX not in words:
            return words
    return next((box for name in SOLUTIONS if isinstance(row.get(name), str) and (box := boxed(row[name]))), "")


def boxed(text: str) -> str:
    """What the last `\\boxed{...}` holds, braces inside it matched; "" without one."""
    start = text.rfind(_BOX)
    depth = 0
    for at in range(start, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if text[at] == "}" and depth == 0:
            return text[start + len(_BOX) : at].strip()
    return ""
