"""Google Cloud Storage server for tests: the JSON API on loopback, in a separate process (gcp-storage-emulator).

The emulator ignores `ifGenerationMatch` and overwrites existing objects. Here a lock makes the check of the condition
and the write one step, as the API promises; a test races on it. `python -m tests.servers.gcs PORT SKEW_S` serves with a
clock that is off by SKEW_S seconds.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.servers.loopback import server_process

BUCKET = "mill"


@contextmanager
def gcs_server(skew_s: float = 0) -> Iterator[int]:
    """Run a server with one empty bucket. Yields its port. Skips the test if the packages for it are missing."""
    for package in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(package, reason=f"needs {package} (pip install 'millrace[dev]')")
    with server_process("tests.servers.gcs", skew_s) as port:
        yield port


@contextmanager
def reached_at(port: int) -> Iterator[None]:
    """Point this process and its children at the server on `port`. Drops cached clients of other servers."""
    from stores.files.gcs import SingleTryGCS

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        SingleTryGCS.clear_instance_cache()
        yield
    SingleTryGCS.clear_instance_cache()


def serve(port: int, skew_s: float) -> None:
    """Serve on `port` until the process ends."""
    import logging
    from datetime import datetime, timedelta

    from gcp_storage_emulator.handlers import buckets, objects
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    class Exists(Exception):
        """The object exists although the condition forbids it."""

    class Conditional(Storage):
        only_new = False

        def create_file(self, bucket: str, name: str, *arguments: object) -> None:
            if self.only_new and name in self.objects.get(bucket, {}):
                raise Exists(name)
            super().create_file(bucket, name, *arguments)

        def _write_config_to_file(self) -> None:
            """Skip the copy of all objects to disk after each change: this storage is never reopened."""

    storage = Conditional(use_memory_fs=True)
    one_step = threading.Lock()

    class OneStep(RequestHandler):
        # Without these, an answer goes out in several packets, and each waits for an acknowledgment.
        disable_nagle_algorithm, wbufsize = True, -1

        def __init__(self, *arguments: object) -> None:
            super().__init__(storage, *arguments)

        def handle_one_request(self) -> None:
            with one_step:
                super().handle_one_request()

        def do_POST(self) -> None:
            storage.only_new = parse_qs(urlsplit(self.path).query).get("ifGenerationMatch") == ["0"]
            try:
                super().do_POST()
            except Exists:
                self.send_error(412)
            finally:
                storage.only_new = False

    class Skewed(datetime):
        @classmethod
        def now(cls, tz=None):  # type: ignore[no-untyped-def]
            return super().now(tz) + timedelta(seconds=skew_s)

    logging.disable()
    objects.datetime = Skewed
    buckets.create_bucket(BUCKET, storage)
    ThreadingHTTPServer(("127.0.0.1", port), OneStep).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]))
