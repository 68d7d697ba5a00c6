"""Answers of a model behind an OpenAI-compatible endpoint: each is asked for once, and kept.

    FOLDER/answers/DOCUMENT/REQUEST.json    create-only, {"request": ..., "answer": ...}

FOLDER holds the stores of a run, DOCUMENT is the id of the record that is asked about, REQUEST the digest of the
request in canonical JSON: model, messages, parameters, seed; a picture stands in it by the digest of its bytes. Of an
embedding the answer is its vector, little-endian float32 in base64. An answer is kept before it is used and the first
one stays, so that a killed run asks nothing twice and what is made from the answers is made from a fixed input.
`millrace store forget` deletes the folders of forgotten documents: no answer outlives what it was made from.
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
"""Of one answer."""
READ_BYTES = 1 << 16
BY_DIGEST = "sha256:"
"""A picture in a request, until it is sent."""
MIME = {"jpg": "jpeg", "tif": "tiff"}
"""Of formats whose MIME type has another name."""
PASSING = frozenset({408, 425, 429})
"""Beside 5xx: what another try may get past."""
WRONG_PLACE = frozenset({401, 403, 404, 405})
"""Said of every request alike: the URL, the model or the key is wrong."""


@schema
class Endpoint:
    """Where a model answers. No part of what is asked, so that it may move."""

    url: str
    """`/v1/chat/completions` or `/v1/embeddings` comes behind it, e.g. http://127.0.0.1:8000."""
    key_from: str = ""
    """Name of the environment variable that holds the key, if one is needed. The key itself is never written."""
    at_once: int = 8
    """Requests under way in each worker."""
    deadline_s: float = 600.0
    """From the first try of a request until the run stops with an error. One try may take a quarter of it."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {self.url!r}, expected http://HOST:PORT or https://HOST")
        if parts.username is not None or parts.query:
            raise ValueError("url holds a user name or a query; name the variable of a key in key_from")
        if self.at_once < 1 or not self.deadline_s > 0:
            raise ValueError("at_once is at least 1, deadline_s above 0")

    def at(self, path: str) -> str:
        return self.url.rstrip("/").removesuffix("/v1") + path


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    finish: str
    """Why it ends, in the endpoint's word: `stop`, `length`, `content_filter` ..."""
    refused: bool = False
    """The endpoint itself says that the model refused."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    """Both as the endpoint counted them; 0 where it does not."""


def usable_text(answer: Answer, most: int | None = None) -> str:
    """Its text, or RecordError: the messages repeat none of it."""
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
    return digest("request", canonical_json(request))


def image_part(medium: Media) -> Json:
    """A part of a message; `Answers.ask` is given the bytes."""
    return {"type": "image_url", "image_url": {"url": BY_DIGEST + medium.digest}}


class EndpointClient:
    """The cache, and the way to the endpoint for what is not in it. Threads may share one."""

    def __init__(self, stores: str, endpoint: Endpoint) -> None:
        """`stores`: the folder or URL that holds the stores of a run. Raises ManifestError where the key is missing."""
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
        """The answer to `request`, which is about the record with the id `document`.

        Args:
            pictures: with their bytes, by digest: those that the request shows.

        Raises:
            RecordError: this request has no usable answer: `request_refused`, `wrong_schema`, `answer_too_long`.
            ManifestError: no request will have one.
            StoreError: the endpoint gave no answer before the deadline, or a kept one is damaged.
        """
        try:
            return Answer(**self._answered(document, request, pictures or {}, CHAT, _chat))
        except TypeError:
            raise self._damaged(document, request) from None

    def embed(self, document: str, request: Json, pictures: Mapping[str, Media] | None = None) -> np.ndarray:
        """(n,) float32, the embedding of what `request` shows. Raises what `ask` raises, and `zero_vector`."""
        kept = self._answered(document, request, pictures or {}, EMBEDDINGS, _embedding)
        try:
            return np.frombuffer(base64.b64decode(kept, validate=True), "<f4")
        except (TypeError, ValueError):
            raise self._damaged(document, request) from None

    def _answered(
        self, document: str, request: Json, pictures: Mapping[str, Media], path: str, read: Callable[[Any], Json]
    ) -> Json:
        """What `read` makes of the answer, from the cache where it is."""
        kept = self._kept(document, request)
        if kept is not None:
            return kept
        body = json.dumps(_sent(request, pictures)).encode()
        url = self._endpoint.at(path)
        try:
            answer = read(
                self._requests.run(
                    lambda try_s: self._post(url, body, try_s), where=url, is_transient=_is_transient, size=len(body)
                )
            )
        except StoreError as error:
            fix = (
                "run the same command again once it answers: nothing is asked twice. `deadline_s` says how long to try"
            )
            raise StoreError(error.message, where=error.where, fix=fix) from None
        data = canonical_json({"request": request, "answer": answer}).encode()
        if self._files.swap(_file(document, request), data):
            return answer
        first = self._kept(document, request)
        assert first is not None
        return first

    def _kept(self, document: str, request: Json) -> Json:
        try:
            data = self._files.read(_file(document, request))
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            told = json.loads(data)
            if told["request"] == request:
                return told["answer"]
        except (ValueError, KeyError, TypeError):
            """As one that answers another request."""
        raise self._damaged(document, request)

    def _damaged(self, document: str, request: Json) -> StoreError:
        where = posixpath.join(self._files.url, _file(document, request))
        return StoreError("this kept answer is damaged", where=where, fix="delete the file: it is asked for again")

    def _post(self, url: str, body: bytes, try_s: float) -> Json:
        ends = time.monotonic() + try_s
        request = urllib.request.Request(url, body, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=try_s) as response:
                data = _read(response, ends)
        except urllib.error.HTTPError as error:
            error.close()
            # What the endpoint says besides may repeat the key, or the record's words.
            if error.code in WRONG_PLACE or 300 <= error.code < 400:
                fix = "check `url`, `model` and the key in the variable that `key_from` names"
                raise ManifestError(f"HTTP {error.code}", where=url, fix=fix) from None
            if error.code in PASSING or error.code >= 500:
                raise _Passing(f"HTTP {error.code}") from None
            raise RecordError("request_refused", f"HTTP {error.code}") from None
        try:
            return json.loads(data)
        except RecursionError:
            raise RecordError("wrong_schema", "nested too deeply") from None
        except ValueError:
            raise _Passing("the answer is no JSON, or half of it") from None


def _file(document: str, request: Json) -> str:
    return f"{document}/{request_digest(request)}.json"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to somebody else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class _Passing(Exception):
    """What another try may get past."""


def _is_transient(error: Exception) -> bool:
    """`OSError`: refused, reset, timed out, a name that is not found; `HTTPException`: cut off."""
    return isinstance(error, (_Passing, OSError, http.client.HTTPException))


def _read(response: http.client.HTTPResponse, ends: float) -> bytes:
    data = bytearray()
    while piece := response.read1(READ_BYTES):
        data += piece
        if len(data) > MOST_BYTES:
            raise RecordError("answer_too_long", f"more than {MOST_BYTES:,} bytes")
        if time.monotonic() > ends:
            raise TimeoutError("the answer trickles")
    if response.length:
        raise _Passing("the answer is cut off")
    return bytes(data)


def _chat(told: Any) -> Json:
    """The fields of an `Answer`."""
    try:
        choice = told["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal")
        finish = choice.get("finish_reason") or ""
        used = told.get("usage") or {}
        tokens = (used.get("prompt_tokens", 0), used.get("completion_tokens", 0))
        if not (isinstance(text, str) and isinstance(finish, str) and all(type(count) is int for count in tokens)):
            raise TypeError("a value has the wrong type")
        text.encode()  # half a surrogate pair can't be kept
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RecordError("wrong_schema", f"no chat completion: {type(error).__name__}") from None
    return asdict(Answer(text, finish, bool(refusal) or finish == "content_filter", *tokens))


def _embedding(told: Any) -> Json:
    """The vector, packed."""
    try:
        (one,) = told["data"]
        vector = np.array(one["embedding"], np.float64)
        if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
            raise ValueError("no vector")
    except (LookupError, TypeError, ValueError) as error:
        raise RecordError("wrong_schema", f"no embedding: {type(error).__name__}") from None
    if not vector.any():
        raise RecordError("zero_vector", "an embedding without a direction")
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _sent(value: Any, pictures: Mapping[str, Media]) -> Any:
    """The request with the bytes of its pictures."""
    if isinstance(value, dict):
        return {name: _sent(one, pictures) for name, one in value.items()}
    if isinstance(value, list):
        return [_sent(one, pictures) for one in value]
    if isinstance(value, str) and value.startswith(BY_DIGEST) and value.removeprefix(BY_DIGEST) in pictures:
        medium = pictures[value.removeprefix(BY_DIGEST)]
        assert medium.payload is not None
        mime = MIME.get(medium.format, medium.format)
        return f"data:image/{mime};base64,{base64.b64encode(medium.payload).decode()}"
    return value


def delete_answers(stores: str, stones: Tombstones) -> int:
    """Delete what was answered about forgotten documents; how many answers. Nobody may be asking."""
    files = open_files(f"{stores}/{FOLDER}")
    gone, known = 0, {"aside": True}  # what a killed worker left there may be anybody's
    for info in files.listing(""):
        document, _, _ = info.path.partition("/")
        if document not in known:
            known[document] = stones.has_name("ids", document)
        if known[document]:
            files.delete(info.path)
            gone += document != "aside"
    return gone
