"""Google Cloud Storage, through gcsfs: an object is created on the condition that its generation is 0 (it is absent).

Credentials come from where Google's own tools take them. gcsfs is kept from retrying, because it knows no deadline for
all tries together. Its class for zonal (appendable) buckets is not used: it asks another service about every bucket,
and an appended object can be read before it is whole.
"""

from __future__ import annotations

import json
import os
from typing import Any

from aiohttp import ClientError
from gcsfs.core import GCSFileSystem
from gcsfs.retry import ChecksumError, HttpError
from google.auth.exceptions import GoogleAuthError

from stores.files.create_only import TRANSIENT, CreateOnlyFiles


class SingleTryGCS(GCSFileSystem):
    """gcsfs without retries, with PermissionError for 401 and 403."""

    async def _request(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await GCSFileSystem._request.__wrapped__(self, *arguments, **options)
        except HttpError as error:
            if error.code == 401:
                raise PermissionError(str(error)) from error
            raise
        except OSError as error:
            if str(error).startswith("Forbidden"):  # gcsfs itself recognizes it by this word
                raise PermissionError(str(error)) from error
            raise


class GCSFiles(CreateOnlyFiles):
    """Files in a GCS bucket."""

    primitive = "generation"

    def _connect(self) -> tuple[Any, str]:
        options = {"use_listings_cache": False, "consistency": "md5"}  # compare what the server stored with our bytes
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            options["token"] = "anon"  # as Google's clients do: an emulator has no accounts
        filesystem = SingleTryGCS(**options)
        return filesystem, filesystem._strip_protocol(self.url)

    def _size(self, seconds: float, path: str) -> int | None:
        try:
            return self._call(seconds, "get_object", self._path(path))["size"]
        except FileNotFoundError:
            return None

    def _errors(self) -> tuple[type[Exception], ...]:
        return (OSError, EOFError, ClientError, HttpError, ChecksumError, GoogleAuthError, ValueError)

    def _is_transient(self, error: Exception) -> bool:
        match error:
            case HttpError():
                status = int(error.code or 0)
                return status in TRANSIENT or status >= 500
            case GoogleAuthError():
                return bool(error.retryable)
            case ValueError():  # gcsfs raises it for 400, and for a truncated JSON answer
                return isinstance(error, json.JSONDecodeError)
        return super()._is_transient(error)
