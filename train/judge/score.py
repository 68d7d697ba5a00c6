"""Losses and correct predictions of a model on given texts, many texts to a packed row.

`train/judge/evaluate.py` passes samples expanded under the plan's limits with the pixels of their media, and averages
the scores. Rows are packed by the same functions as for training, and computed without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from manifests.geometry import CHANNELS, MERGE, PATCH_PX
from manifests.records import Pack, Segment
from model.multimodal import MultimodalModel, real_positions
from packing.loader.batch import MediaItems, rows_of_packs
from packing.loader.torch_batches import media_to, rows_to
from packing.navit import Expanded
from packing.plan.fill import fill_packs

ROWS_AT_ONCE = 2
"""Rows in one forward pass: enough to keep two cores busy, few enough for the logits of a laptop."""


@dataclass(frozen=True, slots=True)
class ScoringItem:
    """Expanded sample with the pixels of its media."""

    expanded: Expanded
    pixels: tuple[np.ndarray, ...]
    """Patches of each media item in order, (t * h * w, 3, 14, 14) uint8."""

    @property
    def tokens(self) -> int:
        return len(self.expanded.ids)


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one text by position of the predicted token; zero and False at positions without a prediction."""

    losses: np.ndarray
    """(E,) float64 nats."""
    hits: np.ndarray
    """Whether the most likely token is the right one, (E,) bool."""


@torch.no_grad()
def score(model: MultimodalModel, texts: Sequence[ScoringItem], row_tokens: int, pad_id: int) -> list[Score]:
    """Score texts of at most `row_tokens` tokens each, in order. The model is not changed."""
    scores: dict[int, Score] = {}
    rows = fill_packs([text.tokens for text in texts], row_tokens)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chosen = rows[start : start + ROWS_AT_ONCE]
        losses, hits = _forward(model, [[texts[i] for i in row] for row in chosen], row_tokens, pad_id)
        for number, row in enumerate(chosen):
            at = 0
            for i in row:
                end = at + texts[i].tokens
                scores[i] = Score(losses[number, at:end], hits[number, at:end])
                at = end
    return [scores[i] for i in range(len(texts))]


def _forward(
    model: MultimodalModel, texts: Sequence[Sequence[ScoringItem]], row_tokens: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return losses and hits of rows of texts, (R, L) each, by position of the predicted token."""
    rows = rows_to(rows_of_packs([_pack(row, row_tokens, pad_id) for row in texts]), "cpu")
    media = media_to(_media(texts), row_tokens, "cpu")
    features = model.encode(media) if media.grids else None
    hidden = model.hidden(rows, features, media.slots if media.grids else None)
    real = real_positions(rows)
    counted = rows.loss_mask.flatten()[real].nonzero().squeeze(1)
    labels = rows.labels.flatten()[real[counted]]
    logits = model.language_model.logits(hidden[counted]).float()
    predicted = (real[counted] + 1).numpy()  # a position predicts its successor
    losses, hits = np.zeros(rows.ids.numel()), np.zeros(rows.ids.numel(), bool)
    losses[predicted] = torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    hits[predicted] = (logits.argmax(dim=-1) == labels).numpy()
    return losses.reshape(-1, row_tokens), hits.reshape(-1, row_tokens)


def _pack(texts: Sequence[ScoringItem], row_tokens: int, pad_id: int) -> Pack:
    ids, mask = np.full(row_tokens, pad_id, np.uint32), np.zeros(row_tokens, bool)
    segments = []
    at = 0
    for text in texts:
        end = at + text.tokens
        ids[at:end], mask[at:end] = text.expanded.ids, text.expanded.targets
        segments.append(Segment("", "", 0, text.tokens))
        at = end
    return Pack(ids, mask, tuple(segments))


def _media(rows: Sequence[Sequence[ScoringItem]]) -> MediaItems:
    placed, patches = [], [np.zeros((0, CHANNELS, PATCH_PX, PATCH_PX), np.uint8)]
    for number, row in enumerate(rows):
        at = 0
        for text in row:
            items = [item for packed in text.expanded.media for item in packed.items]
            placed += [(number, at + item.slot, item.grid) for item in items]
            patches += text.pixels
            at += text.tokens
    grids = np.array([grid for _, _, grid in placed], np.int64).reshape(-1, 3)
    return MediaItems(
        patches=np.concatenate(patches),
        grids=grids,
        rows=np.array([row for row, _, _ in placed], np.int64),
        first_slots=np.array([slot for _, slot, _ in placed], np.int64),
        slots=grids[:, 1] * grids[:, 2] // MERGE**2,
    )
