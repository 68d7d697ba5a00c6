"""The whole model: encode media, write their features over the slots, run the language model.

`encode` and `losses` are separate, so that a decoupled encoder (DEP) can encode the media dealt to this process,
exchange features and then compute the losses of its own rows; a single process calls one after the other. The loader's
two streams come in; `train/loop.py` weighs and differentiates the losses.

Shapes: R rows of L positions; T real tokens of all rows, padding left out, row after row; S slots of all items, in
order; H hidden size. Padding is never computed, so nothing can depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from model.backbone import Backbone
from model.config import ModelConfig
from model.moonvit import Grid, MoonViT3d


class RowInputs(Protocol):
    """Token rows of a batch, as `packing/loader/torch_batches.py` makes them."""

    @property
    def ids(self) -> torch.Tensor:
        """Token ids, (R, L) int64."""

    @property
    def labels(self) -> torch.Tensor:
        """Id that follows each position, (R, L) int64."""

    @property
    def loss_mask(self) -> torch.Tensor:
        """Whether the prediction of each label counts, (R, L) bool."""

    @property
    def segment_lengths(self) -> Sequence[Sequence[int]]:
        """Segment lengths in tokens per row, from its first position; the rest of the row is padding."""


class MediaInputs(Protocol):
    """Media items of a batch: images, and chunks of up to four frames."""

    @property
    def patches(self) -> torch.Tensor:
        """Pixels of all patches, (P, 3, 14, 14) uint8."""

    @property
    def grids(self) -> Sequence[Grid]:
        """(t, h, w) in patches of each item."""


class Projector(nn.Module):
    """MLP projector: norm of each patch's feature, 2x2 features side by side, two linear layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        merged = config.vision.merged_size
        self.pre_norm = nn.LayerNorm(config.vision.hidden_size, eps=config.projector_layernorm_epsilon)
        self.proj = nn.Sequential(nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, config.hidden_size))

    def forward(self, merged: torch.Tensor) -> torch.Tensor:
        """Project merged features (S, 4, D) -> (S, H)."""
        return self.proj(self.pre_norm(merged).flatten(1))


class MultimodalModel(nn.Module):
    """MoonViT-3D, projector and language model. Weights are unset until `canonical.initialize` or `load_canonical`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = MoonViT3d(config.vision)
        self.mm_projector = Projector(config)
        self.language_model = Backbone(config)

    def encode(self, media: MediaInputs) -> torch.Tensor:
        """Return the features of all slots, (S, H), item after item."""
        return self.mm_projector(self.vision_tower(normalize(media.patches), media.grids))

    def hidden(self, rows: RowInputs, features: torch.Tensor | None, slots: torch.Tensor | None) -> torch.Tensor:
        """Return the last hidden states of the real tokens, (T, H).

        Args:
            features: (S, H), or None for a batch without media.
            slots: (S,) int64, the position of each feature as row * L + position.
        Raises:
            ValueError: features and slots differ in number, or a slot is padding.
        """
        real = real_positions(rows)
        embedded = self.language_model.embed(rows.ids.flatten()[real])
        if features is not None and slots is not None:
            where = torch.searchsorted(real, slots).clamp(max=len(real) - 1)
            if not torch.equal(real[where], slots) or len(slots) != len(features):
                raise ValueError(f"{len(features)} features for {len(slots)} slots, some of them perhaps padding")
            embedded = embedded.index_copy(0, where, features.type_as(embedded))
        return self.language_model(embedded, [n for lengths in rows.segment_lengths for n in lengths])

    def losses(self, rows: RowInputs, features: torch.Tensor | None, slots: torch.Tensor | None) -> torch.Tensor:
        """Return cross-entropies in nats, (R, L) float32; zero at positions without a counted prediction."""
        hidden = self.hidden(rows, features, slots)
        real = real_positions(rows)
        counted = rows.loss_mask.flatten()[real].nonzero().squeeze(1)
        where = real[counted]
        losses = self.language_model.token_losses(hidden[counted], rows.labels.flatten()[where])
        return losses.new_zeros(rows.ids.numel()).index_copy(0, where, losses).view_as(rows.ids)


def normalize(patches: torch.Tensor) -> torch.Tensor:
    """Scale pixels (P, 3, 14, 14) uint8 to [-1, 1] float32: mean and deviation of one half, as released."""
    return (patches.float() / 255 - 0.5) / 0.5


def real_positions(rows: RowInputs) -> torch.Tensor:
    """Return row * L + position of every token that is not padding, (T,) int64, ascending."""
    length = rows.ids.shape[1]
    used = torch.tensor([sum(lengths) for lengths in rows.segment_lengths], device=rows.ids.device)
    return (torch.arange(length, device=rows.ids.device) < used[:, None]).flatten().nonzero().squeeze(1)
