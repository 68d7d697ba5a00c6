"""Canonical names and shapes of all weights, parameter counts and FLOPs: arithmetic on a config, without torch.

Canonical names are the official Moonshot names, except that the number of an expert is an axis instead of part of the
name. Checkpoints, optimizer state and initial weights are keyed by them, so they never change. `model/canonical.py`
finds the weights in a built model; `model/hf.py` converts to the names of the release and of `transformers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from manifests import geometry
from model.config import ModelConfig

TensorShape = tuple[int, ...]

LANGUAGE = "language_model.model."
TOWER = "vision_tower."
PROJECTOR = "mm_projector."
EXPERT_BIAS = "mlp.gate.e_score_correction_bias"
"""End of the names of router biases, which get no gradient."""


def canonical_shapes(config: ModelConfig) -> dict[str, TensorShape]:
    """Return canonical name -> shape of every weight in a checkpoint: tower, projector, language model."""
    return _tower_shapes(config) | _projector_shapes(config) | _language_shapes(config)


def _tower_shapes(config: ModelConfig) -> dict[str, TensorShape]:
    vision, patch = config.vision, geometry.PATCH_PX
    width, inner = vision.hidden_size, vision.ffn_hidden_size
    shapes: dict[str, TensorShape] = {
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "patch_embed.pos_emb.weight": (vision.pos_emb_height, vision.pos_emb_width, width),
    }
    for block in range(vision.num_layers):
        for name, shape in (
            ("norm0", (width,)),
            ("wqkv", (3 * width, width)),
            ("wo", (width, width)),
            ("norm1", (width,)),
            ("mlp.fc0", (inner, width)),
            ("mlp.fc1", (width, inner)),
        ):
            shapes[f"encoder.blocks.{block}.{name}.weight"] = shape
            shapes[f"encoder.blocks.{block}.{name}.bias"] = shape[:1]
    shapes |= {"encoder.final_layernorm.weight": (width,), "encoder.final_layernorm.bias": (width,)}
    return {TOWER + name: shape for name, shape in shapes.items()}


def _projector_shapes(config: ModelConfig) -> dict[str, TensorShape]:
    merged = config.vision.merged_size
    return {
        PROJECTOR + "pre_norm.weight": (config.vision.hidden_size,),
        PROJECTOR + "pre_norm.bias": (config.vision.hidden_size,),
        PROJECTOR + "proj.0.weight": (merged, merged),
        PROJECTOR + "proj.0.bias": (merged,),
        PROJECTOR + "proj.2.weight": (config.hidden_size, merged),
        PROJECTOR + "proj.2.bias": (config.hidden_size,),
    }


def _language_shapes(config: ModelConfig) -> dict[str, TensorShape]:
    hidden, heads, vocab = config.hidden_size, config.num_attention_heads, config.vocab_size
    shapes: dict[str, TensorShape] = {"embed_tokens.weight": (vocab, hidden)}
    for layer in range(config.num_layers):
        layer_shapes: dict[str, TensorShape] = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_a_proj.weight": (config.q_lora_rank, hidden),
            "self_attn.q_a_layernorm.weight": (config.q_lora_rank,),
            "self_attn.q_b_proj.weight": (heads * config.q_head_dim, config.q_lora_rank),
            "self_attn.kv_a_proj_with_mqa.weight": (config.kv_lora_rank + config.qk_pos_emb_head_dim, hidden),
            "self_attn.kv_a_layernorm.weight": (config.kv_lora_rank,),
            "self_attn.kv_b_proj.weight": (heads * (config.qk_head_dim + config.v_head_dim), config.kv_lora_rank),
            "self_attn.o_proj.weight": (hidden, heads * config.v_head_dim),
            "post_attention_layernorm.weight": (hidden,),
        }
        if config.is_moe(layer):
            experts = config.num_moe_experts
            layer_shapes |= {"mlp.gate.weight": (experts, hidden), EXPERT_BIAS: (experts,)}
            layer_shapes |= _gated_mlp("mlp.experts.", config.moe_ffn_hidden_size, hidden, (experts,))
            layer_shapes |= _gated_mlp("mlp.shared_experts.", config.moe_shared_expert_intermediate_size, hidden)
        else:
            layer_shapes |= _gated_mlp("mlp.", config.ffn_hidden_size, hidden)
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in layer_shapes.items()}
    shapes["norm.weight"] = (hidden,)
    return {LANGUAGE + name: shape for name, shape in shapes.items()} | {
        "language_model.lm_head.weight": (vocab, hidden)
    }


def _gated_mlp(prefix: str, inner: int, outer: int, axes: TensorShape = ()) -> dict[str, TensorShape]:
    return {
        prefix + "gate_proj.weight": (*axes, inner, outer),
        prefix + "up_proj.weight": (*axes, inner, outer),
        prefix + "down_proj.weight": (*axes, outer, inner),
    }


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of trained parameters. Router biases are not counted, because they get no gradient."""

    tower: int
    projector: int
    language: int
    active_language: int
    """Language parameters that one token uses: all except the experts it is not routed to. Includes both vocabulary
    matrices."""

    @property
    def total(self) -> int:
        return self.tower + self.projector + self.language


def count_parameters(config: ModelConfig) -> Counts:
    """Count the parameters of a model without building it."""
    sizes = {name: math.prod(shape) for name, shape in canonical_shapes(config).items()}

    def total(prefix: str) -> int:
        return sum(n for name, n in sizes.items() if name.startswith(prefix) and not name.endswith(EXPERT_BIAS))

    language = total("language_model.")
    routed = sum(n for name, n in sizes.items() if ".mlp.experts." in name)
    idle = routed * (config.num_moe_experts - config.moe_router_topk) // config.num_moe_experts
    return Counts(total(TOWER), total(PROJECTOR), language, language - idle)


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations; a multiply-add counts as two. Norms and activations are left out."""

    matrices: int
    """Operations in products with weights."""
    attention: int
    """Operations in query-key and weight-value products, counted for pairs inside the mask only."""

    @property
    def total(self) -> int:
        return self.matrices + self.attention


def forward_flops(
    config: ModelConfig, segment_lengths: Iterable[int], grids: Iterable[tuple[int, int, int]], *, targets: int
) -> Flops:
    """Count the FLOPs of one forward pass over a batch. Training takes three times as many, plus recomputation.

    Args:
        segment_lengths: lengths of all segments in tokens, without padding.
        grids: (t, h, w) in patches of each media item.
        targets: number of positions that the output matrix is applied to.
    """
    lengths, grids = list(segment_lengths), list(grids)
    shapes = canonical_shapes(config)
    norms = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(LANGUAGE) and len(shape) == 1)
    biases = sum(math.prod(shape) for name, shape in shapes.items() if name.endswith(EXPERT_BIAS))
    vocabulary = config.vocab_size * config.hidden_size
    per_token = count_parameters(config).active_language - (norms - biases) - 2 * vocabulary
    seen = sum(n * (n + 1) // 2 for n in lengths)  # each position attends to itself and to what precedes it
    per_pair = config.num_layers * config.num_attention_heads * (config.q_head_dim + config.v_head_dim)

    vision, width = config.vision, config.vision.hidden_size
    patches = [t * h * w for t, h, w in grids]
    slots = sum(h * w // geometry.MERGE**2 for _, h, w in grids)
    per_patch = 3 * geometry.PATCH_PX**2 * width
    per_patch += vision.num_layers * (4 * width * width + 2 * width * vision.ffn_hidden_size)
    per_slot = vision.merged_size * (vision.merged_size + config.hidden_size)
    return Flops(
        matrices=2 * (sum(lengths) * per_token + targets * vocabulary + sum(patches) * per_patch + slots * per_slot),
        attention=2 * (seen * per_pair + vision.num_layers * 2 * width * sum(n * n for n in patches)),
    )
