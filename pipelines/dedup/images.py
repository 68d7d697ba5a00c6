"""The nodes `image_hash` and `dedup_images`: pictures and videos that look alike.

documents or view -> image_hash -> dedup_images -> view, between the filters and `tokenize`. `image_hash` decodes the
media, unit by unit, and writes perceptual hashes as columns; `dedup_images` compares the hashes of all documents and
decodes nothing. `decontaminate` reads the same columns. Limits and measurements: docs/visual.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Literal

import numpy as np
import pyarrow as pa

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Media
from pipelines.dedup import image_hash
from pipelines.dedup.survivors import check_prefer, choose_survivors, write_duplicates
from pipelines.filters.op import concerns
from pipelines.filters.pixels import payload_of
from pipelines.node import (
    Attempt,
    ColumnValues,
    Inputs,
    Mistake,
    Node,
    Survey,
    UnitTask,
    ViewNode,
    name_node,
    single_unit,
    units_below,
    with_columns,
    write_decisions,
)
from stores.media.image import reduced_rgb, small_rgb
from stores.media.video import frames_at
from stores.store import Snapshot, UnitWriter

REASON = "near_duplicate_image"

Hashes = list[image_hash.Hash]
"""Hashes of one kind (`image`, `frame`, `crop`) of one document, in the order of its media."""


@schema
class ImageHash(ViewNode):
    """Perceptual hashes of the images and key frames of every document, as columns. Drops only media that do not
    decode.

    Columns, each a list: `NODE.image_phash` with one number per image, `NODE.image_detail` with four; the same for
    `frame`, with `key_frames` per video, and for `crop`. `NODE.pixels` is the sum of pixels over the media. The hashes
    are defined in `dedup/image_hash.py`.
    """

    kind: Literal["image_hash"]
    key_frames: int = 5
    """Hashes per video: the frames in the middle of this many equal intervals."""
    crops: bool = False
    """Also hash 1,308 parts of every image, 52 KB. For evaluation sets, so that crops of their pictures are found."""
    domains: tuple[str, ...] = ()
    """Domains of the documents that get hashes; empty: all."""

    def __post_init__(self) -> None:
        if not 1 <= self.key_frames <= 64:
            raise ValueError(f"key_frames is {self.key_frames}, expected 1 to 64")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts = {"hash": image_hash.VERSION} | {library: version(library) for library in ("pillow", "simplejpeg", "av")}
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        for shard in task.unit.data.shards:
            reasons: list[str | None] = [None] * shard.records
            pixels = np.zeros(shard.records, np.int64)
            hashes: list[dict[str, Hashes]] = [{} for _ in range(shard.records)]
            for ordinal in snapshot.kept(shard.first, shard.first + shard.records).tolist():
                document, row = snapshot.record(ordinal), ordinal - shard.first
                if not document.media or document.source == FORGOTTEN or not concerns(self.domains, document):
                    continue
                made = attempt(document.locator, self._hashes, document, snapshot)
                if made is None:
                    reasons[row] = "unusable"
                else:
                    hashes[row] = made
                    pixels[row] = sum(medium.width_px * medium.height_px for medium in document.media)
            columns: dict[str, ColumnValues] = {f"{task.node}.pixels": pixels}
            for kind in self._kinds():
                columns |= _lists(f"{task.node}.{kind}", [by_kind.get(kind, []) for by_kind in hashes])
            write_decisions(writer, attempt, shard, reasons, columns=columns)
        return {"hashes": task.node, "key_frames": self.key_frames, "crops": self.crops}

    def number_columns(self, name: str) -> Iterator[str]:
        yield f"{name}.pixels"

    def _kinds(self) -> tuple[str, ...]:
        return ("image", "frame", "crop") if self.crops else ("image", "frame")

    def _hashes(self, document: Document, snapshot: Snapshot) -> dict[str, Hashes]:
        """Hash all media of one document.

        Raises:
            RecordError: a medium does not decode.
        """
        hashes: dict[str, Hashes] = {kind: [] for kind in self._kinds()}
        for medium in snapshot.with_payloads(document).media:
            if medium.kind == "video":
                hashes["frame"] += video_hashes(medium, self.key_frames)
                continue
            gray = image_hash.gray_of(reduced_rgb(payload_of(medium), image_hash.SIDE_PX))
            hashes["image"].append(image_hash.hash_of(gray))
            if self.crops:
                hashes["crop"] += [image_hash.hash_of(gray, box) for box in image_hash.crops(*gray.size)]
        return hashes


def video_hashes(video: Media, count: int) -> Hashes:
    """Hash `count` key frames of a video."""
    times_us = image_hash.key_times_us(video.frame_times_us, count)
    frames = frames_at(payload_of(video), times_us, each=lambda rgb: small_rgb(rgb, image_hash.SIDE_PX))
    return [image_hash.hash_of(image_hash.gray_of(frame)) for frame in frames]


@schema
class DedupImages(ViewNode):
    """Keep one document of each cluster with nearly the same picture or the same video.

    Only documents with exactly one image and no video, or one video and no image, are compared: a page is not a copy
    because it shows the same photograph. Reads the columns of an `image_hash` node, no pixels. Two pictures are the
    same if at most `max_bits` of 64 and at most `max_detail_bits` of 256 differ. Clusters are transitive; a second pass
    over the survivors drops nothing. Pictures that show too little for a hash are kept. One unit, because every picture
    is compared with every other.
    """

    READS = frozenset({"view"})

    kind: Literal["dedup_images"]
    max_bits: int = 8
    """Differing bits of the pHash, up to 15. Ours, measured: docs/visual.md."""
    max_detail_bits: int = 31
    """Differing bits of the detail; the default is the threshold that PDQ recommends."""
    min_frames: int = 4
    """Number of a video's key frames that must be near, each to the frame at the same position."""
    prefer: str = ""
    """Column of numbers: the document with the largest number stays, by default the one with the most pixels. Of equal
    numbers the document with the smallest id stays."""
    max_memory_mb: int = 2048
    """Memory for hashes that are compared together; less means more passes, and scratch files. About 100 bytes per
    document come on top."""

    def __post_init__(self) -> None:
        check_radii(self.max_bits, self.max_detail_bits)
        if self.max_memory_mb < 1:
            raise ValueError(f"max_memory_mb is {self.max_memory_mb}, expected at least 1")
        if self.min_frames < 1:
            raise ValueError(f"min_frames is {self.min_frames}, expected at least 1")

    def check(self, name: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
        hashing = nodes[self.input]
        while hashing.kind == "decontaminate":  # it passes the meta of `image_hash` on
            hashing = nodes[hashing.reads()[0]]
        if not isinstance(hashing, ImageHash):
            message = f"{self.input} ({nodes[self.input].kind}) has no hashes to compare"
            fix = f"{name_node('image_hash', nodes)}, or decontaminate after one"
            yield Mistake(("input",), message, fix)
        elif self.min_frames > hashing.key_frames:
            message = f"min_frames is {self.min_frames}, and {hashing.key_frames} key frames of a video are hashed"
            yield Mistake(("min_frames",), message, "lower it, or raise key_frames of the image_hash node")
        yield from check_prefer(self.prefer, self.input, nodes)

    def number_columns(self, name: str) -> Iterator[str]:
        yield f"{name}.cluster_size"

    def survey(self, name: str, inputs: Inputs) -> Survey:
        snapshot = inputs[self.input].snapshot
        if "hashes" not in snapshot.meta:
            fix = "put a node of kind image_hash before it"
            raise ManifestError(f"{self.input} has no hashes to compare", where=name, fix=fix)
        node, frames = snapshot.meta["hashes"], snapshot.meta["key_frames"]
        if self.min_frames > frames:
            message = f"min_frames is {self.min_frames}, {node} hashed {frames} key frames of a video"
            raise ManifestError(message, where=name, fix="lower min_frames or raise key_frames there")
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
            of_kind = hamming.clusters(
                read, total, count, self.max_bits, self.max_detail_bits, need, self.max_memory_mb << 20
            )
            cluster = np.minimum(cluster, of_kind)  # no document is in two: it has an image or a video
        survivor, size = choose_survivors(snapshot, cluster, self.prefer or f"{node}.pixels")
        write_duplicates(writer, attempt, snapshot, survivor, REASON, {f"{task.node}.cluster_size": size})


def _compared(
    snapshot: Snapshot, kind: str, count: int, other: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, by shard, places, hashes and details of the documents with `count` hashes of one kind and none of the
    other."""
    for ref, table in snapshot.tables([*HashColumn(kind).names, *HashColumn(other).names, "keep"]):
        column, excluded = HashColumn(kind), HashColumn(other)
        column.add(table)
        excluded.add(table)
        rows = np.flatnonzero(table["keep"].to_numpy() & (column.counts == count) & (excluded.counts == 0))
        yield (ref.first + rows, *column.of(rows, count))


class HashColumn:
    """Hashes of one kind of all documents, joined from index tables shard by shard."""

    def __init__(self, name: str) -> None:
        self.names = [f"{name}_phash", f"{name}_detail"]
        self._counts = [np.zeros(0, np.int64)]
        self._hashes = [np.zeros(0, np.uint64)]
        self._details = [np.zeros(0, np.uint64)]

    def add(self, table: pa.Table) -> None:
        """Append the rows of one shard."""
        hashes, details = (table[name].combine_chunks() for name in self.names)
        self._counts.append(hashes.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        self._hashes.append(hashes.flatten().to_numpy(zero_copy_only=False))
        self._details.append(details.flatten().to_numpy(zero_copy_only=False))

    @property
    def counts(self) -> np.ndarray:
        """(documents,) int64 number of hashes of each document."""
        return np.concatenate(self._counts)

    @property
    def hashes(self) -> np.ndarray:
        """(hashes,) uint64 of all documents, end to end."""
        return np.concatenate(self._hashes)

    @property
    def details(self) -> np.ndarray:
        """(hashes, 4) uint64."""
        return np.concatenate(self._details).reshape(-1, image_hash.WORDS)

    def of(self, documents: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes (n, count) and details (n, count, 4) of `documents`, which have `count` hashes each."""
        starts = np.cumsum(self.counts) - self.counts
        places = starts[documents][:, None] + np.arange(count)
        return self.hashes[places], self.details[places]


def check_radii(bits: int, detail_bits: int) -> None:
    """Validate `max_bits` and `max_detail_bits` of a node."""
    if not 0 <= bits <= 15:
        raise ValueError(f"max_bits is {bits}, expected 0 to 15")
    if not 0 <= detail_bits <= 256:
        raise ValueError(f"max_detail_bits is {detail_bits}, expected 0 to 256")


def _lists(name: str, by_document: Sequence[Hashes]) -> dict[str, pa.Array]:
    """Return the two columns of one kind of hashes, a list per document."""
    phashes = [[one.phash for one in hashes] for hashes in by_document]
    details = [[word for one in hashes for word in one.detail] for hashes in by_document]
    numbers = pa.list_(pa.uint64())
    return {f"{name}_phash": pa.array(phashes, numbers), f"{name}_detail": pa.array(details, numbers)}
