"""Tables fit the terminal, and neither headings nor ids nor numbers are broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pipelines.inspect import terminal

WORDS = st.text("abcdefgh", min_size=1, max_size=9)
HEADINGS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
CELLS = st.one_of(
    st.integers(-(10**9), 10**9),
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.lists(WORDS, max_size=12).map("_".join),
    st.lists(WORDS, max_size=12).map(" ".join),
    st.text("漢字かな", max_size=30),
)


@given(st.lists(st.dictionaries(HEADINGS, CELLS, min_size=1, max_size=5), min_size=1, max_size=4), st.integers(80, 140))
def test_every_line_of_a_table_fits_and_headings_and_ids_are_whole(rows: list[dict], width: int) -> None:
    lines = terminal.table(rows, width)
    assert max(map(cell_len, lines)) <= width
    parts = " ".join(lines).split()
    for row in rows:
        for heading, value in row.items():
            assert set(heading.split()) <= set(parts) or value == ""
            if len(str(value)) == 32 and " " not in str(value) and "_" not in str(value):
                assert str(value) in parts
            if isinstance(value, int):
                assert f"{value:,}" in parts


@given(st.text("ab _/漢", max_size=200), st.integers(2, 40))
def test_wrapping_keeps_the_text_and_fits_the_width(text: str, width: int) -> None:
    lines = terminal.wrap(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_words_are_wrapped_at_spaces_and_underscores() -> None:
    assert terminal.wrap("held_out_scenes of a run", 10) == ["held_out_", "scenes of", "a run"]
    assert terminal.wrap("0.25 and -0.5", 5) == ["0.25", "and", "-0.5"]


def test_optional_columns_are_dropped_before_a_table_becomes_blocks() -> None:
    row = {"id": "0" * 40, "kind": "k" * 30, "other": "1" * 30}
    assert terminal.table([row], 80, optional=("kind",))[0].split() == ["id", "other"]
    assert terminal.table([row], 60)[0].split() == ["id", "0" * 40]


def test_control_characters_of_the_data_are_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({"text": "red \x1b[31m alert", "rows": [{"text": "\x07bell"}]})
    output = capsys.readouterr().out
    assert "\x1b" not in output and "\x07" not in output and "alert" in output
