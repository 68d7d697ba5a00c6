"""The routed experts of one MoE layer as stacked matrices, for Megatron-core's MoE layer.

The layer's dispatcher hands over tokens sorted by expert. Stacking (expert is an axis, as in our checkpoints) keeps
one parameter per kind of matrix: an optimizer sees (experts, rows, columns) at once instead of hundreds of tensors.
Megatron's own `SequentialMLP` has one module per expert; its `GroupedMLP` needs a GPU library.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from model.platform import MegatronModule, MLATransformerConfig


class StackedExperts(MegatronModule):
    """y = w * down(silu(gate(x)) * up(x)) with the matrices of each token's expert. No tensor parallelism inside."""

    def __init__(self, num_local_experts: int, config: MLATransformerConfig, **_unused: object) -> None:
        super().__init__(config=config)
        inner, outer = config.moe_ffn_hidden_size, config.hidden_size
        self.linear_fc1 = nn.Parameter(torch.empty(num_local_experts, 2 * inner, outer))
        """Gate rows, then up rows, as in Megatron's gated MLP."""
        self.linear_fc2 = nn.Parameter(torch.empty(num_local_experts, outer, inner))

    def forward(
        self, tokens: torch.Tensor, tokens_per_expert: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """tokens (N, hidden) sorted by expert, their counts (experts,), weights (N,) -> (N, hidden) and no bias."""
        outputs = []
        for x, fc1, fc2 in zip(tokens.split(tokens_per_expert.tolist()), self.linear_fc1, self.linear_fc2, strict=True):
            gate, up = functional.linear(x, fc1).chunk(2, dim=-1)
            outputs.append(functional.linear(functional.silu(gate) * up, fc2))
        return torch.cat(outputs) * weights.unsqueeze(-1), None
