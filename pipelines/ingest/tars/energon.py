"""A data set prepared for Megatron-Energon: `.nv-meta/` says which tars there are and what stands where in a sample.

For `ingest/tars/node.py`. Read are the list of shards, the split with what it excludes, and the field map; offsets and
counts in its SQLite file are not needed, since each tar is read once anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import yaml
from braceexpand import braceexpand

from manifests.errors import ManifestError
from manifests.records import Json
from pipelines.ingest.tars.field_map import Fields
from stores.files.protocol import Files

FOLDER = ".nv-meta"
MEDIA_FIELDS = ("image", "images", "video", "videos", "sequence_images")
TEXT_FIELDS = ("text", "context", "caption", "captions", "question", "answers", "answer")
"""Fields of Energon's sample classes (captioning, VQA, OCR, text), in the order in which they are read."""


@dataclass(frozen=True)
class Prepared:
    shards: tuple[str, ...]
    """Of the split, by their paths below the folder."""
    excluded: frozenset[str]
    """Samples, as SHARD/KEY."""
    fields: Fields
    """As the field map says; empty where a program of its own reads the samples (`sample_loader`, cookers)."""


def prepared(files: Files, split: str) -> Prepared | None:
    """None where no `.nv-meta/` is. Raises ManifestError for a split that is not there, or damaged metadata."""
    info = _load(files, ".info.yaml", ".info.json")
    splits = _load(files, "split.yaml", "split.json")
    if info is None and splits is None:
        return None
    where = f"{files.url}/{FOLDER}"
    try:
        parts = {} if splits is None else splits["split_parts"]
        known = list(info["shard_counts"]) if info is not None else None
        excluded = {name for some in (splits or {}).get("exclude") or [] for name in braceexpand(some)}
        if splits is None:
            listed = known or []
        elif split in parts:
            listed = [name for some in parts[split] for name in braceexpand(some)]
        else:
            fix = f"one of {', '.join(map(str, parts))}"
            raise ManifestError(f"there is no split {split!r}", where=f"{where}/split.yaml", fix=fix)
        dataset = _load(files, "dataset.yaml") or {}
        mapping = dataset.get("field_map") or {}
        fields = Fields(
            media=tuple(str(mapping[name]) for name in MEDIA_FIELDS if name in mapping),
            text=tuple(str(mapping[name]) for name in TEXT_FIELDS if name in mapping),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"not as Energon writes it: {type(error).__name__}: {error}", where=where, fix="run `energon prepare` again"
        ) from None
    missing = [name for name in listed if known is not None and name not in known and name not in excluded]
    if missing:
        fix = "run `energon prepare` again, or exclude it in split.yaml"
        raise ManifestError(f"split {split} lists {missing[0]}, which .info does not have", where=where, fix=fix)
    shards = tuple(name for name in dict.fromkeys(listed) if name not in excluded)
    return Prepared(shards, frozenset(name for name in excluded if name not in listed), fields)


def _load(files: Files, *names: str) -> Mapping[str, Json] | None:
    for name in names:
        try:
            data = files.read(f"{FOLDER}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        where = f"{files.url}/{FOLDER}/{name}"
        try:
            told = json.loads(data) if name.endswith(".json") else yaml.load(data, Loader=_Plain)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ManifestError(f"can't be read: {error}", where=where, fix="run `energon prepare` again") from None
        if not isinstance(told, dict):
            raise ManifestError("no map of names", where=where, fix="run `energon prepare` again")
        return told
    return None


class _Plain(yaml.SafeLoader):
    """Tags of Python objects, which `dataset.yaml` may have, are read as nothing; none is ever made."""


_Plain.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
