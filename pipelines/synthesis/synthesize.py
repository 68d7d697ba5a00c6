"""The node `synthesize`: documents that a model behind an endpoint writes about other documents.

documents or view -> synthesize -> documents, a source of its own, so that a mixture can cap it. `synthesis/tasks.py`
writes the requests; `stores/endpoint.py` sends them and caches the answers. The result is a function of the input, the
parameters and the cached answers; it does not depend on workers, kills or the order of answers. docs/synthesis.md.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

import pydantic

from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Media, canonical_json, derived_id, digest
from pipelines.deferred import deferred
from pipelines.external_files import missing_key
from pipelines.filters.op import concerns
from pipelines.node import Attempt, DocumentsNode, Inputs, Mistake, Survey, UnitTask
from pipelines.scoring.budget import OVER_BUDGET, ChosenDocuments, RequestBudget, chosen_units
from pipelines.synthesis import prompts, tasks
from pipelines.synthesis.tasks import TASKS, ChatMessage, Variant
from stores.endpoint import Answer, Endpoint, EndpointClient, request_digest
from stores.prefetch import prefetch
from stores.store import Snapshot, UnitWriter

if TYPE_CHECKING:
    AnyTask = tasks.SynthesisTask
else:
    AnyTask = Annotated[Union[tuple(TASKS.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007

SEEDS = 2**31
"""Number of seeds: endpoints take non-negative 32-bit integers."""


@schema
class Synthesize(DocumentsNode):
    """Run `task` on every document. New documents inherit rights and are marked `synthetic` in their notes."""

    PLACES = frozenset({"endpoint"})

    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {"synthesise": "synthesize"}

    kind: Literal["synthesize"]
    input: str
    """Node with the documents."""
    endpoint: Endpoint
    """Address and limits of the endpoint."""
    model: str
    """Name of the model at the endpoint."""
    task: AnyTask
    """Kind of the new documents."""
    domains: tuple[str, ...] = ()
    """Domains of the documents that are used; empty: all."""
    temperature: float = 0.7
    """Sampling temperature of the model."""
    answer_tokens: int = 4096
    """Maximum length of one answer (`max_tokens` of the request), thinking included."""
    seed: int = 0
    """Seed of the requests, and of the choice of documents within a budget."""
    budget: RequestBudget = RequestBudget()
    """Limit on the requests; documents that don't fit are left out."""

    def __post_init__(self) -> None:
        if self.answer_tokens < 1:
            raise ValueError(f"answer_tokens is {self.answer_tokens}, expected at least 1")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is {self.temperature}, expected 0 to 2")

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        return missing_key(self.endpoint, elsewhere)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        most = self.budget.requests(self.answer_tokens)
        snapshot = inputs[self.input].snapshot
        units = chosen_units(snapshot, most, self.domains, self.seed, self.task.requests)
        return Survey(units, {"prompts": prompts_digest()})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        chosen: ChosenDocuments = task.unit.data
        product = task.inputs[self.input]
        client = EndpointClient(posixpath.dirname(product.place), self.endpoint)
        for _ in range(chosen.left_out):
            attempt.note(OVER_BUDGET)

        def write(document: Document) -> list[tuple[str, Callable[[], Document]]]:
            return self._write_all(task.node, document, client.ask)

        documents = self._documents(product.snapshot, chosen, attempt)
        for variants in prefetch(write, documents, self.endpoint.at_once):
            for locator, result in variants:
                made = attempt(locator, result)
                if made is not None:
                    attempt.store(locator, made)
        return {"synthetic": True, "task": self.task.kind, "model": self.model}

    def _documents(self, snapshot: Snapshot, chosen: ChosenDocuments, attempt: Attempt) -> Iterator[Document]:
        """Yield the chosen documents that the task can use, with the bytes of their media."""
        for document in snapshot.documents(chosen.kept(snapshot)):
            if document.source == FORGOTTEN or not concerns(self.domains, document):
                continue
            reason = self.task.passed_over(document)
            if reason is None:
                yield document
            else:
                attempt.note(reason)

    def _write_all(self, node: str, document: Document, ask: Ask) -> list[tuple[str, Callable[[], Document]]]:
        """Return (locator, result) of each variant. Runs in a thread: an error is raised when the result is called,
        where `attempt` quarantines the record."""
        variants = self.task.variants(document, self.seed)
        return [
            (_locator(document, variant), deferred(partial(self._write, node, document, variant, ask)))
            for variant in variants
        ]

    def _write(self, node: str, document: Document, variant: Variant, ask: Ask) -> Document:
        """Write one variant.

        Raises:
            RecordError: an answer is not usable.
        """
        requests: list[str] = []

        def answer(messages: Sequence[ChatMessage], step: str, picture: Media | None = None) -> Answer:
            seed = digest("seed", str(self.seed), document.id, str(variant.ordinal), variant.name, step)
            request = {
                "model": self.model,
                "messages": list(messages),
                "temperature": self.temperature,
                "max_tokens": self.answer_tokens,
                "seed": int(seed[:8], 16) % SEEDS,
            }
            requests.append(request_digest(request))
            return ask(document.id, request, {} if picture is None else {picture.digest: picture})

        written = self.task.write(document, variant, answer)
        notes: dict[str, Json] = {
            "synthetic": True,
            "task": self.task.kind,
            "model": self.model,
            "prompt": variant.name,
            "seed": self.seed,
            "requests": requests,
        }
        return Document(
            id=derived_id((document.id,), node, variant.ordinal),
            source=node,
            locator=_locator(document, variant),
            domain=written.domain,
            parts=written.parts,
            notes=notes | written.notes,
            parents=(document.id,),
            license=document.license,
            origin=document.origin,
            consent=document.consent,
        )


Ask = Callable[[str, Json, Mapping[str, Media]], Answer]
"""`EndpointClient.ask`."""


def _locator(parent: Document, variant: Variant) -> str:
    """Return the locator of a variant. It holds the parent's id only, because the parent's locator may have to be
    forgotten, and would not be found here."""
    return f"{parent.id}/{variant.ordinal}-{variant.name}"


def prompts_digest() -> str:
    """Return the digest of all prompts, which are part of the node's identity."""
    constants = {name: value for name, value in vars(prompts).items() if name.isupper()}
    return digest("prompts", canonical_json(constants))
