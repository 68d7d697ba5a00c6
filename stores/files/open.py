"""Open the files of a store by URL: a local folder, S3, GCS, or any other filesystem that fsspec reaches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from manifests.errors import StoreError
from stores.files.local import LocalFiles
from stores.files.protocol import Files

BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Schemes whose paths begin with a bucket."""


def open_files(url: str) -> Files:
    """Open the files at a local path or URL.

    Raises:
        StoreError: fsspec does not know the protocol or lacks a library for it, or no server answers.
    """
    scheme, mark, path = url.partition("://")
    if not mark:
        return LocalFiles(Path(url))
    if scheme in ("file", "local"):
        return LocalFiles(Path(path))
    if scheme in BUCKETS and not path.strip("/"):
        raise StoreError("the URL names no bucket", where=url, fix=f"write {scheme}://BUCKET/FOLDER")
    try:
        return _remote(scheme)(url)
    except ImportError as error:
        extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}.get(scheme)
        fix = f"pip install 'millrace[{extra}]'" if extra else "install the library that fsspec names"
        raise StoreError(f"a library is missing: {error}", where=url, fix=fix) from None
    except ValueError as error:
        raise StoreError(str(error), where=url, fix="use a local path or a URL that fsspec knows") from None
    except OSError as error:  # of protocols that connect immediately
        raise StoreError(str(error) or type(error).__name__, where=url, fix="check the URL") from error


def _remote(scheme: str) -> Callable[[str], Files]:
    """Return the class for a URL scheme; libraries for the network are imported only here."""
    match scheme:
        case "s3" | "s3a":
            from stores.files.s3 import S3Files

            return S3Files
        case "gs" | "gcs":
            from stores.files.gcs import GCSFiles

            return GCSFiles
        case "memory":
            from stores.files.create_only import MemoryFiles

            return MemoryFiles
        case _:
            from stores.files.remote import RemoteFiles

            return RemoteFiles
