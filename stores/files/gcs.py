"""Google Cloud Storage, by gcsfs: an object is created if its generation is 0, which only one that is not there has.
Credentials come from where Google's own tools take them.

Each request is asked for once: gcsfs would repeat it, but knows no total deadline. Its class for buckets that can be
appended to is not used: it asks another service about every bucket, and what it appends is there before it is whole.
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


class Once(GCSFileSystem):
    async def _request(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await GCSFileSystem._request.__wrapped__(self, *arguments, **options)
        except HttpError as error:
            if error.code == 401:
                raise PermissionError(str(error)) from error
            raise
        except OSError as error:
            if str(error).startswith("Forbidden"):  # the words by which gcsfs knows it, too
                raise PermissionError(str(error)) from error
            raise


class GCSFiles(CreateOnlyFiles):
    primitive = "generation"

    def _connect(self) -> tuple[Any, str]:
        options = {"use_listings_cache": False, "consistency": "md5"}  # what the server stored is compared with ours
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            options["token"] = "anon"  # as Google's clients do: an emulator knows nobody
        filesystem = Once(**options)
        return filesystem, filesystem._strip_protocol(self.url)

    def _size(self, seconds: float, path: str) -> int | None:
        try:
            return self._call(seconds, "get_object", self._path(path))["size"]
        except FileNotFoundError:
            return None

    def _errors(self) -> tuple[type[Exception], ...]:
        return (OSError, EOFError, ClientError, HttpError, ChecksumError, GoogleAuthError, ValueError)

    def _passes(self, error: Exception) -> bool:
        match error:
            case HttpError():
                status = int(error.code or 0)
                return status in TRANSIENT or status >= 500
            case GoogleAuthError():
                return bool(error.retryable)
            case ValueError():  # what gcsfs makes of 400; half of an answer in JSON
                return isinstance(error, json.JSONDecodeError)
        return super()._passes(error)
