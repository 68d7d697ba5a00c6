"""What a crawler took from the web, as `ingest/formats/warc.py` finds it and `pages.py` reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Captured:
    """One record whose content may be text."""

    url: str
    date: str
    is_http: bool
    """The block is an HTTP response with headers, otherwise the content alone."""
    content_type: str
    block: bytes
