"""Bytes to text, rows of files, fields of rows, links of Markdown, captions beside pictures: the readers' parts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest.annotations import captions, fields
from pipelines.ingest.formats import markdown, rows, text
from pipelines.ingest.formats.file import FilePiece


def rows_of(path: Path, suffix: str) -> list[tuple[str, Json]]:
    """All rows; a refused one is its reason."""
    found = []
    for at, parse in rows.read_rows(path, suffix, FilePiece(0, path.stat().st_size, 1, "")):
        try:
            found.append((at, parse()))
        except RecordError as error:
            found.append((at, error.reason))
    return found


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1))
def test_text_in_any_unicode_encoding_with_a_mark_comes_back(words: str) -> None:
    assert text.decode_text(words.encode("utf-8-sig")) == (words, "utf-8")
    for encoding in ("utf-16", "utf-32"):
        assert text.decode_text(words.encode(encoding))[0] == words


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"abc\0def", "binary"),
        ("привет, мир".encode("cp1251"), "bad_encoding"),
        ("日本語の文章です".encode("shift_jis"), "bad_encoding"),
        (b"\xff\xfea", "bad_encoding"),
    ],
)
def test_what_is_no_text_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        text.decode_text(data)
    assert caught.value.reason == reason


def test_western_files_without_utf8_are_read_and_line_ends_become_one_kind() -> None:
    assert text.decode_text("Où est l’été?\r\nLà-bas.\rOui".encode("cp1252")) == (
        "Où est l’été?\nLà-bas.\nOui",
        "cp1252",
    )


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        ("Мельница стоит у реки. Вода вращает колесо, колесо вращает камень, и зерно становится мукой. " * 3, "koi8_r"),
        ("Мельница стоит у реки. Вода вращает колесо, колесо вращает камень, и зерно становится мукой. " * 3, "cp1251"),
        ("水車は川のそばにあります。水が車を回し、車が石を回し、穀物は粉になります。\n" * 4, "shift_jis"),
        ("水車は川のそばにあります。水が車を回し、車が石を回し、穀物は粉になります。\n" * 4, "euc_jp"),
        ("磨坊在河边。水推动轮子，轮子转动石头，谷物变成面粉。人们用面粉做面包。\n" * 4, "gb18030"),
    ],
)
def test_text_in_other_scripts_is_read_where_two_detectors_agree(words: str, encoding: str) -> None:
    found, named = text.decode_text(words.encode(encoding))
    assert found == words and words.encode(named) == words.encode(encoding)


@given(st.binary(min_size=200, max_size=400))
def test_noise_is_no_text_in_any_encoding_or_comes_back_as_its_bytes(noise: bytes) -> None:
    try:
        found, named = text.decode_text(noise.replace(b"\r", b"").replace(b"\0", b""))
    except RecordError as error:
        assert error.reason in ("bad_encoding", "binary", "empty_file", "lone_surrogate")
    else:
        assert found and named


def test_text_of_old_dos_files_is_read_by_what_stands_inside_words() -> None:
    words = "f\u00f6r Abram och sade: din s\u00e4d skall jag giva, t\u00e5ligt"
    assert text.decode_text(words.encode("cp850")) == (words, "cp850")
    assert text.decode_text(words.encode("cp1252")) == (words, "cp1252")


def test_each_bad_line_costs_one_row_and_the_rest_arrives(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = b'{"text": "good"}'
    deep = b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path.write_bytes(
        b"\n".join([good, b"{bad", b'{"x": NaN}', deep, b"\xff\xfe\xfd", b"", b'{"x": ' + b"9" * 5000 + b"}", good])
    )
    assert rows_of(path, ".jsonl") == [
        ("#1", {"text": "good"}),
        ("#2", "bad_json"),
        ("#3", "not_a_number"),
        ("#4", "too_deep"),
        ("#5", "bad_encoding"),
        ("#7", "bad_json"),
        ("#8", {"text": "good"}),
    ]


def test_an_endless_line_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_ROW_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * 5_000_000 + b'\n{"text": "b"}')
    assert rows_of(path, ".jsonl") == [("#1", {"text": "a"}), ("#2", "too_large"), ("#3", {"text": "b"})]


def test_a_torn_gzip_gives_the_rows_before_the_tear(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"text": "%d %s"}\n' % (i, bytes([97 + i % 26]) * (i % 50)) for i in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    found = rows_of(path, ".jsonl.gz")
    assert found[0] == ("#1", {"text": "0 "}) and len(found) > 100
    assert [reason for _, reason in found if isinstance(reason, str)] == ["damaged_gzip"]


def test_a_decompression_bomb_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FREE_GZIP_BYTES", 1 << 20)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "first"}\n' + b" " * (64 << 20)))
    assert rows_of(path, ".jsonl.gz") == [("#1", {"text": "first"}), ("#2", "decompression_bomb")]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"text": "a"}, {"text": "b"}]', [("#0", {"text": "a"}), ("#1", {"text": "b"})]),
        ('{"text": "a"}\n{"text": "b"}\n', [("#1", {"text": "a"}), ("#2", {"text": "b"})]),
        ('{\n "text": "a"\n}', [("", {"text": "a"})]),
        ('{"7": {"text": "a"}, "9": {"text": "b"}}', [("#7", {"text": "a"}), ("#9", {"text": "b"})]),
        ("[1, 2", [("", "bad_json")]),
    ],
)
def test_a_json_file_is_rows_however_it_is_laid_out(
    tmp_path: Path, content: str, found: list[tuple[str, Json]]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert rows_of(path, ".json") == found


def test_tables_keep_line_ends_inside_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('file_name,text\na.jpg,"two\nlines"\nb.jpg,one\n')
    assert rows_of(path, ".csv") == [
        ("#1", {"file_name": "a.jpg", "text": "two\nlines"}),
        ("#2", {"file_name": "b.jpg", "text": "one"}),
    ]


def test_utf16_rows_and_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "å"}\n'.encode("utf-16"))
    assert rows_of(path, ".jsonl") == [("#1", {"text": "å"})]
    path.write_bytes(b"\x89PNG\0\0\0")
    assert rows_of(path, ".jsonl") == [("", "binary")]


@pytest.mark.parametrize(
    ("record", "words", "answer"),
    [
        ({"text": "a", "id": 3}, "a", None),
        ({"question": "1+1?", "answer": "2"}, "1+1?\n2", "2"),
        (
            {"prompt": "def f():\n", "canonical_solution": "    return 1\n"},
            "def f():\n    return 1\n",
            "    return 1\n",
        ),
        ({"instruction": "add", "input": "1 2", "output": 3}, "add\n1 2\n3", "3"),
        ("just text", "just text", None),
    ],
)
def test_the_text_of_a_record_is_found(record: Json, words: str, answer: str | None) -> None:
    found = fields.find_text(record)
    assert found.text == words
    assert (words[slice(*found.answer)] if found.answer else None) == answer


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"x": 1}, "no_text_field"),
        ({"text": {"deep": 1}}, "no_text_field"),
        ({"text": "  "}, "no_text"),
        ({"text": "\ud800"}, "lone_surrogate"),
        ({"text": "a\0b"}, "binary"),
        (3, "no_text_field"),
    ],
)
def test_a_record_without_text_is_refused(record: Json, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        fields.find_text(record)
    assert caught.value.reason == reason


def test_named_fields_are_taken_in_their_order() -> None:
    assert fields.find_text({"a": "1", "b": "2", "text": "no"}, ("b", "a")).text == "2\n1"


def test_markdown_gives_text_and_media_in_reading_order() -> None:
    found = markdown.read_markdown(
        "---\ntitle: 'Seeing'\n---\n# Head\n"
        "![one](fig/a%20b.png){width=50% alt='the alt\nin two lines'} and `![code](no.png)`\n"
        "```\n![fenced](no.png)\n```\n"
        "<!-- ![hidden](no.png) -->"
        '<img class="x" alt="two &amp; more" src="fig/c.jpg"> [![badge](badge.png)](https://x.org) '
        "<video controls><source src='clip.webm'><source src='clip.mp4'></video> [see it](clip.mov) [no](page.html)\n"
        "![three][Ref]\n\n[ref]: <d.png> 'title'\n"
    )
    assert found.title == "Seeing"
    assert [(link.target, link.alt) for link in found.links] == [
        ("fig/a%20b.png", "one"),
        ("fig/c.jpg", "two & more"),
        ("badge.png", "badge"),
        ("clip.webm", ""),
        ("clip.mov", "see it"),
        ("d.png", "three"),
    ]
    words = "".join(piece for piece in found.pieces if isinstance(piece, str))
    assert "`![code](no.png)`" in words and "![fenced](no.png)" in words and "hidden" not in words
    assert "[no](page.html)" in words and words.startswith("# Head")


def test_an_alt_attribute_stands_in_for_an_empty_alt_text() -> None:
    assert markdown.read_markdown("![](x.png){alt='seen'}").links == (markdown.MediaLink("x.png", "seen"),)


@pytest.mark.parametrize(
    ("target", "result"),
    [
        ("fig/a.png", "docs/fig/a.png"),
        ("../b%20c.png?raw=true#top", "b c.png"),
        ("https://x.org/a.png", "remote_media"),
        ("//x.org/a.png", "remote_media"),
        ("data:image/png;base64,AAAA", "remote_media"),
        ("../../etc/passwd", "outside_folder"),
        ("/etc/passwd", "outside_folder"),
        ("%2e%2e/%2e%2e/x.png", "outside_folder"),
        ("a%00.png", "outside_folder"),
        ("http://[bad", "remote_media"),
    ],
)
def test_links_stay_inside_the_folder(target: str, result: str) -> None:
    try:
        assert markdown.resolve_target(target, "docs/page.md") == result
    except RecordError as error:
        assert error.reason == result


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "hostile",
    [
        "![",
        "[",
        "`",
        "`a",
        "[a",
        "![a](",
        "<img",
        "<!--",
        "![x]",
        "![[x]",
        "[]:",
        "<video>",
        "\n---\n",
        "[![a](b)",
        "](",
        "~~~\n",
    ],
)
def test_markdown_takes_linear_time_on_anything(hostile: str) -> None:
    markdown.read_markdown(hostile * (400_000 // len(hostile)))


def test_names_become_words_without_numbers() -> None:
    assert captions.caption_from_name("pink_sunglasses/02.jpg", "folder_name") == ("pink sunglasses", "folder_name")
    assert captions.caption_from_name("x/gecko-320-213.jpg", "file_name") == ("gecko", "file_name")
    assert captions.caption_from_name("dog3/00.jpg", "file_name") == ("dog", "folder_name")
    assert captions.caption_from_name("gecko.jpg", "folder_name") == ("gecko", "file_name")
    assert captions.caption_from_name("7/00.jpg", "file_name") == ("", "none")
    assert captions.caption_from_name("x/gecko.jpg", "none") == ("", "none")


def test_json_without_surrogates_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "\ud800 bad"}) + "\n" + json.dumps({"text": "good"}))
    reasons = []
    for _, parse in rows.read_rows(path, ".jsonl", FilePiece(0, path.stat().st_size, 1, "")):
        try:
            reasons.append(fields.find_text(parse()).text)
        except RecordError as error:
            reasons.append(error.reason)
    assert reasons == ["lone_surrogate", "good"]
