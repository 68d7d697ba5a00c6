"""The node `pack`: packs in training order, with the original bytes of their media.

plan and the samples that it names -> `pack` -> `train` (`build/commands.py`), or any trainer through the loader
(docs/loader.md). `packing/pack.py` makes the packs of one plan block, which is one unit here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from manifests.load import schema
from manifests.records import Json, digest
from packing.pack import pack_unit, packs_meta, samples_of
from pipelines.build.samples import shared_vocabulary
from pipelines.node import Attempt, Inputs, StoreNode, Survey, Unit, UnitTask
from stores.store import UnitWriter


@schema
class PackNode(StoreNode):
    """Write the packs of a plan: all that a trainer needs, in ordinary tars."""

    PRODUCT = "packs"
    READS = frozenset({"plan"})
    VERSION = 2

    kind: Literal["pack"]
    input: str
    """Node with the plan."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        plan = inputs[self.input].snapshot
        content = digest(plan.content_root, *(parent.content_root for parent in plan.parents))
        blocks = range(plan.counts["records"])
        return Survey(tuple(Unit(f"block-{block:06d}", digest(content, str(block)), block) for block in blocks))

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        plan = task.inputs[self.input].snapshot
        block = plan.record(task.unit.data)
        samples = samples_of(plan)
        vocabulary = shared_vocabulary(task.node, samples.values())
        for pack in pack_unit(block, samples, vocabulary):
            writer.add(pack)
        return packs_meta(plan.meta) | {"pad_id": vocabulary.pad_id}
