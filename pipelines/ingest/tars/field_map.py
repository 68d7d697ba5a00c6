"""Field map of a tar sample: names of the members and JSON values that are its media, text and rights.

Given in a manifest or by Energon (`energon.py`); read by `layouts.py`. `jpg` is the member KEY.jpg,
`json[turns][0][text]` a value in KEY.json, and `jpg,png` the first of the two that exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from manifests.load import schema
from manifests.records import Json

_PLACE = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")


@schema
class FieldMap:
    """Places of media, text and rights in a sample, in Energon's notation: an ending (`jpg`), a value in a JSON member
    (`json[conversations][0][value]`), or several of these, of which the first that exists counts: `jpg,png,webp`."""

    RENAMED: ClassVar[Mapping[str, str]] = {"licence": "license"}

    media: tuple[str, ...] = ()
    """Places of media in order, one medium each; missing ones are skipped. Empty: all media of the sample."""
    text: tuple[str, ...] = ()
    """Places of texts, which are joined by line feeds. Empty: the rules of the layout."""
    license: str = ""
    """Place of the license."""
    origin: str = ""
    """Place of the origin, e.g. a URL."""
    consent: str = ""
    """Place of the makers' consent."""

    def places(self) -> list[str]:
        """Return all places of the map."""
        entries = [*self.media, *self.text, self.license, self.origin, self.consent]
        return [place for entry in entries if entry for place in split_options(entry)]

    @property
    def endings(self) -> frozenset[str]:
        """Endings of the members that the map names."""
        return frozenset(split_place(place)[0] for place in self.places())


def is_place(place: str) -> bool:
    """Whether a string has the form of a place."""
    return _PLACE.fullmatch(place) is not None


def split_options(entry: str) -> list[str]:
    """Return the places of an entry: `jpg, png` -> ["jpg", "png"]."""
    return [place.strip() for place in entry.split(",")]


def split_place(place: str) -> tuple[str, list[str]]:
    """Return ending and path in its JSON: `json[a][0]` -> ("json", ["a", "0"])."""
    match = _PLACE.fullmatch(place)
    assert match is not None, place  # the survey checks with `is_place`
    return match[1].lower(), re.findall(r"\[([^\[\]]+)\]", match[2])


def value_at(value: Json, path: Sequence[str]) -> Json:
    """Return the value at a path in JSON; None if there is none."""
    for key in path:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (LookupError, TypeError, ValueError):
            return None
    return value
