"""Files and keys that a manifest names besides its data: models, code, word lists, keys of endpoints.

The content of such a file is part of a node's identity, its path is not. A path is local, or a URL that fsspec opens.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import fsspec

from manifests.errors import ManifestError
from manifests.fields import KeyPath
from pipelines.node import Mistake
from stores.endpoint import Endpoint

CHUNK_BYTES = 1 << 20


def file_digest(path: str, where: str) -> str:
    """Return the SHA-256 of a file, 64 hex digits. Cached in the process while size and time of the file stay.

    Args:
        where: place named in the error.
    Raises:
        ManifestError: the file can't be read.
    """
    try:
        return _digest(path, file_state(path) or _url_state(path))
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{path} can't be read ({reason})", where=where, fix="check the path") from None


def open_external(path: str) -> IO[bytes]:
    """Open a local path or a URL for reading."""
    return cast(IO[bytes], fsspec.open(path, "rb").open() if "://" in path else open(path, "rb"))


def file_state(path: str) -> str:
    """Return a text that changes when a local file does, from its time and size; "" for a URL, as a look at it costs a
    request."""
    if "://" in path:
        return ""
    stat = os.stat(path)
    return f"{stat.st_mtime_ns} {stat.st_size}"


def missing_file(place: KeyPath, path: str) -> Iterator[Mistake]:
    """Yield a mistake at `place` if a local file or folder doesn't exist; for `NodeBase.missing`."""
    if "://" not in path and not Path(path).expanduser().exists():
        yield Mistake(place, f"there is no {path}", "check the path")


def missing_key(endpoint: Endpoint, elsewhere: bool) -> Iterator[Mistake]:
    """Yield a mistake if the key of an endpoint is not in this environment; for `NodeBase.missing`."""
    if endpoint.key_from and not elsewhere and not os.environ.get(endpoint.key_from):
        message = f"the endpoint's key is not set: {endpoint.key_from} is no variable of the environment"
        yield Mistake(("endpoint", "key_from"), message, f"export {endpoint.key_from}=...")


def _url_state(url: str) -> str:
    files, path = fsspec.core.url_to_fs(url)
    return str(files.ukey(path))


@lru_cache(maxsize=64)
def _digest(path: str, state: str) -> str:
    with open_external(path) as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()
