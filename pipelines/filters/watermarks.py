"""The nodes `watermark_votes` and `drop_watermarks`: pictures that bear the watermark of their site.

documents or view -> watermark_votes -> drop_watermarks -> view, before `tokenize`. `watermark_votes` decodes the
pictures, unit by unit, and writes a column; `drop_watermarks` compares the pictures of each site by this column. The
method is in `filters/watermark_votes.py`, its measured accuracy in docs/visual.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Media
from pipelines.filters import watermark_votes
from pipelines.filters.op import concerns
from pipelines.filters.pixels import gray_levels, payload_of
from pipelines.node import (
    Attempt,
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
from stores.media.image import reduced_rgb
from stores.store import Snapshot, UnitWriter

BLOCK_PICTURES = 256
"""Pictures whose votes are unpacked together, 22 KB each."""
GROUP_BYTES = 2 * 4 * 64 * watermark_votes.WORDS
"""Memory for the sums of one site."""


@schema
class WatermarkVotes(ViewNode):
    """Votes of every document with exactly one image and no video, as a column of 5 KB. Drops only media that do not
    decode."""

    kind: Literal["watermark_votes"]
    domains: tuple[str, ...] = ("caption",)
    """Domains of the documents that vote. Charts, slides and screens of one style would be dropped: they have much at
    the same place."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts = {"overlays": watermark_votes.VERSION} | {
            library: version(library) for library in ("pillow", "simplejpeg")
        }
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        for shard in task.unit.data.shards:
            reasons: list[str | None] = [None] * shard.records
            votes: list[np.ndarray | None] = [None] * shard.records
            for ordinal in snapshot.kept(shard.first, shard.first + shard.records).tolist():
                document, row = snapshot.record(ordinal), ordinal - shard.first
                image = _only_image(document)
                if image is None or document.source == FORGOTTEN or not concerns(self.domains, document):
                    continue
                votes[row] = attempt(document.locator, self._votes, document, snapshot)
                if votes[row] is None:
                    reasons[row] = "unusable"
            column = pa.array(votes, pa.list_(pa.uint64()))
            write_decisions(writer, attempt, shard, reasons, columns={f"{task.node}.votes": column})
        return {"watermark_votes": task.node}

    def _votes(self, document: Document, snapshot: Snapshot) -> np.ndarray:
        (image,) = snapshot.with_payloads(document).media
        return watermark_votes.votes(gray_levels(reduced_rgb(payload_of(image), watermark_votes.SIDE_PX)))


def _only_image(document: Document) -> Media | None:
    return document.media[0] if len(document.media) == 1 and document.media[0].kind == "image" else None


@schema
class DropWatermarks(ViewNode):
    """Drop pictures with the watermark of their site: the host of `origin`, or their source if that is no URL.

    Sites with fewer than `min_pictures` pictures are not judged. Reads the column of a `watermark_votes` node, no
    pixels. One unit, because every picture of a site is compared with the others.
    """

    READS = frozenset({"view"})

    kind: Literal["drop_watermarks"]
    max_overlay: float = 2.0
    """Score above which a picture is dropped; chosen by measurement, docs/visual.md."""
    min_pictures: int = 32
    """Smallest number of pictures of a site that is judged."""
    max_memory_mb: int = 1024
    """Memory for the sums of sites that are counted together, 170 KB each; less means more passes over the column."""

    def __post_init__(self) -> None:
        if self.min_pictures < 2 or self.max_memory_mb < 1:
            raise ValueError("min_pictures is at least 2, max_memory_mb at least 1")

    def check(self, name: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
        kind = nodes[self.input].kind
        if kind != "watermark_votes":
            message = f"{self.input} ({kind}) writes no votes to compare"
            yield Mistake(("input",), message, name_node("watermark_votes", nodes))

    def number_columns(self, name: str) -> Iterator[str]:
        yield f"{name}.watermark.overlay"

    def survey(self, name: str, inputs: Inputs) -> Survey:
        snapshot = inputs[self.input].snapshot
        if "watermark_votes" not in snapshot.meta:
            fix = "put a node of kind watermark_votes before it"
            raise ManifestError(f"{self.input} has no votes to compare", where=name, fix=fix)
        return Survey(
            (single_unit(with_columns(snapshot, units_below(snapshot))),), {"overlays": watermark_votes.VERSION}
        )

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        column = f"{snapshot.meta['watermark_votes']}.votes"
        site, pictures = _sites(snapshot, column)
        scores = np.full(len(site), np.nan)
        large = np.flatnonzero(pictures >= self.min_pictures)
        together = max(1, (self.max_memory_mb << 20) // GROUP_BYTES)
        for start in range(0, len(large), together):
            self._score(snapshot, column, site, pictures, large[start : start + together], scores)
        name = f"{task.node}.watermark.overlay"
        for ref in snapshot.shards:
            shard_scores = scores[ref.first : ref.first + ref.records]
            dropped = [float(score) if score > self.max_overlay else None for score in shard_scores]
            reasons = [None if score is None else "watermark" for score in dropped]
            write_decisions(writer, attempt, ref, reasons, dropped, {name: shard_scores})
        limit = {"column": name, "drops": "above", "parameter": "max_overlay", "at": self.max_overlay}
        return {"ops": [{"kind": "watermark", "domains": [], "limits": [limit | {"reason": "watermark"}]}]}

    def _score(
        self,
        snapshot: Snapshot,
        column: str,
        site: np.ndarray,
        pictures: np.ndarray,
        group: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        """Write the scores of all pictures of a group of sites into `scores`.

        Args:
            site: (documents,) int64 number of each document's site.
            pictures: (sites,) number of pictures of each site.
            group: numbers of the sites.
        """
        place = np.full(len(pictures), -1)
        place[group] = np.arange(len(group))
        shape = (len(group), watermark_votes.WINDOWS, watermark_votes.WIDTH_PX * watermark_votes.HEIGHT_PX)
        sums, counts = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for rows, votes in _voted(snapshot, column, site, place):
            for row, own in zip(rows.tolist(), votes, strict=True):
                sums[place[site[row]]] += own
                counts[place[site[row]]] += own != 0
        for rows, votes in _voted(snapshot, column, site, place):
            for row, own in zip(rows.tolist(), votes.astype(np.int32), strict=True):
                at = place[site[row]]
                scores[row] = watermark_votes.score(own, sums[at], counts[at], int(pictures[site[row]]))


def _sites(snapshot: Snapshot, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (documents,) int64, the number of each document's site, -1 without votes; and (sites,) int64, the number
    of pictures of each site."""
    numbers: dict[str, int] = {}
    site_of: list[int] = []
    for _, table in snapshot.tables(["origin", "source", "keep", column]):
        voted = table["keep"].to_numpy() & ~table[column].is_null().to_numpy()
        for origin, source, votes in zip(table["origin"].to_pylist(), table["source"].to_pylist(), voted, strict=True):
            site_of.append(numbers.setdefault(_site(origin) or f"{source}:", len(numbers)) if votes else -1)
    site = np.array(site_of, np.int64)
    return site, np.bincount(site[site >= 0], minlength=len(numbers))


def _site(origin: str) -> str:
    """Return the host of a URL without `www.`; "" if it has none."""
    try:
        return (urlsplit(origin).hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def _voted(
    snapshot: Snapshot, column: str, site: np.ndarray, place: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of ordinals and unpacked votes, for the pictures whose site has a place."""
    for ref, table in snapshot.tables([column]):
        shard_sites = site[ref.first : ref.first + ref.records]
        rows = np.flatnonzero((shard_sites >= 0) & (place[shard_sites] >= 0))
        for start in range(0, len(rows), BLOCK_PICTURES):
            block = rows[start : start + BLOCK_PICTURES]
            words = table[column].combine_chunks().take(pa.array(block)).flatten().to_numpy(zero_copy_only=False)
            yield ref.first + block, watermark_votes.unpacked(words.reshape(len(block), -1))
