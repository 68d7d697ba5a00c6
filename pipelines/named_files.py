"""Files that a manifest names beside its data: models, code, lists. What is in them is part of a node's identity."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache

from manifests.errors import ManifestError


def file_digest(path: str, where: str) -> str:
    """SHA-256, 64 hex digits; read once in a process as long as size and time of the file stay.

    Raises ManifestError, which names `where`, for what can't be read.
    """
    try:
        known = os.stat(path)
        return _digest(path, known.st_mtime_ns, known.st_size)
    except OSError as error:
        raise ManifestError(f"{path} can't be read ({error.strerror})", where=where, fix="check the path") from None


@lru_cache(maxsize=64)
def _digest(path: str, mtime_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
