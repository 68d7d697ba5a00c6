"""A server on loopback that speaks the JSON API of Google Cloud Storage, as a process of its own: gcp-storage-emulator.

The emulator does not know `ifGenerationMatch` and overwrites what is there. Here the condition is looked at and the
object stored in one step, as the API promises; a test races on it. Run as a program (`python -m tests.servers.gcs PORT
SKEW_S`) it serves, its clock so many seconds off.
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
    """Its port; it has one bucket, empty. The test is skipped where the packages for it are missing."""
    for package in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(package, reason=f"needs {package} (pip install 'millrace[dev]')")
    with server_process("tests.servers.gcs", skew_s) as port:
        yield port


@contextmanager
def reached_at(port: int) -> Iterator[None]:
    """This process and its children find Google's storage there. Clients of another server are dropped."""
    from stores.files.gcs import SingleTryGCS

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        SingleTryGCS.clear_instance_cache()
        yield
    SingleTryGCS.clear_instance_cache()


def serve(port: int, skew_s: float) -> None:
    import logging
    from datetime import datetime, timedelta

    from gcp_storage_emulator.handlers import buckets, objects
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    class Exists(Exception):
        """Where the condition says that nothing must be."""

    class Conditional(Storage):
        only_new = False

        def create_file(self, bucket: str, name: str, *given: object) -> None:
            if self.only_new and name in self.objects.get(bucket, {}):
                raise Exists(name)
            super().create_file(bucket, name, *given)

        def _write_config_to_file(self) -> None:
            """All objects, after each change: nobody opens this storage again."""

    storage = Conditional(use_memory_fs=True)
    one_step = threading.Lock()

    class OneStep(RequestHandler):
        # Without this, answers go out in several packets, and each waits for the other side to say that it came.
        disable_nagle_algorithm, wbufsize = True, -1

        def __init__(self, *given: object) -> None:
            super().__init__(storage, *given)

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
