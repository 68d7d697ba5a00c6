"""Nodes that score with a model on this machine: `score_function` calls Python code, `score_fasttext` a classifier."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from manifests.errors import ManifestError, RecordError
from manifests.load import schema
from manifests.records import Document, Json, canonical_json
from pipelines.deferred import tried
from pipelines.external_files import file_digest
from pipelines.node import Inputs, Survey, UnitTask
from pipelines.scoring.budget import chosen_units
from pipelines.scoring.scores import Scored, Scores

LIBRARY = "fasttext-predict"
"""The part of fastText that applies a model; builds of all of it for numpy 2 train with memory that nobody has set."""


@schema
class ScoreFunction(Scores):
    """Numbers that your Python code gives: `function(documents, **files, **arguments)`, a batch in, as many floats out.

    A class is called with `files` and `arguments` once in every worker, and what that gives with each batch of
    documents (`manifests.records.Document`). NaN stands for no score. Where a batch fails its documents are tried one
    by one, so that a bad one costs itself only.
    """

    PLACES: ClassVar[frozenset[str]] = frozenset({"function", "files"})

    kind: Literal["score_function"]
    function: str
    """`package.module:name`, of what is installed where workers run, or `./file.py:name`."""
    version: str
    """Of what it computes: another one scores everything again."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Paths of weights and the like, by the name of the parameter that gets them. Changed bytes score again."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 64
    media: bool = False
    """Documents come with the bytes of their media (`payload`)."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}, expected at least 1")
        if not all(self.function.rpartition(":")[::2]):
            raise ValueError(f"function is {self.function!r}, expected package.module:name or ./file.py:name")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        units = chosen_units(inputs[self.input].snapshot, None, self.domains, 0, lambda *known: 1)
        return Survey(units, self._made_of(name))

    def _made_of(self, node: str) -> dict[str, Json]:
        """What is called, by name and digests."""
        module, _, function = self.function.rpartition(":")
        code = [Path(module).name, file_digest(module, node)] if module.endswith(".py") else [module, ""]
        return {
            "function": [*code, function],
            "files": {what: file_digest(path, node) for what, path in self.files.items()},
        }

    def shows_media(self) -> bool:
        return self.media

    def passed_over(self, document: Document) -> str | None:
        return None

    def scored(self, task: UnitTask, documents: Iterable[Document]) -> Iterator[Scored]:
        given = canonical_json({**self.files, **self.arguments})
        score = _function(self.function, given, canonical_json(self._made_of(task.node)), task.node)
        documents = iter(documents)
        while some := list(islice(documents, self.batch)):
            try:
                yield from [partial(float, one) for one in _together(score, some)]
            except Exception:
                # Anything may go wrong in code that is not ours; what does when a document is alone is its own.
                yield from (tried(partial(_alone, score, document)) for document in some)


def _together(score: Callable[..., Any], documents: Sequence[Document]) -> list[float]:
    scores = [float(one) for one in score(documents)]
    if len(scores) != len(documents):
        raise RecordError("wrong_scores", f"{len(scores)} scores for {len(documents)} documents")
    return scores


def _alone(score: Callable[..., Any], document: Document) -> float:
    return _together(score, [document])[0]


@lru_cache(maxsize=4)
def _function(name: str, given: str, read: str, node: str) -> Callable[[Sequence[Document]], Any]:
    """Made once in a process for the same bytes of code and files, `read`.

    Raises ManifestError where there is none of that name.
    """
    module, _, attribute = name.rpartition(":")
    try:
        found: Any = getattr(_module(module), attribute)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        fix = "check `function`; a module must be installed where workers run, a file must lie where they can read it"
        raise ManifestError(f"{name} can't be imported: {error}", where=node, fix=fix) from None
    named = json.loads(given)
    if inspect.isclass(found):
        return cast(Callable[..., Any], found(**named))
    return partial(found, **named)


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"scores_of_{Path(name).stem}", name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@schema
class ScoreFastText(Scores):
    """The probability that a fastText classifier gives to `label`: of quality, of a subject, of bad words.

    The text goes in as one line, as fastText wants it. `pip install 'millrace[fasttext]'`.
    """

    PLACES: ClassVar[frozenset[str]] = frozenset({"model"})

    kind: Literal["score_fasttext"]
    model: str
    """Path of a `.bin` or `.ftz` file. Changed bytes score again."""
    label: str
    """`__label__` before it may be left out."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        units = chosen_units(inputs[self.input].snapshot, None, self.domains, 0, lambda *known: 1)
        try:
            library = version(LIBRARY)
        except PackageNotFoundError:
            fix = "pip install 'millrace[fasttext]'"
            raise ManifestError("fastText is not installed", where=name, fix=fix) from None
        digest = file_digest(self.model, name)
        _fasttext(self.model, digest, self._label, name)
        return Survey(units, {"model": digest, "fasttext": library})

    @property
    def _label(self) -> str:
        return self.label if self.label.startswith("__label__") else f"__label__{self.label}"

    def shows_media(self) -> bool:
        return False

    def passed_over(self, document: Document) -> str | None:
        return None if document.text.strip() else "no_text"

    def scored(self, task: UnitTask, documents: Iterable[Document]) -> Iterator[Scored]:
        model = _fasttext(self.model, file_digest(self.model, task.node), self._label, task.node)
        return (partial(self._probability, model, document.text) for document in documents)

    def _probability(self, model: Any, text: str) -> float:
        """To six digits: further ones differ between processors."""
        found = _predicted(model, " ".join(text.split("\n"))).get(self._label, 0.0)
        return round(min(1.0, max(0.0, found)), 6)


def _predicted(model: Any, line: str) -> dict[str, float]:
    """Probabilities of all labels; none where the model knows no word of the line."""
    labels, probabilities = model.predict(line, k=-1)
    return dict(zip(labels, map(float, probabilities), strict=True))


@lru_cache(maxsize=2)
def _fasttext(path: str, digest: str, label: str, node: str) -> Any:
    import fasttext

    try:
        model = fasttext.load_model(path)
    except ValueError as error:
        raise ManifestError(f"no fastText model: {error}", where=f"{node}, {path}", fix="check `model`") from None
    labels = _predicted(model, "")  # of the mark at the end of each line
    if labels and label not in labels:
        told = ", ".join(sorted(labels)[:10])
        raise ManifestError(f"the model knows no {label}", where=f"{node}, {path}", fix=f"some of its labels: {told}")
    return model
