"""S3, and what speaks its protocol, by s3fs. Endpoint and credentials come from where AWS's own tools take them.

Each request is asked for once: s3fs and botocore would repeat it, but know no total deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from aiohttp import ClientError
from botocore.exceptions import BotoCoreError, FlexibleChecksumError
from fsspec.asyn import sync
from s3fs.core import S3_RETRYABLE_ERRORS

from manifests.errors import StoreError
from stores.files.create_only import TRANSIENT, CreateOnlyFiles
from stores.files.remote import TruncatedAnswer

TRANSIENT_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")
PART_BYTES = 16 << 20
PARTS = 9_000
"""Fewer than the protocol's limit of 10,000 for one object."""
PARTS_AT_ONCE = 4
"""They are held in memory."""


class S3Files(CreateOnlyFiles):
    primitive = "If-None-Match"

    def _connect(self) -> tuple[Any, str]:
        given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        once = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 64}
        filesystem, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, config_kwargs={**given, **once})
        filesystem.retries = 1
        return filesystem, root

    def _errors(self) -> tuple[type[Exception], ...]:
        return (OSError, EOFError, BotoCoreError, ClientError)  # the last while a body is read

    def _passes(self, error: Exception) -> bool:
        answer = _answer(error)
        if answer is not None:
            return (
                _status(answer) >= 500 or _status(answer) in TRANSIENT or answer["Error"].get("Code") in TRANSIENT_CODES
            )
        if isinstance(error, BotoCoreError):
            return isinstance(error, (*S3_RETRYABLE_ERRORS, FlexibleChecksumError))
        return super()._passes(error)

    def _s3(self, seconds: float, operation: str, path: str, **parameters: Any) -> Any:
        return self._call(seconds, "call_s3", operation, **self._object(path), **parameters)

    def _object(self, path: str) -> dict[str, str]:
        bucket, _, key = self._path(path).partition("/")
        return {"Bucket": bucket, "Key": key}

    def _get(self, seconds: float, path: str, offset: int = 0, length: int | None = None) -> bytes:
        wanted = {} if length is None else {"Range": f"bytes={offset}-{offset + length - 1}"}
        try:
            answer, data = sync(self.filesystem.loop, self._fetch, {**self._object(path), **wanted}, timeout=seconds)
        except OSError as error:
            told = _answer(error)
            if told is not None and _status(told) == 416:
                return b""  # the file ends before
            raise
        begins, size = _place(answer)
        expected = size - begins if length is None else max(0, min(length, size - offset))
        if begins < offset:  # a server that knows no ranges sends all of it
            data = data[offset - begins :][:expected]
        if len(data) != expected:
            raise TruncatedAnswer(f"{len(data)} of {expected} bytes came")
        return data

    async def _fetch(self, wanted: Mapping[str, str]) -> tuple[Mapping[str, Any], bytes]:
        answer = await self.filesystem._call_s3("get_object", **wanted)
        async with answer["Body"] as body:
            return answer, await body.read()

    def _size(self, seconds: float, path: str) -> int | None:
        try:
            return self._s3(seconds, "head_object", path)["ContentLength"]
        except FileNotFoundError:
            return None

    def _put_new(self, seconds: float, path: str, data: bytes) -> None:
        try:
            self._s3(seconds, "put_object", path, Body=data, IfNoneMatch="*")
        except OSError as error:
            answer = _answer(error)
            if answer is not None and _status(answer) == 412:
                raise FileExistsError(path) from error
            raise

    def _send(self, aside: Path, path: str, size: int) -> None:
        if size <= 2 * PART_BYTES:
            data = aside.read_bytes()
            self._ask(path, lambda seconds: self._s3(seconds, "put_object", path, Body=data), size)
        else:
            self._send_parts(aside, path, size)

    def _send_parts(self, aside: Path, path: str, size: int) -> None:
        """Parts are repeated one by one. Those that a kill leaves lying, a lifecycle rule of the bucket takes away."""
        part_bytes = max(PART_BYTES, -(-size // PARTS))
        upload = self._ask(path, lambda seconds: self._s3(seconds, "create_multipart_upload", path))["UploadId"]

        def send(number: int) -> dict[str, Any]:
            with aside.open("rb") as file:
                file.seek(number * part_bytes)
                data = file.read(part_bytes)
            named = {"UploadId": upload, "PartNumber": number + 1}
            told = self._ask(
                path, lambda seconds: self._s3(seconds, "upload_part", path, Body=data, **named), len(data)
            )
            return {"PartNumber": number + 1, "ETag": told["ETag"]}

        try:
            sent = self._requests.together(send, range(-(-size // part_bytes)), at_once=PARTS_AT_ONCE)
            parts = {"Parts": sent}
            end = {"UploadId": upload, "MultipartUpload": parts}
            self._ask(path, lambda seconds: self._s3(seconds, "complete_multipart_upload", path, **end))
        except FileNotFoundError:
            if self._size_of(path) != size:  # else the answer to the end was lost
                raise StoreError("the upload is gone", where=f"{self.url}/{path}", fix="run it again") from None
        except StoreError:
            self._ask(path, lambda seconds: self._s3(seconds, "abort_multipart_upload", path, UploadId=upload))
            raise


def _answer(error: BaseException) -> Mapping[str, Any] | None:
    """What the server said, where it said something: s3fs raises its own errors from botocore's."""
    found = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return found if isinstance(found, dict) and "ResponseMetadata" in found else None


def _status(answer: Mapping[str, Any]) -> int:
    return answer["ResponseMetadata"].get("HTTPStatusCode", 0)


def _place(answer: Mapping[str, Any]) -> tuple[int, int]:
    """(where the body begins in the file, how long the file is)."""
    told = answer.get("ContentRange")  # bytes 0-99/1234
    if told is None:
        return 0, answer["ContentLength"]
    span, _, size = told.partition(" ")[2].partition("/")
    return int(span.partition("-")[0]), int(size)
