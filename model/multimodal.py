"""The whole model: encode media, write their features over the slots, run the language model.

`encode` and `losses` are apart on purpose: a decoupled encoder (DEP) runs the first on whatever media were dealt to
this process, exchanges features, and runs the second on its own rows; one process does one after the other.
Before it: the two streams of the loader. After it: `train/loop.py` weighs and differentiates the losses.

Shapes: R rows of L positions; T real tokens of all rows, padding left out, row after row; S slots of all items, in
order; H hidden size. Padding is never computed, so nothing can depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from model.backbone import Backbone
from model.canonical import initialise
from model.config import ModelConfig
from model.moonvit import Grid, MoonViT3d


class Rows(Protocol):
    """What the model reads of a batch's rows (`packing/loader/torch_batches.py`)."""

    @property
    def ids(self) -> torch.Tensor:
        """(R, L) int64."""

    @property
    def labels(self) -> torch.Tensor:
        """(R, L) int64: the id that follows each position."""

    @property
    def loss_mask(self) -> torch.Tensor:
        """(R, L) bool: whether that prediction counts."""

    @property
    def segment_lengths(self) -> Sequence[Sequence[int]]:
        """Per row, in order from its first position; what remains of the row is padding."""


class Media(Protocol):
    """What the model reads of a batch's media."""

    @property
    def patches(self) -> torch.Tensor:
        """(P, 3, 14, 14) uint8."""

    @property
    def grids(self) -> Sequence[Grid]:
        """Of each item."""


class Projector(nn.Module):
    """Norm each patch's feature, put 2x2 side by side, two linear layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        merged = config.vision.merged_size
        self.pre_norm = nn.LayerNorm(config.vision.hidden_size, eps=config.projector_layernorm_epsilon)
        self.proj = nn.Sequential(nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, config.hidden_size))

    def forward(self, merged: torch.Tensor) -> torch.Tensor:
        """(S, 4, D) -> (S, H)."""
        return self.proj(self.pre_norm(merged).flatten(1))


class MultimodalModel(nn.Module):
    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = MoonViT3d(config.vision)
        self.mm_projector = Projector(config)
        self.language_model = Backbone(config)
        initialise(self, seed)

    def encode(self, media: Media) -> torch.Tensor:
        """(S, H) features of all slots, item after item."""
        return self.mm_projector(self.vision_tower(normalise(media.patches), media.grids))

    def hidden(self, rows: Rows, features: torch.Tensor | None, slots: torch.Tensor | None) -> torch.Tensor:
        """(T, H) last hidden states of the real tokens.

        Args:
            features: (S, H), or None for a batch without media.
            slots: (S,) int64, where each feature goes: row * L + position.
        """
        real = real_positions(rows)
        embedded = self.language_model.embed(rows.ids.flatten()[real])
        if features is not None and slots is not None:
            where = torch.searchsorted(real, slots).clamp(max=len(real) - 1)
            if not torch.equal(real[where], slots) or len(slots) != len(features):
                raise ValueError(f"{len(features)} features for {len(slots)} slots, some of them perhaps padding")
            embedded = embedded.index_copy(0, where, features.type_as(embedded))
        return self.language_model(embedded, [n for lengths in rows.segment_lengths for n in lengths])

    def losses(self, rows: Rows, features: torch.Tensor | None, slots: torch.Tensor | None) -> torch.Tensor:
        """(R, L) float32 cross-entropies in nats, zero where nothing is predicted."""
        hidden = self.hidden(rows, features, slots)
        real = real_positions(rows)
        counted = rows.loss_mask.flatten()[real].nonzero().squeeze(1)
        where = real[counted]
        losses = self.language_model.token_losses(hidden[counted], rows.labels.flatten()[where])
        return losses.new_zeros(rows.ids.numel()).index_copy(0, where, losses).view_as(rows.ids)


def normalise(patches: torch.Tensor) -> torch.Tensor:
    """Bytes to [-1, 1], with the release's mean and deviation of one half."""
    return (patches.float() / 255 - 0.5) / 0.5


def real_positions(rows: Rows) -> torch.Tensor:
    """(T,) int64, ascending: row * L + position of everything that is not padding."""
    length = rows.ids.shape[1]
    used = torch.tensor([sum(lengths) for lengths in rows.segment_lengths], device=rows.ids.device)
    return (torch.arange(length, device=rows.ids.device) < used[:, None]).flatten().nonzero().squeeze(1)
