"""Which fields of a JSON record or table row are its text, and which name an image or a video?

Used by `pipelines/ingest/folder.py` and by the pairing of captions. The rules are few and ordered; where they are wrong
for some data, `text_fields` in the manifest says it exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manifests.errors import RecordError
from manifests.records import DOMAINS, Json
from pipelines.ingest.formats import text
from pipelines.ingest.formats.suffixes import MEDIA_FIELDS

PAIRS = (
    ("question", ("answer", "answers", "final_answer"), "\n"),
    ("prompt", ("canonical_solution", "completion"), ""),  # a completion goes on where the prompt stops
    ("prompt", ("response", "answer", "output", "chosen"), "\n"),
    ("problem", ("solution", "answer"), "\n"),
    ("input", ("output", "target", "response"), "\n"),
    ("text", ("code",), "\n"),
)
"""(asked, told, what stands between them): the told part becomes the fact `answer`."""
SINGLE = ("text", "content", "caption", "captions", "article", "body", "document", "story", "code", "markdown")
KEPT = ("id", "task_id", "instance_id", "source", "title", "lang", "language", "resolved", "exit_status")
LICENCE = ("licence", "license")
ORIGIN = ("url", "origin", "source_url")
CONSENT = ("consent",)
MOST_KEPT_CHARACTERS = 500


@dataclass(frozen=True)
class RecordText:
    text: str
    answer: tuple[int, int] | None = None
    """The told part of a pair, in characters of `text`."""


@dataclass(frozen=True)
class RecordRights:
    """Whose a record is, as far as anybody says; "" where nobody does."""

    licence: str = ""
    origin: str = ""
    consent: str = ""

    def or_else(self, other: RecordRights) -> RecordRights:
        """What `other` says where this one says nothing."""
        return RecordRights(self.licence or other.licence, self.origin or other.origin, self.consent or other.consent)


NO_RIGHTS = RecordRights()


def find_text(record: Json, wanted: Sequence[str] = ()) -> RecordText:
    """The text of a record. Raises RecordError `no_text_field`."""
    if isinstance(record, str):
        return RecordText(text.check_text(record))
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
    """A question about a picture in the words of the usual rules. Of several `answers`, as people gave them, the one
    given most often counts (of equals the first); ChartQA has `query` and `label`."""
    if not isinstance(record, dict) or not media_references(record) or record.get("answer") not in (None, ""):
        return record
    question, answers = record.get("question", record.get("query")), record.get("answers")
    said = record.get("multiple_choice_answer", record.get("label") if "query" in record else None)
    if said is None and isinstance(answers, list):
        given = [one.get("answer") if isinstance(one, dict) else one for one in answers]
        words = [one for one in given if isinstance(one, str) and one.strip()]
        said = max(words, key=words.count) if words else None
    known = isinstance(question, str) and isinstance(said, str | int | float)
    return record | {"question": question, "answer": said} if known else record


def has_text(record: Json, wanted: Sequence[str] = ()) -> bool:
    try:
        find_text(record, wanted)
    except RecordError as error:
        return error.reason != "no_text_field"
    return True


def media_references(record: Json) -> list[str]:
    """Paths of the media a record speaks of, in order."""
    if not isinstance(record, dict):
        return []
    found: list[str] = []
    for name in MEDIA_FIELDS:
        value = record.get(name)
        values = value if isinstance(value, list) else [value]
        found += [item for item in values if isinstance(item, str) and item and item not in found]
    return found


def kept_notes(record: Json) -> dict[str, Json]:
    """The few short fields that say where a record is from."""
    if not isinstance(record, dict):
        return {}
    kept = {name: record[name] for name in KEPT if isinstance(record.get(name), str | int)}
    return {name: value for name, value in kept.items() if _short(str(value))}


def record_rights(record: Json) -> RecordRights:
    """What a record says of its own licence, origin and consent."""
    if not isinstance(record, dict):
        return NO_RIGHTS
    return RecordRights(*(_first(record, names) for names in (LICENCE, ORIGIN, CONSENT)))


def record_domain(record: Json) -> str | None:
    """The domain that a record says it is of, if that is one."""
    said = record.get("domain") if isinstance(record, dict) else None
    return said if said in DOMAINS else None


def _first(record: dict[str, Json], names: Sequence[str]) -> str:
    """The first of these fields that is a word; consent may also be given as true or false."""
    for name in names:
        value = record.get(name)
        word = str(value).lower() if isinstance(value, bool) else value.strip() if isinstance(value, str) else ""
        if word and _short(word):
            return word
    return ""


def _short(value: str) -> bool:
    return len(value) <= MOST_KEPT_CHARACTERS and _writable(value)


def _writable(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _names(record: dict[str, Json]) -> str:
    return text.printable(", ".join(sorted(record)[:12])) or "no fields"


def _string(value: Json) -> str:
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


def _pair(asked: str, between: str, told: str) -> RecordText:
    whole = _non_empty(asked + between + told).text
    return RecordText(whole, (len(whole) - len(told), len(whole))) if told else RecordText(whole)


def _non_empty(value: str) -> RecordText:
    if not value.strip():
        raise RecordError("no_text", "its text field is empty")
    return RecordText(text.check_text(value))
