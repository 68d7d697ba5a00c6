"""Slow, obvious versions for tests: read a shard with the standard library, find records by reading all of them.

This module knows no index, checksum or offset, and shares no code with the writer. Tests compare the real reader and
the lookup index with it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manifests.records import FORGOTTEN, Document, Pack, Sample


def tar_samples(shard: Path) -> Iterator[dict[str, bytes]]:
    """Yield the members of a tar grouped by key, as WebDataset does: extension -> bytes, and `__key__`."""
    group: dict[str, Any] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            if group and group["__key__"] != key:
                yield group
                group = {}
            group["__key__"] = key
            group[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
    if group:
        yield group


def records(shard: Path) -> Iterator[dict[str, Any]]:
    """Yield each record in order: `line` (JSON), `arrays` by name, `media` (bytes of the media in the shard)."""
    for sample in tar_samples(shard):
        if "records.jsonl" not in sample:
            line = json.loads(sample["json"])
            media = [sample[medium["member"]] for medium in line["media"] if "member" in medium]
            yield {"line": line, "arrays": {}, "media": media}
            continue
        arrays = {
            extension.removesuffix(".npy"): np.load(io.BytesIO(data), allow_pickle=False)
            for extension, data in sample.items()
            if extension.endswith(".npy")
        }
        pool = sample.get("media.bin", b"")
        offsets = dict.fromkeys(arrays, 0)
        for row, text in enumerate(sample["records.jsonl"].splitlines()):
            line = json.loads(text)
            own_arrays = {}
            for name, array in arrays.items():
                if array.ndim == 2:
                    own_arrays[name] = array[row]
                    continue
                count = line["tokens"] if name == "ids" else line["arrays"][name][1]
                own_arrays[name] = array[offsets[name] : offsets[name] + count]
                offsets[name] += count
            stored = (medium for medium in line["media"] if "start" in medium)
            media = [pool[medium["start"] : medium["start"] + medium["bytes"]] for medium in stored]
            yield {"line": line, "arrays": own_arrays, "media": media}


def ordinals_by_name(snapshot: Any) -> dict[tuple[str, str], list[int]]:
    """Return (`id`, `url` or `digest`, name) -> ordinals of the records with that name, read from the records."""
    ordinals: dict[tuple[str, str], list[int]] = {}
    for ordinal in range(snapshot.shards.records):
        record = snapshot.record(ordinal)
        names: set[tuple[str, str]] = set()
        match record:
            case Document() if record.source != FORGOTTEN:
                names = {("id", record.id), ("url", record.locator), ("url", record.origin)}
                names |= {("digest", medium.digest) for medium in record.media}
            case Sample() if record.source != FORGOTTEN:
                names = {("id", record.id)} | {("digest", medium.digest) for medium in record.media}
            case Pack():
                names = {("digest", packed.media.digest) for packed in record.media}
        for by, name in names:
            if name:
                ordinals.setdefault((by, name), []).append(ordinal)
    return ordinals
