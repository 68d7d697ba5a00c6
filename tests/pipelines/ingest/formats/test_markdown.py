"""Markdown: text and links to media in reading order, and the paths of links."""

from __future__ import annotations

import pytest

from manifests.errors import RecordError
from pipelines.ingest.formats import markdown


def test_markdown_gives_text_and_media_in_reading_order() -> None:
    page = markdown.read_markdown(
        "---\ntitle: 'Seeing'\n---\n# Head\n"
        "![one](fig/a%20b.png){width=50% alt='the alt\nin two lines'} and `![code](no.png)`\n"
        "```\n![fenced](no.png)\n```\n"
        "<!-- ![hidden](no.png) -->"
        '<img class="x" alt="two &amp; more" src="fig/c.jpg"> [![badge](badge.png)](https://x.org) '
        "<video controls><source src='clip.webm'><source src='clip.mp4'></video> [see it](clip.mov) [no](page.html)\n"
        "![three][Ref]\n\n[ref]: <d.png> 'title'\n"
    )
    assert page.title == "Seeing"
    assert [(link.target, link.alt) for link in page.links] == [
        ("fig/a%20b.png", "one"),
        ("fig/c.jpg", "two & more"),
        ("badge.png", "badge"),
        ("clip.webm", ""),
        ("clip.mov", "see it"),
        ("d.png", "three"),
    ]
    words = "".join(piece for piece in page.pieces if isinstance(piece, str))
    assert "`![code](no.png)`" in words and "![fenced](no.png)" in words and "hidden" not in words
    assert "[no](page.html)" in words and words.startswith("# Head")


def test_an_alt_attribute_replaces_an_empty_alternative_text() -> None:
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
