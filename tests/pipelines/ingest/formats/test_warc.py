"""Web crawls: all complete records of a damaged archive are read, and records of other kinds are counted."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from pathlib import Path

import pytest

from manifests.errors import RecordError
from manifests.records import Document, Media, Text
from pipelines.ingest import walk
from pipelines.ingest.formats import gzip_members, html, warc
from pipelines.ingest.formats.file import FilePiece
from pipelines.ingest.formats.html import CrawlRecord
from pipelines.ingest.formats.suffixes import CUT_AT_LINES
from stores.media.sandbox import Sandbox
from tests.pipelines.ingest.ingested import ingest_counted
from tests.pipelines.small_data import image


def page(words: str, title: str = "A mill", charset: str = "utf-8") -> bytes:
    nav = "<nav><a href='/'>Home</a> <a href='/about'>About</a></nav>"
    text = f"<html><head><title>{title}</title></head><body>{nav}<main><p>{words}</p></main></body></html>"
    return text.encode(charset)


def http(body: bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}\r\n".encode() + body


def warc_record(block: bytes, url: str = "https://mill.example/", kind: str = "response", content: str = "") -> bytes:
    content = content or "application/http; msgtype=response"
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
    return f"{head}Content-Type: {content}\r\nContent-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def arc(block: bytes, url: str = "https://mill.example/") -> bytes:
    return f"{url} 192.0.2.1 20260102030405 text/html {len(block)}\n".encode() + block + b"\n"


def five() -> list[bytes]:
    return [
        warc_record(http(page(f"Page number {i} of the mill. " * 4)), f"https://mill.example/{i}") for i in range(5)
    ]


def read(path: Path, piece: FilePiece | None = None) -> dict[str, str]:
    """Place -> URL of a page, kind of another record, or reason of a refused one."""
    piece = piece or FilePiece(0, path.stat().st_size, 1, "")
    results = {}
    for at, record in warc.read_records(path, path.suffix == ".gz", piece):
        assert at not in results
        if isinstance(record, CrawlRecord):
            results[at] = record.url
        else:
            results[at] = record.reason if isinstance(record, RecordError) else record
    return results


URLS = [f"https://mill.example/{i}" for i in range(5)]


def test_pages_become_documents_with_url_date_and_title(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    records = [
        warc_record(b"software: test\r\n", kind="warcinfo", content="application/warc-fields"),
        warc_record(http(page("The river turns the wheel.")), "https://mill.example/wheel"),
        warc_record(b"GET / HTTP/1.1\r\n\r\n", kind="request", content="application/http; msgtype=request"),
        warc_record(b"", "https://mill.example/again", kind="revisit"),
        warc_record(b"20260102030405\n192.0.2.1\n", "dns:mill.example", kind="response", content="text/dns"),
        warc_record(http(b"\x89PNG", "image/png"), "https://mill.example/x.png"),
        warc_record(http(page("Not here."), status="404 Not Found"), "https://mill.example/missing"),
        warc_record(b"Grain, flour, bread. " * 4, kind="conversion", content="text/plain"),
        warc_record(http(page("Das Rad dreht sich, schön.", "Mühle", "cp1252"), "text/html; charset=iso-8859-1")),
        warc_record(http(gzip.compress(page("Packed twice.")), more="Content-Encoding: gzip\r\n")),
        warc_record(http(b"<html><body><script>1</script></body></html>"), "https://mill.example/empty"),
    ]
    (data / "crawl.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    (data / "old.arc.gz").write_bytes(
        gzip.compress(b"filedesc://old.arc 0.0.0.0 20260102030405 text/plain 3\n1 0\n\n")
        + gzip.compress(arc(http(page("An old page about stones."))))
    )
    snapshot, noted = ingest_counted(data, tmp_path / "out")
    documents = {document.text.strip(): document for document in snapshot.records()}
    assert {words[:13] for words in documents} == {
        *("The river tur", "Grain, flour,", "Das Rad dreht", "Packed twice.", "An old page a"),
    }
    wheel = documents["The river turns the wheel."]
    assert (wheel.domain, wheel.origin) == ("web", "https://mill.example/wheel")
    assert wheel.notes == {"date": "2026-01-02T03:04:05Z", "content_type": "text/html", "title": "A mill"}
    assert wheel.locator == f"crawl.warc.gz#{len(gzip.compress(records[0]))}"
    german = documents["Das Rad dreht sich, schön."]
    assert (german.notes["title"], german.notes["encoding"]) == ("Mühle", "cp1252")
    kinds = ("warcinfo", "request", "revisit", "dns")
    assert noted == Counter({f"archive_{kind}": 1 for kind in kinds}) + Counter(
        ("other_content_type", "http_status_404", "archive_warcinfo")
    )
    assert [row["reason"] for row in snapshot.quarantined().to_pylist()] == ["no_text"]


@pytest.mark.parametrize("suffix", [".warc", ".warc.gz", ".arc", ".arc.gz"])
def test_an_archive_truncated_anywhere_yields_all_complete_records(tmp_path: Path, suffix: str) -> None:
    records = five() if "warc" in suffix else [arc(http(page("An old page.")), url) for url in URLS]
    packed = [gzip.compress(record) if suffix.endswith(".gz") else record for record in records]
    whole = b"".join(packed)
    ends = [sum(map(len, packed[: i + 1])) for i in range(5)]
    path = tmp_path / f"cut{suffix}"
    for stop in range(0, len(whole), 7):
        path.write_bytes(whole[:stop])
        results = list(read(path).values())
        expected = URLS[: sum(end <= stop for end in ends)]
        assert results[: len(expected)] == expected and len(results) <= len(expected) + 2, stop


def test_a_damaged_gzip_member_costs_its_record(tmp_path: Path) -> None:
    packed = [gzip.compress(record) for record in five()]
    path = tmp_path / "torn.warc.gz"
    for at in range(0, len(packed[2]), 3):
        damaged = bytearray(packed[2])
        damaged[at] ^= 0x55
        path.write_bytes(b"".join([*packed[:2], damaged, *packed[3:]]))
        results = list(read(path).values())
        assert [url for url in results if url.startswith("https")] in (URLS[:2] + URLS[3:], URLS), at


def test_a_flipped_byte_never_raises_and_costs_at_most_two_records(tmp_path: Path) -> None:
    whole = b"".join(five())
    path = tmp_path / "flipped.warc"
    for at in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[at] ^= 0x1F
        path.write_bytes(damaged)
        assert len(set(read(path).values()) & set(URLS)) >= 3, at


def test_a_large_compressed_archive_is_cut_at_records_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "PIECE_BYTES", 40_000)
    noise = [zlib.compress(bytes([i]) * 9)[:7].hex() + str(i) * 6 for i in range(40)]
    blocks = [http(page(" ".join(hex(i * 7919**k) for k in range(90)) + noise[i])) for i in range(40)]
    urls = [f"https://mill.example/{i}" for i in range(40)]
    members = [gzip.compress(warc_record(block, url)) for block, url in zip(blocks, urls, strict=True)]
    path = tmp_path / "long.warc.gz"
    path.write_bytes(b"".join(members))
    [file], _ = walk.walk_folder(path, [], CUT_AT_LINES)
    assert len(file.pieces) > 1
    starts = {sum(map(len, members[:i])) for i in range(40)}
    assert {piece.start for piece in file.pieces} <= starts
    read_pieces = [url for piece in file.pieces for url in read(path, piece).values()]
    assert read_pieces == urls


def test_a_bomb_or_a_record_that_is_too_long_costs_one_record(tmp_path: Path) -> None:
    bomb = gzip.compress(warc_record(b" " * (40 << 20)))
    path = tmp_path / "bomb.warc.gz"
    path.write_bytes(gzip.compress(five()[0]) + bomb + gzip.compress(five()[1]))
    assert list(read(path).values()) == [URLS[0], "decompression_bomb", URLS[1]]
    path = tmp_path / "long.warc"
    path.write_bytes(five()[0] + warc_record(b" " * (warc.MOST_RECORD_BYTES + 1)) + five()[1])
    assert list(read(path).values()) == [URLS[0], "too_large", URLS[1]]
    packed = http(gzip.compress(b"<p>" + b"a" * (40 << 20)), more="Content-Encoding: gzip\r\n")
    [refused] = html.extract_pages([CrawlRecord("", "", True, "", packed)], "resiliparse")
    assert isinstance(refused, RecordError) and refused.reason == "too_large"


def test_chance_marks_of_gzip_are_no_place_to_cut() -> None:
    member = gzip.compress(five()[0]).ljust(9000, b"\0")
    assert gzip_members.first_record(b"\x1f\x8b\x08" * 20 + gzip.compress(b"no record") + member) == 60 + len(
        gzip.compress(b"no record")
    )
    assert gzip_members.first_record(b"\x1f\x8b\x08" * 9000) == -1


def test_both_extractors_find_the_main_text(tmp_path: Path) -> None:
    words = "The river turns the wheel, and the wheel turns the stone, and so the grain becomes flour. " * 6
    for extractor in ("resiliparse", "trafilatura"):
        if extractor == "trafilatura":
            pytest.importorskip(extractor, reason="an extra: pip install 'millrace[trafilatura]'", exc_type=ImportError)
        text, _ = html.read_html(page(words), extractor)
        [piece] = text.pieces
        assert isinstance(piece, str) and "Home" not in piece
        assert piece.split() == words.split() and text.title == "A mill"


def test_images_of_a_page_keep_their_places_in_the_text(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "img").mkdir(parents=True)
    (data / "img" / "wheel one.png").write_bytes(image(1))
    (data / "page.html").write_text(
        "<html><head><title>Mill</title></head><body><main><h1>How it works</h1><p>First the water.</p>"
        "<p><img src='img/wheel%20one.png' alt='the wheel'></p><p>Then the stone.</p>"
        "<img src='https://x.example/y.png'>"
        "<img src='../out.png' alt='outside'></main></body></html>"
    )
    snapshot, noted = ingest_counted(data, tmp_path / "out")
    [document] = snapshot.records()
    assert isinstance(document, Document) and document.domain == "interleaved"
    before, medium, after = document.parts
    assert isinstance(before, Text) and isinstance(medium, Media) and isinstance(after, Text)
    assert before.text.split() == ["How", "it", "works", "First", "the", "water."]
    assert after.text.split() == ["the", "wheel", "Then", "the", "stone.", "outside"]
    assert document.notes["media_left_out"] == [
        ["https://x.example/y.png", "remote_media"],
        ["../out.png", "outside_folder"],
    ]
    assert noted == {"remote_media": 1, "outside_folder": 1}


@pytest.mark.parametrize(
    ("words", "encoding", "kind", "meta"),
    [
        ("Мельница стоит у реки и мелет зерно. " * 5, "koi8-r", "text/html; charset=koi8-r", ""),
        ("水車は川のそばにあります。" * 9, "shift_jis", "text/html", "shift_jis"),
        ("水车在河边转动，磨出面粉。" * 9, "gb18030", "text/html; charset=gb2312", ""),
        ("水車は川のそばにあります。" * 9, "euc_jp", "text/html", ""),
        ("Die Mühle, schön und groß.", "utf-8", "text/html; charset=iso-8859-1", ""),
        ("Die Mühle, schön und groß.", "utf-16", "text/html", ""),
    ],
)
def test_pages_are_decoded_by_declaration_or_bytes(words: str, encoding: str, kind: str, meta: str) -> None:
    body = page(words, charset=encoding)
    if meta:
        body = body.replace(b"<title>", f"<meta charset={meta}><title>".encode())
    [result] = html.extract_pages([CrawlRecord("", "", True, "", http(body, kind))], "resiliparse")
    assert isinstance(result, html.PageText)
    assert (result.words.split(), result.title) == (words.split(), "A mill")


def test_a_page_that_takes_too_long_costs_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(cpu_s=1) as child:
        monkeypatch.setattr(html, "_child", lambda: child)
        with pytest.raises(RecordError) as caught:
            html.read_html(b"<div>" * 100_000 + b"x", "resiliparse")
        assert caught.value.reason == "decoder_timeout"
        slow = CrawlRecord("", "", False, "text/html", b"<div>" * 100_000 + b"x")
        quick = CrawlRecord("", "", False, "text/html", page("Words between."))
        first, second = html.extract_pages([quick, slow], "resiliparse")
        assert isinstance(first, html.PageText) and isinstance(second, RecordError)
        assert html.read_html(page("Words again."), "resiliparse")[0].pieces
