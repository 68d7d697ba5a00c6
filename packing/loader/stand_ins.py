"""Media that did not decode at load time: decided once, durable before the batch is consumed, honoured at every replay.

One file per global batch that has any, `BATCH.json`, created once by compare-and-swap. All ranks agree first
(`loader/loader.py`), so whoever comes first writes the same bytes. A batch that is there is taken as it stands: what it
lists stays a stand-in even if it would decode now, and what it does not list has to decode.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property

from manifests.errors import StoreError
from manifests.records import canonical_json, digest
from packing.loader.batch import Failure
from stores.files.open import open_files


class StandIns:
    """The decisions of one run, in the folder at `url`."""

    def __init__(self, url: str) -> None:
        self._files = open_files(url)
        self.url = self._files.url

    def __reduce__(self) -> tuple[type[StandIns], tuple[str]]:
        return (StandIns, (self.url,))

    @cached_property
    def _decided(self) -> dict[int, tuple[Failure, ...]]:
        """Read once; what this process decides later is added."""
        found = {}
        for info in self._files.listing(""):
            name = info.path.removesuffix(".json")
            if name.isdigit():
                found[int(name)] = self._read(info.path)
        return found

    def at(self, batch: int) -> tuple[Failure, ...] | None:
        """What stands in for media of a global batch; None where nothing was decided about it."""
        return self._decided.get(batch)

    def decide(self, batch: int, failures: Sequence[Failure]) -> None:
        """Durable when it returns. Raises StoreError where another decision about the batch exists."""
        data = canonical_json([asdict(failure) for failure in failures]).encode()
        path = _path(batch)
        if not self._files.swap(path, data):
            raise StoreError(
                "another rank or run decided otherwise about media that do not decode",
                where=f"{self.url}/{path}",
                fix="give each run a folder of its own, and all its ranks the same one",
            )
        self._decided[batch] = tuple(failures)

    def digest_before(self, batch: int) -> str:
        """Over all decisions about earlier batches; "" where there is none. Part of a loader's state."""
        early = {number: one for number, one in sorted(self._decided.items()) if number < batch}
        if not early:
            return ""
        return digest("stand-ins", *(canonical_json([n, [asdict(f) for f in one]]) for n, one in early.items()))

    def _read(self, path: str) -> tuple[Failure, ...]:
        try:
            return tuple(Failure(**told) for told in json.loads(self._files.read(path)))
        except (ValueError, TypeError):
            raise StoreError(
                "this decision is damaged", where=f"{self.url}/{path}", fix="restore it from a copy"
            ) from None


def _path(batch: int) -> str:
    return f"{batch:09d}.json"
