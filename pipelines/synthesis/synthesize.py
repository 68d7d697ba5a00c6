"""The node `synthesise`: documents that a model behind an endpoint writes of others.

documents or view -> synthesise -> filter ... `tokenise`, where it is a source of its own, so that a mixture can cap it.
`tasks.py` says what is asked, `stores/endpoint.py` asks and keeps the answers: what is made is a function of the input,
the parameters and the kept answers, not of workers, kills or the order in which answers arrive. docs/synthesis.md.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Union

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
"""Endpoints take non-negative 32-bit seeds."""


@schema
class Synthesise(DocumentsNode):
    """`task` on every document of `domains`; what is made inherits rights and bears `synthetic` in its notes."""

    PLACES = frozenset({"endpoint"})

    kind: Literal["synthesise"]
    input: str
    endpoint: Endpoint
    model: str
    """As the endpoint calls it."""
    task: AnyTask
    domains: tuple[str, ...] = ()
    """None: all."""
    temperature: float = 0.7
    answer_tokens: int = 4096
    """The most that one answer may have (`max_tokens` of the request), thinking included."""
    seed: int = 0
    budget: RequestBudget = RequestBudget()

    def __post_init__(self) -> None:
        if self.answer_tokens < 1 or not 0 <= self.temperature <= 2:
            raise ValueError("answer_tokens is at least 1, temperature lies in [0, 2]")

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
        answers = EndpointClient(posixpath.dirname(product.place), self.endpoint)
        for _ in range(chosen.left_out):
            attempt.note(OVER_BUDGET)
        ask = answers.ask
        documents = self._documents(product.snapshot, chosen, attempt)
        for written in prefetch(lambda one: self._written(task.node, one, ask), documents, self.endpoint.at_once):
            for locator, made in written:
                document = attempt(locator, made)
                if document is not None:
                    attempt.store(locator, document)
        return {"synthetic": True, "task": self.task.kind, "model": self.model}

    def _documents(self, snapshot: Snapshot, chosen: ChosenDocuments, attempt: Attempt) -> Iterator[Document]:
        """Those to be asked about, with the bytes of their media."""
        for document in snapshot.documents(chosen.kept(snapshot)):
            if document.source == FORGOTTEN or not concerns(self.domains, document):
                continue
            why = self.task.passed_over(document)
            if why is None:
                yield document
            else:
                attempt.note(why)

    def _written(self, node: str, document: Document, ask: Ask) -> list[tuple[str, Callable[[], Document]]]:
        """All variants, by locator; in a thread, so that what went wrong is raised later, where it is set aside."""
        variants = self.task.variants(document, self.seed)
        return [(_locator(document, one), deferred(partial(self._made, node, document, one, ask))) for one in variants]

    def _made(self, node: str, document: Document, variant: Variant, ask: Ask) -> Document:
        asked: list[str] = []

        def answer(messages: Sequence[ChatMessage], step: str, picture: Media | None = None) -> Answer:
            seed = digest("seed", str(self.seed), document.id, str(variant.ordinal), variant.name, step)
            request = {
                "model": self.model,
                "messages": list(messages),
                "temperature": self.temperature,
                "max_tokens": self.answer_tokens,
                "seed": int(seed[:8], 16) % SEEDS,
            }
            asked.append(request_digest(request))
            return ask(document.id, request, {} if picture is None else {picture.digest: picture})

        written = self.task.write(document, variant, answer)
        notes: dict[str, Json] = {
            "synthetic": True,
            "task": self.task.kind,
            "model": self.model,
            "prompt": variant.name,
            "seed": self.seed,
            "requests": asked,
        }
        return Document(
            id=derived_id((document.id,), node, variant.ordinal),
            source=node,
            locator=_locator(document, variant),
            domain=written.domain,
            parts=written.parts,
            notes=notes | written.notes,
            parents=(document.id,),
            licence=document.licence,
            origin=document.origin,
            consent=document.consent,
        )


Ask = Callable[[str, Json, Mapping[str, Media]], Answer]
"""`EndpointClient.ask`."""


def _locator(parent: Document, variant: Variant) -> str:
    """Of the parent only the id: its own locator may be a name that has to go, and nothing would find it here."""
    return f"{parent.id}/{variant.ordinal}-{variant.name}"


def prompts_digest() -> str:
    """Of all that is asked: words that change make other documents."""
    said = {name: value for name, value in vars(prompts).items() if name.isupper()}
    return digest("prompts", canonical_json(said))
