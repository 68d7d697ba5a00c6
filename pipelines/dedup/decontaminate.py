"""The node that drops what a model will be tested with: text by runs of words, pictures by perceptual hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json
from pipelines.dedup import image_hash
from pipelines.dedup.images import Column, check_radii
from pipelines.filters.op import concerns
from pipelines.node import DOCUMENTS, Attempt, Inputs, Product, Survey, UnitTask, units_below, with_columns
from stores.store import ShardRef, Snapshot, StoreKind, UnitWriter

if TYPE_CHECKING:
    from pipelines.dedup.ngrams import Items

TEXT, IMAGE = "contaminated_text", "contaminated_image"


@schema
class Decontaminate:
    """Documents that hold an item of the evaluation stores `against`, in words or as a picture.

    Text: a run of `words` words in common, as GPT-3 has it (Brown et al. 2020, appendix C), without case and
    punctuation; items shorter than that by all of their words. Of scripts without spaces a character is a word.

    Pictures, frames included: by the columns that `image_hash` nodes wrote on both sides. With `crops: true` on the
    evaluation's side, pictures that were cut out of an evaluation's are found, too: of its shape, from 50 % of its
    sides on. The other way round, a training picture with the evaluation's somewhere in it, is not looked for.

    Columns: `NODE.item` and `NODE.evaluation` say which item of which source, `NODE.how` is `ngram`, `item` (all of a
    short one), `image` or `crop`, the score counts runs in common, or the bits of 256 that differ.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["decontaminate"]
    input: str
    against: tuple[str, ...]
    """Nodes with the documents of evaluations."""
    words: int = 13
    min_words: int = 8
    """Shorter items are not looked for, as in GPT-3."""
    max_items: int = 10
    """A run of words that more items share says how questions are put, and is left out."""
    max_bits: int = 10
    """Of 64. Both are wider than for duplicates: a picture too few costs less than one of the test's."""
    max_detail_bits: int = 60
    """Of 256."""
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.against:
            raise ValueError("against names no node")
        if not 1 <= self.min_words <= self.words:
            raise ValueError(f"min_words is {self.min_words}, expected 1 to {self.words}, what words says")
        if self.max_items < 1:
            raise ValueError(f"max_items is {self.max_items}, expected at least 1")
        check_radii(self.max_bits, self.max_detail_bits)

    def reads(self) -> tuple[str, ...]:
        return (self.input, *self.against)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        from pipelines.dedup import ngrams

        compared = [self.input, *(one for one in self.against if _shows_media(inputs[one].snapshot))]
        if len(compared) > 1 and _shows_media(inputs[self.input].snapshot):
            for one in compared:
                if "hashes" not in inputs[one].snapshot.meta:
                    fix = f"put a node of kind image_hash over {one} and name that"
                    raise ManifestError(f"the pictures of {one} have no hashes to compare", where=name, fix=fix)
        snapshot = inputs[self.input].snapshot
        facts: dict[str, Json] = {"hash": image_hash.VERSION, "ngrams": ngrams.VERSION}
        facts["against"] = [inputs[one].digest for one in self.against]
        return Survey(tuple(with_columns(snapshot, units_below(snapshot))), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        tests = tuple(task.inputs[name] for name in self.against)
        tested = _evaluation(tests, self.words, self.min_words, self.max_items)
        names = {name: f"{task.node}.{name}" for name in ("item", "evaluation", "how")}
        for shard in task.unit.data.shards:
            seen = self._pictures(snapshot, shard, tested)
            keys = ("keep", "reason", "score", *names.values())
            columns: dict[str, list[Any]] = {key: [key == "keep" or None] * shard.records for key in keys}
            for ordinal in snapshot.kept(shard.first, shard.first + shard.records).tolist():
                document, row = snapshot.record(ordinal), ordinal - shard.first
                if document.source == FORGOTTEN or not concerns(self.domains, document):
                    continue
                found = attempt(document.locator, self._look, document, tested, seen.get(row))
                if not found:
                    continue
                reason, score, how, item = found
                attempt.drop(reason)
                said = dict(zip(names.values(), (tested.ids[item], tested.sources[item], how), strict=True))
                for key, value in ({"keep": False, "reason": reason, "score": score} | said).items():
                    columns[key][row] = value
            writer.columns(shard.shard, columns)
        facts: dict[str, Json] = {
            "against": list(self.against),
            "items": len(tested.ids),
            "too short": tested.text.short,
        }
        return {"contaminated": names, "evaluation": facts} | _passed_on(snapshot)

    def _look(self, document: Document, tested: _Evaluation, seen: _Match | None) -> _Match | Literal[False]:
        """What is found first; False for nothing, as None says that looking failed."""
        from pipelines.dedup.ngrams import first_found

        item, wide, count = first_found(document.text, tested.text)
        if item >= 0:
            return TEXT, float(count), "ngram" if wide == self.words else "item", item
        return seen or False

    def _pictures(self, snapshot: Snapshot, shard: ShardRef, tested: _Evaluation) -> dict[int, _Match]:
        """By row of the shard the evaluation's picture that is nearest to one of the document's."""
        node = snapshot.meta.get("hashes")
        if node is None or not len(tested.hashes):
            return {}
        from pipelines.dedup import hamming

        table, found = snapshot.beside(shard), dict[int, _Match]()
        for kind in ("image", "frame"):
            column = Column(f"{node}.{kind}")
            column.add(table)
            hashes, details = column.hashes, column.details
            near = hamming.nearest(hashes, details, tested.hashes, tested.details, self.max_bits, self.max_detail_bits)
            rows = np.repeat(np.arange(shard.records), column.counts)
            for place in np.flatnonzero(near >= 0).tolist():
                match = int(near[place])
                bits = float(np.bitwise_count(details[place] ^ tested.details[match]).sum())
                how = "image" if match < tested.whole else "crop"
                row = int(rows[place])
                if row not in found or bits < found[row][1]:
                    found[row] = (IMAGE, bits, how, int(tested.owners[match]))
        return found


_Match = tuple[str, float, str, int]
"""Reason, score, how, item."""


@dataclass(frozen=True)
class _Evaluation:
    ids: list[str]
    sources: list[str]
    text: Items
    hashes: np.ndarray
    """(n,) of all whole pictures and frames, then of crops."""
    details: np.ndarray
    owners: np.ndarray
    """(n,) item of each hash."""
    whole: int
    """Hashes that are not of crops."""


@lru_cache(maxsize=1)
def _evaluation(tests: tuple[Product, ...], words: int, min_words: int, max_items: int) -> _Evaluation:
    """Everything of the evaluations that is compared, made once in a process."""
    from pipelines.dedup.ngrams import items_of

    kept = [[one for one in test.snapshot.records() if one.source != FORGOTTEN] for test in tests]
    documents = list(chain.from_iterable(kept))
    place = {document.id: number for number, document in enumerate(documents)}
    whole, crops = _Hashes(), _Hashes()
    for test in tests:
        if node := test.snapshot.meta.get("hashes"):
            whole.add(test.snapshot, f"{node}.image", place)
            whole.add(test.snapshot, f"{node}.frame", place)
            if test.snapshot.meta["crops"]:
                crops.add(test.snapshot, f"{node}.crop", place)
    hashes, details, owners = (np.concatenate(pair) for pair in zip(whole.arrays(), crops.arrays(), strict=True))
    text = items_of((document.text for document in documents), words, min_words, max_items)
    sources = [document.source for document in documents]
    return _Evaluation(list(place), sources, text, hashes, details, owners, len(whole.arrays()[0]))


class _Hashes:
    def __init__(self) -> None:
        self._parts = [(np.zeros(0, np.uint64), np.zeros((0, image_hash.WORDS), np.uint64), np.zeros(0, np.int64))]

    def add(self, snapshot: Snapshot, name: str, place: Mapping[str, int]) -> None:
        column, ids, keep = Column(name), [], []
        for _, table in snapshot.tables([*column.names, "id", "keep"]):
            column.add(table)
            ids += table["id"].to_pylist()
            keep.append(table["keep"].to_numpy())
        owners = np.array([place.get(one, -1) for one in ids], np.int64)
        owners[~np.concatenate([np.zeros(0, bool), *keep])] = -1
        of = np.repeat(owners, column.counts)
        good = (of >= 0) & (column.hashes != image_hash.NO_HASH)
        self._parts.append((column.hashes[good], column.details[good], of[good]))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hashes, details, owners = zip(*self._parts, strict=True)
        return np.concatenate(hashes), np.concatenate(details), np.concatenate(owners)


def _shows_media(snapshot: Snapshot) -> bool:
    return any(snapshot.base.counts.get(kind, 0) for kind in ("images", "videos"))


def _passed_on(snapshot: Snapshot) -> dict[str, Json]:
    """So that `dedup_images` may stand behind."""
    return {name: snapshot.meta[name] for name in ("hashes", "key_frames", "crops") if name in snapshot.meta}
