"""Bytes to text: which encoding is this, and is it text at all?

Used by every reader of `pipelines/ingest`. Order: byte-order marks, strict UTF-8, then the two encodings of Western
Europe: Windows-1252 (which is what Latin-1 files really are) or DOS 850, whichever makes letters of the bytes that
stand inside words. A file that is mostly bytes above 127 without being UTF-8 is in some other script. Two detectors
must give it the same text: a wrong guess would put mojibake into a corpus, so where they don't, it is refused.
"""

from __future__ import annotations

import codecs
import re

from manifests.errors import RecordError
from pipelines.ingest.formats.html import detect_encoding

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with theirs
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

LEAST_SENSE = 0.8
LEAST_HIGH_BYTES = 100
"""That a file in another script has if it is to be told in which."""
_INSIDE = re.compile(r"(?<=[A-Za-z])[^\x00-\x7f](?=[A-Za-z])")

MOST_HIGH_BYTES = 0.3
"""Share of non-ASCII bytes up to which a Western one-byte encoding is believed: French and Finnish reach 0.05."""


def decode_text(data: bytes) -> tuple[str, str]:
    """(text with `\\n` line ends, name of the encoding). Raises RecordError: empty_file, binary, bad_encoding."""
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
    """Share of the non-ASCII characters between ASCII letters that are letters or apostrophes; 1 where there are none,
    -1 where the bytes are not of this encoding."""
    try:
        inside = _INSIDE.findall(data.decode(encoding))
    except UnicodeDecodeError:
        return -1.0
    return sum(character.isalpha() or character == "\u2019" for character in inside) / len(inside) if inside else 1.0


def check_text(text: str) -> str:
    """`text`, if it can be written down again. Raises RecordError: lone_surrogate, binary."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError("lone_surrogate", f"half a UTF-16 pair at character {error.start}") from None
    if "\0" in text:
        raise RecordError("binary", f"a NUL at character {text.index(chr(0))}")
    return text


def printable(words: str) -> str:
    """For messages and notes: what can't be written as UTF-8 is spelled out."""
    return words.encode("utf-8", "backslashreplace").decode()


def _strict(data: bytes, encoding: str) -> str:
    try:
        return check_text(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise RecordError("bad_encoding", f"not {encoding} at offset {error.start}") from None


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
