"""Nodes that drop pictures with a mark which many pictures of their site have: `watermark_votes`, and
`drop_watermarks` over what it wrote. What is measured, `filters/watermark_votes.py` says; how sure it is,
docs/visual.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Media
from pipelines.filters import watermark_votes
from pipelines.filters.op import concerns
from pipelines.filters.pixels import grey_levels, payload_of
from pipelines.node import DOCUMENTS, Attempt, Inputs, Survey, UnitTask, single_unit, units_below, with_columns
from stores.media.image import reduced_rgb
from stores.store import Snapshot, StoreKind, UnitWriter

TOGETHER = 256
"""Pictures whose votes are unpacked together, 22 KB each."""
GROUP_BYTES = 2 * 4 * 64 * watermark_votes.WORDS
"""Of memory for the sums of one site."""


@schema
class WatermarkVotes:
    """What `drop_watermarks` compares, as a column: 5 KB for every document with exactly one image and no video."""

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["watermark_votes"]
    input: str
    domains: tuple[str, ...] = ("caption",)
    """Charts, slides and screens that are drawn alike have much at the same place, and would go."""

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts = {"overlays": watermark_votes.VERSION} | {
            library: version(library) for library in ("pillow", "simplejpeg")
        }
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        for shard in task.unit.data.shards:
            keep = np.ones(shard.records, bool)
            reasons: list[str | None] = [None] * shard.records
            found: list[np.ndarray | None] = [None] * shard.records
            for ordinal in snapshot.kept(shard.first, shard.first + shard.records).tolist():
                document, row = snapshot.record(ordinal), ordinal - shard.first
                image = _only_image(document)
                if image is None or document.source == FORGOTTEN or not concerns(self.domains, document):
                    continue
                found[row] = attempt(document.locator, self._votes, document, snapshot)
                if found[row] is None:
                    keep[row], reasons[row] = False, "unusable"
                    attempt.drop("unusable")
            votes = pa.array(found, pa.list_(pa.uint64()))
            writer.columns(shard.shard, {"keep": keep, "reason": reasons, f"{task.node}.votes": votes})
        return {"watermark_votes": task.node}

    def _votes(self, document: Document, snapshot: Snapshot) -> np.ndarray:
        (image,) = snapshot.filled(document).media
        return watermark_votes.votes(grey_levels(reduced_rgb(payload_of(image), watermark_votes.SIDE_PX)))


def _only_image(document: Document) -> Media | None:
    return document.media[0] if len(document.media) == 1 and document.media[0].kind == "image" else None


@schema
class DropWatermarks:
    """Pictures that bear the mark of their site, the host of `origin`, or of their source where that is no URL.

    A site with fewer than `min_pictures` is left alone. Reads what a `watermark_votes` node wrote, no pixels. One unit,
    as every picture of a site is compared with the others.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = frozenset({"view"})
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["drop_watermarks"]
    input: str
    max_overlay: float = 2.0
    """Measured: docs/visual.md."""
    min_pictures: int = 32
    max_memory_mb: int = 1024
    """For the sums of sites that are counted together, 170 KB each; less means more passes over the column."""

    def __post_init__(self) -> None:
        if self.min_pictures < 2 or self.max_memory_mb < 1:
            raise ValueError("min_pictures is at least 2, max_memory_mb at least 1")

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

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
            here = scores[ref.first : ref.first + ref.records]
            marked = here > self.max_overlay
            for _ in range(int(marked.sum())):
                attempt.drop("watermark")
            verdicts = {
                "keep": ~marked,
                "reason": ["watermark" if one else None for one in marked.tolist()],
                "score": [float(value) if one else None for one, value in zip(marked.tolist(), here, strict=True)],
            }
            writer.columns(ref.shard, {**verdicts, name: here})
        limit = {"column": name, "drops": "above", "parameter": "max_overlay", "at": self.max_overlay}
        return {"ops": [{"kind": "watermark", "domains": [], "limits": [limit | {"reason": "watermark"}]}]}

    def _score(
        self,
        snapshot: Snapshot,
        column: str,
        site: np.ndarray,
        pictures: np.ndarray,
        some: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        """Fill in the scores of the pictures of some sites."""
        place = np.full(len(pictures), -1)
        place[some] = np.arange(len(some))
        shape = (len(some), watermark_votes.WINDOWS, watermark_votes.WIDTH_PX * watermark_votes.HEIGHT_PX)
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
    """(documents,) int64, the number of each one's site, -1 for those without votes; and the pictures of each site."""
    known: dict[str, int] = {}
    found: list[int] = []
    for _, table in snapshot.tables(["origin", "source", "keep", column]):
        voted = table["keep"].to_numpy() & ~table[column].is_null().to_numpy()
        for origin, source, votes in zip(table["origin"].to_pylist(), table["source"].to_pylist(), voted, strict=True):
            found.append(known.setdefault(_site(origin) or f"{source}:", len(known)) if votes else -1)
    site = np.array(found, np.int64)
    return site, np.bincount(site[site >= 0], minlength=len(known))


def _site(origin: str) -> str:
    try:
        return (urlsplit(origin).hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def _voted(
    snapshot: Snapshot, column: str, site: np.ndarray, place: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ordinals, and votes as `overlays.unpacked` gives them, of the pictures whose site has a place; some at a time."""
    for ref, table in snapshot.tables([column]):
        here = site[ref.first : ref.first + ref.records]
        rows = np.flatnonzero((here >= 0) & (place[here] >= 0))
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            words = table[column].combine_chunks().take(pa.array(some)).flatten().to_numpy(zero_copy_only=False)
            yield ref.first + some, watermark_votes.unpacked(words.reshape(len(some), -1))
