"""Markdown to text and links to media, in reading order.

`ingest/readers/page_files.py` makes interleaved documents of the result. Understood are
`![alt](path "title"){alt='...'}`, reference images, `<img>`, `<video>` with `<source>`, and ordinary links to videos.
Code is left alone. Every pattern excludes its own opening character, so that the time is linear in the length of any
text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import normpath
from urllib.parse import unquote, urlsplit

from manifests.errors import RecordError
from pipelines.ingest.formats.suffixes import VIDEOS

_ALT = r"\[(?P<alt>(?:[^\[\]]|\[[^\[\]]{0,500}\]){0,2000})\]"
_TARGET = (
    r"\(\s*(?:<(?P<angle>[^<>\n]{0,2000})>|(?P<target>[^\s()<>]{1,2000}))"
    r"(?:\s+(?:\"[^\"]{0,500}\"|'[^']{0,500}'))?\s*\)"
)
_IMAGE = re.compile(
    "!" + _ALT + "(?:" + _TARGET + r"|\[(?P<label>[^\[\]]{0,200})\])?(?:\{(?P<attributes>[^{}]{0,2000})\})?"
)
_VIDEO_LINK = re.compile(r"(?<!!)" + _ALT + _TARGET)
_LINKED = re.compile(r"\[\s*(!\[[^\[\]]{0,2000}\]\([^()]{1,2000}\))\s*\]\([^\s()<>]{0,2000}\)")
"""Image inside a link; the link is dropped."""
_TAG = re.compile(r"<(?P<tag>img|video|source)\b(?P<inside>[^<>]{0,4000})>|</video\s*>", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    r"\b(?P<name>src|alt)\s*=\s*(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s\"'>]+))"
)
_DEFINITION = re.compile(
    r"^ {0,3}\[(?P<label>[^\[\]\n]{1,200})\]:[ \t]*<?(?P<target>[^\s<>]{1,2000})>?.*$", re.MULTILINE
)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_CODE = re.compile(r"(?<!`)(`++)[^`\n]{1,2000}\1(?!`)")
_COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)
_FRONT = re.compile(r"\A---\n(?P<front>(?:(?!---\n).*\n){0,200})---\n")


@dataclass(frozen=True)
class MediaLink:
    """Link to an image or video, at its place in a text."""

    target: str
    alt: str
    """Alternative text. It stays in the document, with or without the medium."""


@dataclass(frozen=True)
class InterleavedText:
    """Text and links to media in reading order."""

    title: str | None
    """Title from the front matter, which is no part of the text."""
    pieces: tuple[str | MediaLink, ...]

    @property
    def links(self) -> tuple[MediaLink, ...]:
        return tuple(piece for piece in self.pieces if isinstance(piece, MediaLink))


def read_markdown(text: str) -> InterleavedText:
    """Split a Markdown text at its links to media."""
    title = None
    if front := _FRONT.match(text):
        match = re.search(r"^title:[ \t]*(.{1,300})$", front["front"], re.MULTILINE)
        title = match[1].strip().strip("\"'") if match else None
        text = text[front.end() :]
    shown, code = _replace_code(text)
    shown = _LINKED.sub(r"\1", _COMMENT.sub("", shown))
    definitions = {match["label"].casefold(): match["target"] for match in _DEFINITION.finditer(shown)}
    pieces: list[str | MediaLink] = []
    at = 0
    for start, stop, link in _links(shown, definitions):
        if start < at:
            continue
        pieces += [_restore_code(shown[at:start], code), link]
        at = stop
    pieces.append(_restore_code(shown[at:], code))
    return InterleavedText(title, tuple(piece for piece in pieces if piece))


def resolve_target(target: str, document: str) -> str:
    """Return the path of a link's target, relative to the ingested folder.

    Args:
        target: as the document gives it.
        document: path of the document, relative to the ingested folder.
    Raises:
        RecordError: `remote_media` for another scheme or host, `outside_folder` for a path that leaves the folder.
    """
    try:
        parts = urlsplit(target)
    except ValueError as error:
        raise RecordError("remote_media", f"{target[:200]!r}: {error}") from None
    if parts.scheme or parts.netloc:
        raise RecordError("remote_media", target[:200])
    path = unquote(parts.path)
    folder = document.rpartition("/")[0]
    joined = normpath(f"{folder}/{path}" if folder else path)
    if path.startswith("/") or joined == ".." or joined.startswith(("../", "/")) or "\0" in joined:
        raise RecordError("outside_folder", target[:200])
    return joined


LocatedLink = tuple[int, int, MediaLink]
"""(start, stop, link) in characters of the text."""


def _links(text: str, definitions: dict[str, str]) -> Iterator[LocatedLink]:
    yield from sorted([*_bracketed(text, definitions), *_tags(text)], key=lambda link: link[0])


def _bracketed(text: str, definitions: dict[str, str]) -> Iterator[LocatedLink]:
    """Images in Markdown's own form, and links to videos. `definitions` maps labels of references to targets."""
    for match in _IMAGE.finditer(text):
        target = match["angle"] or match["target"] or definitions.get((match["label"] or match["alt"]).casefold())
        if target is not None:
            alt = match["alt"].strip() or _attributes(match["attributes"] or "").get("alt", "")
            yield match.start(), match.end(), MediaLink(target, " ".join(alt.split()))
    for match in _VIDEO_LINK.finditer(text):
        target = match["angle"] or match["target"]
        if target.lower().endswith(VIDEOS):
            yield match.start(), match.end(), MediaLink(target, " ".join(match["alt"].split()))


def _tags(text: str) -> Iterator[LocatedLink]:
    """`<img>` and `<video>`. A video with several sources links to the first one; its whole element is replaced."""
    opened: tuple[int, int] | None = None
    video: MediaLink | None = None
    for match in _TAG.finditer(text):
        tag = (match["tag"] or "/video").lower()
        attributes = _attributes(match["inside"] or "")
        alt = " ".join(attributes.get("alt", "").split())
        link = MediaLink(attributes["src"], alt) if attributes.get("src") else None
        if tag == "img" and link:
            yield *match.span(), link
        elif tag == "video":
            if opened and video:
                yield *opened, video
            opened, video = match.span(), link
        elif tag == "source" and opened:
            video = video or link
        elif tag == "/video" and opened:
            if video:
                yield opened[0], match.end(), video
            opened, video = None, None
    if opened and video:
        yield *opened, video


def _attributes(inside: str) -> dict[str, str]:
    return {
        match["name"].lower(): html.unescape(match["double"] or match["single"] or match["bare"] or "")
        for match in _ATTRIBUTE.finditer(inside)
    }


_PLACEHOLDER = "\x00{}\x00"
"""Replaces a piece of code while links are searched. `decode_text` refuses texts with a NUL."""


def _replace_code(text: str) -> tuple[str, list[str]]:
    """(text with placeholders for code, the pieces of code)."""
    code: list[str] = []

    def replace(piece: str) -> str:
        code.append(piece)
        return _PLACEHOLDER.format(len(code) - 1)

    lines: list[str] = []
    fenced: list[str] = []
    mark = ""
    for line in text.splitlines(keepends=True):
        fence = _FENCE.match(line)
        if mark:
            fenced.append(line)
            if fence and fence[1].startswith(mark) and not line.strip().strip(mark[0]):
                lines.append(replace("".join(fenced)))
                fenced, mark = [], ""
        elif fence:
            fenced, mark = [line], fence[1]
        else:
            lines.append(_CODE.sub(lambda match: replace(match[0]), line))
    if fenced:
        lines.append(replace("".join(fenced)))
    return "".join(lines), code


def _restore_code(text: str, code: list[str]) -> str:
    return re.sub(r"\x00(\d+)\x00", lambda match: code[int(match[1])], text)
