"""Pages of PDF files to pictures and their text layer. Runs in the limited child process, a page a call.

`ingest/documents.py` calls `look` and `page` through `stores/media/sandbox.py`. The bytes of a picture follow from the
file, the resolution and the versions of pypdfium2 and Pillow.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path

import pypdfium2
from pypdfium2 import raw

from manifests.errors import RecordError

MOST_PAGES = 10_000
MOST_PAGE_PIXELS = 24_000_000
"""Larger pages, posters and maps, are drawn at a lower resolution."""
MOST_TEXT_CHARACTERS = 1_000_000
POINTS_AN_INCH = 72


def document_info(path: str) -> tuple[int, str]:
    """(number of pages, title). Raises RecordError: encrypted_pdf, bad_pdf, too_large."""
    document = _open(path, Path(path).stat().st_mtime_ns)
    pages = len(document)
    if pages > MOST_PAGES:
        raise RecordError("too_large", f"{pages} pages, the limit is {MOST_PAGES}")
    if not pages:
        raise RecordError("bad_pdf", "no pages")
    return pages, _clean(document.get_metadata_dict().get("Title", ""))[:500].strip()


def draw_page(path: str, number: int, dpi: int) -> tuple[bytes, int, int, str]:
    """(PNG, width, height, text) of a page, counted from 0. Raises RecordError `bad_page`."""
    document = _open(path, Path(path).stat().st_mtime_ns)
    try:
        opened = document[number]
        width, height = opened.get_size()
        scale = dpi / POINTS_AN_INCH
        if not width * height > 0:
            raise RecordError("bad_page", f"{width:g} x {height:g} points")
        scale = min(scale, math.sqrt(MOST_PAGE_PIXELS / (width * height)))
        if min(width, height) * scale < 1:
            raise RecordError("bad_page", f"{width:g} x {height:g} points")
        drawn = opened.render(scale=scale, rev_byteorder=True, no_smoothtext=False).to_pil().convert("RGB")
        words = opened.get_textpage().get_text_range(0, -1)[:MOST_TEXT_CHARACTERS]
        opened.close()
    except (pypdfium2.PdfiumError, ValueError, OverflowError, IndexError) as error:
        raise RecordError("bad_page", str(error)[:300]) from None
    png = io.BytesIO()
    drawn.save(png, "PNG", compress_level=6)
    return png.getvalue(), *drawn.size, _clean(words)


@lru_cache(maxsize=1)
def _open(path: str, mtime_ns: int) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        encrypted = error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY)
        raise RecordError("encrypted_pdf" if encrypted else "bad_pdf", str(error)[:300]) from None


def _clean(words: str) -> str:
    """Text that can be written down; where PDFium joined a word over a line end it puts a noncharacter or control."""
    words = words.replace("\ufffe", "-").replace("\x02", "-").replace("\0", "")
    return words.replace("\r\n", "\n").encode("utf-8", "ignore").decode()
