"""What every process of a large training takes of a global batch."""

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
def test_together_the_ranks_take_every_row_position_and_medium_once(
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


def test_neighbours_are_tensor_ranks_then_context_then_data_then_stages() -> None:
    topology = Topology(data=2, tensor=2, context=2, pipeline=2, expert=4)
    told = [(one.data_rank, int(one.positions[0]), one.needs_ids) for one in (topology.share(r, 8) for r in range(16))]
    assert told[:8] == [
        (0, 0, True),
        (0, 0, True),
        (0, 2, True),
        (0, 2, True),
        (1, 0, True),
        (1, 0, True),
        (1, 2, True),
        (1, 2, True),
    ]
    assert told[8:] == [(data, first, False) for data, first, _ in told[:8]]


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_causal_attention_costs_all_context_ranks_the_same(ranks: int) -> None:
    costs = {int((context_positions(64, rank, ranks) + 1).sum()) for rank in range(ranks)}
    assert len(costs) == 1
    everything = np.concatenate([context_positions(64, rank, ranks) for rank in range(ranks)])
    assert sorted(everything.tolist()) == list(range(64))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ManifestError, match="12 equal pieces"):
        context_positions(256, 0, 6)
    with pytest.raises(ManifestError, match="don't divide"):
        Topology(data=2, expert=3)
    with pytest.raises(ManifestError, match="no rank"):
        Topology(data=0)
    with pytest.raises(IndexError):
        Topology().share(1, 8)
