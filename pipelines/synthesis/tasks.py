"""The tasks of a `synthesize` node: `rephrase`, `translate`, `caption`, `code`.

A task names the variants that it makes of a document and writes them one at a time. It asks the model through an
`AskModel`, which `synthesis/synthesize.py` supplies with the model's name and a cache of answers. A variant is a
function of the document, the parameters and the answers.

`rephrase` follows the Kimi K2 report, section 2.2, on knowledge and mathematics: prompts of many styles; long texts
chunk by chunk, with the end of the previous chunk's text as context; a check of the meaning against the source.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Literal, Protocol

from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import Document, Json, Media, MediaKind, Part, Text, digest
from pipelines.synthesis import prompts
from pipelines.synthesis.code_blocks import find_page
from stores.endpoint import Answer, image_part, usable_text

ChatMessage = dict[str, Json]
"""`role` and `content`, as in POST /v1/chat/completions."""


class AskModel(Protocol):
    def __call__(self, messages: Sequence[ChatMessage], step: str, picture: Media | None = None) -> Answer:
        """Send one request; `step` names it among the requests of one variant and gives it a seed of its own."""


@dataclass(frozen=True)
class Variant:
    """One of the documents that a task makes of a document."""

    ordinal: int
    """Number among all variants that are possible; part of the id."""
    name: str
    """Name of the prompt, or of the task where it has only one."""
    medium: int | None = None
    """Index of the picture that is shown, in `document.media`."""


@dataclass(frozen=True)
class Written:
    """Content of a synthetic document."""

    parts: tuple[Part, ...]
    domain: str
    notes: dict[str, Json] = field(default_factory=dict)


class SynthesisTask(Protocol):
    kind: str

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        """Return an upper bound of requests for a document of this length and with these media, as the index has it."""

    def passed_over(self, document: Document) -> str | None:
        """Return why the task makes nothing of the document, as a code that is counted; None if it does."""

    def variants(self, document: Document, seed: int) -> list[Variant]: ...

    def write(self, document: Document, variant: Variant, ask: AskModel) -> Written:
        """Write one variant.

        Raises:
            RecordError: an answer is not good enough.
        """


PAUSES = tuple(re.compile(mark) for mark in (r"\n\s*\n", r"\n", r"[.!?]\s+|[。！？]", r"\s"))
"""Places where a text may be cut, best first: paragraph, line, sentence, word."""
FORMULA = re.compile(
    r"\$\$.{1,2000}?\$\$|\\\[.{1,2000}?\\\]|\\\(.{1,2000}?\\\)|\\begin\{(\w{1,20}\*?)\}.{0,2000}?\\end\{\1\}"
    r"|\$(?=\S)[^$\n]{0,2000}?(?<=\S)\$(?!\d)",
    re.DOTALL,
)
"""A formula as TeX and Markdown write it; `$5 and $10` is none. Its length is bounded, because a missing end would be
searched from every beginning."""


def chunk_count(characters: int, most: int) -> int:
    """Return how many chunks of about `most` characters a text has. Needs no text, so that a budget can be planned."""
    return -(-characters // most)


def chunks(text: str, count: int) -> list[str]:
    """Cut a text into `count` chunks of about equal length, at pauses and never inside a formula; joined, they equal
    the text."""
    even = len(text) / max(count, 1)
    spans = [match.span() for match in FORMULA.finditer(text)] if count > 1 else []
    cuts = [0, *(_cut(text, round(even * i), int(even / 4), spans) for i in range(1, count)), len(text)]
    return [text[start:stop] for start, stop in pairwise(cuts)] if count else []


def _cut(text: str, at: int, reach: int, spans: list[tuple[int, int]]) -> int:
    """Return the best place to cut within `reach` characters of `at`; `at` itself if there is no pause."""
    for pause in PAUSES:
        places = [match.end() for match in pause.finditer(text, at - reach, at + reach)]
        places = [place for place in places if not _inside(place, spans)]
        if places:
            return min(places, key=lambda place: (abs(place - at), place))
    return at


def _inside(place: int, spans: list[tuple[int, int]]) -> bool:
    """Return whether a place is inside one of the spans, which ascend and don't overlap."""
    before = bisect_left(spans, place, key=itemgetter(0)) - 1
    return before >= 0 and place < spans[before][1]


def formulas(text: str) -> list[str]:
    """Return the formulas of a text without blanks, which have no meaning in them."""
    return ["".join(match.group().split()) for match in FORMULA.finditer(text)]


@schema
class _TextTask:
    """Base of `rephrase` and `translate`: rewrites a text chunk by chunk and checks the meaning."""

    chunk_characters: int = 2000
    """Approximate length of a chunk; longer texts are cut."""
    context_characters: int = 500
    """Length of the end of the previous chunk's text that is shown with the next chunk."""
    faithful: float | None = 0.7
    """Minimum share of the meaning that is kept, 0 to 1, as the model judges after each chunk. Below it the document is
    quarantined. Null: the model is not asked."""
    longest: float = 4.0
    """Maximum length of an answer as a multiple of its chunk's; a longer answer quarantines the document."""

    def __post_init__(self) -> None:
        if self.chunk_characters < 16:
            raise ValueError(f"chunk_characters is {self.chunk_characters}, expected at least 16")
        if self.context_characters < 0:
            raise ValueError(f"context_characters is {self.context_characters}, expected at least 0")
        if self.faithful is not None and not 0 <= self.faithful <= 1:
            raise ValueError(f"faithful is {self.faithful}, expected 0 to 1, or null")
        if not self.longest > 0:
            raise ValueError(f"longest is {self.longest}, expected more than 0")

    def _requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        """Return the requests for one variant."""
        return 0 if media else chunk_count(characters, self.chunk_characters) * (1 if self.faithful is None else 2)

    def passed_over(self, document: Document) -> str | None:
        return text_missing(document)

    def _text(self, document: Document, system: str, ask: AskModel) -> tuple[str, dict[str, Json]]:
        """Rewrite the document's text; return it and the notes about its fidelity."""
        written: list[str] = []
        fidelity: list[float] = []
        # Counted as the index counts, without the lines between parts: no more requests than were reserved.
        characters = sum(len(part.text) for part in document.parts if isinstance(part, Text))
        count = chunk_count(characters, self.chunk_characters)
        for number, chunk in enumerate(chunks(document.text, count)):
            if not chunk.strip():
                continue
            last = written[-1][-self.context_characters :] if written and self.context_characters else ""
            form = prompts.GOES_ON if last else prompts.BEGINS
            messages = [_message("system", system), _message("user", form.format(written=last, text=chunk.strip()))]
            text = usable_text(ask(messages, f"chunk {number}"), most=int(len(chunk) * self.longest))
            written.append(text)
            if self.faithful is not None:
                fidelity.append(self._fidelity(chunk, text, ask, f"fidelity {number}"))
        return "\n\n".join(written), {"fidelity": min(fidelity)} if fidelity else {}

    def _fidelity(self, source: str, made: str, ask: AskModel, step: str) -> float:
        """Ask the model which share of the meaning `made` keeps, 0 to 1.

        Raises:
            RecordError: `unfaithful` below the minimum, `no_verdict` if the answer is no number.
        """
        question = prompts.FIDELITY.format(source=source.strip(), made=made)
        number = re.search(r"\d+", usable_text(ask([_message("user", question)], step)))
        value = int(number.group()) / 100 if number and len(number.group()) < 4 else 2.0
        if value > 1:
            raise RecordError("no_verdict", "the answer about its fidelity is no number from 0 to 100")
        assert self.faithful is not None
        if value < self.faithful:
            raise RecordError("unfaithful", f"{value:.2f} of {self.faithful:.2f}")
        return value


@schema
class RephraseTask(_TextTask):
    """Texts in other words, each in a style that the document's id chooses. The domain `math` has styles of its own."""

    kind: Literal["rephrase"]
    per_document: int = 1
    """Variants of one document, each in another style."""
    styles: tuple[str, ...] = ()
    """Names of `prompts.STYLES` and `MATH_STYLES` to choose from; empty: those of the document's domain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        every = prompts.STYLES | prompts.MATH_STYLES
        unknown = set(self.styles) - set(every)
        if unknown:
            raise ValueError(f"unknown styles: {', '.join(sorted(unknown))}; expected some of {', '.join(every)}")
        fewest = len(set(self.styles)) or min(len(prompts.STYLES), len(prompts.MATH_STYLES))
        if not 1 <= self.per_document <= fewest:
            raise ValueError(f"per_document is {self.per_document}, expected 1 to the number of styles, {fewest}")

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        return self.per_document * self._requests(characters, media)

    def variants(self, document: Document, seed: int) -> list[Variant]:
        names = self.styles or tuple(prompts.MATH_STYLES if document.domain == "math" else prompts.STYLES)
        return _first_by_hash("style", names, document, seed, self.per_document)

    def write(self, document: Document, variant: Variant, ask: AskModel) -> Written:
        style = (prompts.STYLES | prompts.MATH_STYLES)[variant.name]
        text, notes = self._text(document, prompts.REPHRASE.format(style=style), ask)
        return Written((Text(text),), document.domain, notes)


@schema
class TranslateTask(_TextTask):
    """Texts in another language. A formula that the answer changes or omits quarantines the document."""

    kind: Literal["translate"]
    into: str
    """Name of the language, in English."""

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        return self._requests(characters, media)

    def variants(self, document: Document, seed: int) -> list[Variant]:
        return [Variant(0, "translate")]

    def write(self, document: Document, variant: Variant, ask: AskModel) -> Written:
        text, notes = self._text(document, prompts.TRANSLATE.format(language=self.into), ask)
        wanted = Counter(formulas(document.text))
        lost = wanted - Counter(formulas(text))
        if lost:
            raise RecordError("formula_lost", f"{lost.total()} of {wanted.total()}")
        return Written((Text(text),), document.domain, notes | {"language": self.into})


@schema
class CaptionTask:
    """A caption for each picture, as a document of the domain `caption`: the picture, then the text."""

    kind: Literal["caption"]
    per_document: int = 4
    """Number of pictures of one document that get a caption, from its beginning."""
    styles: tuple[str, ...] = tuple(prompts.CAPTIONS)
    """Names of `prompts.CAPTIONS` to choose from; a hash of the picture's bytes chooses."""

    def __post_init__(self) -> None:
        unknown = set(self.styles) - set(prompts.CAPTIONS)
        if unknown or not self.styles or self.per_document < 1:
            raise ValueError(f"styles are some of {', '.join(prompts.CAPTIONS)}; per_document is at least 1")

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        return min(media.count("image"), self.per_document)

    def passed_over(self, document: Document) -> str | None:
        return None if any(medium.kind == "image" for medium in document.media) else "no_image"

    def variants(self, document: Document, seed: int) -> list[Variant]:
        images = [i for i, medium in enumerate(document.media) if medium.kind == "image"][: self.per_document]
        return [Variant(i, self._style(document.media[i], seed), i) for i in images]

    def _style(self, medium: Media, seed: int) -> str:
        return min(self.styles, key=lambda name: digest("caption", str(seed), medium.digest, name))

    def write(self, document: Document, variant: Variant, ask: AskModel) -> Written:
        assert variant.medium is not None
        medium = document.media[variant.medium]
        content = [image_part(medium), {"type": "text", "text": prompts.CAPTIONS[variant.name]}]
        text = usable_text(ask([{"role": "user", "content": content}], "caption", medium))
        return Written((medium, Text(text)), "caption")


@schema
class CodeTask:
    """HTML or SVG for a page or drawing about a text, for the node `render` to draw."""

    kind: Literal["code"]
    per_document: int = 1
    """Variants of one document, each in another style."""
    styles: tuple[str, ...] = tuple(prompts.PAGES)
    """Names of `prompts.PAGES` to choose from; a hash of the document's id chooses."""
    characters: int = 3000
    """Length of the text that the model sees, from its beginning."""

    def __post_init__(self) -> None:
        unknown = set(self.styles) - set(prompts.PAGES)
        if unknown or not 1 <= self.per_document <= len(set(self.styles)) or self.characters < 1:
            raise ValueError(f"styles are some of {', '.join(prompts.PAGES)}; per_document is 1 to their number")

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        return 0 if media else self.per_document

    def passed_over(self, document: Document) -> str | None:
        return text_missing(document)

    def variants(self, document: Document, seed: int) -> list[Variant]:
        return _first_by_hash("page", self.styles, document, seed, self.per_document)

    def write(self, document: Document, variant: Variant, ask: AskModel) -> Written:
        prompt = prompts.CODE.format(what=prompts.PAGES[variant.name], text=document.text[: self.characters].strip())
        text = usable_text(ask([_message("user", prompt)], "code"))
        if find_page(text) is None:
            raise RecordError("no_page", "the answer holds neither HTML nor SVG")
        return Written((Text(text),), "code")


TASKS: dict[str, type] = {
    "rephrase": RephraseTask,
    "translate": TranslateTask,
    "caption": CaptionTask,
    "code": CodeTask,
}
"""`kind:` of a task in a manifest -> its class."""


def text_missing(document: Document) -> str | None:
    """Return why a document has no plain text to work on, as a code; None if it has one."""
    if document.media:
        return "has_media"
    if "messages" in document.notes:
        return "conversation"
    return None if document.text.strip() else "no_text"


def _first_by_hash(salt: str, names: Sequence[str], document: Document, seed: int, count: int) -> list[Variant]:
    """Return a variant for each of the first `count` names in the order of a hash of name, document and seed."""
    order = sorted(set(names), key=lambda name: digest(salt, str(seed), document.id, name))
    return [Variant(ordinal, name) for ordinal, name in enumerate(order[:count])]


def _message(role: str, text: str) -> ChatMessage:
    return {"role": role, "content": text}
