"""Where a run goes: its stores to a folder or a URL, and what has to be ordinary files to a folder of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stores.files.local import LocalFiles
from stores.files.open import open_files
from stores.upkeep.run_lock import record_stores_url, run_lock


@dataclass(frozen=True)
class Out:
    stores: str
    """Folder or URL: the stores lie right below, each under its node's name."""
    folder: Path
    """For the log, the page, and folders that nodes make, with their receipts. Where the stores are local, theirs."""

    @classmethod
    def of(cls, place: str, local: Path) -> Out:
        """`local` is where the folder is if `place` is a URL."""
        folder = local if "://" in place else Path(place)
        return cls(place.rstrip("/") if "://" in place else str(folder), folder)

    def store(self, node: str) -> str:
        return f"{self.stores}/{node}"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold both places for this process. Raises StoreError where another run holds one."""
        local, files = LocalFiles(self.folder), open_files(self.stores)
        with run_lock(local):
            record_stores_url(self.folder, self.stores)
            if files.url == local.url:
                yield
            else:
                with run_lock(files):
                    yield
