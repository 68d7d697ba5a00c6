"""Encodings: bytes to text, or a refusal with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from pipelines.ingest.formats import text


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
def test_bytes_that_are_no_text_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        text.decode_text(data)
    assert caught.value.reason == reason


def test_western_encodings_are_decoded_and_line_ends_unified() -> None:
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
def test_other_scripts_are_decoded_if_two_detectors_agree(words: str, encoding: str) -> None:
    decoded, named = text.decode_text(words.encode(encoding))
    assert decoded == words and words.encode(named) == words.encode(encoding)


@given(st.binary(min_size=200, max_size=400))
def test_noise_is_refused_with_a_reason_or_decoded(noise: bytes) -> None:
    try:
        decoded, named = text.decode_text(noise.replace(b"\r", b"").replace(b"\0", b""))
    except RecordError as error:
        assert error.reason in ("bad_encoding", "binary", "empty_file", "lone_surrogate")
    else:
        assert decoded and named


def test_dos_files_are_recognized_by_the_letters_inside_words() -> None:
    words = "f\u00f6r Abram och sade: din s\u00e4d skall jag giva, t\u00e5ligt"
    assert text.decode_text(words.encode("cp850")) == (words, "cp850")
    assert text.decode_text(words.encode("cp1252")) == (words, "cp1252")
