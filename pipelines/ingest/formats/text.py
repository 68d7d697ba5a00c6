"""Bytes to text: the encoding is found, or the file is refused.

Every reader of ingest uses `decode_text`. Tried in this order: byte-order marks, strict UTF-8, then the two encodings
of Western Europe, Windows-1252 (most files that claim Latin-1) and DOS 850, whichever makes more letters of the bytes
inside words. A file in which many bytes are above 127, and which is not UTF-8, is in another script. Two detectors must
decode it alike, because a wrong guess would put garbled text into a corpus; otherwise it is refused.
"""

from __future__ import annotations

import codecs
import re

from manifests.errors import RecordError
from pipelines.ingest.formats.html import detect_encoding

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is the first half of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""(byte-order mark, encoding)."""

LEAST_SENSE = 0.8
"""Share of the non-ASCII characters inside words that must be letters or apostrophes in a Western encoding."""
LEAST_HIGH_BYTES = 100
"""Bytes above 127 that a file in another script must have for the detectors."""
_INSIDE = re.compile(r"(?<=[A-Za-z])[^\x00-\x7f](?=[A-Za-z])")

MOST_HIGH_BYTES = 0.3
"""Share of bytes above 127 up to which a Western one-byte encoding is tried. French and Finnish reach 0.05."""


def decode_text(data: bytes) -> tuple[str, str]:
    """Return (text with `\\n` line ends, encoding). Raises RecordError: `empty_file`, `binary`, `bad_encoding`."""
    if not data:
        raise RecordError("empty_file", "0 bytes")
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return _lines(_strict(data[len(mark) :], encoding)), encoding
    if b"\0" in data:
        raise RecordError("binary", f"a NUL byte at offset {data.index(0)}")
    try:
        return _lines(data.decode("utf-8")), "utf-8"
    except UnicodeDecodeError as error:
        first = error.start
    high = sum(byte > 127 for byte in data) / len(data)
    if high > MOST_HIGH_BYTES:
        encoding = detect_encoding(data) if high * len(data) >= LEAST_HIGH_BYTES else ""
        if encoding:
            return _lines(_strict(data, encoding)), encoding
        raise RecordError("bad_encoding", f"not UTF-8 at offset {first}, and {high:.0%} of the bytes are not ASCII")
    guesses = [(_sense(data, encoding), encoding) for encoding in ("cp1252", "cp850")]
    sense, encoding = max(guesses, key=lambda guess: guess[0])
    if sense < LEAST_SENSE:
        raise RecordError("bad_encoding", f"not UTF-8 at offset {first}, and no Western encoding makes sense of it")
    return _lines(_strict(data, encoding)), encoding


def _sense(data: bytes, encoding: str) -> float:
    """Share of letters and apostrophes among the non-ASCII characters between ASCII letters. 1 if there are none, -1 if
    the bytes are invalid in this encoding."""
    try:
        inside = _INSIDE.findall(data.decode(encoding))
    except UnicodeDecodeError:
        return -1.0
    return sum(character.isalpha() or character == "\u2019" for character in inside) / len(inside) if inside else 1.0


def check_text(text: str) -> str:
    """Return `text` if it can be encoded as UTF-8 and has no NUL. Raises RecordError: `lone_surrogate`, `binary`."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError("lone_surrogate", f"half a UTF-16 pair at character {error.start}") from None
    if "\0" in text:
        raise RecordError("binary", f"a NUL at character {text.index(chr(0))}")
    return text


def printable(words: str) -> str:
    """Spell out the characters that can't be encoded as UTF-8, for messages and notes."""
    return words.encode("utf-8", "backslashreplace").decode()


def _strict(data: bytes, encoding: str) -> str:
    try:
        return check_text(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise RecordError("bad_encoding", f"not {encoding} at offset {error.start}") from None


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
