"""`ingest_tars` node: documents from foreign WebDataset tars, whose media stay where they are.

Reads tars, local or by URL; its documents feed `filter`. A unit is one tar, read once from front to back:
`stores/shards/scan_tar.py` finds its members, `members.py` groups them into samples, `layouts.py` makes a document of
each. The store holds text, facts and notes like those of any other source. Of a medium it holds URL of the tar, offset,
length and digest; its bytes are read by range and compared with the digest.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import ClassVar, Literal

from braceexpand import braceexpand

from manifests.errors import ManifestError, StoreError
from manifests.load import schema
from manifests.records import canonical_json, digest
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.readers.context import refuse
from pipelines.ingest.tars import energon
from pipelines.ingest.tars.field_map import Fields, is_place
from pipelines.ingest.tars.layouts import TarLayout, TarRules, detect, document_of
from pipelines.ingest.tars.members import TarSample, samples, wanted
from pipelines.node import Attempt, Inputs, Survey, Unit, UnitTask
from stores.files.open import open_files
from stores.files.retry import process_requests
from stores.shards.scan_tar import TarDamage, TarScan, fingerprint
from stores.store import StoreKind, UnitWriter

JUDGED_SAMPLES, JUDGED_BYTES = 8, 64 << 20
"""What is held back until it is clear what a tar's samples look like."""
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

_MAGIC = re.compile(r"[*?\[{]")


@dataclass(frozen=True)
class Tar:
    folder: str
    """URL."""
    path: str
    """Below the folder; by this name its records are known."""
    size: int
    fingerprint: str
    fields: Fields
    excluded: tuple[str, ...] = ()
    """Keys to leave out without a trace."""


@schema
class IngestTars:
    """Tars of samples, as WebDataset, img2dataset and Energon write them, adopted in place: the store copies their text
    and reads their media out of them. They must stay where they are and as they are: a medium that changed is refused
    when it is read. A document has the locator `TAR#KEY`, TAR below the part of `tars` without a pattern."""

    PRODUCT: ClassVar[StoreKind] = "documents"
    READS: ClassVar[frozenset[str]] = frozenset()
    VERSION: ClassVar[int] = 3
    PLACES: ClassVar[frozenset[str]] = frozenset({"tars"})

    kind: Literal["ingest_tars"]
    tars: str | tuple[str, ...]
    """Paths or URLs with `*`, `**`, `?`, `[...]` and `{000..099}`, or folders: of one with `.nv-meta`, as Energon
    prepares them, the shards of `split`, of any other all `*.tar` below."""
    layout: TarLayout = "auto"
    """What samples look like (`ingest/tars/layouts.py`); `auto` looks at the first ones of each tar."""
    fields: Fields = Fields()
    """Where media, text and rights stand, where no layout fits."""
    split: str = "train"
    """Of folders that Energon prepared."""
    text_domain: str = "knowledge"
    """Of samples without media."""
    licence: str = ""
    """Of every record whose JSON has no field `licence` or `license`; an SPDX identifier where there is one."""
    origin: str = ""
    """Where the records came from whose JSON has no field `url`, `origin` or `source_url`."""
    consent: str = ""
    """What the makers agreed to, of records whose JSON has no field `consent`."""

    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def _patterns(self) -> tuple[str, ...]:
        return (self.tars,) if isinstance(self.tars, str) else self.tars

    def survey(self, name: str, inputs: Inputs) -> Survey:
        found = [tar for pattern in self._patterns for tar in self._tars(pattern)]
        if not found:
            raise ManifestError(
                "there are no tars", where=", ".join(self._patterns), fix="set `tars` to tars, or to a folder"
            )
        known: dict[str, Tar] = {}
        for tar in found:
            if known.setdefault(tar.path, tar) is not tar:
                places = f"{known[tar.path].folder} and {tar.folder}"
                fix = "give one pattern that begins above both, or one node for each"
                raise ManifestError(f"two tars are known by the name {tar.path}: in {places}", where=name, fix=fix)
        facts = {"pillow": version("pillow"), "av": version("av")}
        return Survey(tuple(_unit(tar) for _, tar in sorted(known.items())), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        tar: Tar = task.unit.data
        files = open_files(tar.folder).uncached()
        if fingerprint(files, tar.path, tar.size)[1] != tar.fingerprint:
            raise _changed(tar)
        rights = RecordRights(self.licence, self.origin, self.consent)
        rules = TarRules(task.node, self.text_domain, self.layout, tar.fields, rights)
        named = tar.fields.endings
        walk = TarScan(files, tar.path, partial(wanted, named))
        head, rest = _head(samples(walk, named))
        expected = detect([sample for sample in head if isinstance(sample, TarSample)], rules)
        keys: set[str] = set()
        for sample in chain(head, rest):
            if isinstance(sample, str):
                attempt.note("member_without_key")
            elif isinstance(sample, TarDamage):
                attempt(f"{tar.path}@{sample.offset}", refuse, sample.reason, sample.message)
            elif sample.key not in tar.excluded:
                locator = f"{tar.path}#{sample.key}"
                if sample.key in keys:
                    sample.spoil("duplicate_key", "an earlier sample of this tar has the same key")
                keys.add(sample.key)
                document = attempt(locator, document_of, sample, locator, expected, rules)
                if document is not None:
                    attempt.store(locator, document)
        if walk.bytes_after_end:
            attempt.note("bytes_after_end_mark")
        if walk.size != tar.size:
            raise _changed(tar)
        writer.adopt(f"{files.url}/{tar.path}", walk.digest)

    def _tars(self, pattern: str) -> Iterator[Tar]:
        pattern = pattern if "://" in pattern else os.path.expanduser(pattern)
        folder, below = _cut(pattern)
        files, patterns, fields = open_files(folder).uncached(), list(braceexpand(below)), self.fields
        excluded: dict[str, list[str]] = {}
        if not _MAGIC.search(pattern) and not files.glob(below):
            files, patterns = open_files(pattern).uncached(), ["**/*.tar"]
            if (prepared := energon.prepared(files, self.split)) is not None:
                patterns = list(prepared.shards)
                fields = fields if fields != Fields() else prepared.fields
                for shard, mark, key in (name.partition(".tar/") for name in sorted(prepared.excluded)):
                    excluded.setdefault(shard + ".tar", []).extend([key] if mark else [])
        unclear = next((place for place in fields.places() if not is_place(place)), None)
        if unclear is not None:
            fix = "an ending, or a value in JSON: jpg, json[caption], json[turns][0][text]"
            raise ManifestError(f"{unclear!r} names nothing in a sample", where=f"fields of {pattern}", fix=fix)
        found = {one: files.glob(one) for one in patterns}
        absent = next((one for one, there in found.items() if not there and not _MAGIC.search(one)), None)
        if absent is not None:
            fix = "check `tars`, and for a URL the credentials"
            raise ManifestError("there is no such tar", where=f"{files.url}/{absent}", fix=fix)
        tars = sorted({tar for there in found.values() for tar in there})
        looked = process_requests().together(lambda tar: fingerprint(files, *tar), tars)
        for (path, size), (head, told) in zip(tars, looked, strict=True):
            _refuse_packed(f"{files.url}/{path}", head)
            yield Tar(files.url, path, size, told, fields, tuple(excluded.get(path, ())))


def _cut(pattern: str) -> tuple[str, str]:
    """(folder without pattern, what is below): a name or pattern at least."""
    scheme, mark, path = pattern.rpartition("://")
    parts = path.rstrip("/").split("/")
    fixed = next((at for at, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    fixed = min(fixed, len(parts) - 1)
    return scheme + mark + ("/".join(parts[:fixed]) or ("/" if path.startswith("/") else ".")), "/".join(parts[fixed:])


def _refuse_packed(where: str, head: bytes) -> None:
    for mark, name in PACKED.items():
        if head.startswith(mark):
            fix = "unpack it (`gunzip`, `unzstd` ...) and adopt the .tar: in a packed one no range can be read alone"
            raise ManifestError(f"this tar is packed with {name}", where=where, fix=fix)


def _unit(tar: Tar) -> Unit:
    told = [tar.path, tar.fingerprint, list(tar.excluded), asdict(tar.fields)]
    name = re.sub(r"[^a-z0-9]+", "-", tar.path.lower()).strip("-")[-40:]
    return Unit(f"{name or 'tar'}-{digest(tar.path)[:8]}", digest(canonical_json(told)), tar, tar.size)


def _head(
    found: Iterator[TarSample | TarDamage | str],
) -> tuple[list[TarSample | TarDamage | str], Iterator[TarSample | TarDamage | str]]:
    """The first samples, and the rest."""
    head: list[TarSample | TarDamage | str] = []
    held = count = 0
    for one in found:
        head.append(one)
        if isinstance(one, TarSample):
            held, count = held + one.held_bytes, count + 1
        if count >= JUDGED_SAMPLES or held >= JUDGED_BYTES:
            break
    return head, found


def _changed(tar: Tar) -> StoreError:
    where = posixpath.join(tar.folder, tar.path)
    return StoreError("the tar changed while the run was reading it", where=where, fix="run again")
