"""Record of media that did not decode at load time, kept so that every replay of a batch is the same.

`loader/global_batch.py` writes and reads it. A folder or URL holds one file `BATCH.json` per global batch with such
media, created once by compare-and-swap. All ranks agree on its content first, so each of them writes the same bytes. A
written decision is final: media that it lists stay stand-ins even if they would decode now, and media that it does not
list have to decode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property

from manifests.errors import StoreError
from manifests.records import canonical_json, digest
from packing.loader.batch import Failure
from stores.files.open import open_files

Agree = Callable[[int, Sequence[Failure]], Sequence[Failure]]
"""(global batch, failures of this rank) -> failures of all ranks, in one order everywhere."""


def own_failures(batch: int, failures: Sequence[Failure]) -> Sequence[Failure]:
    """Return the failures of a single process, which need no agreement."""
    return failures


class StandIns:
    """Decisions of one training run."""

    def __init__(self, url: str, agree: Agree = own_failures) -> None:
        """
        Args:
            url: folder or URL of this run's decisions; the same for all its ranks.
            agree: exchange of failures between ranks (`torch_batches.agree_over`).
        """
        self._files = open_files(url)
        self.url, self.agree = self._files.url, agree

    def __reduce__(self) -> tuple[type[StandIns], tuple[str, Agree]]:
        return (StandIns, (self.url, self.agree))

    @cached_property
    def _decisions(self) -> dict[int, tuple[Failure, ...]]:
        """Decisions by global batch, listed once; later decisions of this process are added."""
        decisions = {}
        for info in self._files.listing(""):
            name = info.path.removesuffix(".json")
            if name.isdigit():
                decisions[int(name)] = self._read(info.path)
        return decisions

    def decided(self, batch: int) -> tuple[Failure, ...] | None:
        """Return the media of a global batch that are replaced; None if nothing was decided about that batch."""
        return self._decisions.get(batch)

    def decide(self, batch: int, failures: Sequence[Failure]) -> None:
        """Store a decision; it is durable when this returns.

        Raises:
            StoreError: another decision about the batch exists.
        """
        data = canonical_json([asdict(failure) for failure in failures]).encode()
        path = _path(batch)
        if not self._files.swap(path, data):
            raise StoreError(
                "another rank or run made a different decision about media that do not decode",
                where=f"{self.url}/{path}",
                fix="give each run its own folder, and all ranks of a run the same one",
            )
        self._decisions[batch] = tuple(failures)

    def digest_before(self, batch: int) -> str:
        """Return the digest of all decisions about earlier batches; "" if there is none. Part of a loader's state."""
        earlier = {number: failures for number, failures in sorted(self._decisions.items()) if number < batch}
        if not earlier:
            return ""
        decisions = ([number, [asdict(failure) for failure in failures]] for number, failures in earlier.items())
        return digest("stand-ins", *map(canonical_json, decisions))

    def _read(self, path: str) -> tuple[Failure, ...]:
        try:
            return tuple(Failure(**raw) for raw in json.loads(self._files.read(path)))
        except (ValueError, TypeError):
            raise StoreError(
                "this decision about media is damaged", where=f"{self.url}/{path}", fix="restore it from a copy"
            ) from None


def _path(batch: int) -> str:
    return f"{batch:09d}.json"
