"""HTML to the text that its readers read, with the places of its pictures. Runs in the limited child process.

`pipelines/ingest/formats/html.py` calls `page`, `captured` and `pictures` through `stores/media/sandbox.py`: parsers
and extractors are native code on bytes from strangers, and the time of an extractor may grow with the square of how
deep tags are nested. Nothing is imported here that the child does not need.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import zlib
from collections.abc import Sequence

from fastwarc.warc import ArchiveIterator
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from manifests.errors import RecordError
from pipelines.ingest.formats import text

MOST_PAGE_BYTES = 16 << 20
MOST_PICTURES = 2000
MOST_TITLE_CHARACTERS = 500
MOST_REPLACED = 0.001
"""Share of characters that may be wrong in the encoding that a page names."""

SCRIPTS = (
    *("cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866", "mac_cyrillic", "cp1253", "iso8859_7", "cp1255", "cp1256"),
    *("tis_620", "shift_jis", "cp932", "euc_jp", "iso2022_jp", "gb18030", "big5", "euc_kr", "cp949"),
)
"""Encodings of plain text that are looked for, beside those of `text.py`."""
HTML_TYPES = ("text/html", "application/xhtml+xml")
OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Noncharacters, which no text has: a picture's number stands between them in extracted text."""
_ENVELOPE = (
    b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http;msgtype=response\r\nContent-Length: %d\r\n\r\n"
)
_ONE_BYTE = re.compile(r"windows-\d+|iso-8859-.+|cp\d+|ibm\d+|koi8-.|macintosh|latin.*|us-ascii|ascii", re.IGNORECASE)

ExtractedPage = tuple[str, str, str, list[tuple[str, str]]]
"""(title, text, name of the encoding, (target, alt) of its pictures)."""


def extract_one(
    block: bytes, is_http: bool, content_type: str, extractor: str
) -> tuple[str, str, ExtractedPage | None]:
    """What a crawler took: (why it is passed over or "", content type, page). Raises RecordError."""
    charset = ""
    if is_http:
        status, content_type, charset, block = _response(block)
        if status != 200:
            return f"http_status_{status}", content_type, None
    if content_type in HTML_TYPES:
        return "", content_type, extract_page(block, charset, extractor, False)
    if content_type == "text/plain":
        content, encoding = decode_page(block, charset)
        return "", content_type, ("", content, encoding, [])
    return "other_content_type", content_type, None


def extract_all(records: Sequence[tuple[bytes, bool, str]], extractor: str) -> list[tuple[object, ...]]:
    """What `captured` gives for each, or (reason, message) of its RecordError: several records cost one call."""
    found: list[tuple[object, ...]] = []
    for block, is_http, content_type in records:
        try:
            found.append(extract_one(block, is_http, content_type, extractor))
        except RecordError as error:
            found.append((error.reason, error.message))
    return found


def extract_page(data: bytes, charset: str, extractor: str, with_pictures: bool) -> ExtractedPage:
    """Raises RecordError: empty_file, too_large, bad_encoding, no_text."""
    content, encoding = decode_page(data, charset)
    tree = HTMLTree.parse(content.replace(OPEN, "").replace(CLOSE, ""))
    shown = _mark_pictures(tree) if with_pictures else []
    title = " ".join((tree.title or "").split())[:MOST_TITLE_CHARACTERS]
    extracted = _extract(tree, extractor)
    if not extracted.strip():
        raise RecordError("no_text", "no main content")
    return title, text.check_text(extracted), encoding, shown


def image_targets(data: bytes, charset: str = "") -> list[str]:
    """What the pictures of a page point to."""
    return [target for target, _ in _mark_pictures(HTMLTree.parse(decode_page(data, charset)[0]))]


def decode_page(data: bytes, charset: str) -> tuple[str, str]:
    """(text, encoding) by its mark, by what HTTP (`charset`) or the page itself says, or by what its bytes look like.

    Any bytes at all are text in an encoding of one byte a character. One that is named is therefore believed only of
    bytes that are no UTF-8. Raises RecordError.
    """
    if not data:
        raise RecordError("empty_file", "0 bytes")
    if len(data) > MOST_PAGE_BYTES:
        raise RecordError("too_large", f"more than {MOST_PAGE_BYTES} bytes")
    for mark, encoding in text.BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), encoding
    named = [_known(charset)] if charset else []
    if charset and not _ONE_BYTE.fullmatch(named[0] or "ascii"):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(named[0]), named[0]
    named = [name for name in (*named, _known(detect_encoding(data, from_html_meta=True) or "")) if name]
    first = [name for name in named if not _ONE_BYTE.fullmatch(name)]
    for encoding in (*first, "utf-8", *named):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    for encoding in named:
        content = data.decode(encoding, "replace")
        if content.count("\ufffd") <= MOST_REPLACED * len(content):
            return content, encoding
    raise RecordError("bad_encoding", f"neither UTF-8 nor {', '.join(named) or 'any other encoding'}")


def detect_script(sample: bytes) -> str:
    """Python's name of an encoding, where both detectors read the same; "" otherwise."""
    from charset_normalizer import from_bytes  # rarely needed

    best = from_bytes(sample, threshold=0.2, cp_isolation=list(SCRIPTS)).best()
    other = _known(detect_encoding(sample) or "")
    try:
        return best.encoding if best and other and str(best) == sample.decode(other) else ""
    except UnicodeDecodeError:
        return ""


def _known(name: str) -> str:
    """Python's name of an encoding as browsers understand it; "" for none."""
    try:
        found = codecs.lookup(map_encoding_to_html5(name, fallback_utf8=False) or "")
    except LookupError:
        return ""
    return found.name if found._is_text_encoding else ""


def _response(block: bytes) -> tuple[int, str, str, bytes]:
    """(status, content type, charset, body without what HTTP wrapped it in). Raises RecordError."""
    whole = io.BytesIO(_ENVELOPE % len(block) + block)
    try:
        for record in ArchiveIterator(whole, auto_decode="all"):
            body = record.reader.read(MOST_PAGE_BYTES + 1)
            status = record.http_headers.status_code if record.http_headers else None
            return status or 0, (record.http_content_type or "").lower(), record.http_charset or "", body
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise RecordError("bad_http", str(error)) from None
    raise RecordError("bad_http", "no HTTP response")


def _mark_pictures(tree: HTMLTree) -> list[tuple[str, str]]:
    """Put a mark where a picture is, and say which it is."""
    found: list[tuple[str, str]] = []
    for picture in list(tree.document.get_elements_by_tag_name("img") if tree.document else ())[:MOST_PICTURES]:
        target = (picture.getattr("src") or picture.getattr("data-src") or "").strip()
        mark = tree.create_text_node(f"{OPEN}{len(found)}{CLOSE}")
        if target and mark is not None and picture.parent is not None:
            picture.parent.replace_child(mark, picture)
            found.append((target, " ".join((picture.getattr("alt") or "").split())))
    return found


def _extract(tree: HTMLTree, extractor: str) -> str:
    if extractor == "resiliparse":
        return str(extract_plain_text(tree, main_content=True))
    import trafilatura  # an extra of its own, and slow to import

    return trafilatura.extract(str(tree), include_comments=False) or ""
