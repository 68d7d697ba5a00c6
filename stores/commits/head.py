"""Head of a store: its description `store.json` and the number of its newest root."""

from __future__ import annotations

import json

from manifests.errors import StoreError
from manifests.records import Json
from stores.commits.roots import SCHEMA
from stores.files.protocol import Files

PROBES = 4
"""Root numbers that are checked in parallel."""


def read_meta(files: Files) -> dict[str, Json]:
    """Read `store.json`: `kind`, `name`, `schema`, `swap`, and `lock` where commits go through one.

    Raises:
        StoreError: there is no store, its file is damaged, or it has another schema.
    """
    try:
        meta = json.loads(files.read("store.json"))
        if meta["schema"] != SCHEMA:
            message = f"the store has schema {meta['schema']}, this program reads {SCHEMA}"
            raise StoreError(
                message, where=files.url, fix="make the store again, or read it with the version that made it"
            )
        required = {name: meta[name] for name in ("kind", "name", "schema", "swap")}
        return required | {name: meta[name] for name in ("lock",) if name in meta}
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError("there is no store here", where=files.url, fix="check the path or URL") from None
    except (ValueError, KeyError, TypeError):
        raise StoreError("store.json is damaged", where=files.url, fix="restore it from a copy of the store") from None


def root_path(number: int) -> str:
    """Return the path of a root in the store."""
    return f"roots/{number:06d}.json"


def newest_root(files: Files, existing: int = 0) -> int:
    """Find the number of the newest root, 0 if there is none.

    Roots are numbered without gaps. Steps that grow fourfold, then a search between the last two, find the newest one
    without a listing; `PROBES` numbers are checked in parallel, because a network answers them in the time of one.

    Args:
        existing: number of a root that exists, where the search begins.
    """
    low, high = existing, None
    while high is None or high - low > 1:
        if high is None:
            numbers = [low + 4**power for power in range(PROBES)]
        else:
            numbers = sorted({low + (high - low) * part // (PROBES + 1) for part in range(1, PROBES + 1)} - {low})
        missing = files.missing([root_path(number) for number in numbers])
        for number in numbers:
            if root_path(number) in missing:
                high = number
                break
            low = number
    return low
