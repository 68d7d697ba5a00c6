"""The whole model against `transformers`' Kimi_K25ForConditionalGeneration, weights through the official names.

`transformers` reads the exported folder with its own loader and its own conversion of names, so names, layouts and
mathematics are all judged by code that is not ours. Routing is pinned: both sides must choose the same experts, which
is checked first, because a near-tie decided differently would be a difference that says nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import hf
from model.canonical import canonical_gradients, canonical_state
from model.config import ModelConfig
from model.multimodal import MultimodalModel, normalise
from tests.model.small import SMALL, Media, media_of, random_ids, rows_of, small_model

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers")

IMAGE, VIDEO = 5, 6
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def ours() -> MultimodalModel:
    return small_model()


@pytest.fixture(scope="module")
def theirs(ours: MultimodalModel, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """`transformers`' model, loaded by `transformers` from a folder in the release's own format."""
    folder = tmp_path_factory.mktemp("released")
    weights = {name: tensor.contiguous() for name, tensor in hf.to_released(canonical_state(ours)).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _their_config(SMALL).save_pretrained(folder)
    model, report = transformers.Kimi_K25ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model


def _their_config(config: ModelConfig) -> object:
    text = transformers.DeepseekV3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_hidden_size,
        num_hidden_layers=config.num_layers,
        first_k_dense_replace=config.first_k_dense_replace,
        rms_norm_eps=config.layernorm_epsilon,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_attention_heads,
        q_lora_rank=config.q_lora_rank,
        kv_lora_rank=config.kv_lora_rank,
        qk_nope_head_dim=config.qk_head_dim,
        qk_rope_head_dim=config.qk_pos_emb_head_dim,
        v_head_dim=config.v_head_dim,
        n_routed_experts=config.num_moe_experts,
        num_experts_per_tok=config.moe_router_topk,
        moe_intermediate_size=config.moe_ffn_hidden_size,
        n_shared_experts=config.moe_shared_expert_intermediate_size // config.moe_ffn_hidden_size,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=config.moe_router_topk_scaling_factor,
        max_position_embeddings=config.max_sequence_length,
        pad_token_id=None,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": config.rotary_base,
            "factor": config.rotary_scaling_factor,
            "original_max_position_embeddings": config.original_max_position_embeddings,
            "beta_fast": config.beta_fast,
            "beta_slow": config.beta_slow,
            "mscale": config.mscale,
            "mscale_all_dim": config.mscale_all_dim,
        },
    )
    vision = transformers.Kimi_K25VisionConfig(
        hidden_size=config.vision.hidden_size,
        num_hidden_layers=config.vision.num_layers,
        num_attention_heads=config.vision.num_attention_heads,
        intermediate_size=config.vision.ffn_hidden_size,
        pos_emb_height=config.vision.pos_emb_height,
        pos_emb_width=config.vision.pos_emb_width,
        rope_parameters={"rope_type": "axial", "rope_theta": 10000.0},
    )
    return transformers.Kimi_K25Config(
        text_config=text,
        vision_config=vision,
        projection_hidden_size=config.vision.hidden_size,
        projection_layer_norm_eps=config.projector_layernorm_epsilon,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        tie_word_embeddings=False,
    )


def test_logits_of_text_and_images_agree(ours, theirs):
    grids = [(1, 8, 8), (1, 4, 6), (1, 12, 2), (1, 2, 2)]
    ids = []
    for seed, (_, h, w) in enumerate(grids):
        ids += [*random_ids(7 + seed, seed), *[IMAGE] * (h * w // 4)]
    ids += random_ids(400, 9)
    media = media_of(grids)
    assert_same_logits(ours, theirs, ids, media, pixel_values=True)


def test_logits_of_text_with_a_video_chunk_agree(ours, theirs):
    """Their forward counts a chunk's slots as if frames were not pooled, so it gets the features of its own tower."""
    grids = [(4, 4, 6), (3, 6, 4)]
    ids = []
    for seed, (_, h, w) in enumerate(grids):
        ids += [*random_ids(9, seed), *[VIDEO] * (h * w // 4)]
    assert_same_logits(ours, theirs, ids, media_of(grids), pixel_values=False)


def assert_same_logits(ours, theirs, ids: list[int], media: Media, pixel_values: bool) -> None:
    rows = rows_of([[ids]], len(ids))
    slots = torch.tensor([i for i, token in enumerate(ids) if token in (IMAGE, VIDEO)])
    with torch.no_grad():
        expected, their_choice = their_logits(theirs, rows.ids, media, pixel_values)
        choice = record_choices(ours)
        logits = ours.language_model.logits(ours.hidden(rows, ours.encode(media), slots))
    assert all(torch.equal(a, b) for a, b in zip(choice, their_choice, strict=True)), "different experts were chosen"
    assert expected.abs().max() > 1, "logits too small for the tolerance to mean anything"
    assert (logits - expected[0]).abs().max() < TOLERANCE


def their_logits(theirs, ids: torch.Tensor, media: Media, pixel_values: bool):
    pixels, grids = normalise(media.patches), torch.tensor(media.grids)
    chosen: list[torch.Tensor] = []
    hooks = [
        layer.mlp.gate.register_forward_hook(lambda _m, _i, out: chosen.append(out[2].sort(dim=-1).values))
        for layer in theirs.model.language_model.layers
        if hasattr(layer.mlp, "gate")
    ]
    if pixel_values:
        logits = theirs(input_ids=ids, pixel_values=pixels, image_grid_thw=grids).logits
    else:
        pooled = theirs.model.vision_tower(pixels, grid_thw=grids)
        pooled.pooler_output = [theirs.model.mm_projector(pooled.pooler_output).squeeze(1)]
        logits = theirs(input_ids=ids, mm_encoder_outputs={"video": pooled}).logits
    for hook in hooks:
        hook.remove()
    return logits, chosen
