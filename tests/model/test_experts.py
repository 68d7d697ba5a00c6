"""Tests of the routed experts against a loop over tokens, and of the balancing of their load."""

from __future__ import annotations

import dataclasses

import torch
from torch.nn import functional

from model.backbone import Backbone
from model.canonical import canonical_state
from tests.model.small import SMALL, random_ids, rows_of, small_model

LAYER = "language_model.model.layers.1.mlp."


def test_the_moe_layer_equals_a_loop_over_tokens_in_float64():
    """s = sigmoid(x W); choose by s + bias; weigh by s normalized to the scaling factor; add the shared expert."""
    model = small_model()
    weights = {name.removeprefix(LAYER): t.double() for name, t in canonical_state(model).items() if LAYER in name}
    tokens = torch.randn(31, 1, SMALL.hidden_size, generator=torch.Generator().manual_seed(5))

    def mlp(prefix: str, x: torch.Tensor, expert: int | slice) -> torch.Tensor:
        gate, up, down = (weights[f"{prefix}.{kind}_proj.weight"][expert] for kind in ("gate", "up", "down"))
        return down @ (functional.silu(gate @ x) * (up @ x))

    expected = []
    for x in tokens[:, 0].double():
        scores = torch.sigmoid(weights["gate.weight"] @ x)
        chosen = (scores + weights["gate.e_score_correction_bias"]).topk(SMALL.moe_router_topk).indices
        share = scores[chosen] / scores[chosen].sum() * SMALL.moe_router_topk_scaling_factor
        routed = sum(w * mlp("experts", x, int(e)) for w, e in zip(share, chosen, strict=True))
        expected.append(routed + mlp("shared_experts", x, slice(None)))
    with torch.no_grad():
        got, _ = model.language_model.decoder.layers[1].mlp(tokens)
    assert torch.allclose(got[:, 0].double(), torch.stack(expected), atol=1e-5)


def test_overloaded_experts_lose_and_underloaded_ones_gain_one_step_of_bias():
    model = small_model()
    router = model.language_model.decoder.layers[1].mlp.router
    rows = rows_of([[random_ids(40, 1)], [random_ids(17, 2)]], 64)
    with torch.no_grad():
        model.losses(rows, None, None)
    assert not router.local_tokens_per_expert.any(), "evaluation was counted"
    model.losses(rows, None, None)
    counts = router.local_tokens_per_expert.clone()
    assert counts.sum() == SMALL.moe_router_topk * (40 + 17), "padding was counted"
    before = router.expert_bias.clone()
    model.language_model.update_expert_bias()
    expected = before + SMALL.moe_router_bias_update_rate * torch.sign(counts.mean() - counts)
    assert torch.allclose(router.expert_bias, expected, atol=1e-8)
    assert not torch.equal(router.expert_bias, before)
    assert not router.local_tokens_per_expert.any()


def test_a_model_without_experts_accepts_a_bias_update():
    Backbone(dataclasses.replace(SMALL, first_k_dense_replace=SMALL.num_layers)).update_expert_bias()
