"""HTML to text with links to its images, for files and for pages of web crawls.

`readers/page_files.py` and `readers/crawl_files.py` call these functions. All parsing happens in a sandbox, in
`html_child.py`: a page that needs more than `MOST_CPU_S` is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from manifests.errors import RecordError
from pipelines.ingest.formats.markdown import InterleavedText, MediaLink
from stores.media.sandbox import Sandbox

Extractor = Literal["resiliparse", "trafilatura"]
"""Library that finds the main text of a page."""
MOST_CPU_S = 10
"""CPU seconds for one page. A page of 100 kB takes 0.01 s, the slowest real ones one second."""
SAMPLE_BYTES = 1 << 16
"""Bytes of a text of which the encoding is detected."""

_MARK = re.compile("\ufdd0([0-9]{1,9})\ufdd1")


@dataclass(frozen=True)
class CrawlRecord:
    """A record of a web crawl (WARC, ARC) whose content may be text; `warc.py` makes them."""

    url: str
    date: str
    is_http: bool
    """The block is an HTTP response with headers; otherwise it is the content alone."""
    content_type: str
    block: bytes


@dataclass(frozen=True)
class PageText:
    """The main text of a page."""

    passed_over: str
    """Reason why the record is no document; "" for a document."""
    content_type: str
    title: str
    words: str
    encoding: str


@cache
def _child() -> Sandbox:
    """The sandbox of this process, kept for its life."""
    return Sandbox(memory_bytes=2 << 30, cpu_s=MOST_CPU_S)


def extract_pages(records: Sequence[CrawlRecord], extractor: Extractor) -> list[PageText | RecordError]:
    """Return the text of each record, or its error.

    One call of the sandbox serves all records; if it fails, each record gets a call of its own.
    """
    arguments = [(record.block, record.is_http, record.content_type) for record in records]
    try:
        results = _child().call("pipelines.ingest.formats.html_child:extract_all", arguments, extractor)
    except RecordError as error:
        return [error] if len(records) == 1 else [extract_pages([record], extractor)[0] for record in records]
    return [RecordError(*result) if len(result) == 2 else _page_text(*result) for result in results]


def _page_text(passed_over: str, content_type: str, page: tuple[str, str, str, object] | None) -> PageText:
    title, words, encoding, _ = page or ("", "", "", ())
    return PageText(passed_over, content_type, title, words, encoding)


def read_html(data: bytes, extractor: Extractor) -> tuple[InterleavedText, str]:
    """Return (text with links to images, encoding) of a file. Raises RecordError: the reasons of
    `html_child.extract_page`."""
    title, words, encoding, images = _child().call(
        "pipelines.ingest.formats.html_child:extract_page", data, "", extractor, True
    )
    pieces: list[str | MediaLink] = []
    for at, piece in enumerate(_MARK.split(words)):
        if at % 2 == 0:
            pieces.append(piece)
        elif int(piece) < len(images):
            pieces.append(MediaLink(*images[int(piece)]))
    return InterleavedText(title or None, tuple(piece for piece in pieces if piece)), encoding


def detect_encoding(data: bytes) -> str:
    """Return Python's name of the encoding of text in a non-Latin script; "" where two detectors disagree."""
    sample = data[:SAMPLE_BYTES]
    if len(data) > SAMPLE_BYTES:
        sample = sample[: sample.rfind(b"\n") + 1] or sample  # cut at a line end, not inside a character
    return str(_child().call("pipelines.ingest.formats.html_child:detect_script", sample))


def image_targets(data: bytes) -> tuple[str, ...]:
    """Return the targets of the images of a page. Raises RecordError: the reasons of `html_child.decode_page`."""
    return tuple(_child().call("pipelines.ingest.formats.html_child:image_targets", data))
