"""How a manifest, or Energon, names what stands in a sample: an ending, or a value inside a JSON member.

For `ingest/tars/layouts.py`. `jpg` is the member KEY.jpg, `json[turns][0][text]` a value in KEY.json, `jpg,png`
whichever is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from manifests.load import schema
from manifests.records import Json

_ACCESS = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")


@schema
class Fields:
    """Where things stand in a sample: an ending (`jpg`), a value in a JSON member (`json[conversations][0][value]`),
    or several of these, of which the first that is there counts: `jpg,png,webp`. The way in which Energon says it."""

    media: tuple[str, ...] = ()
    """In order, each one medium; those that a sample lacks are passed over. None given: all that it has."""
    text: tuple[str, ...] = ()
    """Joined by line feeds. None given: the usual rules."""
    licence: str = ""
    origin: str = ""
    consent: str = ""

    def places(self) -> list[str]:
        """All that are named."""
        named = [*self.media, *self.text, self.licence, self.origin, self.consent]
        return [place for some in named if some for place in options(some)]

    @property
    def endings(self) -> frozenset[str]:
        return frozenset(access(place)[0] for place in self.places())


def is_place(place: str) -> bool:
    return _ACCESS.fullmatch(place) is not None


def options(some: str) -> list[str]:
    return [one.strip() for one in some.split(",")]


def access(place: str) -> tuple[str, list[str]]:
    """`json[a][0]` -> ("json", ["a", "0"])."""
    found = _ACCESS.fullmatch(place)
    assert found is not None, place  # the survey looked
    return found[1].lower(), re.findall(r"\[([^\[\]]+)\]", found[2])


def value_at(value: Json, path: Sequence[str]) -> Json:
    """None where nothing is there."""
    for key in path:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (LookupError, TypeError, ValueError):
            return None
    return value
