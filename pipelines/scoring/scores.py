"""What nodes that score have in common: one number a document as the column `NODE.score`, and two limits.

    documents or view -> `scored`, a number or what went wrong for each -> keep, reason, score

How a document gets its number is the classes' own matter: `models.py` calls a model here, `endpoints.py` asks one
elsewhere. Limits are recorded as a filter's are, so `millrace inspect VIEW --what-if score.min_score=NUMBER` moves them
and `millrace explain` names them.
"""

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
"""Raises what went wrong with this document."""


@schema
class Scores(ViewNode):
    """Base of the nodes. Without limits nothing is dropped: look at the column first, and draw the line then."""

    domains: tuple[str, ...] = ()
    """None given: all."""
    min_score: float | None = None
    """Below it a document is dropped, as `low_score`."""
    max_score: float | None = None
    """Above it, as `high_score`."""

    def shows_media(self) -> bool:
        """Whether `scored` needs the bytes of pictures and clips."""
        raise NotImplementedError

    def passed_over(self, document: Document) -> str | None:
        """Why there is nothing to score, if so: a code that is counted."""
        raise NotImplementedError

    def scored(self, task: UnitTask, documents: Iterable[Document]) -> Iterator[Scored]:
        """One for each document, in their order; some may be read ahead."""
        raise NotImplementedError

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        chosen: ChosenDocuments = task.unit.data
        snapshot = task.inputs[self.input].snapshot
        for _ in range(chosen.left_out):
            attempt.note(OVER_BUDGET)
        first, count = chosen.stretch.start, chosen.stretch.stop - chosen.stretch.start
        scores = np.full(count, NO_SCORE)
        verdicts: list[Drop | None] = [None] * count
        kept = np.array(chosen.kept(snapshot), np.int64)
        scores[kept - first] = self._scored_before(task, snapshot, chosen.stretch)[kept - first]
        for row in np.flatnonzero(np.isfinite(scores)).tolist():
            verdicts[row] = self._judged(float(scores[row]))
        asked: deque[tuple[int, str]] = deque()

        def documents() -> Iterator[Document]:
            ordinals = kept[np.isnan(scores[kept - first])].tolist()
            for ordinal, document in zip(ordinals, self._read(snapshot, ordinals), strict=True):
                if document.source == FORGOTTEN:
                    verdicts[ordinal - first] = Drop("forgotten")
                elif concerns(self.domains, document):
                    why = self.passed_over(document)
                    if why is None:
                        asked.append((ordinal - first, document.locator))
                        yield document
                    else:
                        attempt.note(why)

        for scored in self.scored(task, documents()):
            row, locator = asked.popleft()
            score = attempt(locator, _finite, scored)
            verdicts[row] = Drop("unusable") if score is None else self._judged(score)
            scores[row] = NO_SCORE if score is None else score
        for shard in chosen.stretch.shards:
            here = slice(shard.first - first, shard.first - first + shard.records)
            reasons = [None if verdict is None else verdict.reason for verdict in verdicts[here]]
            compared = [None if verdict is None else verdict.score for verdict in verdicts[here]]
            write_decisions(writer, attempt, shard, reasons, compared, {f"{task.node}.score": scores[here]})
        return {"ops": [self._told(task.node)]}

    def _scored_before(self, task: UnitTask, snapshot: Snapshot, stretch: UnitRange) -> np.ndarray:
        """Scores by row that the node knows from when it last ran, if all but its limits is as then; else NO_SCORE."""
        found = np.full(stretch.stop - stretch.start, NO_SCORE)
        then = task.previous.made_of_then() if task.previous is not None else None
        if task.previous is None or then is None or _recipe(then) != _recipe(task.previous.made_of_now):
            return found
        for shard in stretch.shards:
            known = task.previous.measured(snapshot, shard)
            if known is not None:
                before = known.columns.column(f"{task.node}.score").to_numpy()
                here = slice(shard.first - stretch.start, shard.first - stretch.start + shard.records)
                found[here] = np.where(known.valid, before, NO_SCORE)
        return found

    def _read(self, snapshot: Snapshot, ordinals: list[int]) -> Iterable[Document]:
        return snapshot.documents(ordinals) if self.shows_media() else map(snapshot.record, ordinals)

    def _judged(self, score: float) -> Drop | None:
        if self.min_score is not None and score < self.min_score:
            return Drop("low_score", score)
        if self.max_score is not None and score > self.max_score:
            return Drop("high_score", score)
        return None

    def _told(self, node: str) -> dict[str, Json]:
        """What `inspect` needs to decide again with other limits; a limit that is not set is null."""
        limits = [
            {"column": f"{node}.score", "drops": drops, "parameter": parameter, "at": at, "reason": reason}
            for drops, parameter, at, reason in (
                ("below", "min_score", self.min_score, "low_score"),
                ("above", "max_score", self.max_score, "high_score"),
            )
        ]
        return {"kind": "score", "domains": list(self.domains), "limits": limits}


def _recipe(made_of: Mapping[str, Json]) -> Json:
    """What decides scores."""
    parameters = {name: value for name, value in made_of["parameters"].items() if name not in LIMITS}
    return [parameters, made_of["facts"]]


def _finite(scored: Scored) -> float:
    score = scored()
    if math.isinf(score):
        raise RecordError("infinite_score", f"{score} can't be compared")
    return score
