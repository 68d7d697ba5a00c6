"""Filters for what stands beside images and videos: captions that say too little, too much, or what everybody says.

They look at documents that have media. Sources: LAION-400M (Schuhmann et al. 2021) drops captions of fewer than 5
characters; the patterns and the other limits are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from manifests.load import schema
from manifests.records import Document
from pipelines.filters.op import Limit, Measured

BOILERPLATE = (
    r"\b(?:img|dsc|dscn|dscf|pict|image|photo|screenshot)[-_ ]?\d{1,8}\b",
    r"\b[\w-]+\.(?:jpe?g|png|gif|webp|avif|bmp|tiff?|svg)\b",
    r"\b(?:untitled|no description available|image may contain|no caption|placeholder|thumbnail|default image)\b",
    r"\b(?:click|tap) (?:here )?(?:to|for) (?:enlarge|zoom|view|see|a larger)\b[^.\n]*",
    r"\b(?:stock (?:photo|image|vector)s?|royalty[- ]free|getty images|shutterstock|istock|alamy|dreamstime)\b",
    r"\b(?:all rights reserved|photo (?:by|credit|courtesy)|image (?:credit|source|courtesy))[^.\n]*",
    r"(?:\bcopyright (?:©|by|\d{4})|©)[^.\n]*",
    r"\b(?:buy now|add to cart|free shipping|share this|follow us|subscribe|sign up|log ?in)\b",
    r"https?://\S+",
)
"""Regular expressions, without case, of what says nothing about a picture."""

_BOILERPLATE = re.compile("|".join(BOILERPLATE), re.IGNORECASE)


@schema
class CaptionLength(Measured):
    """The text beside media has too few or too many characters, white space not counted."""

    LIMITS = (
        Limit("characters", "below", "min_characters", "caption_too_short"),
        Limit("characters", "above", "max_characters", "caption_too_long"),
    )
    kind: Literal["caption_length"]
    min_characters: int = 5
    max_characters: int = 2000
    domains: tuple[str, ...] = ("caption",)

    def measure(self, document: Document) -> Mapping[str, float]:
        return {"characters": sum(map(len, document.text.split()))} if document.media else {}


@schema
class BoilerplateCaption(Measured):
    """Most of the text beside media is file names, credits and offers, or words that it said before."""

    LIMITS = (
        Limit("boilerplate", "above", "max_boilerplate", "boilerplate_caption"),
        Limit("repeated", "above", "max_repeated", "repeated_caption"),
    )
    kind: Literal["boilerplate_caption"]
    max_boilerplate: float = 0.5
    """Share of the characters that the patterns cover, white space not counted."""
    max_repeated: float = 0.6
    """Share of the words that stood in the caption before. Texts of fewer than 8 words are not measured."""
    domains: tuple[str, ...] = ("caption",)

    def measure(self, document: Document) -> Mapping[str, float]:
        text = document.text
        words = text.casefold().split()
        if not document.media or not words:
            return {}
        covered = sum(len("".join(found.group().split())) for found in _BOILERPLATE.finditer(text))
        scores = {"boilerplate": covered / sum(map(len, text.split()))}
        return scores | ({"repeated": 1 - len(set(words)) / len(words)} if len(words) >= 8 else {})
