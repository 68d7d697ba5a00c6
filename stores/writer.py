"""One unit on its way into a store: records or columns in, files under content names and a receipt out.

Runs in worker processes. `shards/kinds.py` and `shards/layout.py` say what becomes of a record; `Store.commit` makes
the receipt count. A worker that dies leaves files that nobody refers to.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.errors import RecordError
from manifests.records import Json, digest
from stores.commits.roots import Receipt
from stores.files.protocol import Files, publish_bytes
from stores.leases import Lease
from stores.shards import index
from stores.shards.entry import ShardEntry
from stores.shards.kinds import KINDS, Encoded, RecordKind
from stores.shards.layout import BlockBuilder, ShardBuilder, SingleRecordBuilder, in_adopted_tar, signature
from stores.shards.tar import Lane

SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class WriterCheckpoint:
    """What a writer wrote up to a `rest`."""

    done: Mapping[int, ShardEntry]
    begun: int
    keyed: int
    """Keys of tar samples that are taken."""

    def as_json(self) -> Json:
        """JSON values for a checkpoint file."""
        done = {str(place): asdict(entry) for place, entry in self.done.items()}
        return {"done": done, "begun": self.begun, "keyed": self.keyed}

    @classmethod
    def from_json(cls, values: Json) -> WriterCheckpoint:
        """The inverse of `as_json`."""
        done = {int(place): ShardEntry(**entry) for place, entry in values["done"].items()}
        return cls(done, values["begun"], values["keyed"])


class UnitWriter:
    """Writes one unit of a store. Equal records in equal order give equal bytes."""

    def __init__(self, files: Files, kind: str, unit: str, shard_bytes: int = SHARD_BYTES) -> None:
        self._files, self._kind, self.unit = files, kind, unit
        self.url = files.url
        self.shard_bytes = shard_bytes
        """A shard that has so many is full, and the next one begins. May be set before the first record."""
        prefix = digest("unit", unit)[:12]
        self._keys = self._next_keys(prefix)
        self._keyed = 0
        self._open: dict[Hashable, tuple[int, ShardBuilder]] = {}
        """Growing shards by what may share them, with their place in the unit."""
        self._beside: defaultdict[int, list[pa.Table]] = defaultdict(list)
        """Rows beside the records of a growing shard."""
        self._alike: dict[int, str] = {}
        self._begun = 0
        self._named = kind in KINDS and KINDS[kind].FACTS.names[0] == "id"
        self._adopting: set[int] = set()
        """Places of shards whose media lie in the tar that `adopt` is going to name."""
        self._ids: set[bytes] = set()
        self._done: dict[int, ShardEntry] = {}
        self._lease = Lease(files, unit)
        self._lane = Lane()
        self._quarantine: list[str] = []

    def add(self, record: Any, beside: pa.Table | None = None) -> None:
        """Write one record of the store's kind.

        Args:
            beside: one row of whatever else is known of it, as columns beside the facts of its kind.

        Raises RecordError for a record that can't be stored (`lone_surrogate`, `not_json`) or whose id this unit has
        already (`duplicate_id`); the unit goes on without it.
        """
        if self._kind not in KINDS:
            raise ValueError("a view holds columns, no records of its own")
        self._lease.renew()
        kind = KINDS[self._kind]
        plain = kind.batch_bytes(record)
        encoded = kind.encode(record) if plain is None else None
        name = bytes.fromhex(record.id) if self._named else None
        if name in self._ids:
            raise RecordError("duplicate_id", f"another record of unit {self.unit} has id {record.id}")
        group = None if encoded is None else signature(kind, encoded)
        place, builder = self._open.get(group) or self._begin(kind, group, encoded)
        if encoded is not None:
            builder.add(encoded)
        elif plain is not None:
            builder.add_to_batch(record, plain)
        if beside is not None:
            self._beside[place].append(beside)
        if name is not None:
            self._ids.add(name)
        if builder.size >= self.shard_bytes:
            del self._open[group]
            self._close(place, builder)

    def _begin(self, kind: RecordKind, group: Hashable, encoded: Encoded | None) -> tuple[int, ShardBuilder]:
        """A new shard for records of `group`, and its place in the unit."""
        arrays = sorted((kind.ARRAYS or ()) if encoded is None else encoded.arrays)
        path = self._files.temporary_path()
        if kind.IN_BLOCKS:
            self._close_all()  # blocks keep the order of their records, so only one shard grows at a time
            builder: ShardBuilder = BlockBuilder(kind, path, arrays, self._lane, self._keys)
        else:
            builder = SingleRecordBuilder(kind, path, arrays, self._lane)
            if encoded is not None and any(map(in_adopted_tar, encoded.media)):
                self._adopting.add(self._begun)
            else:
                self._alike[self._begun] = digest("alike", repr(group))[:8]
        self._open[group] = (self._begun, builder)
        self._begun += 1
        return self._open[group]

    def adopt(self, url: str, tar: str) -> None:
        """Name the tar in which the media of the documents added since the last call lie, and stay.

        Concerns media whose `Location` has the shard `layout.ADOPTED`; everything else of these documents is in shards
        of this store.

        Args:
            url: absolute URL of the tar.
            tar: its BLAKE3.
        """
        self._close_all()
        for place in self._adopting:
            self._done[place] = replace(self._done[place], media_url=url, media_tar=tar)
        self._adopting.clear()

    def columns(self, shard: str, columns: Mapping[str, Sequence[Any] | np.ndarray | pa.Array]) -> None:
        """Decide about all records of one shard of a view's base, in row order.

        Args:
            shard: digest of the base's shard.
            columns: `keep` (bool, required), `reason` (str or None), `score` (float or None) and others of any type.
        """
        self._lease.renew()
        if self._kind != "view":
            raise ValueError(f"columns belong to views, this is a store of {self._kind}")
        typed = {"keep": pa.bool_(), "reason": index.NAMES, "score": pa.float64()}
        table = pa.table({name: pa.array(values, typed.get(name)) for name, values in columns.items()})
        if table.column("keep").null_count:
            raise ValueError(f"keep is neither true nor false for a record of shard {shard}")
        tables = {"columns": table}
        kept = int(np.count_nonzero(table.column("keep").to_numpy()))
        counts = {"records": table.num_rows, "kept": kept}
        entry = ShardEntry(shard, 0, table.num_rows, index.logical_digest(tables), self._store(tables), counts)
        self._done[self._begun] = entry
        self._begun += 1

    def quarantine(self, locator: str, reason: str, message: str = "") -> None:
        """Set a record aside: where it came from, a stable reason code and what went wrong."""
        self._quarantine.append(json.dumps({"locator": locator, "reason": reason, "message": message}, sort_keys=True))

    def _next_keys(self, prefix: str) -> Iterator[str]:
        while True:
            self._keyed += 1
            yield f"{prefix}-{self._keyed - 1:06d}"

    def checkpoint(self) -> WriterCheckpoint:
        """End the shards that grow, make all that was added durable, and say what it is: another writer of the same
        unit goes on with that."""
        self._lease.renew()
        self._close_all()
        self._files.sync()
        return WriterCheckpoint(dict(self._done), self._begun, self._keyed)

    def resume(self, checkpoint: WriterCheckpoint) -> bool:
        """Instead of adding what another writer added; False, and nothing, where a file of that is gone."""
        for entry in checkpoint.done.values():
            paths = [f"shards/{entry.shard}.tar", *(index.path(name, one) for name, one in entry.files.items())]
            if not all(map(self._files.exists, paths)):
                return False
        self._done, self._begun, self._keyed = dict(checkpoint.done), checkpoint.begun, checkpoint.keyed
        return True

    def finish(self) -> Receipt:
        """Make everything durable under its content name. The writer is used up."""
        if self._adopting:
            raise ValueError(f"unit {self.unit} has media in an adopted tar that `adopt` never named")
        self._lease.renew()
        self._close_all()
        self._lane.close()
        quarantine = None
        if self._quarantine:
            data = "".join(line + "\n" for line in self._quarantine).encode()
            quarantine = sha256(data).hexdigest()
            publish_bytes(self._files, data, f"quarantine/{quarantine}.jsonl")
        self._files.sync()
        shards = tuple(entry for _, entry in sorted(self._done.items()))
        return Receipt(self.unit, shards, quarantine, len(self._quarantine))

    def _close_all(self) -> None:
        for place, builder in self._open.values():
            self._close(place, builder)
        self._open.clear()

    def _close(self, place: int, builder: ShardBuilder) -> None:
        shard, tables = builder.finish()
        beside = index.joined(self._beside.pop(place, []))
        if beside.num_columns:
            tables["columns"] = beside
        size = builder.file.size
        self._files.publish(builder.file.path, f"shards/{shard}.tar")
        files, records, counts = self._store(tables), tables["core"].num_rows, shard_counts(tables["core"])
        logical, alike = index.logical_digest(tables), self._alike.get(place, "")
        outside = sum(tables["media"].column("length").to_pylist()) if place in self._adopting else 0
        self._done[place] = ShardEntry(shard, size, records, logical, files, counts, alike, media_bytes=outside)

    def _store(self, tables: Mapping[str, pa.Table]) -> dict[str, str]:
        files = {}
        for name, table in tables.items():
            data = index.to_parquet(table)
            files[name] = sha256(data).hexdigest()
            publish_bytes(self._files, data, index.path(name, files[name]))
        return files


def shard_counts(core: pa.Table) -> dict[str, int]:
    """Records of a shard, and the sum of every fact that counts something."""
    import pyarrow.compute as pc

    sums = {field.name: pc.sum(core.column(field.name)).as_py() or 0 for field in core.schema if _is_count(field)}
    return {"records": core.num_rows} | sums


def _is_count(field: pa.Field) -> bool:
    return (
        pa.types.is_signed_integer(field.type)
        and index.is_fact(field.name)
        and field.name not in ("block", "first_pack")
    )
