"""The loader's two streams as tensors: the only file of this room that knows torch.

Before this `loader.py`, after it `model/multimodal.py`, whose protocols `Rows` and `Media` these satisfy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch

from packing import loader

Device = str | torch.device


@dataclass(frozen=True, slots=True)
class RowTensors:
    ids: torch.Tensor
    """(R, L) int64."""
    labels: torch.Tensor
    """(R, L) int64, -100 where nothing is predicted."""
    loss_mask: torch.Tensor
    """(R, L) bool."""
    positions: torch.Tensor
    """(R, L) int64."""
    segment_lengths: tuple[tuple[int, ...], ...]

    @property
    def cu_seqlens(self) -> tuple[torch.Tensor, ...]:
        """Per row (S + 1,) int32: where its segments begin, and where the last one ends."""
        return tuple(
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self.ids.device)
            for lengths in self.segment_lengths
        )


@dataclass(frozen=True, slots=True)
class MediaTensors:
    patches: torch.Tensor
    """(N, 3, 14, 14) uint8: a quarter of the traffic of floats; the model normalises."""
    grids: tuple[tuple[int, int, int], ...]
    slots: torch.Tensor
    """(S,) int64: for each feature, item after item, row of the global batch * L + position."""


def rows_to(rows: loader.Rows, device: Device) -> RowTensors:
    ids, labels, loss_mask, positions = (
        torch.from_numpy(array).to(device) for array in (rows.ids, rows.labels, rows.loss_mask, rows.positions)
    )
    return RowTensors(ids, labels, loss_mask, positions, rows.segment_lengths)


def media_to(media: loader.MediaBatch, row_tokens: int, device: Device) -> MediaTensors:
    """`row_tokens` is L, the length of the rows that the slots lie in."""
    firsts = torch.from_numpy(media.rows * row_tokens + media.first_slots)
    counts = torch.from_numpy(media.slots)
    starts = torch.cumsum(counts, 0) - counts
    within = torch.arange(int(counts.sum())) - torch.repeat_interleave(starts, counts)
    return MediaTensors(
        patches=torch.from_numpy(media.patches).to(device),
        grids=tuple((t, h, w) for t, h, w in media.grids.tolist()),
        slots=(torch.repeat_interleave(firsts, counts) + within).to(device),
    )
