"""What a model is asked to make of a document: `rephrase`, `translate`, `caption`, `code`.

A task names the variants of a document that it wants, and writes one at a time by asking: `node.py` gives it `Asking`,
which knows the model and keeps the answers. Everything is a function of the document, the parameters and the answers.

`rephrase` follows what the Kimi K2 report (section 2.2) says of knowledge and mathematics: prompts of many styles,
long texts chunk by chunk with what was written last as context, and a comparison of the meaning with the source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import Document, Json, Media, MediaKind, Part, Text, digest
from pipelines.synthesis import prompts
from pipelines.synthesis.chunks import chunks, count, formulas
from pipelines.synthesis.code_blocks import page_in
from stores.endpoint import Answer, good, picture

Message = dict[str, Json]


class Asks(Protocol):
    def __call__(self, messages: Sequence[Message], step: str, picture: Media | None = None) -> Answer:
        """`step` names the request among those of one variant: each has a seed of its own."""


@dataclass(frozen=True)
class Variant:
    ordinal: int
    """Among all that could be made of the document; its id depends on it."""
    name: str
    """Of the prompt."""
    medium: int | None = None
    """Which one is shown."""


@dataclass(frozen=True)
class Written:
    parts: tuple[Part, ...]
    domain: str
    notes: dict[str, Json] = field(default_factory=dict)


class Task(Protocol):
    kind: str

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        """At most, for a document of which the index says this."""

    def passed_over(self, document: Document) -> str | None:
        """Why there is nothing to make of it, if so: a code that is counted."""

    def variants(self, document: Document, seed: int) -> list[Variant]: ...

    def write(self, document: Document, variant: Variant, ask: Asks) -> Written:
        """Raises RecordError for an answer that is not good enough."""


@schema
class _OfText:
    """What `rephrase` and `translate` have in common."""

    chunk_characters: int = 2000
    """Longer texts are cut into chunks of about so many."""
    context_characters: int = 500
    """Of what was written last, shown beside the next chunk."""
    faithful: float | None = 0.7
    """After each chunk the model is asked how much of its meaning is kept, 0 to 1: below this the whole is set aside.
    Null asks nothing."""
    longest: float = 4.0
    """An answer of more times the characters of its chunk is set aside."""

    def __post_init__(self) -> None:
        if self.chunk_characters < 16 or self.context_characters < 0:
            raise ValueError("chunk_characters is at least 16, context_characters at least 0")
        if self.faithful is not None and not 0 <= self.faithful <= 1 or not self.longest > 0:
            raise ValueError("faithful lies in [0, 1], longest above 0")

    def _requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        """Of one variant."""
        return 0 if media else count(characters, self.chunk_characters) * (1 if self.faithful is None else 2)

    def passed_over(self, document: Document) -> str | None:
        return text_missing(document)

    def _text(self, document: Document, system: str, ask: Asks) -> tuple[str, dict[str, Json]]:
        """Chunk by chunk, each after a look at what was written last."""
        written: list[str] = []
        fidelity: list[float] = []
        # Counted as the index counts, without the lines between parts: no more requests than were reserved.
        characters = sum(len(part.text) for part in document.parts if isinstance(part, Text))
        pieces = count(characters, self.chunk_characters)
        for number, chunk in enumerate(chunks(document.text, pieces)):
            if not chunk.strip():
                continue
            last = written[-1][-self.context_characters :] if written and self.context_characters else ""
            form = prompts.GOES_ON if last else prompts.BEGINS
            messages = [_said("system", system), _said("user", form.format(written=last, text=chunk.strip()))]
            text = good(ask(messages, f"chunk {number}"), most=int(len(chunk) * self.longest))
            written.append(text)
            if self.faithful is not None:
                fidelity.append(self._fidelity(chunk, text, ask, f"fidelity {number}"))
        return "\n\n".join(written), {"fidelity": min(fidelity)} if fidelity else {}

    def _fidelity(self, source: str, made: str, ask: Asks, step: str) -> float:
        question = prompts.FIDELITY.format(source=source.strip(), made=made)
        number = re.search(r"\d+", good(ask([_said("user", question)], step)))
        value = int(number.group()) / 100 if number and len(number.group()) < 4 else 2.0
        if value > 1:
            raise RecordError("no_verdict", "the answer about its fidelity is no number from 0 to 100")
        assert self.faithful is not None
        if value < self.faithful:
            raise RecordError("unfaithful", f"{value:.2f} of {self.faithful:.2f}")
        return value


@schema
class Rephrase(_OfText):
    """Texts said anew, each in a style that its id chooses. Documents of the domain `math` get styles of their own."""

    kind: Literal["rephrase"]
    per_document: int = 1
    """Rephrasings of one document, each of another style."""
    styles: tuple[str, ...] = ()
    """Names of `prompts.STYLES` and `MATH_STYLES` to choose from; none: those of its domain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = prompts.STYLES | prompts.MATH_STYLES
        unknown = set(self.styles) - set(known)
        if unknown:
            raise ValueError(f"no styles: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        fewest = len(set(self.styles)) or min(len(prompts.STYLES), len(prompts.MATH_STYLES))
        if not 1 <= self.per_document <= fewest:
            raise ValueError(f"per_document is {self.per_document}, expected 1 to the number of styles, {fewest}")

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        return self.per_document * self._requests(characters, media)

    def variants(self, document: Document, seed: int) -> list[Variant]:
        names = self.styles or tuple(prompts.MATH_STYLES if document.domain == "math" else prompts.STYLES)
        order = sorted(set(names), key=lambda name: digest("style", str(seed), document.id, name))
        return [Variant(ordinal, name) for ordinal, name in enumerate(order[: self.per_document])]

    def write(self, document: Document, variant: Variant, ask: Asks) -> Written:
        style = (prompts.STYLES | prompts.MATH_STYLES)[variant.name]
        text, notes = self._text(document, prompts.REPHRASE.format(style=style), ask)
        return Written((Text(text),), document.domain, notes)


@schema
class Translate(_OfText):
    """Texts in another language. A formula that does not come back as it was sets the whole aside."""

    kind: Literal["translate"]
    into: str
    """The language, in English words."""

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        return self._requests(characters, media)

    def variants(self, document: Document, seed: int) -> list[Variant]:
        return [Variant(0, "translate")]

    def write(self, document: Document, variant: Variant, ask: Asks) -> Written:
        text, notes = self._text(document, prompts.TRANSLATE.format(language=self.into), ask)
        wanted = Counter(formulas(document.text))
        lost = wanted - Counter(formulas(text))
        if lost:
            raise RecordError("formula_lost", f"{lost.total()} of {wanted.total()}")
        return Written((Text(text),), document.domain, notes | {"language": self.into})


@schema
class Caption:
    """A caption for each picture, as a document of the domain `caption` of its own: the picture, then the text."""

    kind: Literal["caption"]
    per_document: int = 4
    """The first pictures of a document that get one."""
    styles: tuple[str, ...] = tuple(prompts.CAPTIONS)
    """Names of `prompts.CAPTIONS`; which a picture gets its bytes choose."""

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

    def write(self, document: Document, variant: Variant, ask: Asks) -> Written:
        assert variant.medium is not None
        medium = document.media[variant.medium]
        content = [picture(medium), {"type": "text", "text": prompts.CAPTIONS[variant.name]}]
        text = good(ask([{"role": "user", "content": content}], "caption", medium))
        return Written((medium, Text(text)), "caption")


@schema
class Code:
    """The code of a page or a drawing that a text suggests, for `render` to draw."""

    kind: Literal["code"]
    per_document: int = 1
    """Pieces of code for one document, each of another style."""
    styles: tuple[str, ...] = tuple(prompts.PAGES)
    """Names of `prompts.PAGES`; which a document gets its id chooses."""
    characters: int = 3000
    """Of the text, from its beginning, that are shown."""

    def __post_init__(self) -> None:
        unknown = set(self.styles) - set(prompts.PAGES)
        if unknown or not 1 <= self.per_document <= len(set(self.styles)) or self.characters < 1:
            raise ValueError(f"styles are some of {', '.join(prompts.PAGES)}; per_document is 1 to their number")

    def requests(self, characters: int, media: Sequence[MediaKind]) -> int:
        return 0 if media else self.per_document

    def passed_over(self, document: Document) -> str | None:
        return text_missing(document)

    def variants(self, document: Document, seed: int) -> list[Variant]:
        order = sorted(set(self.styles), key=lambda name: digest("page", str(seed), document.id, name))
        return [Variant(ordinal, name) for ordinal, name in enumerate(order[: self.per_document])]

    def write(self, document: Document, variant: Variant, ask: Asks) -> Written:
        asked = prompts.CODE.format(what=prompts.PAGES[variant.name], text=document.text[: self.characters].strip())
        text = good(ask([_said("user", asked)], "code"))
        if page_in(text) is None:
            raise RecordError("no_page", "the answer holds neither HTML nor SVG")
        return Written((Text(text),), "code")


TASKS: dict[str, type] = {"rephrase": Rephrase, "translate": Translate, "caption": Caption, "code": Code}


def text_missing(document: Document) -> str | None:
    """Why there is no plain text to work on, if so."""
    if document.media:
        return "has_media"
    if "messages" in document.notes:
        return "conversation"
    return None if document.text.strip() else "no_text"


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": text}
