"""S3 and compatible servers, through s3fs. Endpoint and credentials come from where AWS's own tools take them.

s3fs and botocore are kept from retrying, because they know no deadline for all tries together.
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
"""S3 error codes after which a retry may help."""
PART_BYTES = 16 << 20
PARTS = 9_000
"""Most parts of an upload; the protocol's limit is 10,000."""
PARTS_AT_ONCE = 4
"""Parts sent in parallel; they are held in memory."""


class S3Files(CreateOnlyFiles):
    """Files in an S3 bucket."""

    primitive = "If-None-Match"

    def _connect(self) -> tuple[Any, str]:
        configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        single_try = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 64}
        filesystem, root = fsspec.core.url_to_fs(
            self.url, use_listings_cache=False, config_kwargs={**configured, **single_try}
        )
        filesystem.retries = 1
        return filesystem, root

    def _errors(self) -> tuple[type[Exception], ...]:
        return (OSError, EOFError, BotoCoreError, ClientError)  # the last one while a body is read

    def _is_transient(self, error: Exception) -> bool:
        response = _response(error)
        if response is not None:
            status = _status(response)
            return status >= 500 or status in TRANSIENT or response["Error"].get("Code") in TRANSIENT_CODES
        if isinstance(error, BotoCoreError):
            return isinstance(error, (*S3_RETRYABLE_ERRORS, FlexibleChecksumError))
        return super()._is_transient(error)

    def _s3(self, seconds: float, operation: str, path: str, **parameters: Any) -> Any:
        """Call an operation of the S3 API on an object."""
        return self._call(seconds, "call_s3", operation, **self._object(path), **parameters)

    def _object(self, path: str) -> dict[str, str]:
        bucket, _, key = self._path(path).partition("/")
        return {"Bucket": bucket, "Key": key}

    def _get(self, seconds: float, path: str, offset: int = 0, length: int | None = None) -> bytes:
        wanted = {} if length is None else {"Range": f"bytes={offset}-{offset + length - 1}"}
        try:
            response, data = sync(self.filesystem.loop, self._fetch, {**self._object(path), **wanted}, timeout=seconds)
        except OSError as error:
            refusal = _response(error)
            if refusal is not None and _status(refusal) == 416:
                return b""  # the file ends before `offset`
            raise
        begin, size = _content_range(response)
        expected = size - begin if length is None else max(0, min(length, size - offset))
        if begin < offset:  # a server without ranges sends the whole file
            data = data[offset - begin :][:expected]
        if len(data) != expected:
            raise TruncatedAnswer(f"{len(data)} of {expected} bytes came")
        return data

    async def _fetch(self, wanted: Mapping[str, str]) -> tuple[Mapping[str, Any], bytes]:
        response = await self.filesystem._call_s3("get_object", **wanted)
        async with response["Body"] as body:
            return response, await body.read()

    def _size(self, seconds: float, path: str) -> int | None:
        try:
            return self._s3(seconds, "head_object", path)["ContentLength"]
        except FileNotFoundError:
            return None

    def _put_new(self, seconds: float, path: str, data: bytes) -> None:
        try:
            self._s3(seconds, "put_object", path, Body=data, IfNoneMatch="*")
        except OSError as error:
            response = _response(error)
            if response is not None and _status(response) == 412:
                raise FileExistsError(path) from error
            raise

    def _send(self, temporary: Path, path: str, size: int) -> None:
        if size <= 2 * PART_BYTES:
            data = temporary.read_bytes()
            self._request(path, lambda seconds: self._s3(seconds, "put_object", path, Body=data), size)
        else:
            self._send_parts(temporary, path, size)

    def _send_parts(self, temporary: Path, path: str, size: int) -> None:
        """Upload in parts, each with its own retries.

        Parts of an upload that was killed stay until a lifecycle rule of the bucket removes them.
        """
        part_bytes = max(PART_BYTES, -(-size // PARTS))
        upload = self._request(path, lambda seconds: self._s3(seconds, "create_multipart_upload", path))["UploadId"]

        def send(number: int) -> dict[str, Any]:
            with temporary.open("rb") as file:
                file.seek(number * part_bytes)
                data = file.read(part_bytes)
            part = {"UploadId": upload, "PartNumber": number + 1}
            response = self._request(
                path, lambda seconds: self._s3(seconds, "upload_part", path, Body=data, **part), len(data)
            )
            return {"PartNumber": number + 1, "ETag": response["ETag"]}

        try:
            parts = self._requests.map(send, range(-(-size // part_bytes)), at_once=PARTS_AT_ONCE)
            end = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
            self._request(path, lambda seconds: self._s3(seconds, "complete_multipart_upload", path, **end))
        except FileNotFoundError:
            if self._size_of(path) != size:  # else the upload was completed, and the answer lost
                raise StoreError(
                    "the server dropped the upload", where=f"{self.url}/{path}", fix="run it again"
                ) from None
        except StoreError:
            self._request(path, lambda seconds: self._s3(seconds, "abort_multipart_upload", path, UploadId=upload))
            raise


def _response(error: BaseException) -> Mapping[str, Any] | None:
    """Return the server's response in an error, if any: s3fs raises its own errors from botocore's."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return response if isinstance(response, dict) and "ResponseMetadata" in response else None


def _status(response: Mapping[str, Any]) -> int:
    return response["ResponseMetadata"].get("HTTPStatusCode", 0)


def _content_range(response: Mapping[str, Any]) -> tuple[int, int]:
    """Return (offset of the body in the file, size of the file)."""
    header = response.get("ContentRange")  # bytes 0-99/1234
    if header is None:
        return 0, response["ContentLength"]
    span, _, size = header.partition(" ")[2].partition("/")
    return int(span.partition("-")[0]), int(size)
