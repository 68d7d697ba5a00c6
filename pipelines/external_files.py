"""Files that a manifest names beside its data: models, code, lists. What is in them is part of a node's identity.

A name is a path, or a URL that fsspec knows.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import IO, cast

import fsspec

from manifests.errors import ManifestError


def file_digest(path: str, where: str) -> str:
    """SHA-256, 64 hex digits; read once in a process as long as size and time of the file stay.

    Raises ManifestError, which names `where`, for what can't be read.
    """
    try:
        return _digest(path, state(path) or _unchanged(path))
    except (OSError, ValueError, ImportError) as error:
        told = getattr(error, "strerror", None) or error
        raise ManifestError(f"{path} can't be read ({told})", where=where, fix="check the path") from None


def open_named(path: str) -> IO[bytes]:
    return cast(IO[bytes], fsspec.open(path, "rb").open() if "://" in path else open(path, "rb"))


def state(path: str) -> str:
    """Changes when the file does, as far as a glance can tell. "" of a URL: to ask costs a request."""
    if "://" in path:
        return ""
    known = os.stat(path)
    return f"{known.st_mtime_ns} {known.st_size}"


def _unchanged(url: str) -> str:
    files, inside = fsspec.core.url_to_fs(url)
    return str(files.ukey(inside))


@lru_cache(maxsize=64)
def _digest(path: str, known: str) -> str:
    with open_named(path) as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()
