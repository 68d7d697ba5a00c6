"""Metadata of a data set prepared for Megatron-Energon: the files in `.nv-meta/`.

Used by `adopt.py`. Read are the list of shards, the split with its excluded samples, and the field map of
`dataset.yaml`. The SQLite file with offsets and counts is not needed, since every tar is scanned anyway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import yaml
from braceexpand import braceexpand

from manifests.errors import ManifestError
from manifests.records import Json
from pipelines.ingest.tars.field_map import FieldMap
from stores.files.protocol import Files

FOLDER = ".nv-meta"
MEDIA_FIELDS = ("image", "images", "video", "videos", "sequence_images")
TEXT_FIELDS = ("text", "context", "caption", "captions", "question", "answers", "answer")
"""Fields of Energon's sample classes (captioning, VQA, OCR, text), in reading order."""


@dataclass(frozen=True)
class EnergonDataset:
    """One split of a data set."""

    shards: tuple[str, ...]
    """Paths of the tars below the folder."""
    excluded: frozenset[str]
    """Excluded samples, as SHARD/KEY."""
    fields: FieldMap
    """The field map; empty for a data set with code of its own to read samples (`sample_loader`, cookers)."""


def read_prepared(files: Files, split: str) -> EnergonDataset | None:
    """Read the metadata below a folder; None if it has no `.nv-meta/`.

    Raises:
        ManifestError: the split does not exist, or a file is damaged.
    """
    info = _load(files, ".info.yaml", ".info.json")
    splits = _load(files, "split.yaml", "split.json")
    if info is None and splits is None:
        return None
    where = f"{files.url}/{FOLDER}"
    try:
        parts = {} if splits is None else splits["split_parts"]
        counted = list(info["shard_counts"]) if info is not None else None
        excluded = {name for pattern in (splits or {}).get("exclude") or [] for name in braceexpand(pattern)}
        if splits is None:
            listed = counted or []
        elif split in parts:
            listed = [name for pattern in parts[split] for name in braceexpand(pattern)]
        else:
            fix = f"one of {', '.join(map(str, parts))}"
            raise ManifestError(f"there is no split {split!r}", where=f"{where}/split.yaml", fix=fix)
        dataset = _load(files, "dataset.yaml") or {}
        mapping = dataset.get("field_map") or {}
        fields = FieldMap(
            media=tuple(str(mapping[name]) for name in MEDIA_FIELDS if name in mapping),
            text=tuple(str(mapping[name]) for name in TEXT_FIELDS if name in mapping),
        )
    except (KeyError, TypeError, AttributeError) as error:
        message = f"not in the form that Energon writes: {type(error).__name__}: {error}"
        raise ManifestError(message, where=where, fix="run `energon prepare` again") from None
    missing = [name for name in listed if counted is not None and name not in counted and name not in excluded]
    if missing:
        fix = "run `energon prepare` again, or exclude it in split.yaml"
        raise ManifestError(f"split {split} lists {missing[0]}, which .info does not have", where=where, fix=fix)
    shards = tuple(name for name in dict.fromkeys(listed) if name not in excluded)
    return EnergonDataset(shards, frozenset(name for name in excluded if name not in listed), fields)


def _load(files: Files, *names: str) -> Mapping[str, Json] | None:
    """Read the first of these files that exists, YAML or JSON with a map at the top."""
    for name in names:
        try:
            data = files.read(f"{FOLDER}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        where = f"{files.url}/{FOLDER}/{name}"
        try:
            content = json.loads(data) if name.endswith(".json") else yaml.load(data, Loader=_PlainLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ManifestError(f"can't be parsed: {error}", where=where, fix="run `energon prepare` again") from None
        if not isinstance(content, dict):
            raise ManifestError("no map at the top", where=where, fix="run `energon prepare` again")
        return content
    return None


class _PlainLoader(yaml.SafeLoader):
    """Loader that reads Python objects, whose tags `dataset.yaml` may have, as null. It never creates one."""


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
