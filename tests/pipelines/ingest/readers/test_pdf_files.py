"""PDF files to documents: each page as an image with its text; damaged pages are left out, damaged files refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.errors import RecordError
from manifests.records import Media, Text
from pipelines.ingest.readers.pdf_files import draw_page, pdf_info
from tests.pipelines.ingest.ingested import documents, ingest, quarantined


def pdf(pages: list[str], size: str = "200 100") -> bytes:
    """A PDF file written by hand: a catalogue, a font, and a stream for each page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for i, words in enumerate(pages):
        stream = f"BT /F1 12 Tf 10 50 Td ({words}) Tj ET"
        font = "/Resources<</Font<</F1 3 0 R>>>>"
        objects.append(f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {size}]{font}/Contents {5 + 2 * i} 0 R>>")
        objects.append(f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream")
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<</Size {len(objects) + 1}/Root 1 0 R>>\n"
    return out + f"{head}startxref\n{len(out)}\n%%EOF\n".encode()


def test_each_page_is_an_image_followed_by_its_text(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "three.pdf").write_bytes(pdf(["Water", "Wheel", "Flour"]))
    by_locator = documents(ingest(data, tmp_path / "store", pdf_pages=2))
    assert sorted(by_locator) == ["three.pdf#1", "three.pdf#3"]
    first = by_locator["three.pdf#1"]
    assert first.domain == "ocr" and first.facts == () and first.notes["pages"] == [1, 2]
    assert [part.text.strip() for part in first.parts if isinstance(part, Text)] == ["Water", "Wheel"]
    images = [part for part in first.parts if isinstance(part, Media)]
    assert [(image.width_px, image.height_px, image.format) for image in images] == [(400, 200, "png")] * 2
    again = documents(ingest(data, tmp_path / "again", pdf_pages=2))
    assert [part.digest for part in again["three.pdf#1"].media] == [image.digest for image in images]


def test_real_pages_have_their_words(test_data: Path, tmp_path: Path) -> None:
    by_locator = documents(ingest(test_data / "olmocr_bench_sample" / "pdfs" / "mathfuncs.pdf", tmp_path / "store"))
    [document] = by_locator.values()
    assert len(document.text) > 500 and document.media


def test_damaged_and_encrypted_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    whole = pdf(["Water", "Wheel"])
    path = tmp_path / "own.pdf"
    for at in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[at] ^= 0x15
        for content in (whole[:at], bytes(damaged)):
            path.write_bytes(content)
            try:
                pages, _ = pdf_info(str(path), len(content))
                draw_page(str(path), pages - 1, 72)
            except RecordError as error:
                assert error.reason in ("bad_pdf", "bad_page", "encrypted_pdf", "too_large"), (at, error.reason)
    data = tmp_path / "data"
    data.mkdir()
    locked = whole.replace(
        b"/Root 1 0 R", b"/Root 1 0 R/Encrypt<</Filter/Standard/V 1/R 2/P -4/O(%b)/U(%b)>>" % (b"o" * 32, b"u" * 32)
    )
    (data / "locked.pdf").write_bytes(locked)
    (data / "none.pdf").write_bytes(b"%PDF-1.7\nnothing")
    (data / "flat.pdf").write_bytes(pdf(["Flat"], "200 0.001"))
    assert quarantined(ingest(data, tmp_path / "store")) == {
        "locked.pdf": "encrypted_pdf",
        "none.pdf": "bad_pdf",
        "flat.pdf": "bad_pdf",
    }


@pytest.mark.parametrize("size", ["14400 14400", "100000 100000"])
def test_huge_pages_are_drawn_small(tmp_path: Path, size: str) -> None:
    path = tmp_path / "huge.pdf"
    path.write_bytes(pdf(["Map"], size))
    image, words = draw_page(str(path), 0, 600)
    assert image.width_px * image.height_px <= 24_100_000 and words.strip() == "Map"
