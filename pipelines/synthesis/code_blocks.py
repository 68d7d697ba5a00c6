"""HTML or SVG code in a text: the text of a file, or blocks between fences in a model's answer.

`render` draws the code that `find_page` returns; the task `code` of `synthesize` checks its answers with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.synthesis.browser import PageLanguage

FENCE = re.compile(r"[ \t]{0,3}(`{3,})[ \t]*(\w*)")
PARTS = {"css": "style", "javascript": "script", "js": "script"}
"""Languages of blocks that belong to a page, and the HTML element that holds them."""
PROLOG = re.compile(
    r"(?:\s|<\?xml.*?\?>|<!--.*?-->|<!doctype\s+svg[^>\[]{0,1000}(?:\[[^\]]{0,10000}\]\s{0,9})?>)*",
    re.DOTALL | re.IGNORECASE,
)
SVG = re.compile(r"<svg[\s>]", re.IGNORECASE)
NAMESPACE = re.compile(r"""<svg\s[^>]{0,2000}?\bxmlns\s*=\s*["']http://www\.w3\.org/2000/svg["']""")
MARKUP = re.compile(r"<(?:!doctype\s+html|!--|[a-z][\w:-]*[\s/>])", re.IGNORECASE)


@dataclass(frozen=True)
class PageCode:
    code: str
    language: PageLanguage
    """`svg` for XML; a drawing without its namespace is drawn as a part of an HTML page."""


def find_page(text: str) -> PageCode | None:
    """Return the first page or drawing between fences; without fences, the text itself if it begins as one.

    Styles and scripts in blocks of their own are inserted into the page, so that the code is complete.
    """
    blocks = _fenced(text)
    if not blocks:
        return _page(text)
    first = next((page for name, code in blocks if name not in PARTS and (page := _page(code))), None)
    if first is None or first.language == "svg":
        return first
    parts = [f"<{PARTS[name]}>\n{code}</{PARTS[name]}>\n" for name, code in blocks if name in PARTS]
    return PageCode(_insert(first.code, parts), "html")


def _page(code: str) -> PageCode | None:
    """Return code that begins as HTML or SVG, else None."""
    code = code.strip().removeprefix("\ufeff") + "\n"
    prolog = PROLOG.match(code)
    assert prolog is not None  # the pattern also matches nothing
    if SVG.match(code, prolog.end()):
        return PageCode(code, "svg" if NAMESPACE.match(code, prolog.end()) else "html")
    return PageCode(code, "html") if MARKUP.match(code) else None


def _insert(code: str, parts: list[str]) -> str:
    """Insert styles at the end of the head and scripts at the end of the body, or at the start and end of the code."""
    for element, parent in (("style", "head"), ("script", "body")):
        inserted = "".join(part for part in parts if part.startswith(f"<{element}"))
        end = re.search(f"</{parent}\\s*>", code, re.IGNORECASE)
        at = end.start() if end else 0 if element == "style" else len(code)
        code = code[:at] + inserted + code[at:]
    return code


def _fenced(text: str) -> list[tuple[str, str]]:
    """Return (language, code) of each fenced block; the last one may lack its closing fence."""
    blocks: list[tuple[str, str]] = []
    fence, name, lines = "", "", list[str]()
    for line in text.splitlines(keepends=True):
        mark = FENCE.match(line)
        if not fence and mark:
            fence, name, lines = mark[1], mark[2].lower(), []
        elif fence and mark and line.strip() == mark[1] and len(mark[1]) >= len(fence):
            blocks.append((name, "".join(lines)))
            fence = ""
        elif fence:
            lines.append(line)
    return blocks + ([(name, "".join(lines))] if fence else [])
