"""Parity tests of the whole model with `transformers`' Kimi_K25ForConditionalGeneration.

`transformers` reads the exported folder with its own loader and its own conversion of names, so independent code checks
names, layouts and mathematics. Both sides must choose the same experts, which is checked first: a near-tie that they
decide differently would cause a difference that is no error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file

from model import hf
from model.canonical import canonical_gradients, canonical_state
from model.config import ModelConfig
from model.counts import EXPERT_BIAS
from model.moonvit import Grid
from model.multimodal import MultimodalModel, normalize
from model.platform import TopKRouter
from tests.model.small import SMALL, Media, Rows, media_of, random_ids, rows_of, small_model

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers")

from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter  # noqa: E402

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
    """The same configuration as a `transformers` one."""
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


@dataclass
class Case:
    """One sequence with media. Every token with a successor is a target, slots included."""

    ids: list[int]
    media: Media

    @property
    def rows(self) -> Rows:
        return rows_of([[self.ids]], len(self.ids))

    @property
    def slots(self) -> torch.Tensor:
        return torch.tensor([i for i, token in enumerate(self.ids) if token in (IMAGE, VIDEO)])


def case_with(grids: list[Grid], token: int, tail: int) -> Case:
    """A case with media of these grids, each after some text, and `tail` ids of text at the end."""
    ids: list[int] = []
    for seed, (_, h, w) in enumerate(grids):
        ids += [*random_ids(7 + seed, seed), *[token] * (h * w // 4)]
    return Case(ids + random_ids(tail, 99), media_of(grids))


IMAGES = case_with([(1, 8, 8), (1, 4, 6), (1, 12, 2), (1, 2, 2)], IMAGE, tail=1400)
"""Grids equal to the position table, smaller, longer, and minimal. Long enough for the slow frequencies of YaRN."""
CLIP = case_with([(4, 4, 6), (3, 6, 4)], VIDEO, tail=20)


def test_logits_of_text_and_images_agree(ours, theirs):
    assert_same_logits(ours, theirs, IMAGES)


def test_logits_of_text_and_chunks_of_frames_agree(ours, theirs):
    assert_same_logits(ours, theirs, CLIP)


def test_gradients_of_every_weight_agree(ours, theirs):
    case = case_with([(1, 4, 6), (1, 6, 2)], IMAGE, tail=60)
    rows = case.rows
    ours.zero_grad(set_to_none=True)
    theirs.zero_grad(set_to_none=True)
    ours.losses(rows, ours.encode(case.media), case.slots).sum().backward()
    logits = their_logits(theirs, case)
    torch.nn.functional.cross_entropy(logits[:-1], rows.ids[0, 1:], reduction="sum").backward()

    converted = hf.to_transformers(canonical_gradients(ours) | _biases_without_gradient(ours), SMALL)
    compared = 0
    for name, parameter in theirs.named_parameters():
        scale = parameter.grad.abs().max()
        assert scale > 0, f"{name} has no gradient: the comparison would be empty"
        assert (converted[name] - parameter.grad).abs().max() < TOLERANCE * max(1.0, scale), name
        compared += 1
    assert compared == len(converted) - len(_biases_without_gradient(ours))


def test_our_renaming_equals_the_conversion_of_transformers(ours, theirs):
    converted = hf.to_transformers(canonical_state(ours), SMALL)
    expected = theirs.state_dict()
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def assert_same_logits(ours: MultimodalModel, theirs: torch.nn.Module, case: Case) -> None:
    """Both models choose the same experts and give the same logits."""
    with torch.no_grad(), routing_of(ours) as our_choice, routing_of(theirs) as their_choice:
        expected = their_logits(theirs, case)
        logits = ours.language_model.logits(ours.hidden(case.rows, ours.encode(case.media), case.slots))
    assert len(our_choice) == len(their_choice) == SMALL.num_layers - SMALL.first_k_dense_replace
    for mine, other in zip(our_choice, their_choice, strict=True):
        assert torch.equal(mine, other), "different experts were chosen"
    assert expected.abs().max() > 1, "logits are too small for the tolerance"
    assert (logits - expected).abs().max() < TOLERANCE


def their_logits(theirs: torch.nn.Module, case: Case) -> torch.Tensor:
    """Logits (T, V) of the `transformers` model.

    Its forward cannot take chunks of several frames (transformers 5.23): `get_image_features` splits features as if
    frames were not pooled, and the tower can't batch chunks of unequal length. So each chunk goes through the tower and
    the projector alone, and the features go in through `mm_encoder_outputs`.
    """
    pixels = normalize(case.media.patches)
    if VIDEO not in case.ids:
        grids = torch.tensor(case.media.grids)
        return theirs(input_ids=case.rows.ids, pixel_values=pixels, image_grid_thw=grids).logits[0]
    features = []
    for item, grid in zip(pixels.split([t * h * w for t, h, w in case.media.grids]), case.media.grids, strict=True):
        encoded = theirs.model.vision_tower(item, grid_thw=torch.tensor([grid]))
        features.append(theirs.model.mm_projector(encoded.pooler_output).squeeze(1))
    encoded.pooler_output = features
    return theirs(input_ids=case.rows.ids, mm_encoder_outputs={"video": encoded}).logits[0]


@contextlib.contextmanager
def routing_of(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Record the routing of all forward passes inside: (T, experts) bool per MoE layer."""
    chosen: list[torch.Tensor] = []

    def record(module: torch.nn.Module, inputs: object, output: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, DeepseekV3TopkRouter):
            chosen.append(torch.zeros(output[0].shape, dtype=torch.bool).scatter(1, output[2], True))
        else:
            chosen.append(output[1])

    routers = [m for m in model.modules() if isinstance(m, (DeepseekV3TopkRouter, TopKRouter))]
    hooks = [router.register_forward_hook(record) for router in routers]
    yield chosen
    for hook in hooks:
        hook.remove()


def _biases_without_gradient(model: MultimodalModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in canonical_state(model).items() if name.endswith(EXPERT_BIAS)}
