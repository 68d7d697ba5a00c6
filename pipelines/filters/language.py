"""The op `language`: identifies the language of a text and how certain that is.

The model is part of the package py3langid: a naive Bayes classifier of 138 languages over byte n-grams, which an
automaton finds (Lui and Baldwin 2012, "langid.py"). `filters/language_loops.py` runs the automaton, compiled; labels
and confidences equal the package's, to four digits.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from manifests.load import schema
from manifests.records import Document
from pipelines.filters.op import Choice, Limit, Measured


@schema
class Language(Measured):
    """Documents in a language that is not kept, or with an uncertain language.

    Measures `language`, an ISO 639 code (`zxx`: no language, e.g. tables of numbers), and `confidence`, from 0 to 1.
    CCNet (Wenzek et al. 2020) drops below 0.5, FineWeb below 0.65, both with another model.
    """

    LIBRARIES = ("py3langid",)
    CHOICES = (Choice("language", "keep", "other_language"),)
    LIMITS = (Limit("confidence", "below", "min_confidence", "unsure_language"),)
    kind: Literal["language"]
    keep: tuple[str, ...] = ()
    """ISO 639 codes that are kept; empty: all."""
    min_confidence: float = 0.5

    def measure(self, document: Document) -> Mapping[str, float | str]:
        result = identify(document.text)
        return {} if result is None else {"language": result[0], "confidence": result[1]}


def identify(text: str) -> tuple[str, float] | None:
    """Return (language, confidence), None if the text contains no n-gram of the model."""
    from pipelines.filters.language_loops import score

    if text.isupper():
        text = text.lower()
    data = unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
    model = _model()
    scores = score(data, model.moves, model.rows, model.features, model.weights, model.priors)
    if scores is None:
        return None
    odds = np.bincount(model.label_of, np.exp((scores - scores.max()) / math.sqrt(len(data))))
    best = int(odds.argmax())
    return model.labels[best], round(float(odds[best] / odds.sum()), 4)


@dataclass(frozen=True)
class _Model:
    labels: tuple[str, ...]
    """ISO 639 codes."""
    label_of: np.ndarray
    """(classes,) int64 index in `labels`; some languages have one class for each script."""
    moves: np.ndarray
    """(rows * 256,) uint32 next state for each row and byte."""
    rows: np.ndarray
    """(states,) uint32 row of each state."""
    features: np.ndarray
    """(states,) int32 feature that ends in this state, or -1."""
    weights: np.ndarray
    """(features, classes) float32 log-likelihoods."""
    priors: np.ndarray
    """(classes,) float64 log-priors."""


@lru_cache(maxsize=1)
def _model() -> _Model:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    loaded = LanguageIdentifier.from_model_file(MODEL_FILE)
    labels = tuple(dict.fromkeys(loaded.nb_classes))
    return _Model(
        labels,
        np.array([labels.index(label) for label in loaded.nb_classes], np.int64),
        np.array(loaded.tk_nextmove, np.uint32),
        np.array(loaded.tk_row, np.uint32),
        np.array(loaded.tk_output, np.int32),
        np.ascontiguousarray(loaded.nb_ptc, np.float32),
        np.ascontiguousarray(loaded.nb_pc, np.float64),
    )
