"""HTML to its main text, with marks where its images are. Runs in the sandbox.

`html.py` calls these functions through `stores/media/sandbox.py`: parsers and extractors are native code on bytes from
strangers, and the time of an extractor may grow with the square of the depth of tags. To start fast, the module imports
only libraries that the sandbox needs.
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
from pipelines.ingest.formats.text import BOMS, check_text

MOST_PAGE_BYTES = 16 << 20
MOST_IMAGES = 2000
MOST_TITLE_CHARACTERS = 500
MOST_REPLACED = 0.001
"""Share of characters that may be undecodable in the encoding that a page declares."""

SCRIPTS = (
    *("cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866", "mac_cyrillic", "cp1253", "iso8859_7", "cp1255", "cp1256"),
    *("tis_620", "shift_jis", "cp932", "euc_jp", "iso2022_jp", "gb18030", "big5", "euc_kr", "cp949"),
)
"""Encodings of non-Latin scripts that `detect_script` tries."""
HTML_TYPES = ("text/html", "application/xhtml+xml")
OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Noncharacters, which no text contains. In the extracted text they enclose the number of an image."""
_ENVELOPE = (
    b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http;msgtype=response\r\nContent-Length: %d\r\n\r\n"
)
_ONE_BYTE = re.compile(r"windows-\d+|iso-8859-.+|cp\d+|ibm\d+|koi8-.|macintosh|latin.*|us-ascii|ascii", re.IGNORECASE)

ExtractedPage = tuple[str, str, str, list[tuple[str, str]]]
"""(title, text, encoding, (target, alternative text) of each image)."""


def extract_one(
    block: bytes, is_http: bool, content_type: str, extractor: str
) -> tuple[str, str, ExtractedPage | None]:
    """Return (reason why a crawl record is passed over or "", content type, page). Raises RecordError."""
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
    """Return the result of `extract_one` for each record, or (reason, message) of its RecordError, in one call."""
    results: list[tuple[object, ...]] = []
    for block, is_http, content_type in records:
        try:
            results.append(extract_one(block, is_http, content_type, extractor))
        except RecordError as error:
            results.append((error.reason, error.message))
    return results


def extract_page(data: bytes, charset: str, extractor: str, with_images: bool) -> ExtractedPage:
    """Return the main text of a page.

    Args:
        charset: encoding that HTTP declares, or "".
        with_images: mark the images in the text.
    Raises:
        RecordError: `empty_file`, `too_large`, `bad_encoding`, `no_text`.
    """
    content, encoding = decode_page(data, charset)
    tree = HTMLTree.parse(content.replace(OPEN, "").replace(CLOSE, ""))
    images = _mark_images(tree) if with_images else []
    title = " ".join((tree.title or "").split())[:MOST_TITLE_CHARACTERS]
    extracted = _extract(tree, extractor)
    if not extracted.strip():
        raise RecordError("no_text", "no main content")
    return title, check_text(extracted), encoding, images


def image_targets(data: bytes, charset: str = "") -> list[str]:
    """Return the targets of the images of a page. Raises RecordError: the reasons of `decode_page`."""
    return [target for target, _ in _mark_images(HTMLTree.parse(decode_page(data, charset)[0]))]


def decode_page(data: bytes, charset: str) -> tuple[str, str]:
    """Return (text, encoding) by the byte-order mark, by the declaration of HTTP (`charset`) or of the page, or by the
    bytes.

    Any bytes are valid in an encoding of one byte per character. Such a declaration is therefore believed only if the
    bytes are not UTF-8. Raises RecordError: `empty_file`, `too_large`, `bad_encoding`.
    """
    if not data:
        raise RecordError("empty_file", "0 bytes")
    if len(data) > MOST_PAGE_BYTES:
        raise RecordError("too_large", f"more than {MOST_PAGE_BYTES} bytes")
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), encoding
    declared = [_codec(charset)] if charset else []
    if charset and not _ONE_BYTE.fullmatch(declared[0] or "ascii"):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(declared[0]), declared[0]
    declared = [name for name in (*declared, _codec(detect_encoding(data, from_html_meta=True) or "")) if name]
    first = [name for name in declared if not _ONE_BYTE.fullmatch(name)]
    for encoding in (*first, "utf-8", *declared):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    for encoding in declared:
        content = data.decode(encoding, "replace")
        if content.count("\ufffd") <= MOST_REPLACED * len(content):
            return content, encoding
    raise RecordError("bad_encoding", f"neither UTF-8 nor {', '.join(declared) or 'any other encoding'}")


def detect_script(sample: bytes) -> str:
    """Return Python's name of the encoding of a text if two detectors decode it alike; otherwise ""."""
    from charset_normalizer import from_bytes  # rarely needed

    best = from_bytes(sample, threshold=0.2, cp_isolation=list(SCRIPTS)).best()
    other = _codec(detect_encoding(sample) or "")
    try:
        return best.encoding if best and other and str(best) == sample.decode(other) else ""
    except UnicodeDecodeError:
        return ""


def _codec(name: str) -> str:
    """Python's name of an encoding, with the name as browsers understand it; "" for an unknown one."""
    try:
        codec = codecs.lookup(map_encoding_to_html5(name, fallback_utf8=False) or "")
    except LookupError:
        return ""
    return codec.name if codec._is_text_encoding else ""


def _response(block: bytes) -> tuple[int, str, str, bytes]:
    """(status, content type, charset, body without transfer and content encodings). Raises RecordError `bad_http`."""
    envelope = io.BytesIO(_ENVELOPE % len(block) + block)
    try:
        for record in ArchiveIterator(envelope, auto_decode="all"):
            body = record.reader.read(MOST_PAGE_BYTES + 1)
            status = record.http_headers.status_code if record.http_headers else None
            return status or 0, (record.http_content_type or "").lower(), record.http_charset or "", body
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise RecordError("bad_http", str(error)) from None
    raise RecordError("bad_http", "no HTTP response")


def _mark_images(tree: HTMLTree) -> list[tuple[str, str]]:
    """Replace each image by a mark with its number. Returns (target, alternative text) of each."""
    images: list[tuple[str, str]] = []
    for image in list(tree.document.get_elements_by_tag_name("img") if tree.document else ())[:MOST_IMAGES]:
        target = (image.getattr("src") or image.getattr("data-src") or "").strip()
        mark = tree.create_text_node(f"{OPEN}{len(images)}{CLOSE}")
        if target and mark is not None and image.parent is not None:
            image.parent.replace_child(mark, image)
            images.append((target, " ".join((image.getattr("alt") or "").split())))
    return images


def _extract(tree: HTMLTree, extractor: str) -> str:
    if extractor == "resiliparse":
        return str(extract_plain_text(tree, main_content=True))
    import trafilatura  # an optional library, and slow to import

    return trafilatura.extract(str(tree), include_comments=False) or ""
