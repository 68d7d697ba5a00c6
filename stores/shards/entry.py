"""The entry of a shard in a list: digests of its tar and index, sizes and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard and its index; in a view, a shard of the base and the columns decided for it."""

    shard: str
    """BLAKE3 of the tar as it was made, or `adopted.shard_name`: the name that views, samples and packs know the shard
    by, for good."""
    bytes: int
    """Of the tar; 0 in a view, which stores none."""
    records: int
    index: str
    """Logical digest of the tables."""
    files: Mapping[str, str]
    """Table name (`core`, `media`, of an adopted tar `members`, in a view `columns`) -> SHA-256 of its parquet file."""
    counts: Mapping[str, int]
    alike: str = ""
    """Equal where the records of two shards may share one (`layout.signature`); "" where nobody said."""
    url: str | None = None
    """Of the tar, where it was adopted and lies outside the store. Absolute: a store may be moved or copied without the
    tars that it reads."""
    foreign: str | None = None
    """BLAKE3 of the adopted tar."""
    blanked: str | None = None
    """BLAKE3 of the tar that lies there now, where records of it were forgotten; every offset is as it was."""
    blanked_index: str | None = None
    """Logical digest of the tables that lie there now, where rows of them were forgotten."""

    @property
    def tar(self) -> str:
        """BLAKE3 of the tar that lies there now; it names the file, unless that is an adopted one."""
        return self.foreign or self.blanked or self.shard

    @property
    def tables(self) -> str:
        """Logical digest of the tables that lie there now."""
        return self.blanked_index or self.index
