"""The node `decontaminate`: drops documents that contain items of evaluations.

documents or view -> decontaminate -> view, before `tokenize`. Text is compared by runs of words (`dedup/ngrams.py`),
pictures by perceptual hash (`dedup/hamming.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json
from pipelines.dedup import image_hash
from pipelines.dedup.images import HashColumn, check_radii
from pipelines.filters.op import concerns
from pipelines.node import (
    Attempt,
    Inputs,
    Mistake,
    Node,
    Product,
    Survey,
    UnitTask,
    ViewNode,
    units_below,
    with_columns,
    write_decisions,
)
from stores.store import ShardRef, Snapshot, UnitWriter

if TYPE_CHECKING:
    from pipelines.dedup.ngrams import ItemIndex

TEXT, IMAGE = "contaminated_text", "contaminated_image"


@schema
class Decontaminate(ViewNode):
    """Drop documents that contain an item of the evaluation stores `against`, as text or as a picture.

    Text: a run of `words` words in common, as in GPT-3 (Brown et al. 2020, appendix C), without case and punctuation;
    a shorter item is found by all of its words. In scripts without spaces a character is a word.

    Pictures and key frames: by the columns that `image_hash` nodes wrote on both sides. With `crops: true` on the
    evaluation's side, crops of evaluation pictures are found too, if they have the picture's shape and at least 50 % of
    its sides. The other way round, a training picture that contains the evaluation's, is not found.

    Columns: `NODE.item` and `NODE.evaluation` are id and source of the item; `NODE.how` is `ngram`, `item` (all words
    of a short one), `image` or `crop`. The score is the number of runs in common, or of bits of 256 that differ.
    """

    SIDE_INPUTS = ("against",)

    kind: Literal["decontaminate"]
    against: tuple[str, ...]
    """Names of the nodes with evaluation documents."""
    words: int = 13
    """Length of a run."""
    min_words: int = 8
    """Shorter items are ignored, as in GPT-3."""
    max_items: int = 10
    """A run that more items share is ignored: it is a way of asking, not an item."""
    max_bits: int = 10
    """Differing bits of the pHash, of 64. Both limits are wider than for duplicates: to lose a picture costs less than
    to train on an evaluation's."""
    max_detail_bits: int = 60
    """Differing bits of the detail, of 256."""
    domains: tuple[str, ...] = ()
    """Domains of the documents that are compared; empty: all."""

    def __post_init__(self) -> None:
        if not self.against:
            raise ValueError("against names no node")
        if not 1 <= self.min_words <= self.words:
            raise ValueError(f"min_words is {self.min_words}, expected 1 to {self.words}, the value of words")
        if self.max_items < 1:
            raise ValueError(f"max_items is {self.max_items}, expected at least 1")
        check_radii(self.max_bits, self.max_detail_bits)

    def check(self, name: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
        if self.input in self.against:
            message = f"{self.input} is compared with itself, so nothing of it would be left"
            yield Mistake(("against",), message, "name nodes with evaluations")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        from pipelines.dedup import ngrams

        compared = [self.input, *(node for node in self.against if _has_media(inputs[node].snapshot))]
        if len(compared) > 1 and _has_media(inputs[self.input].snapshot):
            for node in compared:
                if "hashes" not in inputs[node].snapshot.meta:
                    fix = f"put a node of kind image_hash over {node} and name that"
                    raise ManifestError(f"the pictures of {node} have no hashes to compare", where=name, fix=fix)
        snapshot = inputs[self.input].snapshot
        facts: dict[str, Json] = {"hash": image_hash.VERSION, "ngrams": ngrams.VERSION}
        facts["against"] = [inputs[node].digest for node in self.against]
        return Survey(tuple(with_columns(snapshot, units_below(snapshot))), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        products = tuple(task.inputs[name] for name in self.against)
        evaluation = _index_evaluation(products, self.words, self.min_words, self.max_items)
        names = {name: f"{task.node}.{name}" for name in ("item", "evaluation", "how")}
        for shard in task.unit.data.shards:
            pictures = self._match_pictures(snapshot, shard, evaluation)
            matches: list[_Match | None] = [None] * shard.records
            for ordinal in snapshot.kept(shard.first, shard.first + shard.records).tolist():
                document, row = snapshot.record(ordinal), ordinal - shard.first
                if document.source == FORGOTTEN or not concerns(self.domains, document):
                    continue
                match = attempt(document.locator, self._match, document, evaluation, pictures.get(row))
                matches[row] = match or None
            columns = {
                names["item"]: [match and evaluation.ids[match.item] for match in matches],
                names["evaluation"]: [match and evaluation.sources[match.item] for match in matches],
                names["how"]: [match and match.how for match in matches],
            }
            reasons = [match and match.reason for match in matches]
            scores = [match and match.score for match in matches]
            write_decisions(writer, attempt, shard, reasons, scores, columns)
        facts: dict[str, Json] = {
            "against": list(self.against),
            "items": len(evaluation.ids),
            "too short": evaluation.text.short,
        }
        return {"contaminated": names, "evaluation": facts} | _image_hash_meta(snapshot)

    def _match(self, document: Document, evaluation: _Evaluation, picture: _Match | None) -> _Match | Literal[False]:
        """Return the match in the text, else the one among the pictures; False if there is none, because `attempt`
        returns None for a failure."""
        from pipelines.dedup.ngrams import first_match

        item, length, count = first_match(document.text, evaluation.text)
        if item >= 0:
            return _Match(TEXT, float(count), "ngram" if length == self.words else "item", item)
        return picture or False

    def _match_pictures(self, snapshot: Snapshot, shard: ShardRef, evaluation: _Evaluation) -> dict[int, _Match]:
        """Return, by row of the shard, the evaluation picture that is nearest to any picture of the document."""
        node = snapshot.meta.get("hashes")
        if node is None or not len(evaluation.hashes):
            return {}
        from pipelines.dedup import hamming

        table, matches = snapshot.extra_columns(shard), dict[int, _Match]()
        for kind in ("image", "frame"):
            column = HashColumn(f"{node}.{kind}")
            column.add(table)
            hashes, details = column.hashes, column.details
            near = hamming.nearest(
                hashes, details, evaluation.hashes, evaluation.details, self.max_bits, self.max_detail_bits
            )
            rows = np.repeat(np.arange(shard.records), column.counts)
            for place in np.flatnonzero(near >= 0).tolist():
                other = int(near[place])
                bits = float(np.bitwise_count(details[place] ^ evaluation.details[other]).sum())
                how = "image" if other < evaluation.whole else "crop"
                row = int(rows[place])
                if row not in matches or bits < matches[row].score:
                    matches[row] = _Match(IMAGE, bits, how, int(evaluation.owners[other]))
        return matches


class _Match(NamedTuple):
    reason: str
    score: float
    how: str
    item: int
    """Place in `_Evaluation.ids`."""


@dataclass(frozen=True)
class _Evaluation:
    """Index of all evaluation items."""

    ids: list[str]
    sources: list[str]
    text: ItemIndex
    hashes: np.ndarray
    """(n,) uint64 of whole pictures and frames, then of crops."""
    details: np.ndarray
    """(n, 4) uint64."""
    owners: np.ndarray
    """(n,) int64 item of each hash."""
    whole: int
    """Number of hashes that are not of crops."""


@lru_cache(maxsize=1)
def _index_evaluation(products: tuple[Product, ...], words: int, min_words: int, max_items: int) -> _Evaluation:
    """Read and index all evaluation documents, once in a process."""
    from pipelines.dedup.ngrams import index_items

    documents = [
        document for product in products for document in product.snapshot.records() if document.source != FORGOTTEN
    ]
    place = {document.id: number for number, document in enumerate(documents)}
    whole, crops = _HashParts(), _HashParts()
    for product in products:
        snapshot = product.snapshot
        if node := snapshot.meta.get("hashes"):
            whole.add(snapshot, f"{node}.image", place)
            whole.add(snapshot, f"{node}.frame", place)
            if snapshot.meta["crops"]:
                crops.add(snapshot, f"{node}.crop", place)
    hashes, details, owners = (np.concatenate(pair) for pair in zip(whole.arrays(), crops.arrays(), strict=True))
    text = index_items((document.text for document in documents), words, min_words, max_items)
    sources = [document.source for document in documents]
    return _Evaluation(list(place), sources, text, hashes, details, owners, len(whole.arrays()[0]))


class _HashParts:
    """Hashes, details and owners of evaluation pictures, gathered column by column."""

    def __init__(self) -> None:
        self._parts = [(np.zeros(0, np.uint64), np.zeros((0, image_hash.WORDS), np.uint64), np.zeros(0, np.int64))]

    def add(self, snapshot: Snapshot, name: str, place: Mapping[str, int]) -> None:
        """Append the hashes of kept documents; `place` is the item of each document id."""
        column, ids, keep = HashColumn(name), [], []
        for _, table in snapshot.tables([*column.names, "id", "keep"]):
            column.add(table)
            ids += table["id"].to_pylist()
            keep.append(table["keep"].to_numpy())
        items = np.array([place.get(document, -1) for document in ids], np.int64)
        items[~np.concatenate([np.zeros(0, bool), *keep])] = -1
        owners = np.repeat(items, column.counts)
        valid = (owners >= 0) & (column.hashes != image_hash.NO_HASH)
        self._parts.append((column.hashes[valid], column.details[valid], owners[valid]))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hashes, details, owners = zip(*self._parts, strict=True)
        return np.concatenate(hashes), np.concatenate(details), np.concatenate(owners)


def _has_media(snapshot: Snapshot) -> bool:
    return any(snapshot.base.counts.get(kind, 0) for kind in ("images", "videos"))


def _image_hash_meta(snapshot: Snapshot) -> dict[str, Json]:
    """Return the meta of `image_hash`, passed on so that `dedup_images` can read this node."""
    return {name: snapshot.meta[name] for name in ("hashes", "key_frames", "crops") if name in snapshot.meta}
