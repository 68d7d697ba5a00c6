"""A proxy in front of an HTTP server that does to requests what networks and servers do: see `Fault`.

It counts, it says so before and after everything that changes something, and it runs in threads of the test's process,
so that a test can decide while it happens.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, unquote

from tests.servers.loopback import Handler, served

Fault = Literal[
    "503",  # SlowDown, nothing was done
    "reset",  # before anything was done
    "lost",  # done, but the answer is a reset
    "stall",  # no answer at all, and nothing is done
    "slow",  # the body comes drop by drop
    "torn",  # half of the body, then the connection ends
    "short",  # half of the body, and headers that say that this is all
    "stale",  # 404 for what is there
    "denied",  # 403
    "careless",  # conditions are not passed on
]
CHANGES = ("PUT", "POST", "DELETE")
DROPS = 8
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    """What is asked for, without query."""
    again: int
    """How many equal ones, by method and path, came before."""


Rule = Callable[[Request], Fault | None]


@dataclass
class Faulty:
    port: int
    rule: Rule = lambda request: None
    before: Callable[[int], None] = lambda number: None
    """Called with the number of every request that changes something, from 1, before it is passed on ..."""
    after: Callable[[int], None] = lambda number: None
    """... and when it is done, before its answer goes back."""
    stall_s: float = 30.0
    drop_s: float = 0.02
    seen: list[Request] = field(default_factory=list)
    done: Counter[Fault] = field(default_factory=Counter)
    changes: int = 0
    _times: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """As it was at first: every request passes."""
        with self._lock:
            self.rule, self.before, self.after = (lambda _: None), (lambda _: None), (lambda _: None)
            self.seen.clear()
            self.done.clear()
            self._times.clear()
            self.changes, self.drop_s = 0, Faulty.drop_s

    def arrived(self, method: str, path: str) -> Request:
        with self._lock:
            request = Request(method, path, self._times[method, path])
            self._times[method, path] += 1
            self.seen.append(request)
            return request


@contextmanager
def faulty(upstream: int) -> Iterator[Faulty]:
    """In front of the server at port `upstream` of this machine."""

    class Answers(Handler):
        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                return self.hang_up()  # whoever asked was killed in the middle
            request = proxy.arrived(self.command, _asked_for(self.path, body))
            fault = proxy.rule(request)
            if fault is not None:
                with proxy._lock:
                    proxy.done[fault] += 1
            number = 0
            if self.command in CHANGES:
                with proxy._lock:
                    number = proxy.changes = proxy.changes + 1
                proxy.before(number)
            match fault:
                case "503":
                    return self.answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                case "stale":
                    return self.answer(
                        404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchKey</Code></Error>"
                    )
                case "denied":
                    return self.answer(403, {"Content-Type": "application/xml"}, DENIED)
                case "reset":
                    return self.hang_up()
                case "stall":
                    self.wait_until_they_leave()
                    return self.hang_up()
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")
            }
            if fault == "careless":
                headers.pop("If-None-Match", None)
                self.path = self.path.replace("ifGenerationMatch=0", "")
            behind = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            data = answer.read()
            behind.close()
            if number:
                proxy.after(number)
            told = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "date", "server")
            }
            if fault == "lost":
                return self.hang_up()
            if fault == "torn":
                self.answer(answer.status, told, data[: len(data) // 2])
                return self.hang_up()
            if fault == "short":
                data = data[: len(data) // 2]
                told = {name: value for name, value in told.items() if name.lower() != "content-length"}
            return self.answer(answer.status, told, data, slow=fault == "slow")

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one

        def handle_expect_100(self) -> bool:
            super().handle_expect_100()
            self.wfile.flush()
            return True

        def answer(self, status: int, headers: dict[str, str], data: bytes, slow: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name in headers) and status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                size = -(-len(data) // DROPS) if slow else len(data)
                for piece in [data[at : at + size] for at in range(0, len(data), size or 1)]:
                    self.wfile.write(piece)
                    self.wfile.flush()
                    time.sleep(proxy.drop_s if slow else 0)
            self.wfile.flush()

        def wait_until_they_leave(self) -> None:
            until = time.monotonic() + proxy.stall_s
            self.connection.settimeout(0.05)
            while time.monotonic() < until:
                try:
                    if not self.connection.recv(1, socket.MSG_PEEK):
                        return
                except TimeoutError:
                    continue
                except OSError:
                    return

    with served(Answers) as port:
        proxy = Faulty(port)
        yield proxy


def _asked_for(target: str, body: bytes) -> str:
    """The path of a request; uploads to GCS name the object elsewhere."""
    path, _, query = target.partition("?")
    if path.startswith("/upload/"):
        told = re.search(rb'"name": "([^"]+)"', body[:1000])
        name = told[1].decode() if told else parse_qs(query)["name"][0]
        return f"{path}/{name}"
    return unquote(path)
