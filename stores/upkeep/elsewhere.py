"""A run whose stores lie elsewhere: a file `stores.url` in its local folder says where."""

from __future__ import annotations

import os
from pathlib import Path

from manifests.errors import ManifestError

FILE = "stores.url"


def stores_of(folder: str | Path) -> str:
    """Where the stores of a run lie: in its folder, or at the URL that is named there."""
    if "://" in str(folder):
        return str(folder)
    file = Path(folder) / FILE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else str(folder)


def name_stores(folder: Path, url: str) -> None:
    """Say in `folder` that the stores of its run are at `url`, which may be the folder itself.

    Raises ManifestError where it belongs to stores in another place.
    """
    known = stores_of(folder)
    own = str(folder)
    if known == own and url != own and next(folder.glob("*/store.json"), None) is None:
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{FILE}.{os.getpid()}"
        aside.write_text(f"{url}\n", encoding="utf-8")
        aside.replace(folder / FILE)
    elif known != url:
        fix = "give --out as before, or another folder: beside a URL, by --local"
        raise ManifestError(f"this is the folder of a run with its stores at {known}", where=own, fix=fix)
