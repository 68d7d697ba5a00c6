"""Strict loading of manifests: YAML files, overlays, `--set`, errors with file and line, and a digest.

Commands load their manifests with it; the result is an instance of the schema. A schema is a frozen dataclass made with
`@schema`, in the room that uses it. Unknown keys fail, nothing is converted, overlays merge maps and replace everything
else. A string that starts with `./` or `../` is a path, relative to the file that contains it, or to the working
directory if it comes from `--set`.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, dataclass_transform

import pydantic
import yaml

from manifests import records
from manifests.errors import ManifestError
from manifests.fields import KeyPath, classes_at, field_docs, kinds_of
from manifests.records import Json

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def schema(cls: type) -> type:
    """Make a frozen, keyword-only dataclass out of `cls` that refuses unknown keys and wrong types.

    A class may have `RENAMED: ClassVar[dict[str, str]]`: keys of earlier versions, each with its new key, or with a
    sentence if it is not just another key; and `RENAMED_KINDS`, the same for values of `kind`. A manifest with such a
    key or kind is refused with a message that names the new one.
    """
    config = pydantic.ConfigDict(extra="forbid", strict=True)
    return pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)


@dataclass(frozen=True)
class Manifest(Generic[T]):
    """A loaded manifest."""

    value: T
    data: Json
    """The resolved manifest as plain JSON values, with paths as written."""
    digest: str
    """Digest of `data`; it does not depend on the order of keys."""
    lines: dict[KeyPath, str]
    """`file:line` of each value, or its `--set` argument."""

    def where(self, *place: str | int) -> str:
        """Return `file:line` of a value, or of the nearest value around it."""
        return _where(self.lines, place)


def load(kind: type[T], files: Sequence[Path | str], sets: Sequence[str] = ()) -> Manifest[T]:
    """Load a manifest.

    Args:
        kind: schema class of the manifest.
        files: YAML files; each is an overlay of those before it.
        sets: arguments of `--set`, `a.b.0.c=value` with a YAML value; they apply after the files, in order.
    Raises:
        ManifestError: a file can't be read, or a key is missing, unknown or of the wrong type; with file and line.
    """
    data: Json = {}
    lines: dict[KeyPath, str] = {}
    bases: dict[KeyPath, Path] = {}
    for file in map(Path, files):
        layer = _read(file, lines, bases)
        if not isinstance(layer, dict):
            raise ManifestError(
                "expected a map of keys to values", where=f"{file}:1", fix="begin with `key: value` lines"
            )
        data = _overlay(data, layer)
    for text in sets:
        data = _set(data, text, lines, bases)
    paths = _resolve(data, (), bases)
    try:
        value = pydantic.TypeAdapter(kind).validate_json(json.dumps(paths), strict=True)
    except pydantic.ValidationError as error:
        raise _explain(kind, error, data, lines) from None
    return Manifest(value, data, records.digest(records.canonical_json(data)), lines)


class _YamlLoader(yaml.SafeLoader):
    """YAML 1.1, with 2e9 and 1e-3 as numbers."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def _read(file: Path, lines: dict[KeyPath, str], bases: dict[KeyPath, Path]) -> Json:
    """Read one file; add the line of each value to `lines` and the file's folder to `bases`."""
    try:
        reader = _YamlLoader(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"can't be read ({error.strerror})", where=str(file), fix="check the path") from None
    except UnicodeDecodeError:
        raise ManifestError("is not UTF-8 text", where=str(file), fix="save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise _not_yaml(file, error) from None
    try:
        lines[()] = f"{file}:1"
        node = reader.get_single_node()
        return {} if node is None else _walk(reader, node, (), file, lines, bases)
    except yaml.YAMLError as error:
        raise _not_yaml(file, error) from None
    except RecursionError:
        message = "nested too deeply, or an alias that contains itself"
        raise ManifestError(message, where=str(file), fix="write the values in full, without aliases") from None
    finally:
        reader.dispose()


def _not_yaml(file: Path, error: yaml.YAMLError) -> ManifestError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    where = f"{file}:{mark.line + 1 if mark else 1}"
    fix = "look at this line and the one before: indentation, an open quote or bracket, a missing space after `:`"
    return ManifestError(f"not valid YAML: {problem}", where=where, fix=fix)


def _walk(
    reader: _YamlLoader,
    node: yaml.Node,
    place: KeyPath,
    file: Path,
    lines: dict[KeyPath, str],
    bases: dict[KeyPath, Path],
) -> Json:
    """Convert a YAML node to JSON values, with the line of each in `lines`. A key given twice is refused."""
    lines[place] = f"{file}:{node.start_mark.line + 1}"
    bases[place] = file.parent
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Json] = {}
        for key_node, value_node in node.value:
            key = reader.construct_object(key_node, deep=True)
            where = f"{file}:{key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise ManifestError(f"key {key!r} is no text", where=where, fix="put it in quotes")
            if key in result:
                before = lines[(*place, key)]
                raise ManifestError(
                    f"key {key!r} is given twice", where=where, fix=f"delete one; the other is at {before}"
                )
            result[key] = _walk(reader, value_node, (*place, key), file, lines, bases)
            lines[(*place, key)] = where
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_walk(reader, item, (*place, i), file, lines, bases) for i, item in enumerate(node.value)]
    return _plain(reader.construct_object(node, deep=True), f"{file}:{node.start_mark.line + 1}")


def _plain(value: Any, where: str) -> Json:
    """Return a YAML value as JSON; dates, bytes and infinities, which JSON does not have, are refused."""
    if isinstance(value, dict):
        return {key: _plain(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, where) for item in value]
    if value is None or isinstance(value, str | int) or isinstance(value, float) and math.isfinite(value):
        return value
    raise ManifestError(f"{value!r} is no text or finite number", where=where, fix="put text in quotes")


def _overlay(below: Json, above: Json) -> Json:
    """Merge two values: maps key by key, else the upper one wins."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _overlay(below.get(key), value) for key, value in above.items()}
    return above


def _set(data: Json, text: str, lines: dict[KeyPath, str], bases: dict[KeyPath, Path]) -> Json:
    """Apply one argument of `--set`."""
    where = f"--set {text}"
    key, sign, raw = text.partition("=")
    if not sign or not key:
        raise ManifestError("expected KEY=VALUE", where=where, fix="write it like --set horizon_tokens=2e6")
    try:
        value = yaml.load(raw, Loader=_YamlLoader)
    except yaml.YAMLError:
        if raw.startswith(("[", "{", '"', "'")):
            fix = "put texts with special signs in quotes inside it: --set 'exclude=[\"*.csv\"]'"
            raise ManifestError("not valid YAML", where=where, fix=fix) from None
        value = raw
    layer = _plain(value, where)
    place: list[str | int] = []
    below = data
    for word in key.split("."):
        if isinstance(below, list):
            if not word.isdigit() or int(word) >= len(below):
                fix = f"a number from 0 to {len(below) - 1}"
                raise ManifestError(f"{word!r} is not an index below {len(below)}", where=where, fix=fix)
            place.append(int(word))
            below = below[int(word)]
        else:
            place.append(word)
            below = below.get(word) if isinstance(below, dict) else None
    for by_place in (lines, bases):  # drop the entries of the replaced value
        for inside in [other for other in by_place if other[: len(place)] == tuple(place)]:
            del by_place[inside]
    for i in range(len(place)):
        lines[tuple(place[: i + 1])] = lines.get(tuple(place[: i + 1]), where)
    bases[tuple(place)] = Path(os.getcwd())
    return _put(data, tuple(place), layer)


def _put(data: Json, place: KeyPath, value: Json) -> Json:
    """Return a copy of `data` with `value` at `place`; missing maps are added."""
    if not place:
        return value
    first, rest = place[0], place[1:]
    if isinstance(data, list) and isinstance(first, int):
        return [*data[:first], _put(data[first], rest, value), *data[first + 1 :]]
    inside = data if isinstance(data, dict) else {}
    return inside | {str(first): _put(inside.get(str(first)), rest, value)}


def _resolve(data: Json, place: KeyPath, bases: dict[KeyPath, Path]) -> Json:
    """Make relative paths absolute, or relative to the working directory, by the folder of their file."""
    if isinstance(data, dict):
        return {key: _resolve(value, (*place, key), bases) for key, value in data.items()}
    if isinstance(data, list):
        return [_resolve(value, (*place, i), bases) for i, value in enumerate(data)]
    if isinstance(data, str) and data.startswith(("./", "../")):
        while place and place not in bases:
            place = place[:-1]
        return os.path.normpath(bases.get(place, Path()) / data)
    return data


def _where(lines: dict[KeyPath, str], place: KeyPath) -> str:
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, "manifest")


UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
UNKNOWN_KIND = ("union_tag_invalid", "union_tag_not_found")
"""Types of pydantic's errors."""


def _explain(schema_type: Any, error: pydantic.ValidationError, data: Json, lines: dict[KeyPath, str]) -> ManifestError:
    """Return the first problem in the words of the manifest.

    If a value may have one of several types, each type reports a problem. The one that got furthest into the value is
    the type that was meant; at equal depth, a class's own check comes before a wrong type.
    """
    located = [(problem, *_locate(problem, data)) for problem in error.errors(include_url=False)]
    unknown = [entry for entry in located if entry[0]["type"] in UNKNOWN_KEY]
    first = (unknown or located)[0][1]  # a misspelled key is missing as well: report the key that was written
    same = [entry for entry in located if entry[1][: len(first)] == first]
    problem, place, below = max(same, key=lambda entry: (len(entry[1]), entry[0]["type"] == "value_error"))
    name = ".".join(map(str, place)) or "manifest"
    fix = "see manifests/README.md and `millrace run --kinds`"
    match problem["type"]:
        case "missing" | "missing_argument":
            message = f"{name} is missing"
        case kind if kind in UNKNOWN_KEY:
            message, fix = _unknown_key(name, classes_at(schema_type, data, place[:-1]))
        case kind if kind in UNKNOWN_KIND:
            written = str(below["kind"]) if isinstance(below, dict) and "kind" in below else None
            message, fix = _unknown_kind(f"{name}.kind", written, classes_at(schema_type, data, place))
        case _:
            message = f"{name} is {_short(below)}: {problem['msg'][0].lower() + problem['msg'][1:]}"
    return ManifestError(message, where=_where(lines, place), fix=fix)


def _unknown_key(name: str, classes: Sequence[type]) -> tuple[str, str]:
    """Return message and fix for an unknown key: its new name if it was renamed, a similar key, or all keys.

    Args:
        name: key path with dots; the last word is the key.
        classes: schema classes that the map around it may belong to.
    """
    key = name.rpartition(".")[2]
    for cls in classes:
        if (new := getattr(cls, "RENAMED", {}).get(key)) is not None:
            return _renamed(name, new)
    keys = list(dict.fromkeys(field.name for cls in classes for field in field_docs(cls)))
    return f"{name} is not a known key", _similar(key, keys, "keys here: ")


def _unknown_kind(name: str, kind: str | None, classes: Sequence[type]) -> tuple[str, str]:
    """Return message and fix for an unknown kind, or for none: its new name, a similar kind, or all kinds."""
    kinds = [value for cls in classes for value in kinds_of(cls)]
    if kind is None:
        return f"{name} is missing", f"one of {', '.join(kinds)}"
    for cls in classes:
        if (new := getattr(cls, "RENAMED_KINDS", {}).get(kind)) is not None:
            return _renamed(f"{name} {kind}", new)
    return f"{name} is {kind!r}, expected a known kind", _similar(kind, kinds, "one of ")


def _similar(word: str, names: Sequence[str], prefix: str) -> str:
    """Return a hint: the most similar name, or `prefix` and all names."""
    similar = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{similar[0]}'?" if similar else prefix + ", ".join(names)


def _renamed(name: str, new: str) -> tuple[str, str]:
    """Return message and fix for a key or kind of an earlier version; `new` is its new name, or a sentence."""
    if new.isidentifier():
        return f"{name} is now called {new}", f"write {new}"
    return f"{name} does not exist any more", new


def _locate(problem: Mapping[str, Any], data: Json) -> tuple[KeyPath, Json]:
    """Return the key path of a problem in the manifest, and the value there."""
    place: KeyPath = ()
    below = data
    for step in problem["loc"]:  # pydantic names union members too; they are not in the file
        if isinstance(below, dict) and step in below or isinstance(below, list) and isinstance(step, int):
            place, below = (*place, step), below[step]
        elif step == problem["loc"][-1] and problem["type"] in ("missing", "unexpected_keyword_argument"):
            place = (*place, step)
    return place, below


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
