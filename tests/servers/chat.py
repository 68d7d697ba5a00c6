"""A small server that speaks `POST /v1/chat/completions` and `/v1/embeddings`: equal requests, equal answers, but for
what a rule does.

It runs in threads of the test's process, counts what it answered, and does what endpoints do on bad days: see `Fault`.
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
    "reset",  # before an answer
    "torn",  # half of the JSON, with headers that promise all of it
    "half",  # half of the JSON, with headers that say that this is all
    "trickle",  # a byte every 50 ms
    "no_choices",  # JSON of another kind
    "surrogate",  # half a surrogate pair in the text
    "deep",  # JSON nested beyond reason
    "stall",  # nothing, until `let_go`
]


def said(request: dict[str, Any]) -> str:
    """Everything that the last message says."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else " ".join(str(part) for part in content)


def rewritten(request: dict[str, Any]) -> str:
    """90 where a number is asked for, else the same words the other way round, and what the seed adds."""
    text = said(request)
    if "whole number from 0" in text:
        return "90"
    if "<<<" not in text:
        return f"A picture {sha256(text.encode()).hexdigest()[:8]}."
    words = text.rpartition("<<<\n")[2].partition("\n>>>")[0].split()
    return " ".join([*reversed(words), f"({request['seed'] % 1000})"])


@dataclass
class Chat:
    url: str = ""
    reply: Callable[[dict[str, Any]], str | dict[str, Any]] = rewritten
    """The text, or the first of `choices`."""
    vector: Callable[[dict[str, Any]], list[float]] = lambda request: [1.0]
    """The embedding of what is asked."""
    rule: Callable[[dict[str, Any], int], Fault | None] = lambda request, again: None
    """Is given how many equal requests came before."""
    delay: Callable[[dict[str, Any]], float] = lambda request: 0.0
    """Seconds."""
    seen: Counter[str] = field(default_factory=Counter)
    """Bodies of requests."""
    answered: Counter[str] = field(default_factory=Counter)
    """Those that got a whole, good answer."""
    authorization: set[str] = field(default_factory=set)
    let_go: threading.Event = field(default_factory=threading.Event)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        self.__init__(self.url)  # type: ignore[misc]


@contextmanager
def chat_server() -> Iterator[Chat]:
    chat = Chat()

    class Answers(Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with chat._lock:
                again = chat.seen[body]
                chat.seen[body] += 1
                chat._now += 1
                chat.most_at_once = max(chat.most_at_once, chat._now)
                chat.authorization.add(self.headers.get("Authorization", ""))
            try:
                self.respond(json.loads(body), body, again)
            finally:
                with chat._lock:
                    chat._now -= 1

        def respond(self, request: dict[str, Any], body: str, again: int) -> None:
            assert self.path in ("/v1/chat/completions", "/v1/embeddings")
            fault = chat.rule(request, again)
            time.sleep(chat.delay(request))
            told: Any
            if self.path == "/v1/embeddings":
                told = {"data": [{"index": 0, "embedding": chat.vector(request)}]}
            else:
                said = chat.reply(request)
                choice = {"message": {"content": said}, "finish_reason": "stop"} if isinstance(said, str) else said
                told = {"choices": [choice], "usage": {"prompt_tokens": len(body), "completion_tokens": 7}}
            if fault in ("429", "500", "400", "401"):
                return self.answer(int(fault), b'{"error": {"message": "no"}}')
            if fault == "redirect":
                return self.answer(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"})
            if fault == "stall":
                chat.let_go.wait(60)
                return self.hang_up()
            if fault == "reset":
                return self.hang_up()
            if fault == "no_choices":
                return self.answer(200, b'{"object": "list", "data": []}')
            if fault == "deep":
                return self.answer(200, b"[" * 200_000)
            if fault == "surrogate":
                choice["message"]["content"] = "half \ud800 of it"
            data = json.dumps(told).encode()
            if fault == "half":
                return self.answer(200, data[: len(data) // 2])
            if fault == "torn":
                self.answer(200, data[: len(data) // 2], {"Content-Length": str(len(data))})
                return self.hang_up()
            if fault == "trickle":
                self.answer(200, b"", {"Content-Length": str(len(data))})
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if chat.let_go.wait(0.05):
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
            chat.let_go.set()
