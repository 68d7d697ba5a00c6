"""Folder products and their receipts: small JSON files, written atomically, that say which files a node made.

A store knows by itself what is committed; ordinary files don't. `receipts/NODE.json` exists only once every file of the
product is safe, `receipts/NODE.parts/` remembers finished units until then. `pipelines/dag/execute.py` writes them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path

from manifests.errors import StoreError
from manifests.records import Json, canonical_json, digest


@dataclass(frozen=True)
class FileFact:
    path: str
    """Relative to the run's folder."""
    size: int
    sha256: str


@dataclass(frozen=True)
class FolderReceipt:
    identity: str
    """Of the node that made the files."""
    files: tuple[FileFact, ...]
    """Sorted by path."""
    made_of: dict[str, Json] = field(default_factory=dict)
    """`dag.made_of`, for a dry run; no part of the digest."""

    @property
    def digest(self) -> str:
        return digest("folder", *(canonical_json(asdict(file)) for file in self.files))


def facts(run: Path, paths: Sequence[str]) -> list[FileFact]:
    """Size and digest of files that a node has just made. Raises StoreError where one is missing."""
    found = []
    for path in sorted(paths):
        try:
            with (run / path).open("rb") as file:
                content = file_digest(file, "sha256").hexdigest()
                found.append(FileFact(path, os.fstat(file.fileno()).st_size, content))
        except OSError as error:
            raise StoreError(f"a file that was just made can't be read: {error.strerror}", where=path) from None
    return found


class Receipts:
    """The receipts of one run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run / "receipts"

    def finished(self, node: str, identity: str) -> FolderReceipt | None:
        """The receipt, if the node was finished under this identity and its files are still there."""
        receipt = self.last(node)
        if receipt is None or receipt.identity != identity:
            return None
        for file in receipt.files:
            path = self.run / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                return None
        return receipt

    def last(self, node: str) -> FolderReceipt | None:
        """Of the product that was finished last, under whatever identity."""
        return self._read(self.folder / f"{node}.json")

    def begin(self, node: str, identity: str) -> dict[str, FolderReceipt]:
        """Make room for the product: go on with parts of this identity, move anything else out of the way.

        Returns the finished parts by name.
        """
        if self._begun(node) == identity:
            return self.parts(node, identity)
        parts = self.folder / f"{node}.parts"
        shutil.rmtree(parts, ignore_errors=True)
        (self.folder / f"{node}.json").unlink(missing_ok=True)
        self._replace(node)
        parts.mkdir(parents=True)
        _write(parts / "identity", identity)
        return {}

    def parts(self, node: str, identity: str) -> dict[str, FolderReceipt]:
        """Finished units of an unfinished product, by name."""
        if self._begun(node) != identity:
            return {}
        found = {file.stem: self._read(file) for file in (self.folder / f"{node}.parts").glob("*.json")}
        return {name: receipt for name, receipt in found.items() if receipt is not None}

    def _begun(self, node: str) -> str | None:
        mark = self.folder / f"{node}.parts" / "identity"
        return mark.read_text() if mark.is_file() else None

    def part(self, node: str, name: str, receipt: FolderReceipt) -> None:
        _write(self.folder / f"{node}.parts" / f"{name}.json", canonical_json(asdict(receipt)))

    def finish(self, node: str, receipt: FolderReceipt) -> None:
        _write(self.folder / f"{node}.json", canonical_json(asdict(receipt)))
        shutil.rmtree(self.folder / f"{node}.parts")

    def _replace(self, node: str) -> None:
        """An older product is not deleted: weights may have taken days."""
        old = self.run / node
        if not old.exists():
            return
        number = 1
        while (kept := self.run / "replaced" / f"{node}-{number}").exists():
            number += 1
        kept.parent.mkdir(exist_ok=True)
        old.rename(kept)

    def _read(self, file: Path) -> FolderReceipt | None:
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            files = tuple(FileFact(**fact) for fact in data["files"])
            return FolderReceipt(data["identity"], files, data.get("made_of", {}))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise StoreError("is not a receipt", where=str(file), fix="delete it; the node is then run again") from None


def _write(file: Path, content: str) -> None:
    """All or nothing, also through a power cut."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    aside.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
