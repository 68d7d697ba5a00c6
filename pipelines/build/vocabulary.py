"""`learn_vocabulary`: byte-pair ranks from a sample of documents, as a file that a person may promote.

documents -> `NODE/ranks.tiktoken`. No other node reads it: `tokenise` takes a vocabulary by the path that its manifest
names. So nothing is ever tokenised anew because some documents changed; promoting is copying the file and naming it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import digest
from pipelines.node import FolderNode, Inputs, OutputFolder, Survey, Unit, UnitTask
from stores.store import Snapshot
from tokenization.learn_ranks import count_pieces, learn, rank_file
from tokenization.vocabulary import PATTERN


@schema
class LearnVocabulary(FolderNode):
    """Ranks learned from text, chosen by a hash of the documents' ids: neither order nor sharding matters."""

    kind: Literal["learn_vocabulary"]
    inputs: tuple[str, ...]
    ranks: int = 32_768
    """Ordinary tokens, the 256 bytes among them; fewer where nothing occurs twice any more."""
    sample_characters: int = 100_000_000
    """Documents are taken until they have so many characters; all where there are fewer."""
    seed: int = 0

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
            print(f"{task.node}: only {len(tokens)} of {self.ranks} ranks, nothing else occurs twice", file=sys.stderr)
        place.folder.mkdir(parents=True, exist_ok=True)
        (place.folder / "ranks.tiktoken").write_text(rank_file(tokens), encoding="ascii")
        return [str(Path(place.node) / "ranks.tiktoken")]

    def _texts(self, snapshots: list[Snapshot]) -> Iterator[str]:
        for snapshot, ordinals in zip(snapshots, self._chosen(snapshots), strict=True):
            for ordinal in ordinals:
                yield snapshot.record(ordinal).text

    def _chosen(self, snapshots: list[Snapshot]) -> list[list[int]]:
        """Ordinals by snapshot, ascending."""
        found: list[tuple[str, int, int, int]] = []
        for number, snapshot in enumerate(snapshots):
            kept = snapshot.kept()
            table = snapshot.base.table(["id", "characters"]).take(np.asarray(kept))
            names, characters = table["id"].to_pylist(), table["characters"].to_pylist()
            for ordinal, name, length in zip(kept.tolist(), names, characters, strict=True):
                found.append((digest(str(self.seed), name), number, ordinal, length))
        if not found:
            raise ManifestError("there is no document to learn from", where=", ".join(self.inputs))
        chosen: list[list[int]] = [[] for _ in snapshots]
        left = self.sample_characters
        for _, number, ordinal, length in sorted(found):
            if left <= 0:
                break
            chosen[number].append(ordinal)
            left -= length
        return [sorted(ordinals) for ordinals in chosen]
