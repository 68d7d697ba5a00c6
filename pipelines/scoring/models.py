"""The nodes `score_function` and `score_fasttext`: scores from Python code or a fastText classifier, in the worker."""

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
from typing import Any, Literal, cast

from manifests import extras
from manifests.errors import ManifestError, RecordError
from manifests.load import schema
from manifests.records import Document, Json, canonical_json
from pipelines.deferred import deferred
from pipelines.external_files import file_digest, missing_file
from pipelines.node import Inputs, Mistake, Survey, UnitTask
from pipelines.scoring.budget import chosen_units
from pipelines.scoring.scores import Scored, ScoreNode

LIBRARY = "fasttext-predict"
"""A build of fastText that only applies models; full builds for numpy 2 train with uninitialized memory."""


@schema
class ScoreFunction(ScoreNode):
    """Scores by your Python code: `function(documents, **files, **arguments)` returns a float for each document.

    If `function` is a class, each worker makes one object of it with `files` and `arguments`, and calls that object
    with each batch of documents (`manifests.records.Document`). NaN means no score. If a batch fails, its documents are
    tried one by one, so that a bad one costs only itself."""

    PLACES = frozenset({"function", "files"})

    kind: Literal["score_function"]
    function: str
    """`package.module:name` of a package that is installed for all workers, or `./file.py:name`."""
    version: str
    """Version of your code, any text; a new one scores everything again."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Paths of weights and other files, by name of the parameter that gets the path. Changed bytes score again."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments by name."""
    batch: int = 64
    """Documents per call."""
    media: bool = False
    """Documents come with the bytes of their media (`payload`)."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}, expected at least 1")
        if not all(self.function.rpartition(":")[::2]):
            raise ValueError(f"function is {self.function!r}, expected package.module:name or ./file.py:name")

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        module = self.function.rpartition(":")[0]
        if module.endswith(".py"):
            yield from missing_file(("function",), module)
        for parameter, path in self.files.items():
            yield from missing_file(("files", parameter), path)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        units = chosen_units(inputs[self.input].snapshot, None, self.domains, 0, lambda characters, media: 1)
        return Survey(units, self._code(name))

    def _code(self, node: str) -> dict[str, Json]:
        """Return name and digests of the function and its files."""
        module, _, function = self.function.rpartition(":")
        code = [Path(module).name, file_digest(module, node)] if module.endswith(".py") else [module, ""]
        return {
            "function": [*code, function],
            "files": {parameter: file_digest(path, node) for parameter, path in self.files.items()},
        }

    def needs_media(self) -> bool:
        return self.media

    def passed_over(self, document: Document) -> str | None:
        return None

    def scored(self, task: UnitTask, documents: Iterable[Document]) -> Iterator[Scored]:
        arguments = canonical_json({**self.files, **self.arguments})
        score = _function(self.function, arguments, canonical_json(self._code(task.node)), task.node)
        documents = iter(documents)
        while batch := list(islice(documents, self.batch)):
            try:
                yield from [partial(float, value) for value in _batch_scores(score, batch)]
            except Exception:
                # Users' code may raise anything. An error that a document raises alone is its own.
                yield from (deferred(partial(_document_score, score, document)) for document in batch)


def _batch_scores(score: Callable[..., Any], documents: Sequence[Document]) -> list[float]:
    scores = [float(value) for value in score(documents)]
    if len(scores) != len(documents):
        raise RecordError("wrong_scores", f"{len(scores)} scores for {len(documents)} documents")
    return scores


def _document_score(score: Callable[..., Any], document: Document) -> float:
    return _batch_scores(score, [document])[0]


@lru_cache(maxsize=4)
def _function(name: str, arguments: str, code: str, node: str) -> Callable[[Sequence[Document]], Any]:
    """Import the user's function, or make an object of the user's class; cached in the process.

    Args:
        arguments: JSON of the keyword arguments.
        code: JSON with digests of code and files; only a key of the cache.
        node: name of the node, for the error.
    Raises:
        ManifestError: it can't be imported.
    """
    module, _, attribute = name.rpartition(":")
    try:
        function: Any = getattr(_module(module), attribute)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        fix = "check `function`; every worker must have the module installed, or be able to read the file"
        raise ManifestError(f"{name} can't be imported: {error}", where=node, fix=fix) from None
    keywords = json.loads(arguments)
    if inspect.isclass(function):
        return cast(Callable[..., Any], function(**keywords))
    return partial(function, **keywords)


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"scores_of_{Path(name).stem}", name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@schema
class ScoreFastText(ScoreNode):
    """Probability of `label` by a fastText classifier, for example of quality or of a subject.

    The classifier gets the text as one line, as fastText expects it. `pip install 'millrace[fasttext]'`.
    """

    PLACES = frozenset({"model"})

    kind: Literal["score_fasttext"]
    model: str
    """Path of a `.bin` or `.ftz` file. Changed bytes score again."""
    label: str
    """Label of the classifier; its prefix `__label__` may be left out."""

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        yield from missing_file(("model",), self.model)
        if extras.missing("fasttext"):
            yield Mistake((), "fastText is not installed", extras.install("fasttext"))

    def survey(self, name: str, inputs: Inputs) -> Survey:
        units = chosen_units(inputs[self.input].snapshot, None, self.domains, 0, lambda characters, media: 1)
        try:
            library = version(LIBRARY)
        except PackageNotFoundError:
            raise ManifestError("fastText is not installed", where=name, fix=extras.install("fasttext")) from None
        digest = file_digest(self.model, name)
        _fasttext(self.model, digest, self._label, name)
        return Survey(units, {"model": digest, "fasttext": library})

    @property
    def _label(self) -> str:
        return self.label if self.label.startswith("__label__") else f"__label__{self.label}"

    def needs_media(self) -> bool:
        return False

    def passed_over(self, document: Document) -> str | None:
        return None if document.text.strip() else "no_text"

    def scored(self, task: UnitTask, documents: Iterable[Document]) -> Iterator[Scored]:
        model = _fasttext(self.model, file_digest(self.model, task.node), self._label, task.node)
        return (partial(self._probability, model, document.text) for document in documents)

    def _probability(self, model: Any, text: str) -> float:
        """Return the probability to six digits: further ones differ between processors."""
        probability = _predicted(model, " ".join(text.split("\n"))).get(self._label, 0.0)
        return round(min(1.0, max(0.0, probability)), 6)


def _predicted(model: Any, line: str) -> dict[str, float]:
    """Return the probability of each label; empty if the model knows no word of the line."""
    labels, probabilities = model.predict(line, k=-1)
    return dict(zip(labels, map(float, probabilities), strict=True))


@lru_cache(maxsize=2)
def _fasttext(path: str, digest: str, label: str, node: str) -> Any:
    """Load a classifier that knows `label`; cached in the process. `digest` is of the file, only a key of the cache."""
    import fasttext

    try:
        model = fasttext.load_model(path)
    except ValueError as error:
        raise ManifestError(f"no fastText model: {error}", where=f"{node}, {path}", fix="check `model`") from None
    labels = _predicted(model, "")  # fastText predicts for its end-of-line token
    if labels and label not in labels:
        names = ", ".join(sorted(labels)[:10])
        raise ManifestError(f"the model knows no {label}", where=f"{node}, {path}", fix=f"some of its labels: {names}")
    return model
