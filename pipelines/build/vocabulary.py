"""The node `learn_vocabulary`: byte-pair ranks from a sample of documents, written to a file.

documents -> `NODE/ranks.tiktoken`. No other node reads the file: a `tokenize` node names its vocabulary by path. To use
new ranks, copy the file and name the copy. So changed documents never cause all others to be tokenized again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from manifests.errors import ManifestError
from manifests.files import write_whole
from manifests.load import schema
from manifests.records import digest
from pipelines.node import FolderNode, Inputs, OutputFolder, Survey, Unit, UnitTask
from stores.store import Snapshot
from tokenization.learn_ranks import count_pieces, learn, rank_file
from tokenization.vocabulary import PATTERN

logger = logging.getLogger(__name__)


@schema
class LearnVocabulary(FolderNode):
    """Learn byte-pair ranks from documents, which a hash of their ids chooses: order and sharding have no influence."""

    kind: Literal["learn_vocabulary"]
    inputs: tuple[str, ...]
    """Nodes with the documents."""
    ranks: int = 32_768
    """Ordinary tokens, including the 256 bytes; fewer if nothing occurs twice any more."""
    sample_characters: int = 100_000_000
    """Size of the sample in characters; all documents if they have fewer."""
    seed: int = 0
    """Seed of the hash."""

    def __post_init__(self) -> None:
        if self.ranks < 256 or self.sample_characters < 1:
            raise ValueError("expected at least 256 ranks and a sample of one character")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        content = digest(*(inputs[wanted].digest for wanted in self.inputs))
        return Survey((Unit("ranks", content),), {"pattern": digest(PATTERN), "regex": version("regex")})

    def make(self, task: UnitTask, place: OutputFolder) -> list[str]:
        snapshots = [task.inputs[wanted].snapshot for wanted in self.inputs]
        pieces = count_pieces(self._texts(snapshots))
        tokens = learn(pieces, self.ranks)
        if len(tokens) < self.ranks:
            message = "%s: only %d of %d ranks, nothing else occurs twice"
            logger.warning(message, task.node, len(tokens), self.ranks)
        place.folder.mkdir(parents=True, exist_ok=True)
        write_whole(place.folder / "ranks.tiktoken", rank_file(tokens))
        return [str(Path(place.node) / "ranks.tiktoken")]

    def _texts(self, snapshots: list[Snapshot]) -> Iterator[str]:
        """Yield the texts of the sample."""
        for snapshot, ordinals in zip(snapshots, self._sample(snapshots), strict=True):
            for ordinal in ordinals:
                yield snapshot.record(ordinal).text

    def _sample(self, snapshots: list[Snapshot]) -> list[list[int]]:
        """Return the ordinals of the chosen documents by snapshot, ascending."""
        documents: list[tuple[str, int, int, int]] = []
        """Hash, number of the snapshot, ordinal, characters."""
        for number, snapshot in enumerate(snapshots):
            kept = snapshot.kept()
            table = snapshot.base.table(["id", "characters"]).take(np.asarray(kept))
            ids, characters = table["id"].to_pylist(), table["characters"].to_pylist()
            for ordinal, document, length in zip(kept.tolist(), ids, characters, strict=True):
                documents.append((digest(str(self.seed), document), number, ordinal, length))
        if not documents:
            fix = "look for dropped and quarantined records: `millrace inspect` on the inputs"
            raise ManifestError("there is no document to learn from", where=", ".join(self.inputs), fix=fix)
        sample: list[list[int]] = [[] for _ in snapshots]
        left = self.sample_characters
        for _, number, ordinal, length in sorted(documents):
            if left <= 0:
                break
            sample[number].append(ordinal)
            left -= length
        return [sorted(ordinals) for ordinals in sample]
