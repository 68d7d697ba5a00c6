"""A lock: the place where it is decided what commits write to a filesystem that can't decide it itself.

    "lock": "s3://bucket/locks/documents"     in store.json; any place with a swap of its own, one folder per store

Nothing is held, so nothing expires and nobody can die holding it. Who wants to write root 7 first creates
`roots/000007.json` with its bytes here, where there is a swap; who comes first has decided them for ever. Everybody
who finds them decided writes them to the store, be they his own or not: a winner who died before he did is helped by
the next, and one who wakes up late writes what is there already.
"""

from __future__ import annotations

from manifests.errors import StoreError
from stores.files.open import open_files
from stores.files.protocol import NO_SWAP


class SwapLock:
    def __init__(self, url: str, owner: bytes) -> None:
        """`owner` tells apart the stores that may name one place."""
        files = open_files(url)
        if files.swap_by == NO_SWAP:
            fix = "name a local folder that all committers share, or a place on S3 or GCS"
            raise StoreError("this place has no compare-and-swap, so it can't be a lock", where=files.url, fix=fix)
        self._files, self._owner = files, owner
        self._ours = False

    def decide(self, path: str, data: bytes) -> bytes:
        """What `path` shall hold: `data`, if nobody was first."""
        if not self._ours and not self._files.swap("store.json", self._owner):
            fix = "give every store a folder of its own there"
            raise StoreError("this is the lock of another store", where=self._files.url, fix=fix)
        self._ours = True
        return data if self._files.swap(path, data) else self._files.read(path)

    def release(self, path: str) -> None:
        """Let `path` be decided anew, after it was deleted."""
        self._files.delete(path)
