"""Tests of the MoonViT encoder, above all that a batch of items of any sizes gives each the features it gets alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.moonvit import PositionTable
from model.multimodal import MultimodalModel
from tests.model.small import SMALL, Media, media_of, small_model

even = st.integers(1, 5).map(lambda n: 2 * n)
grid = st.tuples(st.integers(1, 4), even, even)


@pytest.fixture(scope="module")
def model() -> MultimodalModel:
    return small_model()


@settings(max_examples=15, deadline=None)
@given(grids=st.lists(grid, min_size=1, max_size=5), seed=st.integers(0, 999))
def test_a_packed_item_gets_the_features_it_gets_alone(model, grids, seed):
    media = media_of(grids, seed)
    with torch.no_grad():
        packed = model.encode(media)
        parts = media.patches.split([t * h * w for t, h, w in grids])
        alone = [model.encode(Media(part, [g])) for part, g in zip(parts, grids, strict=True)]
    assert packed.shape[0] == sum(h * w // 4 for _, h, w in grids)
    assert torch.allclose(packed, torch.cat(alone), atol=2e-5)


def test_an_image_has_no_time_embedding_but_the_first_frame_of_a_clip_has():
    """A single frame gets no time embedding; the first of several gets sin(0) = 0 and cos(0) = 1."""
    table = PositionTable(SMALL.vision)
    torch.nn.init.normal_(table.weight)
    with torch.no_grad():
        image, clip = table([(1, 4, 6)]), table([(3, 4, 6)])
    width = SMALL.vision.hidden_size
    assert torch.allclose(clip[:24] - image, torch.cat([torch.zeros(width // 2), torch.ones(width // 2)]), atol=1e-6)
    assert not torch.allclose(clip[24:48], clip[:24])


def test_slots_are_in_reading_order_and_depend_on_their_own_four_patches(model):
    """Without positions and attention, a slot depends on exactly its own 2 x 2 patches of every frame."""
    tower = small_model().vision_tower
    with torch.no_grad():
        tower.patch_embed.pos_emb.weight.zero_()
        for block in tower.encoder.blocks:
            block.wo.weight.zero_()
    patches = torch.randn(2 * 4 * 6, 3, 14, 14)
    changed = patches.clone()
    frame, row, column = 1, 2, 5
    changed[frame * 24 + row * 6 + column] += 1
    with torch.no_grad():
        difference = (tower(changed, [(2, 4, 6)]) - tower(patches, [(2, 4, 6)])).abs().amax(-1)
    assert difference.shape == (2 * 3, 4)
    slot, corner = (row // 2) * 3 + column // 2, (row % 2) * 2 + column % 2
    touched = torch.zeros(6, 4, dtype=torch.bool)
    touched[slot, corner] = True
    assert torch.equal(difference > 1e-6, touched)


def test_a_grid_that_does_not_cover_the_patches_is_refused(model):
    media = media_of([(1, 4, 4)])
    with pytest.raises((ValueError, RuntimeError)):
        model.encode(Media(media.patches, [(1, 4, 6)]))
