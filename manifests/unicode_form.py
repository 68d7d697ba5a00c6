"""Normal form of text in documents: Unicode NFC, `\\n` line ends, no invisible characters.

`pipelines/edits/normalize.py` brings all ingested text into it.
"""

from __future__ import annotations

import re
import unicodedata

import regex

from manifests.errors import RecordError

_LINE_END = re.compile("\r\n?|[\x85\u2028]")
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufdd0-\ufdef\ufffe\uffff]")
"""Control characters except tab and line feed, zero-width space, word joiner, byte-order mark, non-characters. Joiners
(U+200C, U+200D) and direction marks stay: Persian, Indic scripts and emoji need them."""

_TOO_MANY_MARKS = regex.compile(r"\p{M}{31}")
"""More combining marks than the 30 in a row of Unicode's stream-safe format; NFC takes time quadratic in their
number."""


def clean(text: str) -> str:
    """Return `text` in normal form.

    Raises:
        RecordError: `lone_surrogate`; `combining_marks` for more than 30 in a row.
    """
    if text.isascii():
        return _INVISIBLE.sub("", _LINE_END.sub("\n", text))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError("lone_surrogate", f"character {error.start} is half of a surrogate pair") from None
    text = _INVISIBLE.sub("", _LINE_END.sub("\n", text).replace("\u2029", "\n\n"))
    if _TOO_MANY_MARKS.search(text):
        raise RecordError("combining_marks", "more than 30 combining marks in a row")
    return unicodedata.normalize("NFC", text)
