"""The node `filter`: keeps or drops documents by ops, and writes columns instead of copying documents.

documents or view -> filter -> view. The view has a column `keep`, a stable reason and the compared number of each
dropped record, and a column for every score. Ops are the classes of this folder; to add one, write its class
(CONTRIBUTING.md works one through) and add its line to `OPS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import numpy as np
import pydantic

from manifests.load import schema
from manifests.records import DOMAINS, FORGOTTEN, Document, Drop, Json
from pipelines.external_files import file_digest, missing_file
from pipelines.filters import (
    blocklist,
    caption_rules,
    code_math,
    language,
    media_rules,
    pixels,
    quality,
    reuse,
    rights,
    text_rules,
    video_rules,
)
from pipelines.filters.op import Measured, Op, column, concerns
from pipelines.filters.reuse import MEDIA_LIBRARIES, OpResult, ReusedResults
from pipelines.node import Attempt, Inputs, Mistake, Node, Survey, UnitTask, ViewNode, units_below, write_decisions
from stores.store import Snapshot, UnitWriter

OPS: dict[str, type[Op]] = {
    "text_length": text_rules.TextLength,
    "repeated_lines": text_rules.RepeatedLines,
    "repeated_characters": text_rules.RepeatedCharacters,
    "few_letters": text_rules.FewLetters,
    "garbled": text_rules.Garbled,
    "gopher_quality": quality.GopherQuality,
    "gopher_repetition": quality.GopherRepetition,
    "fineweb": quality.FineWeb,
    "c4": quality.C4,
    "language": language.Language,
    "blocked": blocklist.Blocked,
    "code_quality": code_math.CodeQuality,
    "math_content": code_math.MathContent,
    "no_text": media_rules.NoText,
    "image_too_small": media_rules.ImageTooSmall,
    "extreme_aspect": media_rules.ExtremeAspect,
    "flat_image": media_rules.FlatImage,
    "blurred_image": pixels.BlurredImage,
    "low_entropy": pixels.LowEntropy,
    "text_only_image": pixels.TextOnlyImage,
    "animated_image": pixels.AnimatedImage,
    "caption_length": caption_rules.CaptionLength,
    "boilerplate_caption": caption_rules.BoilerplateCaption,
    "video_duration": video_rules.VideoDuration,
    "broken_timestamps": video_rules.BrokenTimestamps,
    "video_motion": video_rules.VideoMotion,
    "rights": rights.RequiredRights,
}
"""`kind:` of an op in a manifest -> its class."""


if TYPE_CHECKING:
    AnyOp = Op
else:
    AnyOp = Annotated[Union[tuple(OPS.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007


@schema
class Filter(ViewNode):
    """Drop documents by a list of ops; the first op that drops a document gives the reason.

    Ops also measure documents that an earlier op dropped, and each score becomes the column `NODE.OP.SCORE`, so that a
    limit can be moved afterwards (`millrace inspect VIEW --what-if`). Put ops that are expensive into a filter of their
    own behind the others: it reads only documents that the others kept.
    """

    VERSION = 2

    kind: Literal["filter"]
    ops: tuple[AnyOp, ...]
    """Rules, in the order in which they give a reason."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts: dict[str, Json] = {"ops": [[op.kind, op.VERSION] for op in self.ops]}
        if any(op.READS_MEDIA for op in self.ops):
            facts |= {library: version(library) for library in MEDIA_LIBRARIES}
        measured = [op for op in self.ops if isinstance(op, Measured)]
        facts |= {library: version(library) for op in measured for library in op.LIBRARIES}
        if files := [[op.kind, file_digest(path, name)] for op in measured for path in op.external_files()]:
            facts["files"] = files
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def check(self, name: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
        for number, op in enumerate(self.ops):
            for other in self.ops[:number]:
                both = set(op.domains or DOMAINS) & set(other.domains or DOMAINS)
                if op.kind == other.kind and both:  # each would overwrite the other's columns
                    message = f"two ops of kind {op.kind} look at the same documents ({', '.join(sorted(both))})"
                    fix = "give them different `domains`, or put one into a filter of its own"
                    yield Mistake(("ops", number), message, fix)

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        for number, op in enumerate(self.ops):
            for key in sorted(op.PLACES):
                for path in getattr(op, key):
                    yield from missing_file(("ops", number, key), path)

    def number_columns(self, name: str) -> Iterator[str]:
        for op in self.ops:
            for limit in op.LIMITS if isinstance(op, Measured) else ():
                yield column(name, op.kind, limit.score)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        timing: Timing = {op.kind: [0, 0.0] for op in self.ops}
        reusable = reuse.reusable_ops(self.ops, task.previous)
        for shard in task.unit.data.shards:
            previous = reuse.PreviousResults(task, self.ops, reusable, snapshot, shard)
            columns = _ShardColumns(task.node, self.ops, shard.records)
            for ordinal in snapshot.kept(shard.first, shard.first + shard.records).tolist():
                row = ordinal - shard.first
                reused = previous.of_row(row)
                if len(reused) == len(self.ops):  # nothing is measured, so nothing can fail
                    drop, results = self._decide(None, reused, snapshot, timing)
                else:
                    drop, results = self._attempt(snapshot.record(ordinal), reused, snapshot, attempt, timing)
                columns.add(row, drop, results)
            write_decisions(writer, attempt, shard, columns.reasons, columns.drop_scores, columns.by_name)
        for kind, (records, seconds) in timing.items():
            attempt.took(kind, records, seconds)
        return {"ops": [_summary(task.node, op) for op in self.ops]}

    def _attempt(
        self, document: Document, reused: ReusedResults, snapshot: Snapshot, attempt: Attempt, timing: Timing
    ) -> tuple[Drop | None, list[OpResult]]:
        """Decide about one document; if an op fails on it, the document is dropped as `unusable`."""
        if document.source == FORGOTTEN:
            return Drop("forgotten"), []
        return attempt(document.locator, self._decide, document, reused, snapshot, timing) or (Drop("unusable"), [])

    def _decide(
        self, document: Document | None, reused: ReusedResults, snapshot: Snapshot, timing: Timing
    ) -> tuple[Drop | None, list[OpResult]]:
        """Return the first drop and the results of all ops. `document` may be None if `reused` covers all ops."""
        with_media: Document | None = None
        first: Drop | None = None
        results: list[OpResult] = []
        for place, op in enumerate(self.ops):
            if place in reused:
                results.append(reused[place])
                first = first or reuse.judge(op, reused[place])
                continue
            assert document is not None
            if not concerns(op.domains, document):
                results.append(None)
                continue
            if op.READS_MEDIA and with_media is None:
                with_media = snapshot.with_payloads(document)
            began = perf_counter()
            read = with_media if op.READS_MEDIA and with_media is not None else document
            if isinstance(op, Measured):
                scores = op.measure(read)
                results.append(scores)
                drop = op.judge(scores)
            else:
                drop = op.decide(read)
                results.append(drop.reason if drop else None)
            first = first or drop
            timing[op.kind][0] += 1
            timing[op.kind][1] += perf_counter() - began
        return first, results


Timing = dict[str, list[Any]]
"""[documents, seconds] by kind of op. Work that ops share, such as decoding a picture, counts for the first of them."""


class _ShardColumns:
    """Decisions and columns of one shard. Ops of one kind measure the same numbers, so they share their columns."""

    def __init__(self, node: str, ops: Sequence[Op], records: int) -> None:
        self._node, self._ops = node, ops
        self.reasons: list[str | None] = [None] * records
        self.drop_scores: list[float | None] = [None] * records
        self.by_name: dict[str, Any] = {}
        for op in ops:
            for limit in op.LIMITS if isinstance(op, Measured) else ():
                self.by_name[column(node, op.kind, limit.score)] = np.full(records, np.nan)
            for choice in op.CHOICES if isinstance(op, Measured) else ():
                self.by_name[column(node, op.kind, choice.label)] = [None] * records
            if not isinstance(op, Measured):
                self.by_name[column(node, op.kind, "reason")] = [None] * records

    def add(self, row: int, drop: Drop | None, results: list[OpResult]) -> None:
        """Write one record; `results` are in the order of the ops, or empty if nothing was measured."""
        if drop is not None:
            self.reasons[row], self.drop_scores[row] = drop.reason, drop.score
        for op, result in zip(self._ops, results, strict=False):
            if isinstance(result, str):
                self.by_name[column(self._node, op.kind, "reason")][row] = result
            else:
                for name, value in (result or {}).items():
                    self.by_name[column(self._node, op.kind, name)][row] = value


def _summary(node: str, op: Op) -> dict[str, Json]:
    """Return the op's columns and limits for the snapshot's meta, from which `inspect --what-if` decides again."""
    limits = [
        {
            "column": column(node, op.kind, limit.score),
            "drops": limit.drops,
            "parameter": limit.parameter,
            "at": getattr(op, limit.parameter),
            "reason": limit.reason,
        }
        for limit in (op.LIMITS if isinstance(op, Measured) else ())
    ]
    summary: dict[str, Json] = {"kind": op.kind, "domains": list(op.domains), "limits": limits}
    if not isinstance(op, Measured):
        return summary | {"column": column(node, op.kind, "reason")}
    choices = [
        {
            "column": column(node, op.kind, choice.label),
            "parameter": choice.parameter,
            "among": list(getattr(op, choice.parameter)),
            "reason": choice.reason,
        }
        for choice in op.CHOICES
    ]
    return summary | {"choices": choices} if choices else summary
