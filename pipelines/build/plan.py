"""The node `plan`: the order in which training sees all samples, computed once.

samples -> `plan` -> `pack` (`build/packs.py`). The planner is `packing/plan/planner.py`; this file gives it the samples
and the mixture, and its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from manifests import load
from manifests.load import schema
from manifests.records import Json, canonical_json, digest
from packing.mixture import Mixture
from packing.plan.amend import NO_PREFIX, plan_chain, prefix_at
from packing.plan.checkpoint import CheckpointFile
from packing.plan.planner import PLAN_VERSION, PlanInputs, Planner, PlannerState, in_threads
from packing.plan.supply import Supply, read_supplies
from pipelines.build.samples import shared_vocabulary
from pipelines.node import Attempt, Inputs, StoreNode, Survey, Unit, UnitTask
from stores.spill import GIB, Scratch
from stores.store import UnitWriter


@schema
class Amends:
    """Global batch from which a plan replaces an earlier one, e.g. {plan: plan, at_batch: 1200}."""

    plan: str
    """Node of the plan that is replaced from there on."""
    at_batch: int
    """Number of global batches that training has seen, counted from the beginning of the run."""


@schema
class PlanNode(StoreNode):
    """Decide which samples share a pack and the order of the packs: everything that training will read."""

    PRODUCT = "plan"
    READS = frozenset({"samples", "plan"})
    VERSION = 2
    PLACES = frozenset({"mixture", "memory_gib", "scratch"})
    RENAMED: ClassVar[dict[str, str]] = {
        "vision_share": "delete it; in place of `of_the_data` write `vision_share: {from_data: true}` in the mixture"
    }

    kind: Literal["plan"]
    mixture: str | tuple[str, ...] | Mixture
    """The mixture itself, the path of its file, or paths of several files, laid over each other in this order. `input`
    of a source names the node with its samples."""
    amends: Amends | None = None
    """Earlier plan of the same run that this one continues (docs/plan.md)."""
    memory_gib: float = 4.0
    """Memory for the pieces of samples, about 20 bytes each; the rest is spilled to files (docs/scale.md). Has no
    influence on the plan."""
    scratch: str | None = None
    """Folder on a local disk for those files; by default the machine's folder for temporary files. With one, a plan
    that was killed continues from its last checkpoint, one per 69 billion tokens (2^36)."""

    def __post_init__(self) -> None:
        if not self.memory_gib > 0:
            raise ValueError(f"memory_gib is {self.memory_gib}, expected more than 0")

    @property
    def loaded_mixture(self) -> Mixture:
        if isinstance(self.mixture, Mixture):
            return self.mixture
        files = [self.mixture] if isinstance(self.mixture, str) else self.mixture
        return load.load(Mixture, files).value

    def reads(self) -> tuple[str, ...]:
        amended = (self.amends.plan,) if self.amends else ()
        return tuple(dict.fromkeys([*(source.input for source in self.loaded_mixture.sources), *amended]))

    def survey(self, name: str, inputs: Inputs) -> Survey:
        mixture = self.loaded_mixture
        roots = [inputs[source.input].digest for source in mixture.sources]
        if self.amends:
            roots.append(inputs[self.amends.plan].digest)
        return Survey((Unit("plan", digest(*roots)),), {"mixture": mixture.digest, "plan": PLAN_VERSION})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        mixture = self.loaded_mixture
        samples = {source.name: task.inputs[source.input].snapshot for source in mixture.sources}
        vocabulary = shared_vocabulary(task.node, samples.values())
        with Scratch(int(self.memory_gib * GIB), self.scratch) as scratch:
            prefix = NO_PREFIX
            if self.amends:
                chain = plan_chain(task.inputs[self.amends.plan].snapshot)
                prefix = prefix_at(chain, self.amends.at_batch, mixture, vocabulary.digest, scratch)

            def rebuild(changed: Mixture, scratch: Scratch) -> list[Supply]:
                return read_supplies(changed, samples, vocabulary, scratch, prefix)

            supplies = rebuild(mixture, scratch)
            identity = (PLAN_VERSION, mixture.digest, vocabulary.digest, prefix.as_json(), writer.url, writer.unit)
            roots = [supply.content_root for supply in supplies]
            checkpoint = CheckpointFile(self.scratch, canonical_json(identity), *roots) if self.scratch else None
            resume_from = None
            if checkpoint and (saved := checkpoint.load()) and writer.resume(saved[1]):
                resume_from = saved[0]

            def on_checkpoint(state: PlannerState) -> None:
                written = writer.checkpoint()
                if checkpoint:
                    checkpoint.save(state, written)

            inputs = PlanInputs(mixture, supplies, vocabulary.digest, prefix, rebuild)
            planner = Planner(inputs, scratch, in_threads, resume_from, on_checkpoint)
            for block in planner:
                writer.add(block)
            if checkpoint:
                checkpoint.delete()
            return planner.meta | {"stores": {source.name: source.input for source in mixture.sources}}
