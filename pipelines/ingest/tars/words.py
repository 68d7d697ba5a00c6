"""Which values of a JSON member make this text? Found again after the usual readers of rows have made it.

`ingest/annotations/fields.py` and `ingest/annotations/conversations.py` know where the text of a row is; of a row in a
foreign tar it must also be known which values it was made of, because only their places are stored
(`stores/shards/adopted.py`). So the rules are written down once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest.annotations import fields
from stores.shards.adopted import Piece

MOST_LOOKS = 32
"""How often all words of a conversation may be gone through to find where its messages stand."""


def located(record: Json, number: int) -> tuple[tuple[Piece, ...], tuple[int, int] | None]:
    """Which values make the text that `fields.find` finds, and what stands between them.

    The values are numbered by marks, and the marks are looked for in what the rules make of such a record: so these
    need not be written twice. Raises RecordError where a value is changed on its way.
    """
    found = fields.find_text(record)
    leaves = list(values_of(record))
    marked = fields.find_text(_with_marks(record, iter(range(len(leaves)))))
    pieces: list[Piece] = []
    begins: list[int] = []
    at = 0
    for part in re.split("(\ue000[0-9]+\ue001)", marked.text):
        if not part:
            continue
        begins.append(at)
        at += len(part)
        pieces.append(("m", number, *leaves[int(part[1:-1])][0]) if part[0] == "\ue000" else part)
    values = dict(leaves)
    told = "".join(piece if isinstance(piece, str) else str(values[tuple(piece[2:])]) for piece in pieces)
    if told != found.text:
        raise RecordError("no_text_field", "its text can't be found again among the values of its JSON; see `fields`")
    if marked.answer is None or marked.answer[0] not in begins:
        return tuple(pieces), None
    return tuple(pieces), (begins.index(marked.answer[0]), len(pieces))


def values_of(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Json]]:
    """(path, value) of everything in JSON that could be text."""
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from values_of(inside, (*path, key))
    elif _is_word(value):
        yield path, value


def _with_marks(value: Json, numbers: Iterator[int]) -> Json:
    if isinstance(value, dict):
        return {key: _with_marks(inside, numbers) for key, inside in value.items()}
    if isinstance(value, list):
        return [_with_marks(inside, numbers) for inside in value]
    return f"\ue000{next(numbers)}\ue001" if _is_word(value) else value


def _is_word(value: Json) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


class Words:
    """Finds stretches of text among the values of JSON, in reading order where they are in it."""

    def __init__(self, record: Json) -> None:
        self._leaves = [(path, value) for path, value in values_of(record) if isinstance(value, str)]
        self._arguments = {json.dumps(value, ensure_ascii=False): path for path, value in _arguments(record)}
        self._leaf = self._at = 0
        self._patience = MOST_LOOKS * sum(len(value) + 1 for _, value in self._leaves)

    def piece(self, words: str) -> Piece:
        """Raises RecordError where no value has them."""
        if words in self._arguments:
            return ("json", 0, *self._arguments[words])
        for leaf in [*range(self._leaf, len(self._leaves)), *range(self._leaf)]:
            path, value = self._leaves[leaf]
            at = value.find(words, self._at if leaf == self._leaf else 0)
            if at >= 0:
                self._leaf, self._at = leaf, at + len(words)
                return ("m", 0, *path) if words == value else ("cut", at, at + len(words), 0, *path)
            self._patience -= len(value) + 1
            if self._patience < 0:
                break
        raise RecordError("no_text_field", "its words can't be found again among the values of its JSON")


def _arguments(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Json]]:
    """(path, value) of the arguments of calls that are JSON themselves, rather than text."""
    for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
        if key in ("arguments", "parameters") and isinstance(inside, dict | list):
            yield (*path, key), inside
        elif isinstance(inside, dict | list):
            yield from _arguments(inside, (*path, key))
