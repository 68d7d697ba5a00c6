"""Model config: the schema of `manifests/models/*.yaml`. Imports no torch.

Keys are Megatron-core's names where it has one, so that a recipe reads the same on both sides; the docs of the few
others name their source. `model/counts.py` turns a config into names, shapes, counts and FLOPs, `model/backbone.py` and
`model/moonvit.py` turn it into modules. Facts about the release and how sure they are: docs/model.md.
"""

from __future__ import annotations

from manifests import geometry
from manifests.load import schema


@schema
class VisionConfig:
    """MoonViT-3D: the tower that turns patches of images and of 4-frame chunks into features."""

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    ffn_hidden_size: int
    pos_emb_height: int
    """Rows of the learned position table, interpolated to each grid (64 in the release)."""
    pos_emb_width: int

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"2-D rotary pairs need hidden_size divisible by 4 x num_attention_heads, "
                f"got {self.hidden_size} and {self.num_attention_heads}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def merged_size(self) -> int:
        """Width of a vision token before the projector: 2x2 patches side by side."""
        return self.hidden_size * geometry.MERGE**2


@schema
class ModelConfig:
    """A Kimi K2.5-class model: MoonViT-3D, an MLP projector, and a DeepSeek-V3 shaped MoE with latent attention."""

    vocab_size: int
    """Rows of the embedding, the tokenizer's padded size."""
    hidden_size: int
    num_layers: int
    first_k_dense_replace: int
    """The first k layers have a dense MLP, not experts. The release's name; Megatron wants moe_layer_freq, a list."""
    ffn_hidden_size: int
    """Width of the MLP in dense layers."""
    init_method_std: float
    """Every matrix starts from N(0, std). 0.02 in the release."""
    layernorm_epsilon: float = 1e-5
    latent_layernorm_epsilon: float = 1e-6
    """Epsilon of the two norms inside latent attention; the released modeling code leaves it at 1e-6."""

    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_head_dim: int
    """Query and key channels per head without rotary embedding."""
    qk_pos_emb_head_dim: int
    """Rotary channels per head; those of the key are shared by all heads."""
    v_head_dim: int

    num_moe_experts: int
    moe_router_topk: int
    moe_ffn_hidden_size: int
    moe_shared_expert_intermediate_size: int
    moe_router_topk_scaling_factor: float
    """Weights of the chosen experts sum to this (2.827 in the release)."""
    moe_router_bias_update_rate: float = 1e-3
    """Step of the sign update that balances experts without a loss (Moonlight; K2's value is not published)."""

    rotary_base: float = 50000.0
    rotary_scaling_factor: float = 1.0
    """YaRN: context grows from original_max_position_embeddings by this factor (64 in the release); 1 is plain RoPE."""
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0

    vision: VisionConfig
    projector_layernorm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.first_k_dense_replace <= self.num_layers:
            raise ValueError(f"first_k_dense_replace is {self.first_k_dense_replace} of {self.num_layers} layers")
        if not 1 <= self.moe_router_topk <= self.num_moe_experts:
            raise ValueError(f"moe_router_topk is {self.moe_router_topk} of {self.num_moe_experts} experts")
        if self.qk_pos_emb_head_dim % 2:
            raise ValueError(f"rotary dims come in pairs, got qk_pos_emb_head_dim {self.qk_pos_emb_head_dim}")
        if self.rotary_scaling_factor < 1:
            raise ValueError(f"YaRN only lengthens: rotary_scaling_factor is {self.rotary_scaling_factor}")

    @property
    def q_head_dim(self) -> int:
        return self.qk_head_dim + self.qk_pos_emb_head_dim

    @property
    def max_sequence_length(self) -> int:
        return round(self.original_max_position_embeddings * self.rotary_scaling_factor)

    def is_moe(self, layer: int) -> bool:
        """Return whether layer `layer`, counted from 0, has experts."""
        return layer >= self.first_k_dense_replace
