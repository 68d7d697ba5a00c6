"""Writer of one unit of a store: takes records or columns, writes content-named files, returns a receipt.

Runs in worker processes. `shards/kinds.py` encodes records, `shards/layout.py` lays them out in tars, `Store.commit`
publishes the receipt. A worker that dies leaves files that no root reaches; `gc` deletes them.
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
"""Default size of a shard."""


@dataclass(frozen=True)
class WriterCheckpoint:
    """State of a writer, from which another writer of the same unit goes on."""

    shards: Mapping[int, ShardEntry]
    """Finished shards by number in the unit."""
    next_shard: int
    next_key: int
    """Number of the next key of a tar sample."""

    def as_json(self) -> Json:
        """Return JSON values for a checkpoint file."""
        shards = {str(number): asdict(entry) for number, entry in self.shards.items()}
        return {"shards": shards, "next_shard": self.next_shard, "next_key": self.next_key}

    @classmethod
    def from_json(cls, values: Json) -> WriterCheckpoint:
        """Read the values that `as_json` returned."""
        shards = {int(number): ShardEntry(**entry) for number, entry in values["shards"].items()}
        return cls(shards, values["next_shard"], values["next_key"])


class UnitWriter:
    """Writer of one unit. Equal records in equal order give equal bytes."""

    def __init__(self, files: Files, kind: str, unit: str, shard_bytes: int = SHARD_BYTES) -> None:
        self._files, self._kind, self.unit = files, kind, unit
        self.url = files.url
        self.shard_bytes = shard_bytes
        """Size at which a shard is full and the next one begins. May be set before the first record."""
        prefix = digest("unit", unit)[:12]
        self._keys = self._next_keys(prefix)
        self._next_key = 0
        self._open: dict[Hashable, tuple[int, ShardBuilder]] = {}
        """Open shards, with their numbers in the unit, by the signature that their records share."""
        self._extra: defaultdict[int, list[pa.Table]] = defaultdict(list)
        """Extra columns of an open shard, one row per record, by number."""
        self._alike: dict[int, str] = {}
        self._next_shard = 0
        self._has_ids = kind in KINDS and KINDS[kind].FACTS.names[0] == "id"
        self._adopting: set[int] = set()
        """Numbers of shards whose media are in the tar that the next `adopt` names."""
        self._ids: set[bytes] = set()
        self._done: dict[int, ShardEntry] = {}
        self._lease = Lease(files, unit)
        self._lane = Lane()
        self._quarantine: list[str] = []

    def add(self, record: Any, extra: pa.Table | None = None) -> None:
        """Write one record of the store's kind.

        Args:
            extra: one row of columns to store in addition to the facts of its kind, such as decisions of views.
        Raises:
            RecordError: the record can't be stored (`lone_surrogate`, `not_json`), or this unit has its id already
                (`duplicate_id`). The unit goes on without it.
        """
        if self._kind not in KINDS:
            raise ValueError("a view holds columns and no records")
        self._lease.renew()
        kind = KINDS[self._kind]
        plain = kind.batch_bytes(record)
        encoded = kind.encode(record) if plain is None else None
        identity = bytes.fromhex(record.id) if self._has_ids else None
        if identity in self._ids:
            raise RecordError("duplicate_id", f"another record of unit {self.unit} has id {record.id}")
        group = None if encoded is None else signature(kind, encoded)
        number, builder = self._open.get(group) or self._begin(kind, group, encoded)
        if encoded is not None:
            builder.add(encoded)
        elif plain is not None:
            builder.add_to_batch(record, plain)
        if extra is not None:
            self._extra[number].append(extra)
        if identity is not None:
            self._ids.add(identity)
        if builder.size >= self.shard_bytes:
            del self._open[group]
            self._close(number, builder)

    def _begin(self, kind: RecordKind, group: Hashable, encoded: Encoded | None) -> tuple[int, ShardBuilder]:
        """Open a shard for records with the signature `group`; return its number in the unit and its builder."""
        arrays = sorted((kind.ARRAYS or ()) if encoded is None else encoded.arrays)
        path = self._files.temporary_path()
        if kind.IN_BLOCKS:
            self._close_all()  # blocks keep the order of their records, so only one shard grows at a time
            builder: ShardBuilder = BlockBuilder(kind, path, arrays, self._lane, self._keys)
        else:
            builder = SingleRecordBuilder(kind, path, arrays, self._lane)
            if encoded is not None and any(map(in_adopted_tar, encoded.media)):
                self._adopting.add(self._next_shard)
            else:
                self._alike[self._next_shard] = digest("alike", repr(group))[:8]
        self._open[group] = (self._next_shard, builder)
        self._next_shard += 1
        return self._open[group]

    def adopt(self, url: str, tar: str) -> None:
        """Name the tar that holds the media of the documents added since the last call; they stay there.

        This concerns media whose `Location` has the shard `layout.ADOPTED`. Everything else of these documents is in
        shards of this store.

        Args:
            url: absolute URL of the tar.
            tar: its BLAKE3.
        """
        self._close_all()
        for number in self._adopting:
            self._done[number] = replace(self._done[number], media_url=url, media_tar=tar)
        self._adopting.clear()

    def columns(self, shard: str, columns: Mapping[str, Sequence[Any] | np.ndarray | pa.Array]) -> None:
        """Write the columns of a view for all records of one shard of its base, in row order.

        Args:
            shard: digest of the shard.
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
        self._done[self._next_shard] = entry
        self._next_shard += 1

    def quarantine(self, locator: str, reason: str, message: str = "") -> None:
        """Quarantine a record.

        Args:
            locator: place that it came from.
            reason: stable reason code.
            message: details for people.
        """
        self._quarantine.append(json.dumps({"locator": locator, "reason": reason, "message": message}, sort_keys=True))

    def _next_keys(self, prefix: str) -> Iterator[str]:
        while True:
            self._next_key += 1
            yield f"{prefix}-{self._next_key - 1:06d}"

    def checkpoint(self) -> WriterCheckpoint:
        """Close the open shards, make everything added durable, and return the state for another writer to resume."""
        self._lease.renew()
        self._close_all()
        self._files.sync()
        return WriterCheckpoint(dict(self._done), self._next_shard, self._next_key)

    def resume(self, checkpoint: WriterCheckpoint) -> bool:
        """Adopt the output of a previous writer of this unit. Returns False, and does nothing, if a file is missing."""
        for entry in checkpoint.shards.values():
            tables = (index.path(name, digest) for name, digest in entry.files.items())
            paths = [f"shards/{entry.shard}.tar", *tables]
            if not all(map(self._files.exists, paths)):
                return False
        self._done = dict(checkpoint.shards)
        self._next_shard, self._next_key = checkpoint.next_shard, checkpoint.next_key
        return True

    def finish(self) -> Receipt:
        """Make everything durable under content names; return the receipt. The writer can't be used after that."""
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
        for number, builder in self._open.values():
            self._close(number, builder)
        self._open.clear()

    def _close(self, number: int, builder: ShardBuilder) -> None:
        shard, tables = builder.finish()
        extra = index.joined(self._extra.pop(number, []))
        if extra.num_columns:
            tables["columns"] = extra
        size = builder.file.size
        self._files.publish(builder.file.path, f"shards/{shard}.tar")
        files, records, counts = self._store(tables), tables["core"].num_rows, shard_counts(tables["core"])
        logical, alike = index.logical_digest(tables), self._alike.get(number, "")
        media_bytes = sum(tables["media"].column("length").to_pylist()) if number in self._adopting else 0
        self._done[number] = ShardEntry(shard, size, records, logical, files, counts, alike, media_bytes=media_bytes)

    def _store(self, tables: Mapping[str, pa.Table]) -> dict[str, str]:
        files = {}
        for name, table in tables.items():
            data = index.to_parquet(table)
            files[name] = sha256(data).hexdigest()
            publish_bytes(self._files, data, index.path(name, files[name]))
        return files


def shard_counts(core: pa.Table) -> dict[str, int]:
    """Return the counts of a shard: its records, and the sum of every fact that counts something."""
    import pyarrow.compute as pc

    sums = {field.name: pc.sum(core.column(field.name)).as_py() or 0 for field in core.schema if _is_count(field)}
    return {"records": core.num_rows} | sums


def _is_count(field: pa.Field) -> bool:
    return (
        pa.types.is_signed_integer(field.type)
        and index.is_fact(field.name)
        and field.name not in ("block", "first_pack")
    )
