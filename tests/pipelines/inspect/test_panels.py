"""Panels are well-formed, self-contained, and drawn to scale."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manifests.geometry import PATCH_PX, fit
from pipelines.inspect import panels
from pipelines.inspect.panels import BarSegment, ChartLine

SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)
numbers = st.floats(-1e6, 1e6, allow_nan=False)


def drawing(text: str) -> ElementTree.Element:
    found = SVG.search(text)
    assert found is not None
    return ElementTree.fromstring(found.group().replace("&nbsp;", " "))


@given(st.lists(numbers, min_size=1, max_size=1500))
def test_a_line_of_any_length_stays_inside_its_axes(values: list[float]) -> None:
    root = drawing(panels.line_chart([ChartLine("a", range(len(values)), values)], "x", "y", width=960, height=280))
    line = root.find("polyline")
    assert line is not None
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert 1 <= len(points) <= panels.MAX_POINTS
    assert all(58 <= x <= 960 and 0 <= y <= 280 for x, y in points)


@given(st.lists(st.tuples(st.integers(1, 200), st.booleans()), min_size=1, max_size=20))
def test_a_pack_bar_is_as_long_as_its_segments(lengths: list[tuple[int, bool]]) -> None:
    row, at = [], 0
    for length, has_slots in lengths:
        row.append(BarSegment("s", "text", at, length, [(at, 1)] if has_slots else []))
        at += length
    root = drawing(panels.pack_rows([row], 4096, {"text": "--c0"}, width=4096))
    rects = root.findall("rect")
    assert len(rects) == 1 + len(row) + sum(slots for _, slots in lengths)
    ends = [float(r.attrib["x"]) + float(r.attrib["width"]) for r in rects[1:]]
    assert max(ends) <= at and max(ends) >= at - 1


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100))
def test_a_picture_shows_one_line_between_every_two_patches(width: int, height: int, limit: int) -> None:
    place = fit(width, height, limit)
    rgb = np.zeros((place.height_px, place.width_px, 3), np.uint8)
    root = drawing(panels.picture(rgb, place, "<caption>"))
    assert root.attrib["viewBox"] == f"0 0 {place.cols * PATCH_PX} {place.rows * PATCH_PX}"
    assert len(root.findall("g/path")) == place.cols - 1 + place.rows - 1


def test_an_interval_that_contains_zero_has_no_color() -> None:
    root = drawing(panels.intervals([("sees", 1.0, 0.5, 1.5), ("blind", 0.1, -0.1, 0.3)], "nats"))
    assert [c.attrib["fill"] for c in root.findall("circle")] == ["var(--c2)", "var(--dim)"]


def test_text_of_the_data_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    shown = panels.page(
        evil, evil, [panels.section(evil, evil, panels.table([evil], [(evil,)]), panels.tiles({evil: evil}))]
    )
    shown += panels.pack_rows([[BarSegment(evil, "g", 0, 1)]], 1, {"g": "--c0"}) + panels.intervals(
        [(evil, 1, 0, 2)], evil
    )
    shown += panels.picture(np.zeros((14, 14, 3), np.uint8), fit(14, 14, 4), evil)
    assert "<script" not in shown


def test_a_page_links_to_nothing_outside() -> None:
    page = panels.page("t", "l", [panels.picture(np.zeros((14, 14, 3), np.uint8), fit(14, 14, 4), "c")])
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>\s]*)""", page)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "@import" not in page and "url(" not in page
