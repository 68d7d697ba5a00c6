"""Pages of PDF files become pictures with their text; what is broken is set aside, by the page where it can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.errors import RecordError
from manifests.records import Media, Text
from pipelines.ingest.readers.pdf_files import draw_page, pdf_info
from tests.pipelines.ingest.ingested import aside, documents, ingest


def pdf(pages: list[str], size: str = "200 100") -> bytes:
    """By hand: a catalogue, a font, and for each page its stream."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for i, words in enumerate(pages):
        drawn = f"BT /F1 12 Tf 10 50 Td ({words}) Tj ET"
        font = "/Resources<</Font<</F1 3 0 R>>>>"
        objects.append(f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {size}]{font}/Contents {5 + 2 * i} 0 R>>")
        objects.append(f"<</Length {len(drawn)}>>\nstream\n{drawn}\nendstream")
    out = b"%PDF-1.4\n"
    places = []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{one}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<</Size {len(objects) + 1}/Root 1 0 R>>\n"
    return out + f"{head}startxref\n{len(out)}\n%%EOF\n".encode()


def test_each_page_is_a_picture_with_its_text_behind_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "three.pdf").write_bytes(pdf(["Water", "Wheel", "Flour"]))
    made = documents(ingest(data, tmp_path / "store", pdf_pages=2))
    assert sorted(made) == ["three.pdf#1", "three.pdf#3"]
    first = made["three.pdf#1"]
    assert first.domain == "ocr" and first.facts == () and first.notes["pages"] == [1, 2]
    assert [part.text.strip() for part in first.parts if isinstance(part, Text)] == ["Water", "Wheel"]
    pictures = [part for part in first.parts if isinstance(part, Media)]
    assert [(one.width_px, one.height_px, one.format) for one in pictures] == [(400, 200, "png")] * 2
    again = documents(ingest(data, tmp_path / "again", pdf_pages=2))
    assert [part.digest for part in again["three.pdf#1"].media] == [one.digest for one in pictures]


def test_real_pages_have_their_words(test_data: Path, tmp_path: Path) -> None:
    made = documents(ingest(test_data / "olmocr_bench_sample" / "pdfs" / "mathfuncs.pdf", tmp_path / "store"))
    [document] = made.values()
    assert len(document.text) > 500 and document.media


def test_broken_and_locked_files_are_set_aside_and_nothing_raises(tmp_path: Path) -> None:
    whole = pdf(["Water", "Wheel"])
    path = tmp_path / "own.pdf"
    for at in range(0, len(whole), 23):
        torn = bytearray(whole)
        torn[at] ^= 0x15
        for content in (whole[:at], bytes(torn)):
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
    assert aside(ingest(data, tmp_path / "store")) == {
        "locked.pdf": "encrypted_pdf",
        "none.pdf": "bad_pdf",
        "flat.pdf": "bad_pdf",
    }


@pytest.mark.parametrize("size", ["14400 14400", "100000 100000"])
def test_huge_pages_are_drawn_small(tmp_path: Path, size: str) -> None:
    path = tmp_path / "huge.pdf"
    path.write_bytes(pdf(["Map"], size))
    picture, words = draw_page(str(path), 0, 600)
    assert picture.width_px * picture.height_px <= 24_100_000 and words.strip() == "Map"
