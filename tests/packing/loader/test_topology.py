"""Parts of a global batch that the processes of a large training take."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from manifests.errors import ManifestError
from packing.loader.topology import Topology, context_positions


@pytest.mark.parametrize(
    ("data", "tensor", "context", "pipeline"),
    list(itertools.product((1, 2, 3), (1, 2), (1, 2, 4), (1, 2, 3))),
)
def test_the_ranks_together_take_every_row_position_and_medium_once(
    data: int, tensor: int, context: int, pipeline: int
) -> None:
    topology = Topology(data=data, tensor=tensor, context=context, pipeline=pipeline)
    shares = [topology.share(rank, 48) for rank in range(topology.world)]
    assert [share.media_rank for share in shares] == list(range(data * tensor * context * pipeline))
    taken: dict[tuple[int, int], int] = {}
    for share in shares:
        for position in share.positions.tolist() if share.needs_ids else ():
            taken[share.data_rank, position] = taken.get((share.data_rank, position), 0) + 1
    assert taken == {(row, position): tensor for row in range(data) for position in range(48)}
    assert sum(share.needs_labels for share in shares) == sum(share.needs_ids for share in shares)
    assert all(share.needs_ids and share.needs_labels for share in shares) == (pipeline == 1)


def test_ranks_are_numbered_by_tensor_then_context_then_data_then_stage() -> None:
    topology = Topology(data=2, tensor=2, context=2, pipeline=2, expert=4)
    shares = [topology.share(rank, 8) for rank in range(16)]
    parts = [(share.data_rank, int(share.positions[0]), share.needs_ids) for share in shares]
    assert parts[:8] == [
        (0, 0, True),
        (0, 0, True),
        (0, 2, True),
        (0, 2, True),
        (1, 0, True),
        (1, 0, True),
        (1, 2, True),
        (1, 2, True),
    ]
    assert parts[8:] == [(data, first, False) for data, first, _ in parts[:8]]


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_causal_attention_costs_the_same_on_all_context_ranks(ranks: int) -> None:
    costs = {int((context_positions(64, rank, ranks) + 1).sum()) for rank in range(ranks)}
    assert len(costs) == 1
    positions = np.concatenate([context_positions(64, rank, ranks) for rank in range(ranks)])
    assert sorted(positions.tolist()) == list(range(64))


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ManifestError, match="12 equal pieces"):
        context_positions(256, 0, 6)
    with pytest.raises(ManifestError, match="don't divide"):
        Topology(data=2, expert=3)
    with pytest.raises(ManifestError, match="no rank"):
        Topology(data=0)
    with pytest.raises(IndexError):
        Topology().share(1, 8)
