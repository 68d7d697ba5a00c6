"""Pages of PDF files to images and their text layer. Runs in the sandbox, one page per call.

`ingest/readers/pdf_files.py` calls these functions through `stores/media/sandbox.py`. The bytes of an image follow from
the file, the resolution and the versions of pypdfium2 and Pillow.
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
"""Larger pages, such as posters and maps, are drawn at a lower resolution."""
MOST_TEXT_CHARACTERS = 1_000_000
POINTS_PER_INCH = 72


def document_info(path: str) -> tuple[int, str]:
    """Return (number of pages, title). Raises RecordError: `encrypted_pdf`, `bad_pdf`, `too_large`."""
    document = _open(path, Path(path).stat().st_mtime_ns)
    pages = len(document)
    if pages > MOST_PAGES:
        raise RecordError("too_large", f"{pages} pages, the limit is {MOST_PAGES}")
    if not pages:
        raise RecordError("bad_pdf", "no pages")
    return pages, _clean(document.get_metadata_dict().get("Title", ""))[:500].strip()


def draw_page(path: str, number: int, dpi: int) -> tuple[bytes, int, int, str]:
    """Return (PNG, width and height in pixels, text layer) of a page, counted from 0.

    Raises RecordError: `bad_page`, and those of `document_info`.
    """
    document = _open(path, Path(path).stat().st_mtime_ns)
    try:
        page = document[number]
        width, height = page.get_size()
        scale = dpi / POINTS_PER_INCH
        if not width * height > 0:
            raise RecordError("bad_page", f"{width:g} x {height:g} points")
        scale = min(scale, math.sqrt(MOST_PAGE_PIXELS / (width * height)))
        if min(width, height) * scale < 1:
            raise RecordError("bad_page", f"{width:g} x {height:g} points")
        image = page.render(scale=scale, rev_byteorder=True, no_smoothtext=False).to_pil().convert("RGB")
        words = page.get_textpage().get_text_range(0, -1)[:MOST_TEXT_CHARACTERS]
        page.close()
    except (pypdfium2.PdfiumError, ValueError, OverflowError, IndexError) as error:
        raise RecordError("bad_page", str(error)[:300]) from None
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=6)
    return png.getvalue(), *image.size, _clean(words)


@lru_cache(maxsize=1)
def _open(path: str, mtime_ns: int) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        encrypted = error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY)
        raise RecordError("encrypted_pdf" if encrypted else "bad_pdf", str(error)[:300]) from None


def _clean(words: str) -> str:
    """Text that can be encoded as UTF-8. PDFium writes U+FFFE or U+0002 where a hyphen joins two lines."""
    words = words.replace("\ufffe", "-").replace("\x02", "-").replace("\0", "")
    return words.replace("\r\n", "\n").encode("utf-8", "ignore").decode()
