"""Tests of rows of packed segments, padding and slots: which changes of a row change its losses, and which do not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.multimodal import MultimodalModel, normalize
from tests.model.small import media_of, random_ids, rows_of, small_model


@pytest.fixture(scope="module")
def model() -> MultimodalModel:
    return small_model()


segment_lengths = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None)
@given(lengths=segment_lengths, seed=st.integers(0, 999))
def test_a_packed_segment_gets_the_losses_it_gets_alone(model, lengths, seed):
    rows = [[random_ids(n, seed + 7 * i + j) for j, n in enumerate(row)] for i, row in enumerate(lengths)]
    with torch.no_grad():
        packed = model.losses(rows_of(rows, 170), None, None)
        for r, row in enumerate(rows):
            start = 0
            for segment in row:
                alone = model.losses(rows_of([[segment]], len(segment)), None, None)[0]
                assert torch.allclose(packed[r, start : start + len(segment)], alone, atol=1e-5)
                start += len(segment)
            assert not packed[r, start:].any(), "padding has a loss"


def test_padding_changes_no_bit(model):
    segments = [[random_ids(30, 1), random_ids(11, 2)], [random_ids(25, 3)]]
    with torch.no_grad():
        tight = model.losses(rows_of(segments, 41), None, None)
        loose = model.losses(rows_of(segments, 90, pad=150), None, None)
    assert torch.equal(tight, loose[:, :41])


def test_gradients_are_reproducible_to_the_bit(model):
    rows, media = rows_of([[random_ids(60, 1), random_ids(33, 2)]], 100), media_of([(1, 4, 4), (2, 2, 6)])
    slots = torch.tensor([3, 4, 5, 6, 70, 71, 72])

    def gradients() -> list[torch.Tensor]:
        model.zero_grad(set_to_none=True)
        model.losses(rows, model.encode(media), slots).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


def test_losses_are_negative_log_probabilities_of_the_unmasked_labels(model):
    rows = rows_of([[random_ids(20, 1)], [random_ids(12, 2)]], 24)
    rows.loss_mask[0, 5:9] = False
    with torch.no_grad():
        losses = model.losses(rows, None, None)
        logits = model.language_model.logits(model.hidden(rows, None, None))
    expected = torch.zeros(2, 24)
    for position, (r, column) in enumerate([(0, i) for i in range(20)] + [(1, i) for i in range(12)]):
        if rows.loss_mask[r, column]:
            expected[r, column] = -logits[position].log_softmax(-1)[rows.labels[r, column]]
    assert torch.allclose(losses, expected, atol=1e-5)


def test_each_feature_lands_on_its_own_slot(model):
    """Equal to embeddings filled by hand. Features may come in any order if their slots have the same order."""
    rows = rows_of([[random_ids(20, 1)], [random_ids(9, 2), random_ids(8, 3)]], 24, pad=1)
    features = torch.randn(5, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    slots = torch.tensor([24 + 12, 24 + 13, 2, 3, 4])
    by_hand = model.language_model.embed(rows.ids.flatten()).detach().clone()
    by_hand[slots] = features
    real = torch.cat([torch.arange(20), 24 + torch.arange(17)])
    with torch.no_grad():
        expected = model.language_model(by_hand[real], [20, 9, 8])
        got = model.hidden(rows, features, slots)
        order = torch.tensor([4, 0, 3, 1, 2])
        reordered = model.hidden(rows, features[order], slots[order])
        crossed = model.hidden(rows, features[order], slots)
    assert torch.equal(got, expected)
    assert torch.equal(reordered, expected)
    assert not torch.allclose(crossed, expected, atol=1e-3)


def test_gradients_flow_from_losses_through_slots_to_the_patch_embedding(model):
    rows, media = rows_of([[random_ids(30, 1)]], 30), media_of([(1, 4, 4)])
    features = model.encode(media)
    features.retain_grad()
    model.losses(rows, features, torch.tensor([3, 4, 5, 6])).sum().backward()
    assert (features.grad.norm(dim=1) > 0).all()
    assert model.vision_tower.patch_embed.proj.weight.grad.abs().max() > 0


def test_a_slot_on_padding_or_outside_the_rows_is_refused(model):
    rows = rows_of([[random_ids(10, 1)]], 20)
    features = torch.zeros(1, model.config.hidden_size)
    for slot in (10, 25):
        with pytest.raises(ValueError, match="slot"):
            model.hidden(rows, features, torch.tensor([slot]))


def test_normalize_maps_bytes_to_minus_one_to_one():
    extremes = normalize(torch.tensor([0, 255], dtype=torch.uint8))
    assert extremes.tolist() == [-1.0, 1.0]
