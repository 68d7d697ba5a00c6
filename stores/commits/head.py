"""The head of a store: `store.json`, and the number of the newest root."""

from __future__ import annotations

import json

from manifests.errors import StoreError
from manifests.records import Json
from stores.commits.roots import SCHEMA
from stores.files.protocol import Files

PROBES = 4


def read_meta(files: Files) -> dict[str, Json]:
    """What `store.json` says. Raises StoreError where there is no store."""
    try:
        meta = json.loads(files.read("store.json"))
        if meta["schema"] != SCHEMA:
            raise StoreError(f"the store has schema {meta['schema']}, this program reads {SCHEMA}", where=files.url)
        told = {name: meta[name] for name in ("kind", "name", "schema", "swap")}
        return told | {name: meta[name] for name in ("lock",) if name in meta}
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError("there is no store here", where=files.url, fix="check the path or URL") from None
    except (ValueError, KeyError, TypeError):
        raise StoreError("store.json is damaged", where=files.url, fix="restore it from a copy of the store") from None


def root_path(number: int) -> str:
    return f"roots/{number:06d}.json"


def newest_root(files: Files, known: int = 0) -> int:
    """Number of the newest root, 0 where there is none; `known` is one that exists.

    Roots are numbered without gaps, so steps that grow fourfold, and then shrink, find it without listing; a few
    numbers are asked for side by side, because a network answers many questions in the time of one.
    """
    low, high = known, None
    while high is None or high - low > 1:
        if high is None:
            tried = [low + 4**power for power in range(PROBES)]
        else:
            tried = sorted({low + (high - low) * part // (PROBES + 1) for part in range(1, PROBES + 1)} - {low})
        absent = files.missing([root_path(number) for number in tried])
        for number in tried:
            if root_path(number) in absent:
                high = number
                break
            low = number
    return low
