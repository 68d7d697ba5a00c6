"""Chat server for tests: `POST /v1/chat/completions` and `/v1/embeddings`, with faults on demand.

Equal requests get equal answers, except for the faults that a rule chooses (see `Fault`). The server runs in threads of
the test's process and counts its requests.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from tests.servers.loopback import Handler, served

Fault = Literal[
    "429",
    "500",
    "400",
    "401",
    "redirect",
    "reset",  # the connection is reset before an answer
    "torn",  # half of the JSON; Content-Length is that of the whole
    "short",  # half of the JSON; Content-Length is that of the half
    "trickle",  # one byte every 50 ms
    "no_choices",  # JSON without `choices`
    "surrogate",  # an unpaired surrogate in the text
    "deep",  # JSON with 200,000 nested lists
    "stall",  # no answer until `release` is set
]


def last_text(request: dict[str, Any]) -> str:
    """Text of the last message of a request."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else " ".join(str(part) for part in content)


def default_reply(request: dict[str, Any]) -> str:
    """Default answer to a request.

    90 if the prompt asks for a number; a caption if it quotes no text; else the quoted words in reverse order and the
    seed of the request.
    """
    text = last_text(request)
    if "whole number from 0" in text:
        return "90"
    if "<<<" not in text:
        return f"A picture {sha256(text.encode()).hexdigest()[:8]}."
    words = text.rpartition("<<<\n")[2].partition("\n>>>")[0].split()
    return " ".join([*reversed(words), f"({request['seed'] % 1000})"])


@dataclass
class Chat:
    """Settings and counters of the server; tests change them while it runs."""

    url: str = ""
    reply: Callable[[dict[str, Any]], str | dict[str, Any]] = default_reply
    """Request -> text of the answer, or its first choice as a dict."""
    vector: Callable[[dict[str, Any]], list[float]] = lambda request: [1.0]
    """Request -> embedding."""
    rule: Callable[[dict[str, Any], int], Fault | None] = lambda request, again: None
    """(request, number of equal requests before it) -> fault, or None for a good answer."""
    delay: Callable[[dict[str, Any]], float] = lambda request: 0.0
    """Request -> seconds before its answer."""
    seen: Counter[str] = field(default_factory=Counter)
    """Number of requests, by body."""
    answered: Counter[str] = field(default_factory=Counter)
    """Number of requests with a complete good answer, by body."""
    authorization: set[str] = field(default_factory=set)
    """All `Authorization` headers."""
    release: threading.Event = field(default_factory=threading.Event)
    """Ends all stalled and trickling answers."""
    max_concurrent: int = 0
    """Largest number of requests in flight at once."""
    _in_flight: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Restore default settings and zero all counters."""
        self.__init__(self.url)  # type: ignore[misc]


@contextmanager
def chat_server() -> Iterator[Chat]:
    """Run a chat server; its address is `Chat.url`."""
    chat = Chat()

    class Answers(Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with chat._lock:
                again = chat.seen[body]
                chat.seen[body] += 1
                chat._in_flight += 1
                chat.max_concurrent = max(chat.max_concurrent, chat._in_flight)
                chat.authorization.add(self.headers.get("Authorization", ""))
            try:
                self.respond(json.loads(body), body, again)
            finally:
                with chat._lock:
                    chat._in_flight -= 1

        def respond(self, request: dict[str, Any], body: str, again: int) -> None:
            assert self.path in ("/v1/chat/completions", "/v1/embeddings")
            fault = chat.rule(request, again)
            time.sleep(chat.delay(request))
            value: Any
            if self.path == "/v1/embeddings":
                value = {"data": [{"index": 0, "embedding": chat.vector(request)}]}
            else:
                reply = chat.reply(request)
                choice = {"message": {"content": reply}, "finish_reason": "stop"} if isinstance(reply, str) else reply
                value = {"choices": [choice], "usage": {"prompt_tokens": len(body), "completion_tokens": 7}}
            if fault in ("429", "500", "400", "401"):
                return self.answer(int(fault), b'{"error": {"message": "no"}}')
            if fault == "redirect":
                return self.answer(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"})
            if fault == "stall":
                chat.release.wait(60)
                return self.hang_up()
            if fault == "reset":
                return self.hang_up()
            if fault == "no_choices":
                return self.answer(200, b'{"object": "list", "data": []}')
            if fault == "deep":
                return self.answer(200, b"[" * 200_000)
            if fault == "surrogate":
                choice["message"]["content"] = "half \ud800 of it"
            data = json.dumps(value).encode()
            if fault == "short":
                return self.answer(200, data[: len(data) // 2])
            if fault == "torn":
                self.answer(200, data[: len(data) // 2], {"Content-Length": str(len(data))})
                return self.hang_up()
            if fault == "trickle":
                self.answer(200, b"", {"Content-Length": str(len(data))})
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if chat.release.wait(0.05):
                        return self.hang_up()
            self.answer(200, data)
            with chat._lock:
                chat.answered[body] += 1
            return None

        def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()

    with served(Answers) as port:
        chat.url = f"http://127.0.0.1:{port}"
        try:
            yield chat
        finally:
            chat.release.set()
