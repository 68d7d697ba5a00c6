"""Base of the servers for tests: in threads of the test's process or as separate processes, with resets and no logs."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Handler(BaseHTTPRequestHandler):
    """Request handler that sends every answer in one packet, can reset a connection, and logs nothing."""

    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1

    def hang_up(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            """The client has disconnected."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 64

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect: faults make them do so."""


@contextmanager
def served(handler: type[Handler]) -> Iterator[int]:
    """Run a server in a thread. Yields its port."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def server_process(module: str, skew_s: float, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run `python -m module PORT SKEW_S` and wait until it accepts connections. Yields its port."""
    port = free_port()
    command = [sys.executable, "-m", module, str(port), str(skew_s)]
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(environment or {})})
    try:
        until = time.monotonic() + 60
        while True:
            assert server.poll() is None and time.monotonic() < until, f"{module} accepts no connections after 60 s"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    """A port of loopback that no process uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
