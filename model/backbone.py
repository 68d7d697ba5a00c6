"""The language model: Megatron-core's `GPTModel` with latent attention, routed experts and packed rows.

`model/multimodal.py` writes vision features into the embedded tokens and calls this for hidden states, logits and
losses. Architecture: DeepSeek-V3 as configured by Kimi K2 and K2.5 (docs/model.md). Megatron modules are constructed in
this file only, because their class names change between versions.

Shapes: T real tokens of a batch without padding, rows one after another; H hidden size; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from model.attention import SegmentAttention, packed_sequence
from model.config import ModelConfig
from model.platform import (
    MLP,
    REPAIRS,
    AttnMaskType,
    ColumnParallelLinear,
    GPTModel,
    MegatronModule,
    MLASelfAttention,
    MLASelfAttentionSubmodules,
    MLATransformerConfig,
    MLPSubmodules,
    ModuleSpec,
    MoELayer,
    MoESubmodules,
    RowParallelLinear,
    SharedExpertMLP,
    TransformerBlockSubmodules,
    TransformerLayer,
    TransformerLayerSubmodules,
    get_bias_dropout_add,
    get_updated_expert_bias,
    start_single_process,
)


@dataclass
class BackboneConfig(MLATransformerConfig):
    """Megatron's latent-attention settings, and one that Megatron has no name for."""

    latent_layernorm_epsilon: float = 1e-6
    """Epsilon of the norms on the query and key-value latents."""


class RMSNorm(nn.RMSNorm):
    """RMS norm that marks its weight for sequence parallelism, which Megatron's local norm refuses."""

    def __init__(self, config: BackboneConfig, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class LatentNorm(RMSNorm):
    """Norm of a query or key-value latent, with an epsilon of its own."""

    def __init__(self, config: BackboneConfig, hidden_size: int, eps: float) -> None:
        super().__init__(config, hidden_size, config.latent_layernorm_epsilon)


class Backbone(GPTModel):
    """Decoder from embedded tokens to hidden states; embedding and output matrix have methods of their own.

    `GPTModel` would return logits for every position. Only about nine in ten positions are targets, and the logits are
    the largest tensor of a step, so the head is applied by `token_losses` and `logits` where it is wanted.
    """

    def __init__(self, config: ModelConfig) -> None:
        start_single_process()
        super().__init__(
            config=_megatron_config(config),
            transformer_layer_spec=_block_spec(config),
            vocab_size=config.vocab_size,
            max_sequence_length=config.max_sequence_length,
            position_embedding_type="rope",
        )

    def embed(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Embed ids (T,) int64 -> (T, H)."""
        return self.embedding(input_ids=ids_T[None], position_ids=None)[:, 0]

    def forward(self, embedded_TH: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Compute hidden states (T, H) after the final norm from embedded tokens (T, H) and the segment lengths of T.

        Attention stays inside a segment and positions restart at each.
        """
        return super().forward(
            input_ids=None,
            position_ids=None,
            attention_mask=None,
            decoder_input=embedded_TH[:, None],
            packed_seq_params=packed_sequence(lengths, embedded_TH.device),
        )

    def _postprocess(self, hidden_states: torch.Tensor, **_unused: object) -> torch.Tensor:
        return hidden_states[:, 0]

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """Apply the output matrix: (N, H) -> (N, V)."""
        return self.output_layer(hidden_NH)[0]

    def token_losses(self, hidden_NH: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of each label (N,) int64 in nats, (N,) float32."""
        return functional.cross_entropy(self.logits(hidden_NH).float(), labels_N, reduction="none")

    @torch.no_grad()
    def update_expert_bias(self) -> None:
        """Balance the experts' load; call it after each optimizer step.

        The router bias of an expert that got fewer tokens than the mean since the last call grows by
        moe_router_bias_update_rate, that of the others shrinks by it. Token counts then restart at zero.

        Source: DeepSeek-V3's balancing without an auxiliary loss (arXiv 2408.15664), Megatron-core's own formula.
        """
        routers = [layer.mlp.router for layer in self.decoder.layers if isinstance(layer.mlp, MoELayer)]
        if routers:
            counts = torch.stack([router.local_tokens_per_expert for router in routers])
            biases = torch.stack([router.expert_bias for router in routers])
            updated = get_updated_expert_bias(counts, biases, self.config.moe_router_bias_update_rate)
            for router, bias in zip(routers, updated, strict=True):
                router.expert_bias.copy_(bias)
                router.local_tokens_per_expert.zero_()


class StackedExperts(MegatronModule):
    """Routed experts of one MoE layer as stacked matrices: y = w * down(silu(gate(x)) * up(x)), per token its expert.

    The layer's dispatcher passes tokens sorted by expert. Stacking (expert is an axis, as in checkpoints) keeps one
    parameter per kind of matrix, so that an optimizer sees (experts, rows, columns) at once instead of hundreds of
    tensors. Megatron's `SequentialMLP` has one module per expert; its `GroupedMLP` needs a GPU library. No tensor
    parallelism inside.
    """

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


def _megatron_config(config: ModelConfig) -> BackboneConfig:
    return BackboneConfig(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        normalization="RMSNorm",
        layernorm_epsilon=config.layernorm_epsilon,
        latent_layernorm_epsilon=config.latent_layernorm_epsilon,
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        # Latent attention. The rope type "yarn" with factor 1 is plain RoPE, so one path serves both.
        qk_layernorm=True,
        q_lora_rank=config.q_lora_rank,
        kv_lora_rank=config.kv_lora_rank,
        qk_head_dim=config.qk_head_dim,
        qk_pos_emb_head_dim=config.qk_pos_emb_head_dim,
        v_head_dim=config.v_head_dim,
        rope_type="yarn",
        rotary_base=config.rotary_base,
        rotary_scaling_factor=config.rotary_scaling_factor,
        original_max_position_embeddings=config.original_max_position_embeddings,
        beta_fast=config.beta_fast,
        beta_slow=config.beta_slow,
        mscale=config.mscale,
        mscale_all_dim=config.mscale_all_dim,
        # Experts: sigmoid scores, a bias that only steers the choice, no auxiliary loss.
        num_moe_experts=config.num_moe_experts,
        moe_router_topk=config.moe_router_topk,
        moe_ffn_hidden_size=config.moe_ffn_hidden_size,
        moe_shared_expert_intermediate_size=config.moe_shared_expert_intermediate_size,
        moe_layer_freq=[int(config.is_moe(layer)) for layer in range(config.num_layers)],
        moe_router_score_function="sigmoid",
        moe_router_enable_expert_bias=True,
        moe_router_topk_scaling_factor=config.moe_router_topk_scaling_factor,
        moe_router_bias_update_rate=config.moe_router_bias_update_rate,
        moe_router_load_balancing_type="none",
        moe_router_dtype="fp32",
        moe_token_dispatcher_type="allgather",
        # Weights come from `canonical.initialize` or a checkpoint; no GPU kernel is needed.
        perform_initialization=False,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        moe_grouped_gemm=False,
        transformer_impl="local",
    )


def _block_spec(config: ModelConfig) -> TransformerBlockSubmodules:
    gated_mlp = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    dense = ModuleSpec(module=MLP, submodules=gated_mlp)
    moe = ModuleSpec(
        module=MoELayer,
        submodules=MoESubmodules(
            experts=ModuleSpec(module=StackedExperts),
            shared_experts=ModuleSpec(module=SharedExpertMLP, submodules=gated_mlp),
        ),
    )
    layers = [_layer_spec(moe if config.is_moe(layer) else dense) for layer in range(config.num_layers)]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RMSNorm)


def _layer_spec(mlp: ModuleSpec) -> ModuleSpec:
    attention = ModuleSpec(
        module=MLASelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=MLASelfAttentionSubmodules(
            linear_q_up_proj=ColumnParallelLinear,
            linear_kv_up_proj=ColumnParallelLinear,
            core_attention=SegmentAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=LatentNorm,
            kv_layernorm=LatentNorm,
            **REPAIRS,
        ),
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )
