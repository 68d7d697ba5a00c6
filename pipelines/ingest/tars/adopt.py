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
from collections.abc import Iterator, Mapping
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
from pipelines.ingest.tars.field_map import FieldMap, is_place
from pipelines.ingest.tars.layouts import TarLayout, TarRules, detect_layout, document_of
from pipelines.ingest.tars.members import TarSample, group_samples, is_wanted
from pipelines.node import Attempt, DocumentsNode, Inputs, Survey, Unit, UnitTask
from stores.files.open import open_files
from stores.files.retry import process_requests
from stores.shards.scan_tar import TarDamage, TarScan, fingerprint
from stores.store import UnitWriter

HEAD_SAMPLES, HEAD_BYTES = 8, 64 << 20
"""Limits on the first samples of a tar, which are held back until its layout is clear."""
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""

_MAGIC = re.compile(r"[*?\[{]")
"""Characters that make a path a pattern."""

ScanItem = TarSample | TarDamage | str
"""A sample, a damage, or the name of a member without key."""


@dataclass(frozen=True)
class ForeignTar:
    """A tar to adopt: the data of one unit."""

    folder: str
    """URL."""
    path: str
    """Path below the folder; part of the locators of its documents."""
    size: int
    fingerprint: str
    """Digest of the size and of some bytes (`scan_tar.fingerprint`)."""
    fields: FieldMap
    excluded: tuple[str, ...] = ()
    """Keys of samples to leave out without a record in quarantine."""


@schema
class IngestTars(DocumentsNode):
    """Tars of samples, as WebDataset, img2dataset and Energon write them, adopted in place: the store copies their text
    and reads their media out of them. They must stay where they are and as they are: a medium that changed is refused
    when it is read. A document has the locator `TAR#KEY`, TAR below the part of `tars` without a pattern."""

    READS: ClassVar[frozenset[str]] = frozenset()
    VERSION: ClassVar[int] = 3
    PLACES: ClassVar[frozenset[str]] = frozenset({"tars"})
    RENAMED: ClassVar[Mapping[str, str]] = {"licence": "license"}

    kind: Literal["ingest_tars"]
    tars: str | tuple[str, ...]
    """Paths or URLs, with `*`, `**`, `?`, `[...]` and `{000..099}`. Of a folder, all `*.tar` below it; of a folder
    prepared by Energon (with `.nv-meta`), the shards of `split`."""
    layout: TarLayout = "auto"
    """Form of the samples (`ingest/tars/layouts.py`); `auto` decides by the first samples of each tar."""
    fields: FieldMap = FieldMap()
    """Places of media, text and rights in a sample, for other layouts."""
    split: str = "train"
    """Split of a folder prepared by Energon."""
    text_domain: str = "knowledge"
    """Domain of samples without media."""
    license: str = ""
    """License of the records without a field `license` or `licence`; an SPDX identifier where there is one."""
    origin: str = ""
    """Origin of the records without a field `url`, `origin` or `source_url`."""
    consent: str = ""
    """Consent of the makers of the records without a field `consent`."""

    @property
    def _patterns(self) -> tuple[str, ...]:
        return (self.tars,) if isinstance(self.tars, str) else self.tars

    def survey(self, name: str, inputs: Inputs) -> Survey:
        tars = [tar for pattern in self._patterns for tar in self._find_tars(pattern)]
        if not tars:
            fix = "set `tars` to the paths of tars, or to a folder with some"
            raise ManifestError("no tars found", where=", ".join(self._patterns), fix=fix)
        by_path: dict[str, ForeignTar] = {}
        for tar in tars:
            if by_path.setdefault(tar.path, tar) is not tar:
                folders = f"{by_path[tar.path].folder} and {tar.folder}"
                fix = "use one pattern that begins above both folders, or one node for each"
                raise ManifestError(f"two tars have the same name {tar.path}: in {folders}", where=name, fix=fix)
        facts = {"pillow": version("pillow"), "av": version("av")}
        return Survey(tuple(_unit(tar) for _, tar in sorted(by_path.items())), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        tar: ForeignTar = task.unit.data
        files = open_files(tar.folder).uncached()
        if fingerprint(files, tar.path, tar.size)[1] != tar.fingerprint:
            raise _changed(tar)
        rights = RecordRights(self.license, self.origin, self.consent)
        rules = TarRules(task.node, self.text_domain, self.layout, tar.fields, rights)
        endings = tar.fields.endings
        scan = TarScan(files, tar.path, partial(is_wanted, endings))
        head, rest = _split_head(group_samples(scan, endings))
        expected = detect_layout([sample for sample in head if isinstance(sample, TarSample)], rules)
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
        if scan.bytes_after_end:
            attempt.note("bytes_after_end_mark")
        if scan.size != tar.size:
            raise _changed(tar)
        writer.adopt(f"{files.url}/{tar.path}", scan.digest)

    def _find_tars(self, pattern: str) -> Iterator[ForeignTar]:
        """Yield the tars of one pattern, path or folder. Raises ManifestError for one that can't be adopted."""
        pattern = pattern if "://" in pattern else os.path.expanduser(pattern)
        folder, below = _split_pattern(pattern)
        files, patterns, fields = open_files(folder).uncached(), list(braceexpand(below)), self.fields
        excluded: dict[str, list[str]] = {}
        if not _MAGIC.search(pattern) and not files.glob(below):
            files, patterns = open_files(pattern).uncached(), ["**/*.tar"]
            if (dataset := energon.read_prepared(files, self.split)) is not None:
                patterns = list(dataset.shards)
                fields = fields if fields != FieldMap() else dataset.fields
                for shard, mark, key in (name.partition(".tar/") for name in sorted(dataset.excluded)):
                    excluded.setdefault(shard + ".tar", []).extend([key] if mark else [])
        unclear = next((place for place in fields.places() if not is_place(place)), None)
        if unclear is not None:
            fix = "use an ending or a value in JSON, as in: jpg, json[caption], json[turns][0][text]"
            raise ManifestError(f"{unclear!r} is no place in a sample", where=f"fields of {pattern}", fix=fix)
        matches = {path: files.glob(path) for path in patterns}
        missing = next((path for path, tars in matches.items() if not tars and not _MAGIC.search(path)), None)
        if missing is not None:
            fix = "check `tars`, and for a URL the credentials"
            raise ManifestError("there is no such tar", where=f"{files.url}/{missing}", fix=fix)
        sizes = sorted({tar for tars in matches.values() for tar in tars})
        fingerprints = process_requests().map(lambda tar: fingerprint(files, *tar), sizes)
        for (path, size), (first_bytes, digest_) in zip(sizes, fingerprints, strict=True):
            _refuse_compressed(f"{files.url}/{path}", first_bytes)
            yield ForeignTar(files.url, path, size, digest_, fields, tuple(excluded.get(path, ())))


def _split_pattern(pattern: str) -> tuple[str, str]:
    """Return (folder without pattern, rest); the rest has at least the last name of the path."""
    scheme, mark, path = pattern.rpartition("://")
    parts = path.rstrip("/").split("/")
    fixed = next((number for number, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    fixed = min(fixed, len(parts) - 1)
    return scheme + mark + ("/".join(parts[:fixed]) or ("/" if path.startswith("/") else ".")), "/".join(parts[fixed:])


def _refuse_compressed(where: str, first_bytes: bytes) -> None:
    for mark, name in COMPRESSIONS.items():
        if first_bytes.startswith(mark):
            fix = "decompress it (`gunzip`, `unzstd`, ...) and adopt the .tar: a compressed one can't be read by range"
            raise ManifestError(f"this tar is compressed with {name}", where=where, fix=fix)


def _unit(tar: ForeignTar) -> Unit:
    content = [tar.path, tar.fingerprint, list(tar.excluded), asdict(tar.fields)]
    name = re.sub(r"[^a-z0-9]+", "-", tar.path.lower()).strip("-")[-40:]
    return Unit(f"{name or 'tar'}-{digest(tar.path)[:8]}", digest(canonical_json(content)), tar, tar.size)


def _split_head(items: Iterator[ScanItem]) -> tuple[list[ScanItem], Iterator[ScanItem]]:
    """Return (first items, rest). The first items hold at most HEAD_SAMPLES samples, about HEAD_BYTES in all."""
    head: list[ScanItem] = []
    held = count = 0
    for item in items:
        head.append(item)
        if isinstance(item, TarSample):
            held, count = held + item.held_bytes, count + 1
        if count >= HEAD_SAMPLES or held >= HEAD_BYTES:
            break
    return head, items


def _changed(tar: ForeignTar) -> StoreError:
    where = posixpath.join(tar.folder, tar.path)
    return StoreError("the tar changed while the run was reading it", where=where, fix="run again")
