"""Nodes from curated documents to packs: `tokenise`, `plan` and `pack`.

documents or views -> samples -> plan -> packs in training order -> `train` (`build/commands.py`). What they compute is
in `tokenization/encode.py`, `packing/plan/planner.py` and `packing/pack.py`; here stands only how it is cut into units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import ClassVar, Literal

from manifests import load
from manifests.conversation import conversation_in
from manifests.errors import ManifestError, StoreError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Sample, canonical_json, digest
from manifests.schedule import VisionShare
from packing.mixture import Mixture
from packing.pack import pack_unit, packs_meta, samples_of
from packing.plan import planner as plan
from packing.plan.amend import BEGINNING, begun_at, chain_of
from packing.plan.checkpoint import Progress
from packing.plan.order import Standing
from packing.plan.supply import Supply, supplies_of
from pipelines.node import DOCUMENTS, Attempt, Inputs, Stretch, Survey, Task, Unit, units_below
from stores.spill import GIB, Scratch
from stores.store import Snapshot, StoreKind, UnitWriter
from tokenization.chat import Chat, encode_conversation
from tokenization.encode import encode
from tokenization.vocabulary import Vocabulary

SHARE_STEPS = 10_000
"""A vision share taken from the data is rounded down to ten-thousandths."""


@cache
def vocabulary_named(name: str) -> Vocabulary:
    return Vocabulary.load(name)


@schema
class Tokenise:
    """Kept documents of one or more inputs become samples, in the order of the inputs."""

    PRODUCT: ClassVar[StoreKind] = "samples"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 4
    PLACES: ClassVar[frozenset[str]] = frozenset({"vocabulary"})

    kind: Literal["tokenise"]
    inputs: tuple[str, ...]
    vocabulary: str = "tiny"
    """`tiny`, or the path of a file in tiktoken's format or of a `tokenizer.json`."""
    chat: Chat = Chat()
    """How documents that hold conversations are written (docs/tokenization.md)."""

    def reads(self) -> tuple[str, ...]:
        return self.inputs

    def survey(self, name: str, inputs: Inputs) -> Survey:
        units = tuple(
            Unit(f"{wanted}-{unit.name}", digest(wanted, unit.digest), _Below(wanted, unit.data), unit.size_bytes)
            for wanted in self.inputs
            for unit in units_below(inputs[wanted].snapshot)
        )
        return Survey(units, {"vocabulary": vocabulary_named(self.vocabulary).digest})

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        below: _Below = task.unit.data
        vocabulary = vocabulary_named(self.vocabulary)
        for document in task.inputs[below.input].snapshot.records(below.stretch.start, below.stretch.stop):
            if document.source == FORGOTTEN:
                continue
            sample = attempt(document.locator, to_sample, document, vocabulary, self.chat)
            if sample is not None:
                attempt.store(document.locator, sample)
        return {"vocabulary": vocabulary.digest, "vocabulary_file": self.vocabulary}


def to_sample(document: Document, vocabulary: Vocabulary, chat: Chat) -> Sample:
    conversation = conversation_in(document)
    if conversation is None:
        return encode(document, vocabulary)
    return encode_conversation(document, conversation, vocabulary, chat)


@dataclass(frozen=True)
class _Below:
    input: str
    stretch: Stretch


@schema
class Amends:
    """From which global batch on a plan takes the place of another one, e.g. {plan: plan, at_batch: 1200}."""

    plan: str
    """Node of the plan that is left there."""
    at_batch: int
    """Counted from the beginning of the run: how many global batches of what was planned before are seen."""


@schema
class Plan:
    """Which samples share a pack, and which packs are seen when. Fixes all that training will see."""

    PRODUCT: ClassVar[StoreKind] = "plan"
    READS: ClassVar[frozenset[str]] = frozenset({"samples", "plan"})
    VERSION: ClassVar[int] = 2
    PLACES: ClassVar[frozenset[str]] = frozenset({"mixture", "memory_gib", "scratch"})

    kind: Literal["plan"]
    mixture: str | Mixture
    """Here, or the path of a file. A source's `store` names the node of samples that it takes from."""
    vision_share: Literal["of_the_mixture", "of_the_data"] = "of_the_mixture"
    """`of_the_data` takes what the samples happen to have, so that text alone or pictures alone can be planned, too;
    the mixture's own `vision_share` is then not used."""
    amends: Amends | None = None
    """Another plan of the same run, which goes on with this one (docs/plan.md)."""
    memory_gib: float = 4.0
    """For the pieces of samples, about 20 bytes each; what is more goes to files (docs/scale.md). Has no influence on
    the plan."""
    scratch: str | None = None
    """Folder on a local disk for those files; by default where this machine has its temporary files. With one, a plan
    that is killed goes on from the last 69 billion tokens (2^36) that are whole."""

    def __post_init__(self) -> None:
        if not self.memory_gib > 0:
            raise ValueError(f"memory_gib is {self.memory_gib}, expected more than 0")

    @property
    def mixed(self) -> Mixture:
        return _mixture_in(self.mixture) if isinstance(self.mixture, str) else self.mixture

    def reads(self) -> tuple[str, ...]:
        amended = (self.amends.plan,) if self.amends else ()
        return tuple(dict.fromkeys([*(source.store for source in self.mixed.sources), *amended]))

    def survey(self, name: str, inputs: Inputs) -> Survey:
        roots = [inputs[source.store].digest for source in self.mixed.sources]
        if self.amends:
            roots.append(inputs[self.amends.plan].digest)
        return Survey((Unit("plan", digest(*roots)),), {"mixture": self.mixed.digest, "plan": plan.VERSION})

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        mixture = self.mixed
        samples = {source.name: task.inputs[source.store].snapshot for source in mixture.sources}
        vocabulary = _shared_vocabulary(task.node, samples.values())
        with Scratch(int(self.memory_gib * GIB), self.scratch) as scratch:
            begun = BEGINNING
            if self.amends:
                chain = chain_of(task.inputs[self.amends.plan].snapshot)
                begun = begun_at(chain, self.amends.at_batch, mixture, vocabulary.digest, scratch)

            def again(changed: Mixture, scratch: Scratch) -> list[Supply]:
                return supplies_of(changed, samples, vocabulary, scratch, begun)

            sources = again(mixture, scratch)
            if self.vision_share == "of_the_data":
                mixture = replace(mixture, vision_share=VisionShare(constant=_share_of(sources)))
            told = (plan.VERSION, mixture.digest, vocabulary.digest, begun.told, writer.url, writer.unit)
            roots = [source.content_root for source in sources]
            progress = Progress(self.scratch, canonical_json(told), *roots) if self.scratch else None
            rested = None
            if progress and (found := progress.load()) and writer.go_on(found[2]):
                rested = found[0], found[1]

            def at_rest(standing: Standing, made: plan.Made) -> None:
                written = writer.rest()
                if progress:
                    progress.save(standing, made, written)

            planner = plan.Planner(
                mixture, sources, vocabulary.digest, scratch, plan.in_threads, begun, again, rested, at_rest
            )
            for block in planner:
                writer.add(block)
            if progress:
                progress.forget()
            return planner.meta | {"stores": {source.name: source.store for source in mixture.sources}}


def _mixture_in(path: str) -> Mixture:
    return load.load(Mixture, [path]).value


def _share_of(sources: Sequence[Supply]) -> float:
    tokens, slots = sum(source.tokens for source in sources), sum(source.slots for source in sources)
    return int(Fraction(slots * SHARE_STEPS, max(tokens, 1))) / SHARE_STEPS


def _shared_vocabulary(node: str, samples: Iterable[Snapshot]) -> Vocabulary:
    """The vocabulary that all samples were made with; each samples store says which."""
    filled = [snapshot for snapshot in samples if snapshot.counts["records"]]
    if not filled:
        fix = "look at what was dropped or set aside before: `millrace inspect` on the views and documents"
        raise StoreError("there is not one sample to plan", where=node, fix=fix)
    files = {snapshot.meta["vocabulary"]: snapshot.meta["vocabulary_file"] for snapshot in filled}
    if len(files) > 1:
        raise ManifestError(f"samples of different vocabularies: {', '.join(sorted(files.values()))}", where=node)
    return vocabulary_named(next(iter(files.values())))


@schema
class Pack:
    """Packs in training order with the original bytes of their media: all that a trainer needs, in ordinary tars."""

    PRODUCT: ClassVar[StoreKind] = "packs"
    READS: ClassVar[frozenset[str]] = frozenset({"plan"})
    VERSION: ClassVar[int] = 2
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["pack"]
    input: str

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        planned = inputs[self.input].snapshot
        roots = [parent.content_root for parent in planned.parents]
        content = digest(planned.content_root, *roots)
        blocks = range(planned.counts["records"])
        return Survey(tuple(Unit(f"block-{block:06d}", digest(content, str(block)), block) for block in blocks))

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        planned = task.inputs[self.input].snapshot
        block = planned.record(task.unit.data)
        samples = samples_of(planned)
        vocabulary = _shared_vocabulary(task.node, samples.values())
        for pack in pack_unit(block, samples, vocabulary):
            writer.add(pack)
        return packs_meta(planned.meta) | {"pad_id": vocabulary.pad_id}
