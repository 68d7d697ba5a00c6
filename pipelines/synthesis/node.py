"""The node `synthesise`: documents that a model behind an endpoint writes of others.

documents or view -> synthesise -> filter ... `tokenise`, where it is a source of its own, so that a mixture can cap it.
`tasks.py` says what is asked, `stores/answers.py` asks and keeps the answers: what is made is a function of the input,
the parameters and the kept answers, not of workers, kills or the order in which answers arrive. docs/synthesis.md.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

import numpy as np
import pydantic

from manifests.errors import MillraceError, RecordError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Media, canonical_json, derived_id, digest
from pipelines.node import DOCUMENTS, Attempt, Inputs, Stretch, Survey, Task, Unit, units_below
from pipelines.ops.op import concerns
from pipelines.synthesis import prompts, tasks
from pipelines.synthesis.tasks import TASKS, Message, Variant
from stores.ahead import ahead
from stores.answers import Answer, Answers, Endpoint, request_digest
from stores.store import Snapshot, StoreKind, UnitWriter

if TYPE_CHECKING:
    AnyTask = tasks.Task
else:
    AnyTask = Annotated[Union[tuple(TASKS.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007

OVER_BUDGET = "over_budget"
SEEDS = 2**31
"""Endpoints take non-negative 32-bit seeds."""


@schema
class Budget:
    """The most that is asked for. Who does not fit is left out: documents come in the order of a hash of their ids,
    each counted with as many requests as it could need. Retries are not counted."""

    max_requests: int | None = None
    max_answer_tokens: int | None = None
    """Every request counts with the node's `answer_tokens`, however short its answer is."""

    def __post_init__(self) -> None:
        if any(limit is not None and limit < 0 for limit in (self.max_requests, self.max_answer_tokens)):
            raise ValueError("max_requests and max_answer_tokens are at least 0")

    def requests(self, answer_tokens: int) -> int | None:
        """That fit; None where there is no limit."""
        limits = [self.max_requests, self.max_answer_tokens]
        each = (1, answer_tokens)
        return min((most // cost for most, cost in zip(limits, each, strict=True) if most is not None), default=None)


@dataclass(frozen=True)
class _Chosen:
    """Of one unit."""

    stretch: Stretch
    ordinals: np.ndarray | None = None
    """Of the documents that fit the budget; None: all."""
    left_out: int = 0


@schema
class Synthesise:
    """`task` on every document of `domains`; what is made inherits rights and bears `synthetic` in its notes."""

    PRODUCT: ClassVar[StoreKind] = "documents"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset({"endpoint"})

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
    budget: Budget = Budget()

    def __post_init__(self) -> None:
        if self.answer_tokens < 1 or not 0 <= self.temperature <= 2:
            raise ValueError("answer_tokens is at least 1, temperature lies in [0, 2]")

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        snapshot = inputs[self.input].snapshot
        units = units_below(snapshot)
        most = self.budget.requests(self.answer_tokens)
        if most is None:
            chosen = [replace(unit, data=_Chosen(unit.data)) for unit in units]
        else:
            chosen = list(self._within(most, snapshot, units))
        return Survey(tuple(chosen), {"prompts": prompts_digest()})

    def _within(self, most: int, snapshot: Snapshot, units: Sequence[Unit]) -> Iterator[Unit]:
        """The units with the documents that fit into so many requests."""
        needed = self._needed(snapshot)
        wanted = np.flatnonzero(needed)
        ids = snapshot.table(["id"]).column("id")
        hashes = [digest("budget", str(self.seed), ids[row].as_py()) for row in wanted.tolist()]
        order = wanted[np.argsort(np.array(hashes, dtype="U64"), kind="stable")]
        fits = np.zeros(len(needed), bool)
        fits[order[np.cumsum(needed[order]) <= most]] = True
        for unit in units:
            here = slice(unit.data.start, unit.data.stop)
            inside = np.flatnonzero(fits[here])
            left_out = int(np.count_nonzero(needed[here])) - len(inside)
            content = digest(unit.digest, inside.astype("<i8").tobytes(), str(left_out))
            yield replace(unit, digest=content, data=_Chosen(unit.data, inside + unit.data.start, left_out))

    def _needed(self, snapshot: Snapshot) -> np.ndarray:
        """Requests by ordinal, 0 for what is not kept: from the index, no text is read."""
        columns = snapshot.table(["domain", "characters"])
        domains, characters = (columns.column(name).to_pylist() for name in ("domain", "characters"))
        media = snapshot.media_table(["record", "kind"])
        shown: list[list[str]] = [[] for _ in domains]
        for record, kind in zip(*(column.to_pylist() for column in media.columns), strict=True):
            shown[record].append(kind)
        needed = np.zeros(len(domains), np.int64)
        for row in snapshot.kept().tolist():
            if not self.domains or domains[row] in self.domains:
                needed[row] = self.task.requests(characters[row], shown[row])
        return needed

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        chosen: _Chosen = task.unit.data
        product = task.inputs[self.input]
        answers = Answers(posixpath.dirname(product.place), self.endpoint)
        for _ in range(chosen.left_out):
            attempt.note(OVER_BUDGET)
        ask = answers.ask
        documents = self._documents(product.snapshot, chosen, attempt)
        for written in ahead(lambda one: self._written(task.node, one, ask), documents, self.endpoint.at_once):
            for locator, made in written:
                document = attempt(locator, made)
                if document is not None:
                    attempt.store(locator, document)
        return {"synthetic": True, "task": self.task.kind, "model": self.model}

    def _documents(self, snapshot: Snapshot, chosen: _Chosen, attempt: Attempt) -> Iterator[Document]:
        """Those to be asked about, with the bytes of their media."""
        ordinals = chosen.ordinals
        if ordinals is None:
            ordinals = snapshot.kept(chosen.stretch.start, chosen.stretch.stop)
        for document in snapshot.documents(ordinals.tolist()):
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
        return [(_locator(document, one), _tried(partial(self._made, node, document, one, ask))) for one in variants]

    def _made(self, node: str, document: Document, variant: Variant, ask: Ask) -> Document:
        asked: list[str] = []

        def answer(messages: Sequence[Message], step: str, picture: Media | None = None) -> Answer:
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
"""`Answers.ask`."""


def _locator(parent: Document, variant: Variant) -> str:
    """Of the parent only the id: its own locator may be a name that has to go, and nothing would find it here."""
    return f"{parent.id}/{variant.ordinal}-{variant.name}"


def _tried(make: Callable[[], Document]) -> Callable[[], Document]:
    """What gives the result of `make`, or raises what it raised. An endpoint that is gone stops everything at once."""
    try:
        made = make()
    except MillraceError as error:
        if not isinstance(error, RecordError):
            raise
        return partial(_raise, error)
    except Exception as error:  # as in `pipelines/unit.py`, which sees it next
        return partial(_raise, error)
    return lambda: made


def _raise(error: Exception) -> Document:
    raise error


def prompts_digest() -> str:
    """Of all that is asked: words that change make other documents."""
    said = {name: value for name, value in vars(prompts).items() if name.isupper()}
    return digest("prompts", canonical_json(said))
