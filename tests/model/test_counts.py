"""Tests of parameter counts and FLOPs, which need no torch, against built models and against the release."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from manifests import load
from manifests.errors import ManifestError
from model import counts
from model.canonical import canonical_state
from model.config import ModelConfig
from tests.model.small import SMALL, media_of, random_ids, rows_of, small_model

MANIFESTS = Path(__file__).parents[2] / "manifests" / "models"
TINY = MANIFESTS / "tiny.yaml"


def test_parameter_names_and_shapes_equal_those_of_a_built_model():
    state = canonical_state(small_model())
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == counts.canonical_shapes(SMALL)


@pytest.mark.parametrize("config", [SMALL, load.load(ModelConfig, [TINY]).value], ids=["small", "tiny"])
def test_the_parameter_count_equals_that_of_a_built_model(config):
    model = small_model(config)
    expected = counts.count_parameters(config)

    def size(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert (expected.tower, expected.projector, expected.language) == (
        size(model.vision_tower),
        size(model.mm_projector),
        size(model.language_model),
    )
    assert expected.total == size(model)


def test_the_count_of_the_release_equals_the_sum_of_its_tensors():
    """416.9 M, 54.3 M, 1.026 T and 32.9 B active: sums over the released tensor shapes (docs/model.md)."""
    release = counts.count_parameters(load.load(ModelConfig, [MANIFESTS / "kimi_k2_5.yaml"]).value)
    assert round(release.tower / 1e6, 1) == 416.9
    assert round(release.projector / 1e6, 1) == 54.3
    assert round(release.language / 1e12, 3) == 1.026
    assert round(release.active_language / 1e9, 1) == 32.9


def test_flops_equal_those_that_torch_counts():
    model, grids, lengths = small_model(), [(1, 4, 6), (3, 2, 4)], [50, 13, 37]
    rows, media = rows_of([[random_ids(n, n) for n in lengths]], 100), media_of(grids)
    expected = counts.forward_flops(SMALL, lengths, grids, targets=int(rows.loss_mask.sum()))
    with FlopCounterMode(display=False) as counter:  # ignores the fused attention of the CPU: counts matrices only
        model.losses(rows, model.encode(media), None)
    assert counter.get_total_flops() == expected.matrices
    pairs = sum(query + 1 for n in lengths for query in range(n))
    by_hand = 2 * SMALL.num_layers * SMALL.num_attention_heads * pairs * (SMALL.q_head_dim + SMALL.v_head_dim)
    by_hand += 2 * SMALL.vision.num_layers * sum((t * h * w) ** 2 for t, h, w in grids) * 2 * SMALL.vision.hidden_size
    assert expected.attention == by_hand


def test_configs_and_counts_need_no_torch():
    code = (
        "import sys; from manifests import load; from model import config, counts;"
        f"counts.count_parameters(load.load(config.ModelConfig, [{str(TINY)!r}]).value);"
        "assert 'torch' not in sys.modules and 'megatron' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TINY.parents[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("vision.hidden_size=98", "divisible"),
        ("moe_router_topk=9", "moe_router_topk"),
        ("first_k_dense_replace=5", "first_k_dense_replace"),
        ("rotary_scaling_factor=0.5", "YaRN"),
        ("qk_pos_emb_head_dim=15", "pairs"),
        ("num_layer=3", "not a known key"),
    ],
)
def test_impossible_model_configs_are_refused_on_load(change, message):
    with pytest.raises(ManifestError, match=message):
        load.load(ModelConfig, [TINY], [change])
