"""Tests of canonical names: views on Megatron's parameters, initial weights, names in released checkpoints."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from manifests.errors import MillraceError, ResumeError
from model import hf
from model.canonical import canonical_gradients, canonical_parameters, canonical_state, load_canonical
from model.counts import EXPERT_BIAS, canonical_shapes
from tests.model.small import SMALL, initialized, media_of, random_ids, rows_of, small_model


def test_canonical_views_cover_every_parameter_element_once():
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for tensor in canonical_parameters(model).values():
            tensor.add_(1)
    assert all(bool((parameter == 1).all()) for parameter in model.parameters())


def test_an_update_of_a_canonical_view_changes_the_model():
    model = small_model()
    rows = rows_of([[random_ids(20, 1)]], 20)
    with torch.no_grad():
        before = model.losses(rows, None, None)
        canonical_parameters(model)["language_model.model.layers.1.mlp.experts.up_proj.weight"].mul_(1.5)
        after = model.losses(rows, None, None)
    assert not torch.equal(before, after)


def test_gradients_have_the_names_and_shapes_of_parameters_and_are_zero_for_unused_ones():
    model = small_model()
    model.losses(rows_of([[random_ids(20, 1)]], 20), None, None).sum().backward()
    gradients, parameters = canonical_gradients(model), canonical_parameters(model)
    assert {n: g.shape for n, g in gradients.items()} == {n: p.shape for n, p in parameters.items()}
    assert not gradients["mm_projector.proj.0.weight"].any()
    assert gradients["language_model.lm_head.weight"].any()
    assert not any(name.endswith(EXPERT_BIAS) for name in gradients)


def test_frozen_weights_are_not_among_the_parameters():
    model = small_model()
    model.vision_tower.requires_grad_(False)
    names = canonical_parameters(model).keys()
    assert names == canonical_gradients(model).keys()
    assert not any(name.startswith("vision_tower.") for name in names)


def test_a_model_that_loads_the_state_of_another_equals_it():
    source, target = small_model(), initialized(SMALL, 8)
    load_canonical(target, {name: tensor.clone() for name, tensor in canonical_state(source).items()})
    rows, media, slots = rows_of([[random_ids(30, 1)]], 30), media_of([(2, 4, 4)]), torch.arange(4)
    with torch.no_grad():
        same = [model.losses(rows, model.encode(media), slots) for model in (source, target)]
    assert torch.equal(*same)


def test_weights_of_another_model_are_refused_with_their_names():
    model = small_model()
    weights = dict(canonical_state(model))
    norm = "language_model.model.norm.weight"
    with pytest.raises(ResumeError, match="norm"):
        load_canonical(model, weights | {norm: torch.ones(3)})
    with pytest.raises(ResumeError, match="unknown"):
        load_canonical(model, weights | {"other": torch.ones(3)})
    del weights[norm]
    with pytest.raises(ResumeError, match=norm):
        load_canonical(model, weights)


def test_initial_weights_depend_on_seed_and_name_alone():
    deep = initialized(dataclasses.replace(SMALL, num_layers=4), 7)
    flat, other = initialized(SMALL, 7), initialized(SMALL, 8)
    first, second, third = canonical_state(deep), canonical_state(flat), canonical_state(other)
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    name = "language_model.model.layers.1.mlp.experts.gate_proj.weight"
    assert not torch.equal(second[name], third[name])
    assert not torch.equal(second[name], second[name.replace("gate_proj", "up_proj")])
    assert not torch.equal(second[name], second[name.replace("layers.1", "layers.2")])
    assert second[name].std().item() == pytest.approx(SMALL.init_method_std, rel=0.05)
    assert not second["vision_tower.encoder.blocks.0.norm0.bias"].any()
    assert bool((second["vision_tower.encoder.blocks.0.norm0.weight"] == 1).all())


def test_every_block_is_the_identity_at_initialization():
    model = initialized(SMALL, 7)
    embedded = torch.randn(9, SMALL.hidden_size, generator=torch.Generator().manual_seed(0))
    expected = model.language_model.decoder.final_layernorm(embedded)
    assert torch.allclose(model.language_model(embedded, [9]), expected, atol=1e-6)


def test_released_and_transformers_names_map_one_to_one_and_lose_no_bit():
    state = canonical_state(small_model())
    released = hf.to_released(state)
    assert "language_model.model.layers.2.mlp.experts.5.down_proj.weight" in released
    for restored in (
        hf.from_released(released, SMALL),
        hf.from_transformers(hf.to_transformers(state, SMALL), SMALL),
    ):
        assert list(restored) == list(canonical_shapes(SMALL))
        assert all(torch.equal(restored[name], state[name]) for name in state)


@pytest.mark.parametrize("form", ["released", "transformers"])
def test_a_checkpoint_with_a_missing_or_extra_weight_is_refused(form):
    state = canonical_state(small_model())
    if form == "released":
        weights, read = hf.to_released(state), hf.from_released
    else:
        weights, read = hf.to_transformers(state, SMALL), hf.from_transformers
    with pytest.raises(MillraceError, match="no place for, such as extra"):
        read(weights | {"extra": torch.ones(1)}, SMALL)
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    del weights[name]
    with pytest.raises(MillraceError, match=r"has no .*embed_tokens"):
        read(weights, SMALL)
