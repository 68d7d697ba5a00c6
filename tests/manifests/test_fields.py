"""Documentation of schema classes, and the errors that use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pydantic
import pytest

from manifests.errors import ManifestError
from manifests.fields import classes_at, field_docs, kinds_of
from manifests.load import load, schema


@schema
class Base:
    size: int = 3
    """Size in pixels,
    of the base."""


@schema
class Cut(Base):
    """A cut."""

    RENAMED: ClassVar[Mapping[str, str]] = {"place": "at"}

    kind: Literal["cut", "slice"]
    at: int
    """Place of the cut."""


@schema
class Paint(Base):
    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {"color": "paint"}

    kind: Literal["paint"]
    size: int = 4
    tones: tuple[str, ...] = field(default_factory=lambda: ("red",))


@schema
class Book:
    ops: tuple[Annotated[Cut | Paint, pydantic.Field(discriminator="kind")], ...]
    by_name: dict[str, Base] = field(default_factory=dict)
    other: str | Cut = ""


def test_fields_come_with_default_and_documentation_also_of_a_base() -> None:
    kind, at, size = field_docs(Cut)
    assert (kind.name, kind.required) == ("kind", True)
    assert (at.doc, at.required) == ("Place of the cut.", True)
    assert (size.doc, size.default) == ("Size in pixels, of the base.", 3)
    assert {entry.name: entry.default for entry in field_docs(Paint)[1:]} == {"size": 4, "tones": ("red",)}
    assert kinds_of(Cut) == ("cut", "slice") and kinds_of(Base) == ()


def test_the_class_of_a_value_is_found_by_its_place_and_kind() -> None:
    data = {"ops": [{"kind": "cut"}, {"kind": "paint"}, {}], "by_name": {"a": {}}, "other": {"at": 3}}
    assert classes_at(Book, data, ()) == [Book]
    assert classes_at(Book, data, ("ops", 0)) == [Cut] and classes_at(Book, data, ("ops", 1)) == [Paint]
    assert classes_at(Book, data, ("ops", 2)) == [Cut, Paint]
    assert classes_at(Book, data, ("by_name", "a")) == [Base] and classes_at(Book, data, ("other",)) == [Cut]
    assert classes_at(Book, data, ("nothing", 0, "here")) == []


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("ops: [{kind: cut, place: 3}]", "ops.0.place is now called at", "write at"),
        ("ops: [{kind: cut, at: 3, sise: 3}]", "ops.0.sise is not a known key", "did you mean 'size'?"),
        ("ops: [{kind: cut, at: 3, zzz: 3}]", "ops.0.zzz is not a known key", "keys here: kind, at, size"),
        ("ops: [{kind: color}]", "ops.0.kind color is now called paint", "write paint"),
        ("ops: [{kind: pain}]", "ops.0.kind is 'pain'", "did you mean 'paint'?"),
        ("ops: [{kind: fold}]", "ops.0.kind is 'fold'", "one of cut, slice, paint"),
        ("ops: []\nother: {kind: cut, place: 3}", "other.place is now called at", "write at"),
    ],
)
def test_an_unknown_key_or_kind_is_answered_by_the_right_one(tmp_path: Path, text: str, message: str, fix: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ManifestError) as caught:
        load(Book, [tmp_path / "m.yaml"])
    assert message in caught.value.message and caught.value.fix == fix
