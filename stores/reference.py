"""The slow, obvious ways: read a shard by taking the tar apart with the standard library; find a record by reading all.

Knows no index, no checksum and no offset, and shares no code with the writer. Tests hold the real reader and the
look-up against it.
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
    """Members of a tar grouped by key, as WebDataset does it: ending -> bytes, and `__key__`."""
    group: dict[str, Any] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            if group and group["__key__"] != key:
                yield group
                group = {}
            group["__key__"] = key
            group[ending] = tar.extractfile(member).read()  # type: ignore[union-attr]
    if group:
        yield group


def records(shard: Path) -> Iterator[dict[str, Any]]:
    """Per record, in order: `line` (JSON), `arrays` by name, and `media` (the bytes of those that the shard holds)."""
    for sample in tar_samples(shard):
        if "records.jsonl" not in sample:
            line = json.loads(sample["json"])
            media = [sample[told["member"]] for told in line["media"] if "member" in told]
            yield {"line": line, "arrays": {}, "media": media}
            continue
        arrays = {
            ending.removesuffix(".npy"): np.load(io.BytesIO(data), allow_pickle=False)
            for ending, data in sample.items()
            if ending.endswith(".npy")
        }
        pool = sample.get("media.bin", b"")
        taken = dict.fromkeys(arrays, 0)
        for row, text in enumerate(sample["records.jsonl"].splitlines()):
            line = json.loads(text)
            mine = {}
            for name, array in arrays.items():
                if array.ndim == 2:
                    mine[name] = array[row]
                    continue
                count = line["tokens"] if name == "ids" else line["arrays"][name][1]
                mine[name] = array[taken[name] : taken[name] + count]
                taken[name] += count
            media = [pool[told["start"] : told["start"] + told["bytes"]] for told in line["media"] if "start" in told]
            yield {"line": line, "arrays": mine, "media": media}


def found(snapshot: Any) -> dict[tuple[str, str], list[int]]:
    """(`id`, `url` or `digest`, name) -> ordinals of the records with that name, taken from every record itself."""
    told: dict[tuple[str, str], list[int]] = {}
    for ordinal in range(snapshot.shards.records):
        record = snapshot.record(ordinal)
        names: set[tuple[str, str]] = set()
        match record:
            case Document() if record.source != FORGOTTEN:
                names = {("id", record.id), ("url", record.locator), ("url", record.origin)}
                names |= {("digest", one.digest) for one in record.media}
            case Sample() if record.source != FORGOTTEN:
                names = {("id", record.id)} | {("digest", one.digest) for one in record.media}
            case Pack():
                names = {("digest", one.media.digest) for one in record.media}
        for by, name in names:
            if name:
                told.setdefault((by, name), []).append(ordinal)
    return told
