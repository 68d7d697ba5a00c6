"""Small random models and batches for the tests of the model room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from model.canonical import canonical_state, initialize
from model.config import ModelConfig, VisionConfig
from model.moonvit import Grid
from model.multimodal import MultimodalModel

SMALL = ModelConfig(
    vocab_size=160,
    hidden_size=48,
    num_layers=3,
    first_k_dense_replace=1,
    ffn_hidden_size=64,
    init_method_std=0.15,
    num_attention_heads=3,
    q_lora_rank=24,
    kv_lora_rank=20,
    qk_head_dim=16,
    qk_pos_emb_head_dim=8,
    v_head_dim=12,
    num_moe_experts=6,
    moe_router_topk=2,
    moe_ffn_hidden_size=28,
    moe_shared_expert_intermediate_size=56,
    moe_router_topk_scaling_factor=2.827,
    rotary_scaling_factor=8.0,
    vision=VisionConfig(
        num_layers=2, hidden_size=40, num_attention_heads=2, ffn_hidden_size=56, pos_emb_height=8, pos_emb_width=8
    ),
)
"""Every size differs from its neighbors, so that a swapped axis fails a test. YaRN is on."""


@dataclass
class Rows:
    """Rows of packed segments, as the model takes them."""

    ids: torch.Tensor
    """(rows, length) int64."""
    labels: torch.Tensor
    """(rows, length) int64: the next id of the segment."""
    loss_mask: torch.Tensor
    """(rows, length) bool: whether the label counts."""
    segment_lengths: list[list[int]]


@dataclass
class Media:
    """Patches of all media items of a batch, and their grids."""

    patches: torch.Tensor
    """(patches, 3, 14, 14) uint8."""
    grids: list[Grid]


def small_model(config: ModelConfig = SMALL, seed: int = 7) -> MultimodalModel:
    """A model whose every parameter affects the output."""
    return perturbed(initialized(config, seed))


def initialized(config: ModelConfig, seed: int) -> MultimodalModel:
    """A model with the initial weights of training."""
    model = MultimodalModel(config)
    initialize(model, seed)
    return model


def perturbed(model: MultimodalModel) -> MultimodalModel:
    """Add noise to all weights that start at zero or one: a test could not detect that such a weight is unused."""
    source = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in canonical_state(model).items():
            noise = torch.randn(tensor.shape, generator=source)
            if tensor.ndim == 1:
                tensor.add_(noise * (0.03 if "correction" in name else 0.2))
            elif not tensor.any():
                tensor.copy_(noise * model.config.init_method_std)
    return model


def rows_of(segments: Sequence[Sequence[Sequence[int]]], length: int, pad: int = 0) -> Rows:
    """Rows from segments of ids, padded to `length`. Every token except the first of a segment is a target."""
    ids = torch.full((len(segments), length), pad)
    labels, mask = torch.full_like(ids, pad), torch.zeros(ids.shape, dtype=torch.bool)
    for r, row in enumerate(segments):
        start = 0
        for segment in row:
            stop = start + len(segment)
            ids[r, start:stop] = torch.tensor(segment)
            labels[r, start : stop - 1] = ids[r, start + 1 : stop]
            mask[r, start : stop - 1] = True
            start = stop
    return Rows(ids, labels, mask, [[len(s) for s in row] for row in segments])


def media_of(grids: Iterable[Grid], seed: int = 3) -> Media:
    """Random patches for grids (frames, rows, columns)."""
    grids = list(grids)
    count = sum(t * h * w for t, h, w in grids)
    patches = torch.randint(
        0, 256, (count, 3, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return Media(patches, grids)


def random_ids(count: int, seed: int, vocab: int = SMALL.vocab_size) -> list[int]:
    """Random ids of ordinary tokens; ids below 10 are reserved for placeholders."""
    return torch.randint(10, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
