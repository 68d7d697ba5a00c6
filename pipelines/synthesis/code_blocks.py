"""The code of a page or a drawing in a text: a file's, or what a model answered between fences."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.synthesis.browser import Language

FENCE = re.compile(r"[ \t]{0,3}(`{3,})[ \t]*(\w*)")
BESIDE = {"css": "style", "javascript": "script", "js": "script"}
"""What may stand in blocks of its own beside a page, and the element of the page that holds it."""
PROLOG = re.compile(
    r"(?:\s|<\?xml.*?\?>|<!--.*?-->|<!doctype\s+svg[^>\[]{0,1000}(?:\[[^\]]{0,10000}\]\s{0,9})?>)*",
    re.DOTALL | re.IGNORECASE,
)
SVG = re.compile(r"<svg[\s>]", re.IGNORECASE)
NAMESPACE = re.compile(r"""<svg\s[^>]{0,2000}?\bxmlns\s*=\s*["']http://www\.w3\.org/2000/svg["']""")
MARKUP = re.compile(r"<(?:!doctype\s+html|!--|[a-z][\w:-]*[\s/>])", re.IGNORECASE)


@dataclass(frozen=True)
class Page:
    code: str
    language: Language
    """`svg` for XML; a drawing without its namespace is a part of a page."""


def page_in(text: str) -> Page | None:
    """The first page or drawing between fences; without fences, the text if it begins as one does.

    Styles and scripts in blocks of their own are put into the page, so that what is drawn is all in one text.
    """
    blocks = _fenced(text)
    if not blocks:
        return _page(text)
    found = next((page for name, code in blocks if name not in BESIDE and (page := _page(code))), None)
    if found is None or found.language == "svg":
        return found
    beside = [f"<{BESIDE[name]}>\n{code}</{BESIDE[name]}>\n" for name, code in blocks if name in BESIDE]
    return Page(_with(found.code, beside), "html")


def _page(code: str) -> Page | None:
    code = code.strip().removeprefix("\ufeff") + "\n"
    begin = PROLOG.match(code)
    assert begin is not None  # it matches nothing, too
    if SVG.match(code, begin.end()):
        return Page(code, "svg" if NAMESPACE.match(code, begin.end()) else "html")
    return Page(code, "html") if MARKUP.match(code) else None


def _with(code: str, beside: list[str]) -> str:
    """Styles at the end of the head, scripts at the end of the body, where there are any."""
    for element, place in (("style", "head"), ("script", "body")):
        told = "".join(one for one in beside if one.startswith(f"<{element}"))
        end = re.search(f"</{place}\\s*>", code, re.IGNORECASE)
        at = end.start() if end else 0 if element == "style" else len(code)
        code = code[:at] + told + code[at:]
    return code


def _fenced(text: str) -> list[tuple[str, str]]:
    """(name, what stands in it) of each block that is closed, or that the text ends in."""
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
