"""Pages of the web, from files and from archives of crawls, to what `ingest/documents.py` makes documents of.

Everything that parses happens in `ingest/formats/html_child.py`, in a child process with limits of its own: a page that
takes longer than `MOST_CPU_S` costs itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from manifests.errors import RecordError
from pipelines.ingest.formats.captured import Captured
from pipelines.ingest.formats.markdown import Interleaved, Link
from stores.media.sandbox import LimitedChild

Extractor = Literal["resiliparse", "trafilatura"]
MOST_CPU_S = 10
"""Of one page. Pages of 100 kB take 0.01 s, the slowest real ones one second."""
SAMPLE_BYTES = 1 << 16

_MARK = re.compile("\ufdd0([0-9]{1,9})\ufdd1")


@dataclass(frozen=True)
class Text:
    passed_over: str
    """Why this is no document, "" for one."""
    content_type: str
    title: str
    words: str
    encoding: str


@cache
def _child() -> LimitedChild:
    """One warm child for this worker's life; it dies with the worker."""
    return LimitedChild(memory_bytes=2 << 30, cpu_s=MOST_CPU_S)


def captured(records: Sequence[Captured], extractor: Extractor) -> list[Text | RecordError]:
    """What the pages among what a crawler took say. They go to the child together, and one by one where it fails."""
    told = [(one.block, one.is_http, one.content_type) for one in records]
    try:
        found = _child().call("pipelines.ingest.formats.html_child:all_captured", told, extractor)
    except RecordError as error:
        return [error] if len(records) == 1 else [captured([one], extractor)[0] for one in records]
    return [RecordError(*one) if len(one) == 2 else _text(*one) for one in found]


def _text(passed_over: str, content_type: str, page: tuple[str, str, str, object] | None) -> Text:
    title, words, encoding, _ = page or ("", "", "", ())
    return Text(passed_over, content_type, title, words, encoding)


def read(data: bytes, extractor: Extractor) -> tuple[Interleaved, str]:
    """(content with links to its pictures, encoding) of a file. Raises RecordError."""
    title, words, encoding, shown = _child().call("pipelines.ingest.formats.html_child:page", data, "", extractor, True)
    pieces: list[str | Link] = []
    for at, piece in enumerate(_MARK.split(words)):
        if at % 2 == 0:
            pieces.append(piece)
        elif int(piece) < len(shown):
            pieces.append(Link(*shown[int(piece)]))
    return Interleaved(title or None, tuple(piece for piece in pieces if piece)), encoding


def detected(data: bytes) -> str:
    """The encoding of text in a script that is not Latin, as two detectors tell it; "" where they don't agree."""
    sample = data[:SAMPLE_BYTES]
    if len(data) > SAMPLE_BYTES:
        sample = sample[: sample.rfind(b"\n") + 1] or sample  # no character is cut in two
    return str(_child().call("pipelines.ingest.formats.html_child:detected", sample))


def pictures(data: bytes) -> tuple[str, ...]:
    """What the pictures of a page point to. Raises RecordError."""
    return tuple(_child().call("pipelines.ingest.formats.html_child:pictures", data))
