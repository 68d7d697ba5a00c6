"""S3-compatible server for tests, on loopback in a separate process (moto).

moto checks whether an object exists and then stores it, in two steps: two writers with `If-None-Match: *` could both
succeed. Here a lock makes each PUT one step, as S3 promises; a test races on it. `python -m tests.servers.s3 PORT
SKEW_S` serves with a clock that is off by SKEW_S seconds.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.servers.loopback import server_process

BUCKET = "mill"
SMALL_PARTS = {"S3_UPLOAD_PART_MIN_SIZE": "1"}
"""Lets tests of multipart uploads use small parts."""
ACCESS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_server(skew_s: float = 0) -> Iterator[int]:
    """Run a server with one empty bucket. Yields its port."""
    with server_process("tests.servers.s3", skew_s, ACCESS | SMALL_PARTS) as port:
        yield port


@contextmanager
def reached_at(port: int) -> Iterator[None]:
    """Point this process and its children at the server on `port`.

    s3fs caches clients by their arguments, without the address, so cached clients of other servers are dropped.
    """
    from s3fs import S3FileSystem

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ACCESS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}).items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield
    S3FileSystem.clear_instance_cache()


def serve(port: int, skew_s: float) -> None:
    """Serve on `port` until the process ends."""
    from datetime import timedelta

    import moto.s3.models
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quick(WSGIRequestHandler):
        """Sends each answer in one packet. Of several packets, each would wait for an acknowledgment."""

        protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1

        def run_wsgi(self) -> None:
            if self.headers.get("Expect", "").lower() == "100-continue":
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.wfile.flush()
                del self.headers["Expect"]
            super().run_wsgi()

        def log_request(self, *_: object) -> None:
            """Log nothing."""

    app = DomainDispatcherApplication(create_backend_app)
    one_step = threading.Lock()

    def answer(environ, start):  # type: ignore[no-untyped-def]
        if environ["REQUEST_METHOD"] != "PUT":
            return app(environ, start)
        with one_step:
            return app(environ, start)

    real_now = moto.s3.models.utcnow
    moto.s3.models.utcnow = lambda: real_now() + timedelta(seconds=skew_s)
    s3_backends["123456789012"]["aws"].create_bucket(BUCKET, "us-east-1")
    make_server("127.0.0.1", port, answer, threaded=True, request_handler=Quick).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]))
