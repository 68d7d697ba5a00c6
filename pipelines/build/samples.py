"""The node `tokenize`: samples of token ids from curated documents.

documents or views -> `tokenize` -> samples -> `plan` (`build/plan.py`). The ids come from `tokenization/encode.py`, for
conversations from `tokenization/chat.py`; this file cuts the work into units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal

from manifests.conversation import conversation_in
from manifests.errors import ManifestError, StoreError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, Sample, digest
from pipelines.external_files import missing_file
from pipelines.node import Attempt, Inputs, Mistake, StoreNode, Survey, UnitRange, UnitTask, units_below
from stores.store import Snapshot, UnitWriter
from tokenization.chat import Chat, encode_conversation
from tokenization.encode import encode
from tokenization.vocabulary import Vocabulary


@schema
class Tokenize(StoreNode):
    """Turn the kept documents of one or more inputs into samples, in the order of the inputs."""

    PRODUCT = "samples"
    VERSION = 4
    PLACES = frozenset({"vocabulary"})

    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {"tokenise": "tokenize"}

    kind: Literal["tokenize"]
    inputs: tuple[str, ...]
    """Nodes with the documents."""
    vocabulary: str = "tiny"
    """`tiny`, or the path of a file in tiktoken's format or of a `tokenizer.json`."""
    chat: Chat = Chat()
    """Template of documents that hold conversations (docs/tokenization.md)."""

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        if self.vocabulary != "tiny":
            yield from missing_file(("vocabulary",), self.vocabulary)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        units = [
            replace(
                unit,
                name=f"{wanted}-{unit.name}",
                digest=digest(wanted, unit.digest),
                data=_InputRange(wanted, unit.data),
            )
            for wanted in self.inputs
            for unit in units_below(inputs[wanted].snapshot)
        ]
        return Survey(tuple(units), {"vocabulary": load_vocabulary(self.vocabulary).digest})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        source: _InputRange = task.unit.data
        vocabulary = load_vocabulary(self.vocabulary)
        for document in task.inputs[source.input].snapshot.records(source.range.start, source.range.stop):
            if document.source == FORGOTTEN:
                continue
            sample = attempt(document.locator, to_sample, document, vocabulary, self.chat)
            if sample is not None:
                attempt.store(document.locator, sample)
        return {"vocabulary": vocabulary.digest, "vocabulary_file": self.vocabulary}


@dataclass(frozen=True)
class _InputRange:
    """Records of one input that become one unit of samples."""

    input: str
    range: UnitRange


def to_sample(document: Document, vocabulary: Vocabulary, chat: Chat) -> Sample:
    """Encode a document; one that holds a conversation is written in the `chat` template."""
    conversation = conversation_in(document)
    if conversation is None:
        return encode(document, vocabulary)
    return encode_conversation(document, conversation, vocabulary, chat)


@cache
def load_vocabulary(name: str) -> Vocabulary:
    """Load a vocabulary by the name or path that a manifest gives; cached in the process."""
    return Vocabulary.load(name)


def shared_vocabulary(node: str, samples: Iterable[Snapshot]) -> Vocabulary:
    """Load the vocabulary that all these samples were made with; each samples store names its own.

    Args:
        node: name of the node that reads the samples, for messages.
    Raises:
        StoreError: no store holds a sample.
        ManifestError: the stores were made with different vocabularies.
    """
    filled = [snapshot for snapshot in samples if snapshot.counts["records"]]
    if not filled:
        fix = "look for dropped and quarantined records: `millrace inspect` on the views and documents"
        raise StoreError("there is not one sample to plan", where=node, fix=fix)
    files = {snapshot.meta["vocabulary"]: snapshot.meta["vocabulary_file"] for snapshot in filled}
    if len(files) > 1:
        fix = "give all `tokenize` nodes of this plan the same vocabulary"
        raise ManifestError(
            f"samples of different vocabularies: {', '.join(sorted(files.values()))}", where=node, fix=fix
        )
    return load_vocabulary(next(iter(files.values())))
