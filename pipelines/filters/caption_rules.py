"""Ops for captions of images and videos: length, boilerplate and repetition.

Documents without media are not measured. Sources: LAION-400M (Schuhmann et al. 2021) drops captions of fewer than 5
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
"""Regular expressions, ignoring case, for text that does not describe a picture."""

_BOILERPLATE = re.compile("|".join(BOILERPLATE), re.IGNORECASE)


@schema
class CaptionLength(Measured):
    """Captions with too few or too many characters, without white space."""

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
    """Captions that are mostly file names, credits and offers, or mostly repeat their own words."""

    LIMITS = (
        Limit("boilerplate", "above", "max_boilerplate", "boilerplate_caption"),
        Limit("repeated", "above", "max_repeated", "repeated_caption"),
    )
    kind: Literal["boilerplate_caption"]
    max_boilerplate: float = 0.5
    """Share of characters that match `BOILERPLATE`, without white space."""
    max_repeated: float = 0.6
    """Share of words that repeat an earlier word of the caption. Not measured below 8 words."""
    domains: tuple[str, ...] = ("caption",)

    def measure(self, document: Document) -> Mapping[str, float]:
        text = document.text
        words = text.casefold().split()
        if not document.media or not words:
            return {}
        covered = sum(len("".join(match.group().split())) for match in _BOILERPLATE.finditer(text))
        scores = {"boilerplate": covered / sum(map(len, text.split()))}
        return scores | ({"repeated": 1 - len(set(words)) / len(words)} if len(words) >= 8 else {})
