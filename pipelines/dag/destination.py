"""Places of a run's output: its stores in a folder or at a URL, ordinary files in a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stores.files.local import LocalFiles
from stores.files.open import open_files
from stores.upkeep.run_lock import record_stores_url, run_lock


@dataclass(frozen=True)
class Destination:
    stores: str
    """Folder or URL. Each store is right below it, under its node's name."""
    folder: Path
    """Folder of the log, the report, and the folders that nodes make, with their receipts. For local stores the same
    folder as theirs."""

    @classmethod
    def of(cls, place: str, local: Path) -> Destination:
        """Return the destination for `--out PLACE`; `local` is used as the folder if `place` is a URL."""
        folder = local if "://" in place else Path(place)
        return cls(place.rstrip("/") if "://" in place else str(folder), folder)

    def store(self, node: str) -> str:
        """Return the URL of a node's store."""
        return f"{self.stores}/{node}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold both places for this process. Raises StoreError if another run holds one."""
        local, files = LocalFiles(self.folder), open_files(self.stores)
        with run_lock(local):
            record_stores_url(self.folder, self.stores)
            if files.url == local.url:
                yield
            else:
                with run_lock(files):
                    yield
