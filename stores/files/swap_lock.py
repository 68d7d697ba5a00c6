"""Swap lock: decides the bytes of new roots for a store on a filesystem that has no swap.

    "lock": "s3://bucket/locks/documents"     in store.json; any place with a swap, one folder per store

No process holds this lock, so nothing expires. A committer that wants to write root 7 first creates
`roots/000007.json` with its bytes at the lock. The first committer decides these bytes for good. Every committer that
finds them decided writes them to the store, whoever decided them: so the next committer completes the work of one that
died, and a late one writes the bytes that are there already.
"""

from __future__ import annotations

from manifests.errors import StoreError
from stores.files.open import open_files
from stores.files.protocol import NO_SWAP


class SwapLock:
    """Decides swaps at another place; the `lock` of `Files`."""

    def __init__(self, url: str, owner: bytes) -> None:
        """
        Args:
            url: place with a swap of its own.
            owner: content of the `store.json` of the store, so that two stores can't share one lock.
        Raises:
            StoreError: the place has no swap.
        """
        files = open_files(url)
        if files.swap_by == NO_SWAP:
            fix = "name a local folder that all committers share, or a place on S3 or GCS"
            raise StoreError("a lock needs compare-and-swap, which this place lacks", where=files.url, fix=fix)
        self._files, self._owner = files, owner
        self._ours = False

    def decide(self, path: str, data: bytes) -> bytes:
        """Return the bytes that `path` shall hold: `data`, unless another committer decided first.

        Raises:
            StoreError: the lock belongs to another store.
        """
        if not self._ours and not self._files.swap("store.json", self._owner):
            fix = "give every store a folder of its own there"
            raise StoreError("this is the lock of another store", where=self._files.url, fix=fix)
        self._ours = True
        return data if self._files.swap(path, data) else self._files.read(path)

    def release(self, path: str) -> None:
        """Forget the decision about `path`, because the file is deleted."""
        self._files.delete(path)
