"""Nodes that drop pictures and videos which look like others: `image_hash`, and `dedup_images` over what it wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from manifests.errors import ManifestError, RecordError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Media
from pipelines.dedup import image_hash
from pipelines.dedup.survivors import choose_survivors, duplicate_columns
from pipelines.filters.op import concerns
from pipelines.node import DOCUMENTS, Attempt, Inputs, Survey, UnitTask, single_unit, units_below, with_columns
from stores.media.image import reduced_rgb, small_rgb
from stores.media.video import frames_at
from stores.store import Snapshot, StoreKind, UnitWriter

NEAR = "near_duplicate_image"

Hashes = list[image_hash.Hash]


@schema
class ImageHash:
    """Perceptual hashes of the images and key frames of every document, as columns. Drops only what does not decode.

    `dedup_images` and `decontaminate` compare them. Columns, each a list: `NODE.image_phash` with a number per image,
    `NODE.image_detail` with four; the same for `frame`, with `key_frames` per video, and for `crop`. `NODE.pixels` is
    the sum over the media. What the numbers are: `pipelines/dedup/image_hash.py`.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["image_hash"]
    input: str
    key_frames: int = 5
    """Of a video: those in the middle of so many equal stretches."""
    crops: bool = False
    """Also 1,308 parts of every image, 52 KB. For evaluation sets: what was cut out of their pictures is found then."""
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.key_frames <= 64:
            raise ValueError(f"key_frames is {self.key_frames}, expected 1 to 64")

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts = {"hash": image_hash.VERSION} | {library: version(library) for library in ("pillow", "simplejpeg", "av")}
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        for shard in task.unit.data.shards:
            keep = np.ones(shard.records, bool)
            reasons: list[str | None] = [None] * shard.records
            pixels = np.zeros(shard.records, np.int64)
            found: list[dict[str, Hashes]] = [{} for _ in range(shard.records)]
            for ordinal in snapshot.kept(shard.first, shard.first + shard.records).tolist():
                document, row = snapshot.record(ordinal), ordinal - shard.first
                if not document.media or document.source == FORGOTTEN or not concerns(self.domains, document):
                    continue
                made = attempt(document.locator, self._hashes, document, snapshot)
                if made is None:
                    keep[row], reasons[row] = False, "unusable"
                    attempt.drop("unusable")
                else:
                    found[row] = made
                    pixels[row] = sum(one.width_px * one.height_px for one in document.media)
            columns: dict[str, Any] = {"keep": keep, "reason": reasons, f"{task.node}.pixels": pixels}
            for kind in self._kinds():
                columns |= _lists(f"{task.node}.{kind}", [one.get(kind, []) for one in found])
            writer.columns(shard.shard, columns)
        return {"hashes": task.node, "key_frames": self.key_frames, "crops": self.crops}

    def _kinds(self) -> tuple[str, ...]:
        return ("image", "frame", "crop") if self.crops else ("image", "frame")

    def _hashes(self, document: Document, snapshot: Snapshot) -> dict[str, Hashes]:
        found: dict[str, Hashes] = {kind: [] for kind in self._kinds()}
        for medium in snapshot.filled(document).media:
            if medium.kind == "video":
                found["frame"] += video_hashes(medium, self.key_frames)
                continue
            grey = image_hash.grey_of(reduced_rgb(_bytes(medium), image_hash.SIDE_PX))
            found["image"].append(image_hash.hash_of(grey))
            if self.crops:
                found["crop"] += [image_hash.hash_of(grey, box) for box in image_hash.crops(*grey.size)]
        return found


def video_hashes(video: Media, count: int) -> Hashes:
    times_us = image_hash.key_times_us(video.frame_times_us, count)
    frames = frames_at(_bytes(video), times_us, each=lambda rgb: small_rgb(rgb, image_hash.SIDE_PX))
    return [image_hash.hash_of(image_hash.grey_of(frame)) for frame in frames]


@schema
class DedupImages:
    """Of every cluster of documents that show nearly the same picture, or the same video, one stays.

    Only documents with exactly one image and no video, or one video and no image, are compared: a page is not a copy
    because it shows the same photograph. Reads what an `image_hash` node wrote, no pixels. Two pictures are the same
    where at most `max_bits` of 64 differ, and at most `max_detail_bits` of 256. Clusters are transitive; a second pass
    over the survivors changes nothing. Pictures that show next to nothing are left alone. One unit, as every picture is
    compared with every other.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = frozenset({"view"})
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["dedup_images"]
    input: str
    max_bits: int = 8
    """Of pHash, up to 15. Ours, measured: docs/visual.md."""
    max_detail_bits: int = 31
    """The threshold that PDQ recommends."""
    min_frames: int = 4
    """Of a video's key frames, how many must be near, each to the one at the same place."""
    prefer: str = ""
    """A column of numbers: the document with the largest stays, by default the one with the most pixels; of equal ones
    that with the smallest id."""
    max_memory_mb: int = 2048
    """For hashes that are compared together; less means more passes, and scratch files. Beside it some 100 bytes a
    document are held."""

    def __post_init__(self) -> None:
        check_radii(self.max_bits, self.max_detail_bits)
        if self.max_memory_mb < 1:
            raise ValueError(f"max_memory_mb is {self.max_memory_mb}, expected at least 1")
        if self.min_frames < 1:
            raise ValueError(f"min_frames is {self.min_frames}, expected at least 1")

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        snapshot = inputs[self.input].snapshot
        node = hashed_by(snapshot, name, self.input)
        if self.min_frames > snapshot.meta["key_frames"]:
            told = f"min_frames is {self.min_frames}, {node} hashed {snapshot.meta['key_frames']} key frames of a video"
            raise ManifestError(told, where=name, fix="lower min_frames or raise key_frames there")
        units = with_columns(snapshot, units_below(snapshot))
        return Survey((single_unit(units),), {"hash": image_hash.VERSION})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        from pipelines.dedup import hamming  # compiles, and costs the memory of numba

        snapshot = task.inputs[self.input].snapshot
        node, frames = snapshot.meta["hashes"], snapshot.meta["key_frames"]
        total = sum(ref.records for ref in snapshot.shards)
        cluster = np.arange(total)
        image, frame = f"{node}.image", f"{node}.frame"
        for kind, count, other, need in ((image, 1, frame, 1), (frame, frames, image, self.min_frames)):
            read = partial(_compared, snapshot, kind, count, other)
            found = hamming.clusters(
                read, total, count, self.max_bits, self.max_detail_bits, need, self.max_memory_mb << 20
            )
            cluster = np.minimum(cluster, found)  # nobody is in two: a document has an image or a video
        survivor, size = choose_survivors(snapshot, cluster, self.prefer or f"{node}.pixels")
        for ref, columns in duplicate_columns(snapshot, survivor, NEAR, attempt):
            here = size[ref.first : ref.first + ref.records]
            writer.columns(ref.shard, columns | {f"{task.node}.cluster_size": here})


def _compared(
    snapshot: Snapshot, kind: str, count: int, other: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Places, hashes and details of the documents with `count` hashes of a kind and none of the other, by shard."""
    for ref, table in snapshot.tables([*Column(kind).names, *Column(other).names, "keep"]):
        column, none = Column(kind), Column(other)
        column.add(table)
        none.add(table)
        rows = np.flatnonzero(table["keep"].to_numpy() & (column.counts == count) & (none.counts == 0))
        yield (ref.first + rows, *column.of(rows, count))


class Column:
    """One kind of hashes of all documents, put together from tables as they are read."""

    def __init__(self, name: str) -> None:
        self.names = [f"{name}_phash", f"{name}_detail"]
        self._counts = [np.zeros(0, np.int64)]
        self._hashes = [np.zeros(0, np.uint64)]
        self._details = [np.zeros(0, np.uint64)]

    def add(self, table: pa.Table) -> None:
        hashes, details = (table[name].combine_chunks() for name in self.names)
        self._counts.append(hashes.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        self._hashes.append(hashes.flatten().to_numpy(zero_copy_only=False))
        self._details.append(details.flatten().to_numpy(zero_copy_only=False))

    @property
    def counts(self) -> np.ndarray:
        """Hashes of each document."""
        return np.concatenate(self._counts)

    @property
    def hashes(self) -> np.ndarray:
        return np.concatenate(self._hashes)

    @property
    def details(self) -> np.ndarray:
        return np.concatenate(self._details).reshape(-1, image_hash.WORDS)

    def of(self, documents: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, count) and (n, count, 4) of documents that have so many each."""
        starts = np.cumsum(self.counts) - self.counts
        places = starts[documents][:, None] + np.arange(count)
        return self.hashes[places], self.details[places]


def hashed_by(snapshot: Snapshot, node: str, given: str) -> str:
    """Name of the `image_hash` node whose columns `snapshot` has. Raises ManifestError where there is none."""
    found = snapshot.meta.get("hashes")
    if found is None:
        raise ManifestError(
            f"{given} has no hashes to compare", where=node, fix="put a node of kind image_hash before it"
        )
    return str(found)


def check_radii(bits: int, detail_bits: int) -> None:
    if not 0 <= bits <= 15:
        raise ValueError(f"max_bits is {bits}, expected 0 to 15")
    if not 0 <= detail_bits <= 256:
        raise ValueError(f"max_detail_bits is {detail_bits}, expected 0 to 256")


def _lists(name: str, hashes: Sequence[Hashes]) -> dict[str, pa.Array]:
    numbers = pa.list_(pa.uint64())
    return {
        f"{name}_phash": pa.array([[one.phash for one in some] for some in hashes], numbers),
        f"{name}_detail": pa.array([[word for one in some for word in one.detail] for some in hashes], numbers),
    }


def _bytes(medium: Media) -> bytes:
    if medium.payload is None:
        raise RecordError("no_payload", f"{medium.kind} {medium.digest} was not read")
    return medium.payload
