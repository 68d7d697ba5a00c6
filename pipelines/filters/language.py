"""Which language a text is in, and how sure that is.

The model is the one inside the package py3langid: a naive Bayes classifier over byte n-grams of 138 languages, found by
an automaton (Lui and Baldwin 2012, "langid.py"). The automaton runs here, compiled; labels and confidences are those
that the package gives, to four digits.
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
    """Documents in languages that are not kept, or whose language is not sure.

    Measures `language`, an ISO 639 code (`zxx`: no language, like tables of numbers), and `confidence`, from 0 to 1.
    CCNet (Wenzek et al. 2020) drops below 0.5, FineWeb below 0.65, both with another model.
    """

    LIBRARIES = ("py3langid",)
    CHOICES = (Choice("language", "keep", "other_language"),)
    LIMITS = (Limit("confidence", "below", "min_confidence", "unsure_language"),)
    kind: Literal["language"]
    keep: tuple[str, ...] = ()
    """None given: all."""
    min_confidence: float = 0.5

    def measure(self, document: Document) -> Mapping[str, float | str]:
        found = identify(document.text)
        return {} if found is None else {"language": found[0], "confidence": found[1]}


def identify(text: str) -> tuple[str, float] | None:
    """(language, confidence), or None where nothing speaks for any."""
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
    label_of: np.ndarray
    """By class: some languages have one class for each script."""
    moves: np.ndarray
    """256 next states for each row."""
    rows: np.ndarray
    """By state."""
    features: np.ndarray
    """By state: what was found, or -1."""
    weights: np.ndarray
    """(features, classes) float32."""
    priors: np.ndarray


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
