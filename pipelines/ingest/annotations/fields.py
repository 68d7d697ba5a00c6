"""Fields of a JSON record or table row that hold its text, its media, its rights and its domain.

The readers (`ingest/readers/`) and `captions.py` use it. The rules are few and tried in order. If they are wrong for
some data, `text_fields` in the manifest names the fields of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manifests.errors import RecordError
from manifests.records import DOMAINS, Json
from pipelines.ingest.formats.suffixes import MEDIA_FIELDS
from pipelines.ingest.formats.text import check_text, printable

PAIRS = (
    ("question", ("answer", "answers", "final_answer"), "\n"),
    ("prompt", ("canonical_solution", "completion"), ""),  # a completion continues its prompt
    ("prompt", ("response", "answer", "output", "chosen"), "\n"),
    ("problem", ("solution", "answer"), "\n"),
    ("input", ("output", "target", "response"), "\n"),
    ("text", ("code",), "\n"),
)
"""(question field, answer fields, separator). The answer becomes the fact `answer`."""
SINGLE = ("text", "content", "caption", "captions", "article", "body", "document", "story", "code", "markdown")
"""Fields that are the text of a record by themselves."""
KEPT = ("id", "task_id", "instance_id", "source", "title", "lang", "language", "resolved", "exit_status")
"""Fields that are copied into the notes."""
LICENSE = ("license", "licence")
"""Both spellings are read."""
ORIGIN = ("url", "origin", "source_url")
CONSENT = ("consent",)
MOST_KEPT_CHARACTERS = 500


@dataclass(frozen=True)
class RecordText:
    """Text of a record."""

    text: str
    answer: tuple[int, int] | None = None
    """(start, stop) of the answer of a pair, in characters of `text`."""


@dataclass(frozen=True)
class RecordRights:
    """License, origin and consent of a record; "" where unknown."""

    license: str = ""
    origin: str = ""
    consent: str = ""

    def or_else(self, other: RecordRights) -> RecordRights:
        """Return these rights, with those of `other` where these are unknown."""
        return RecordRights(self.license or other.license, self.origin or other.origin, self.consent or other.consent)


NO_RIGHTS = RecordRights()


def find_text(record: Json, wanted: Sequence[str] = ()) -> RecordText:
    """Return the text of a record.

    Args:
        wanted: `text_fields` of the manifest; empty for the rules above.
    Raises:
        RecordError: `no_text_field`, `no_text`, `lone_surrogate`, `binary`.
    """
    if isinstance(record, str):
        return RecordText(check_text(record))
    if not isinstance(record, dict):
        raise RecordError("no_text_field", f"a {type(record).__name__} where a map of fields was expected")
    if wanted:
        missing = [name for name in wanted if name not in record]
        if missing:
            raise RecordError("no_text_field", f"no field {missing[0]!r} among {_names(record)}")
        return _non_empty("\n".join(_string(record[name]) for name in wanted))
    if "instruction" in record and ("output" in record or "response" in record):
        question = "\n".join(filter(None, (_string(record["instruction"]), _string(record.get("input")))))
        return _pair(question, "\n", _string(record.get("output", record.get("response"))))
    for first, seconds, between in PAIRS:
        second = next((name for name in seconds if record.get(name) not in (None, "")), None)
        if first in record and second is not None:
            return _pair(_string(record[first]), between, _string(record[second]))
    for name in (*SINGLE, "prompt", "question", "problem", "instruction"):
        if name in record:
            return _non_empty(_string(record[name]))
    raise RecordError("no_text_field", f"no known text field among {_names(record)}")


def question_and_answer(record: Json) -> Json:
    """Rename the fields of a question about an image to `question` and `answer`; return other records unchanged.

    Of several `answers` (VQA), the most frequent one is taken, of equally frequent ones the first. ChartQA has `query`
    and `label`.
    """
    if not isinstance(record, dict) or not media_references(record) or record.get("answer") not in (None, ""):
        return record
    question, answers = record.get("question", record.get("query")), record.get("answers")
    answer = record.get("multiple_choice_answer", record.get("label") if "query" in record else None)
    if answer is None and isinstance(answers, list):
        given = [item.get("answer") if isinstance(item, dict) else item for item in answers]
        words = [item for item in given if isinstance(item, str) and item.strip()]
        answer = max(words, key=words.count) if words else None
    complete = isinstance(question, str) and isinstance(answer, str | int | float)
    return record | {"question": question, "answer": answer} if complete else record


def has_text(record: Json, wanted: Sequence[str] = ()) -> bool:
    """Whether a record has a field for its text, even if the text can't be used."""
    try:
        find_text(record, wanted)
    except RecordError as error:
        return error.reason != "no_text_field"
    return True


def media_references(record: Json) -> list[str]:
    """Return the paths and `data:` URIs of the media of a record, in the order of `MEDIA_FIELDS`."""
    if not isinstance(record, dict):
        return []
    targets: list[str] = []
    for name in MEDIA_FIELDS:
        value = record.get(name)
        values = value if isinstance(value, list) else [value]
        targets += [item for item in values if isinstance(item, str) and item and item not in targets]
    return targets


def kept_notes(record: Json) -> dict[str, Json]:
    """Return the short fields of a record that are copied into the notes."""
    if not isinstance(record, dict):
        return {}
    kept = {name: record[name] for name in KEPT if isinstance(record.get(name), str | int)}
    return {name: value for name, value in kept.items() if _is_short(str(value))}


def record_rights(record: Json) -> RecordRights:
    """Return the license, origin and consent that a record states itself."""
    if not isinstance(record, dict):
        return NO_RIGHTS
    return RecordRights(*(_first_word(record, names) for names in (LICENSE, ORIGIN, CONSENT)))


def record_domain(record: Json) -> str | None:
    """Return the field `domain` of a record if it is a known domain."""
    domain = record.get("domain") if isinstance(record, dict) else None
    return domain if domain in DOMAINS else None


def _first_word(record: dict[str, Json], names: Sequence[str]) -> str:
    """The first of these fields with a short text or a boolean (`consent: true`); "" if there is none."""
    for name in names:
        value = record.get(name)
        word = str(value).lower() if isinstance(value, bool) else value.strip() if isinstance(value, str) else ""
        if word and _is_short(word):
            return word
    return ""


def _is_short(value: str) -> bool:
    return len(value) <= MOST_KEPT_CHARACTERS and not any("\ud800" <= character <= "\udfff" for character in value)


def _names(record: dict[str, Json]) -> str:
    return printable(", ".join(sorted(record)[:12])) or "no fields"


def _string(value: Json) -> str:
    """A value as text. Raises RecordError `no_text_field` for a map or a nested list."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool() | int() | float():
            return str(value)
        case list() if all(isinstance(item, str | int | float) for item in value):
            return "\n".join(map(str, value))
        case _:
            raise RecordError("no_text_field", f"a {type(value).__name__} where text was expected")


def _pair(question: str, between: str, answer: str) -> RecordText:
    whole = _non_empty(question + between + answer).text
    return RecordText(whole, (len(whole) - len(answer), len(whole))) if answer else RecordText(whole)


def _non_empty(value: str) -> RecordText:
    if not value.strip():
        raise RecordError("no_text", "its text field is empty")
    return RecordText(check_text(value))
