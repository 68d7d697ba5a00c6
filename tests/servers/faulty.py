"""Proxy in front of an HTTP server that injects the faults of networks and servers, see `Fault`.

It counts requests and calls a test's functions before and after each request that changes something. It runs in threads
of the test's process, so a test can choose faults while requests are in flight.
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
    "503",  # SlowDown; the server does not see the request
    "reset",  # the connection is reset; the server does not see the request
    "lost",  # the server executes the request; the connection is reset instead of an answer
    "stall",  # no answer; the server does not see the request
    "slow",  # the body comes in small delayed pieces
    "torn",  # half of the body, then a reset
    "short",  # half of the body; Content-Length is that of the half
    "stale",  # 404 for an object that exists
    "denied",  # 403
    "unconditional",  # the server does not see the conditions of the request
]
CHANGES = ("PUT", "POST", "DELETE")
"""Methods that change something."""
SLOW_PIECES = 8
"""Pieces of a slow body."""
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass(frozen=True)
class Request:
    """A request that arrived at the proxy."""

    method: str
    path: str
    """Path without query; for an upload to GCS with the name of the object."""
    again: int
    """Number of requests with the same method and path before this one."""


Rule = Callable[[Request], Fault | None]
"""Request -> fault, or None to pass it on."""


@dataclass
class Faulty:
    """Settings and counters of the proxy; tests change them while it runs."""

    port: int
    rule: Rule = lambda request: None
    before: Callable[[int], None] = lambda number: None
    """Called with the number (from 1) of each request that changes something, before it goes to the server."""
    after: Callable[[int], None] = lambda number: None
    """Called with the same number after the server executed the request, before the answer goes back."""
    stall_s: float = 30.0
    """Longest duration of a stall."""
    piece_delay_s: float = 0.02
    """Delay after each piece of a slow body."""
    seen: list[Request] = field(default_factory=list)
    done: Counter[Fault] = field(default_factory=Counter)
    """Number of injected faults, by fault."""
    changes: int = 0
    """Number of requests that change something."""
    _times: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Restore default settings (every request passes) and zero all counters."""
        with self._lock:
            self.rule, self.before, self.after = (lambda _: None), (lambda _: None), (lambda _: None)
            self.seen.clear()
            self.done.clear()
            self._times.clear()
            self.changes, self.piece_delay_s = 0, Faulty.piece_delay_s

    def arrived(self, method: str, path: str) -> Request:
        """Count a request."""
        with self._lock:
            request = Request(method, path, self._times[method, path])
            self._times[method, path] += 1
            self.seen.append(request)
            return request


@contextmanager
def faulty(upstream: int) -> Iterator[Faulty]:
    """Run a proxy in front of the server at port `upstream` of this machine."""

    class Answers(Handler):
        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                return self.hang_up()  # the client was killed while it sent the body
            request = proxy.arrived(self.command, _object_path(self.path, body))
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
                    self.wait_for_disconnect()
                    return self.hang_up()
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")
            }
            if fault == "unconditional":
                headers.pop("If-None-Match", None)
                self.path = self.path.replace("ifGenerationMatch=0", "")
            behind = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            data = answer.read()
            behind.close()
            if number:
                proxy.after(number)
            answer_headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "date", "server")
            }
            if fault == "lost":
                return self.hang_up()
            if fault == "torn":
                self.answer(answer.status, answer_headers, data[: len(data) // 2])
                return self.hang_up()
            if fault == "short":
                data = data[: len(data) // 2]
                answer_headers = {
                    name: value for name, value in answer_headers.items() if name.lower() != "content-length"
                }
            return self.answer(answer.status, answer_headers, data, slow=fault == "slow")

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
                size = -(-len(data) // SLOW_PIECES) if slow else len(data)
                for piece in [data[at : at + size] for at in range(0, len(data), size or 1)]:
                    self.wfile.write(piece)
                    self.wfile.flush()
                    time.sleep(proxy.piece_delay_s if slow else 0)
            self.wfile.flush()

        def wait_for_disconnect(self) -> None:
            """Return when the client closes the connection, or after `stall_s`."""
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


def _object_path(target: str, body: bytes) -> str:
    """Path of a request; for an upload to GCS, path plus the object's name from the body or the query."""
    path, _, query = target.partition("?")
    if path.startswith("/upload/"):
        match = re.search(rb'"name": "([^"]+)"', body[:1000])
        name = match[1].decode() if match else parse_qs(query)["name"][0]
        return f"{path}/{name}"
    return unquote(path)
