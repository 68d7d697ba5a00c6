"""The entry of a shard in a list: digests of its tar and index, sizes and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard and its index; in a view, a shard of the base and the columns decided for it."""

    shard: str
    """BLAKE3 of the tar as it was made: the name by which views, samples and packs know the shard, for good."""
    bytes: int
    """Bytes of the tar; 0 in a view, which stores none."""
    records: int
    index: str
    """Logical digest of the tables."""
    files: Mapping[str, str]
    """Table name (`core`, `media`, in a view `columns`) -> SHA-256 of its parquet file."""
    counts: Mapping[str, int]
    alike: str = ""
    """Equal for two shards whose records may share one (`layout.signature`); "" if unknown."""
    media_url: str | None = None
    """URL of the adopted tar that holds the shard's media; None if the shard itself holds them. Absolute: a store may
    be moved or copied without the tars that it reads."""
    media_tar: str | None = None
    """BLAKE3 of that tar."""
    media_bytes: int = 0
    """Bytes of the media that the shard's records have in that tar."""
    redacted_tar: str | None = None
    """BLAKE3 of the current tar if records of it were forgotten; every offset is as it was."""
    redacted_index: str | None = None
    """Logical digest of the current tables if rows of them were forgotten."""

    @property
    def tar(self) -> str:
        """BLAKE3 of the current tar; it names the file."""
        return self.redacted_tar or self.shard

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all its records takes, in the store and in an adopted tar."""
        return self.bytes + self.media_bytes

    @property
    def tables(self) -> str:
        """Logical digest of the current tables."""
        return self.redacted_index or self.index
