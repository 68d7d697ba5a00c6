"""MoonViT-3D: patches of images and 4-frame chunks in, merged features out.

`packing/navit.py` cuts images into 14-px patches and concatenates many of any size; the projector of
`model/multimodal.py` maps every merged feature to the width of the language model. Source: Kimi K2.5
report, MoonViT-3D, and the released config and port (docs/model.md). Module names follow the released checkpoint.

An *item* is an image or one chunk of up to four frames: all its patches attend to each other, none to another item's.
Shapes: P patches of all items, one item after another, each ordered by frame, row, column; D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from manifests import geometry
from model.attention import attend
from model.config import VisionConfig

Grid = tuple[int, int, int]
"""(t, h, w) in patches, h and w even."""

ROTARY_BASE = 10000.0
TIME_BASE = 10000.0
NORM_EPSILON = 1e-5


class PositionTable(nn.Module):
    """Learned table of positions, resampled to each grid, and fixed sinusoids over the frames of a chunk."""

    time: torch.Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.pos_emb_height, config.pos_emb_width, config.hidden_size))
        self.register_buffer("time", _time_table(config.hidden_size), persistent=False)

    def forward(self, grids: Sequence[Grid]) -> torch.Tensor:
        """Return position embeddings, (P, D), to add to the embedded patches."""
        resampled = {size: self._resample(*size) for size in {(h, w): None for _, h, w in grids}}
        return torch.cat([self._over_time(resampled[h, w], t) for t, h, w in grids])

    def _resample(self, h: int, w: int) -> torch.Tensor:
        """Resample the table to (h * w, D), bicubic without antialiasing, as released; unchanged at its own size."""
        if (h, w) == self.weight.shape[:2]:
            return self.weight.flatten(0, 1)
        image = self.weight.permute(2, 0, 1).unsqueeze(0)
        return functional.interpolate(image, size=(h, w), mode="bicubic").squeeze(0).flatten(1).T

    def _over_time(self, table: torch.Tensor, frames: int) -> torch.Tensor:
        """Add the frame term to chunks of several frames. A single frame gets none, unlike the first of several."""
        if frames == 1:
            return table
        return (table + self.time[:frames, None]).flatten(0, 1)


def _time_table(width: int) -> torch.Tensor:
    """Return sines, then cosines, of frame number times width/2 frequencies: (CHUNK_FRAMES, width)."""
    frequencies = TIME_BASE ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(geometry.CHUNK_FRAMES, dtype=torch.float32), frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def rotary_angles(grids: Sequence[Grid], head_dim: int) -> torch.Tensor:
    """Return the rotary angles of channel pairs, (P, head_dim / 2) float32: column, row, column, row ... fast to slow.

    All frames of a chunk have the same angles: time is not rotated.
    """
    frequencies = ROTARY_BASE ** -(torch.arange(0, head_dim, 4, dtype=torch.float32) / head_dim)
    angles = []
    for t, h, w in grids:
        rows = torch.outer(torch.arange(h, dtype=torch.float32), frequencies)[:, None].expand(h, w, -1)
        cols = torch.outer(torch.arange(w, dtype=torch.float32), frequencies)[None].expand(h, w, -1)
        angles.append(torch.stack([cols, rows], dim=-1).flatten(2).flatten(0, 1).repeat(t, 1))
    return torch.cat(angles)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate neighboring channels of x (P, heads, head_dim) by angles (P, 1, head_dim / 2), computed in float32."""
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x)


class PatchEmbedding(nn.Module):
    """Linear embedding of patches plus position embeddings."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.hidden_size, geometry.PATCH_PX, stride=geometry.PATCH_PX)
        self.pos_emb = PositionTable(config)

    def forward(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Embed patches (P, 3, 14, 14) -> (P, D). The kernel covers a patch, so the convolution is a matrix product."""
        embedded = functional.linear(patches.flatten(1), self.proj.weight.flatten(1), self.proj.bias)
        return embedded + self.pos_emb(grids)


class Mlp(nn.Module):
    """Feed-forward block: linear, tanh-approximated GELU, linear."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc0 = nn.Linear(config.hidden_size, config.ffn_hidden_size)
        self.fc1 = nn.Linear(config.ffn_hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc1(functional.gelu(self.fc0(x), approximate="tanh"))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer; attention stays inside an item."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.norm0 = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)
        self.wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)
        self.mlp = Mlp(config)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Transform features (P, D) -> (P, D); `lengths` are numbers of patches per item."""
        query, key, value = self.wqkv(self.norm0(x)).unflatten(-1, (3, self.heads, self.head_dim)).unbind(1)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = [
            attend(q, k, v, is_causal=False, scale=1 / math.sqrt(self.head_dim))
            for q, k, v in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
        ]
        x = x + self.wo(torch.cat(mixed).flatten(1))
        return x + self.mlp(self.norm1(x))


class Encoder(nn.Module):
    """Stack of encoder layers and the final norm: (P, D) -> (P, D)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.blocks = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)

    def forward(self, x: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        angles = rotary_angles(grids, self.head_dim).to(x.device).unsqueeze(1)
        cos, sin = angles.cos(), angles.sin()
        lengths = [math.prod(grid) for grid in grids]
        for block in self.blocks:
            x = block(x, cos, sin, lengths)
        return self.final_layernorm(x)


class MoonViT3d(nn.Module):
    """The vision tower: patch embedding, encoder, temporal mean and 2x2 merge."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config)
        self.encoder = Encoder(config)

    def forward(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Encode patches (P, 3, 14, 14) float in [-1, 1] -> merged features (slots of all items, 4, D)."""
        encoded = self.encoder(self.patch_embed(patches, grids), grids)
        lengths = [math.prod(grid) for grid in grids]
        return torch.cat([merge(item, grid) for item, grid in zip(encoded.split(lengths), grids, strict=True)])


def merge(item: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Take the mean over frames, then group 2x2 patches: (t * h * w, D) -> (h/2 * w/2, 4, D), in reading order."""
    t, h, w = grid
    k = geometry.MERGE
    frames = item.view(t, h // k, k, w // k, k, -1).mean(0)
    return frames.transpose(1, 2).reshape(h // k * w // k, k * k, -1)
