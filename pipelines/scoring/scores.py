"""Common part of nodes that score: one number per document as the column `NODE.score`, and two limits.

    documents or view -> `scored`: a number or an exception per document -> keep, reason, score

`models.py` calls a model in this process, `endpoints.py` asks one over HTTP. Limits are stored as those of a filter
are, so `millrace inspect VIEW --what-if score.min_score=NUMBER` moves them and `millrace explain` names them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Drop, Json
from pipelines.filters.op import concerns
from pipelines.node import Attempt, UnitRange, UnitTask, ViewNode, write_decisions
from pipelines.scoring.budget import OVER_BUDGET, ChosenDocuments
from stores.store import Snapshot, UnitWriter

LIMITS = ("min_score", "max_score")
NO_SCORE = math.nan
"""Passes every limit."""

Scored = Callable[[], float]
"""Deferred score of one document; raises the error of this document."""


@schema
class ScoreNode(ViewNode):
    """Base of nodes that score. Without limits nothing is dropped: look at the column before you set one."""

    domains: tuple[str, ...] = ()
    """Domains of the documents to score; none given: all."""
    min_score: float | None = None
    """Documents with a lower score are dropped, as `low_score`."""
    max_score: float | None = None
    """Documents with a higher score are dropped, as `high_score`."""

    def needs_media(self) -> bool:
        """Return whether `scored` reads the bytes of pictures and clips."""
        raise NotImplementedError

    def passed_over(self, document: Document) -> str | None:
        """Return why a document has nothing to score, as a code that is counted; None if it can be scored."""
        raise NotImplementedError

    def scored(self, task: UnitTask, documents: Iterable[Document]) -> Iterator[Scored]:
        """Yield a deferred score for each document, in their order. A few documents may be read ahead."""
        raise NotImplementedError

    def number_columns(self, name: str) -> Iterator[str]:
        yield f"{name}.score"

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        chosen: ChosenDocuments = task.unit.data
        snapshot = task.inputs[self.input].snapshot
        for _ in range(chosen.left_out):
            attempt.note(OVER_BUDGET)
        first, count = chosen.range.start, chosen.range.stop - chosen.range.start
        scores = np.full(count, NO_SCORE)
        verdicts: list[Drop | None] = [None] * count
        kept = np.array(chosen.kept(snapshot), np.int64)
        scores[kept - first] = self._previous_scores(task, snapshot, chosen.range)[kept - first]
        for row in np.flatnonzero(np.isfinite(scores)).tolist():
            verdicts[row] = self._verdict(float(scores[row]))
        in_work: deque[tuple[int, str]] = deque()
        """Row and locator of the documents given to `scored`."""

        def documents() -> Iterator[Document]:
            ordinals = kept[np.isnan(scores[kept - first])].tolist()
            for ordinal, document in zip(ordinals, self._read(snapshot, ordinals), strict=True):
                if document.source == FORGOTTEN:
                    verdicts[ordinal - first] = Drop("forgotten")
                elif concerns(self.domains, document):
                    reason = self.passed_over(document)
                    if reason is None:
                        in_work.append((ordinal - first, document.locator))
                        yield document
                    else:
                        attempt.note(reason)

        for scored in self.scored(task, documents()):
            row, locator = in_work.popleft()
            score = attempt(locator, _not_infinite, scored)
            verdicts[row] = Drop("unusable") if score is None else self._verdict(score)
            scores[row] = NO_SCORE if score is None else score
        for shard in chosen.range.shards:
            rows = slice(shard.first - first, shard.first - first + shard.records)
            reasons = [None if verdict is None else verdict.reason for verdict in verdicts[rows]]
            compared = [None if verdict is None else verdict.score for verdict in verdicts[rows]]
            write_decisions(writer, attempt, shard, reasons, compared, {f"{task.node}.score": scores[rows]})
        return {"ops": [self._limits(task.node)]}

    def _previous_scores(self, task: UnitTask, snapshot: Snapshot, records: UnitRange) -> np.ndarray:
        """Return (records,) scores of the node's previous run, if all but its limits is unchanged; else NO_SCORE."""
        scores = np.full(records.stop - records.start, NO_SCORE)
        then = task.previous.made_of_then() if task.previous is not None else None
        if task.previous is None or then is None or _recipe(then) != _recipe(task.previous.made_of_now):
            return scores
        for shard in records.shards:
            measured = task.previous.measured(snapshot, shard)
            if measured is not None:
                column = measured.columns.column(f"{task.node}.score").to_numpy()
                rows = slice(shard.first - records.start, shard.first - records.start + shard.records)
                scores[rows] = np.where(measured.valid, column, NO_SCORE)
        return scores

    def _read(self, snapshot: Snapshot, ordinals: list[int]) -> Iterable[Document]:
        return snapshot.documents(ordinals) if self.needs_media() else map(snapshot.record, ordinals)

    def _verdict(self, score: float) -> Drop | None:
        if self.min_score is not None and score < self.min_score:
            return Drop("low_score", score)
        if self.max_score is not None and score > self.max_score:
            return Drop("high_score", score)
        return None

    def _limits(self, node: str) -> dict[str, Json]:
        """Return the limits as `inspect` reads them to try others; a limit that is not set is null."""
        limits = [
            {"column": f"{node}.score", "drops": drops, "parameter": parameter, "at": at, "reason": reason}
            for drops, parameter, at, reason in (
                ("below", "min_score", self.min_score, "low_score"),
                ("above", "max_score", self.max_score, "high_score"),
            )
        ]
        return {"kind": "score", "domains": list(self.domains), "limits": limits}


def _recipe(made_of: Mapping[str, Json]) -> Json:
    """Return the part of `made_of` that scores depend on."""
    parameters = {name: value for name, value in made_of["parameters"].items() if name not in LIMITS}
    return [parameters, made_of["facts"]]


def _not_infinite(scored: Scored) -> float:
    score = scored()
    if math.isinf(score):
        raise RecordError("infinite_score", f"{score} can't be compared")
    return score
