"""Client of an OpenAI-compatible LLM endpoint, with a response cache next to the stores of a run.

    FOLDER/answers/DOCUMENT/REQUEST.json    create-only, {"request": ..., "answer": ...}

FOLDER holds the stores of a run. DOCUMENT is the id of the record that the request is about. REQUEST is the digest of
the request in canonical JSON: model, messages, parameters, seed, and pictures by their digests. The answer to
an embedding request is the vector, little-endian float32 in base64. An answer is cached before it is used, and the
first one stays. So a killed run repeats no request, and later steps have a fixed input. `millrace store forget`
deletes the folders of forgotten documents.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import posixpath
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np

from manifests.errors import ManifestError, RecordError, StoreError
from manifests.load import schema
from manifests.records import Json, Media, canonical_json, digest
from stores.files.open import open_files
from stores.files.retry import Limits, Requests
from stores.tombstones import Tombstones

FOLDER = "answers"
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
MOST_BYTES = 16 << 20
"""Most bytes of one answer."""
READ_BYTES = 1 << 16
BY_DIGEST = "sha256:"
"""Prefix of a picture's URL in a request until it is sent; the digest follows."""
MIME = {"jpg": "jpeg", "tif": "tiff"}
"""Format -> MIME subtype, where the two differ."""
TRANSIENT = frozenset({408, 425, 429})
"""HTTP statuses below 500 after which a retry may help."""
WRONG_SETTINGS = frozenset({401, 403, 404, 405})
"""HTTP statuses that every request would get: URL, model or key is wrong."""


@schema
class Endpoint:
    """Address of a model. It does not enter the identity of requests, so the model may move."""

    url: str
    """Base URL, to which `/v1/chat/completions` or `/v1/embeddings` is added, e.g. http://127.0.0.1:8000."""
    key_from: str = ""
    """Environment variable with the API key; empty if the endpoint needs none. The key is never written to a file."""
    at_once: int = 8
    """Concurrent requests of each worker."""
    deadline_s: float = 600.0
    """From the first try of a request until the run fails. One try may take a quarter of it."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {self.url!r}, expected http://HOST:PORT or https://HOST")
        if parts.username is not None or parts.query:
            raise ValueError("url contains a user name or a query; name the variable of a key in key_from")
        if self.at_once < 1 or not self.deadline_s > 0:
            raise ValueError(f"expected at_once >= 1 and deadline_s > 0, got {self.at_once} and {self.deadline_s}")

    def at(self, path: str) -> str:
        """Return the full URL of an API path."""
        return self.url.rstrip("/").removesuffix("/v1") + path


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of a chat model."""

    text: str
    finish: str
    """Finish reason of the endpoint: `stop`, `length`, `content_filter` ..."""
    refused: bool = False
    """Whether the endpoint reports a refusal."""
    prompt_tokens: int = 0
    """As the endpoint counts; 0 if it does not."""
    answer_tokens: int = 0
    """As the endpoint counts; 0 if it does not."""


def usable_text(answer: Answer, most: int | None = None) -> str:
    """Return the text of an answer.

    Args:
        most: most characters.
    Raises:
        RecordError: `refused`, `answer_cut`, `empty_answer` or `answer_too_long`; the message repeats none of the text.
    """
    if answer.refused:
        raise RecordError("refused", "the model refused")
    text = answer.text.strip()
    if answer.finish == "length":
        raise RecordError("answer_cut", "longer than `answer_tokens`")
    if not text:
        raise RecordError("empty_answer")
    if most is not None and len(text) > most:
        raise RecordError("answer_too_long", f"{len(text):,} characters, at most {most:,}")
    return text


def request_digest(request: Json) -> str:
    """Return the digest that names a request in the cache."""
    return digest("request", canonical_json(request))


def image_part(medium: Media) -> Json:
    """Return the message part that shows a picture by its digest; `EndpointClient.ask` takes the bytes."""
    return {"type": "image_url", "image_url": {"url": BY_DIGEST + medium.digest}}


class EndpointClient:
    """Endpoint with its response cache. Threads may share one object."""

    def __init__(self, stores: str, endpoint: Endpoint) -> None:
        """
        Args:
            stores: folder or URL with the stores of a run.
        Raises:
            ManifestError: the environment variable of the key is not set.
        """
        self._files = open_files(f"{stores}/{FOLDER}")
        self._endpoint = endpoint
        self._headers = {"Content-Type": "application/json"}
        if endpoint.key_from:
            key = os.environ.get(endpoint.key_from)
            if not key:
                fix = "set it where the run starts, and on every worker"
                raise ManifestError("the endpoint's key is not set", where=endpoint.key_from, fix=fix)
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirects)
        limits = Limits(endpoint.deadline_s, endpoint.at_once, longest_try_s=endpoint.deadline_s)
        self._requests = Requests(limits)

    def ask(self, document: str, request: Json, pictures: Mapping[str, Media] | None = None) -> Answer:
        """Return the answer to a chat request.

        Args:
            document: id of the record that the request is about.
            request: body of the request; pictures by digest (`image_part`).
            pictures: the pictures of the request with their bytes, by digest.
        Raises:
            RecordError: this request gets no usable answer: `request_refused`, `wrong_schema`, `answer_too_long`.
            ManifestError: no request would get one: URL, model or key is wrong.
            StoreError: no answer came before the deadline, or the cached one is damaged.
        """
        try:
            return Answer(**self._answer(document, request, pictures or {}, CHAT, _chat))
        except TypeError:
            raise self._damaged(document, request) from None

    def embed(self, document: str, request: Json, pictures: Mapping[str, Media] | None = None) -> np.ndarray:
        """Return the embedding that a request asks for, (n,) float32.

        Arguments and errors as for `ask`; also RecordError `zero_vector`.
        """
        encoded = self._answer(document, request, pictures or {}, EMBEDDINGS, _embedding)
        try:
            return np.frombuffer(base64.b64decode(encoded, validate=True), "<f4")
        except (TypeError, ValueError):
            raise self._damaged(document, request) from None

    def _answer(
        self, document: str, request: Json, pictures: Mapping[str, Media], path: str, read: Callable[[Any], Json]
    ) -> Json:
        """Return the answer as `read` extracts it from a response, from the cache if it is there."""
        cached = self._cached(document, request)
        if cached is not None:
            return cached
        body = json.dumps(_with_pictures(request, pictures)).encode()
        url = self._endpoint.at(path)
        try:
            answer = read(
                self._requests.run(
                    lambda try_s: self._post(url, body, try_s), where=url, is_transient=_is_transient, size=len(body)
                )
            )
        except StoreError as error:
            fix = (
                "run the same command again when it answers: no answered request is repeated. "
                "`deadline_s` sets how long to try"
            )
            raise StoreError(error.message, where=error.where, fix=fix) from None
        data = canonical_json({"request": request, "answer": answer}).encode()
        if self._files.swap(_file(document, request), data):
            return answer
        first = self._cached(document, request)
        assert first is not None
        return first

    def _cached(self, document: str, request: Json) -> Json:
        try:
            data = self._files.read(_file(document, request))
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            content = json.loads(data)
            if content["request"] == request:
                return content["answer"]
        except (ValueError, KeyError, TypeError):
            pass
        raise self._damaged(document, request)

    def _damaged(self, document: str, request: Json) -> StoreError:
        where = posixpath.join(self._files.url, _file(document, request))
        return StoreError(
            "this cached answer is damaged", where=where, fix="delete the file; the request is then sent again"
        )

    def _post(self, url: str, body: bytes, try_s: float) -> Json:
        """Send one try of a request; return the JSON of the response."""
        deadline_s = time.monotonic() + try_s
        request = urllib.request.Request(url, body, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=try_s) as response:
                data = _read(response, deadline_s, try_s)
        except urllib.error.HTTPError as error:
            error.close()
            # The body of the response is not repeated: it may contain the key, or text of the record.
            if error.code in WRONG_SETTINGS or 300 <= error.code < 400:
                fix = "check `url`, `model` and the key in the variable that `key_from` names"
                raise ManifestError(f"HTTP {error.code}", where=url, fix=fix) from None
            if error.code in TRANSIENT or error.code >= 500:
                raise _Transient(f"HTTP {error.code}") from None
            raise RecordError("request_refused", f"HTTP {error.code}") from None
        try:
            return json.loads(data)
        except RecursionError:
            raise RecordError("wrong_schema", "nested too deeply") from None
        except ValueError:
            raise _Transient("the response is not JSON, or truncated") from None


def _file(document: str, request: Json) -> str:
    return f"{document}/{request_digest(request)}.json"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would send the key to another server."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class _Transient(Exception):
    """Failure after which a retry may help."""


def _is_transient(error: Exception) -> bool:
    """Tell whether a retry may help: OSError is a refusal, reset, timeout or DNS error, HTTPException a truncation."""
    return isinstance(error, (_Transient, OSError, http.client.HTTPException))


def _read(response: http.client.HTTPResponse, deadline_s: float, try_s: float) -> bytes:
    """Return the body of a response. Raises TimeoutError after `deadline_s`."""
    data = bytearray()
    while piece := response.read1(READ_BYTES):
        data += piece
        if len(data) > MOST_BYTES:
            raise RecordError("answer_too_long", f"more than {MOST_BYTES:,} bytes")
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"response too slow: not complete after {try_s:.0f} s")
    if response.length:
        raise _Transient("the response is truncated")
    return bytes(data)


def _chat(response: Any) -> Json:
    """Return the fields of an `Answer`."""
    try:
        choice = response["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal")
        finish = choice.get("finish_reason") or ""
        usage = response.get("usage") or {}
        tokens = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        if not (isinstance(text, str) and isinstance(finish, str) and all(type(count) is int for count in tokens)):
            raise TypeError("a value has the wrong type")
        text.encode()  # half a surrogate pair can't be stored
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RecordError("wrong_schema", f"not a chat completion: {type(error).__name__}") from None
    return asdict(Answer(text, finish, bool(refusal) or finish == "content_filter", *tokens))


def _embedding(response: Any) -> Json:
    """Return the vector in base64."""
    try:
        (entry,) = response["data"]
        vector = np.array(entry["embedding"], np.float64)
        if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
            raise ValueError("not a vector")
    except (LookupError, TypeError, ValueError) as error:
        raise RecordError("wrong_schema", f"not an embedding: {type(error).__name__}") from None
    if not vector.any():
        raise RecordError("zero_vector", "all numbers of the embedding are 0")
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _with_pictures(value: Any, pictures: Mapping[str, Media]) -> Any:
    """Return a request with the bytes of its pictures."""
    if isinstance(value, dict):
        return {name: _with_pictures(part, pictures) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_pictures(part, pictures) for part in value]
    if isinstance(value, str) and value.startswith(BY_DIGEST) and value.removeprefix(BY_DIGEST) in pictures:
        medium = pictures[value.removeprefix(BY_DIGEST)]
        assert medium.payload is not None
        mime = MIME.get(medium.format, medium.format)
        return f"data:image/{mime};base64,{base64.b64encode(medium.payload).decode()}"
    return value


def delete_answers(stores: str, tombstones: Tombstones) -> int:
    """Delete cached responses of forgotten documents; return their number. No request may be in flight."""
    files = open_files(f"{stores}/{FOLDER}")
    deleted, forgotten = 0, {"aside": True}  # temporary files of killed workers may be about any document
    for info in files.listing(""):
        document, _, _ = info.path.partition("/")
        if document not in forgotten:
            forgotten[document] = tombstones.has_name("ids", document)
        if forgotten[document]:
            files.delete(info.path)
            deleted += document != "aside"
    return deleted
