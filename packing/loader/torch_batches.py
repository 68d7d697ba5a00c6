"""The loader's two streams as tensors: the only file of this room that knows torch.

Before this `loader/loader.py`, after it `model/multimodal.py`, whose protocols `Rows` and `Media` these satisfy. Three
faces: tensors of a batch, an `IterableDataset` with a state, and what Megatron's training loops ask an iterator for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from packing.augment_shapes import VisibleShape
from packing.loader import batch
from packing.loader.batch import Failure
from packing.loader.global_batch import Agree, GlobalBatch
from packing.loader.loader import Loader, LoaderState

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


@dataclass(frozen=True, slots=True)
class RankBatch:
    """What one rank takes of a global batch."""

    number: int
    rows: RowTensors
    media: MediaTensors
    state: LoaderState
    """Goes on after this batch."""
    shapes: Mapping[tuple[int, int], tuple[VisibleShape, ...]]
    """Of `media`, as in `GlobalBatch.shapes`."""


def rows_to(rows: batch.TokenRows, device: Device) -> RowTensors:
    ids, labels, loss_mask, positions = (
        torch.from_numpy(array).to(device) for array in (rows.ids, rows.labels, rows.loss_mask, rows.positions)
    )
    return RowTensors(ids, labels, loss_mask, positions, rows.segment_lengths)


def media_to(media: batch.MediaBatch, row_tokens: int, device: Device) -> MediaTensors:
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


class RankBatches(IterableDataset[RankBatch]):
    """One rank's batches, for `torch.utils.data.DataLoader(..., batch_size=None)`.

    Worker processes share the batches out among themselves and give them in order, so that their number changes
    nothing. Every batch carries the state that goes on after it: what a consumer saves, whatever was loaded ahead.
    """

    def __init__(self, open_loader: Callable[..., Loader], rank: int = 0, encoder: int | None = None) -> None:
        """
        Args:
            open_loader: `functools.partial(Loader, packs, ...)`; called with `state`, `part`, `ranks` and `rows_of`.
            rank: whose rows these are.
            encoder: whose media, by default those of `rank`.
        """
        self._open, self._rank = open_loader, rank
        self._encoder = rank if encoder is None else encoder
        self._state: LoaderState | None = None

    def __iter__(self) -> Iterator[RankBatch]:
        worker = get_worker_info()
        part = (0, 1) if worker is None else (worker.id, worker.num_workers)
        mine = {"ranks": (self._encoder,), "rows_of": (self._rank,)}
        with self._open(state=self._state, part=part, **mine) as loader:
            for one in loader:
                made = self._made(one, loader.state)
                if worker is None:
                    self._state = made.state
                yield made

    def state_dict(self) -> LoaderState | None:
        """After the last batch given out in this process; with worker processes take `RankBatch.state`."""
        return self._state

    def load_state_dict(self, state: LoaderState | None) -> None:
        self._state = state

    def _made(self, one: GlobalBatch, state: LoaderState) -> RankBatch:
        rows = rows_to(one.rows(self._rank), "cpu")
        encoded = one.media(self._encoder)
        media = media_to(encoded, rows.ids.shape[1], "cpu")
        mine = set(zip(encoded.rows.tolist(), encoded.first_slots.tolist(), strict=True))
        shapes = {place: seen for place, seen in one.shapes.items() if place in mine} if mine else {}
        return RankBatch(one.number, rows, media, state, shapes)


def for_megatron(batches: Iterable[RankBatch], device: Device = "cpu") -> Iterator[dict[str, Any]]:
    """What a `data_iterator` of Megatron's pre-training loops gives, with media beside it.

    Keys: `tokens`, `labels` (0 where nothing is predicted), `loss_mask` float32 and `position_ids`, each (R, L);
    `cu_seqlens`, one per row, for block-diagonal attention in place of `attention_mask`, which is None; `media`, a
    `MediaTensors`.
    """
    for one in batches:
        rows = one.rows
        yield {
            "tokens": rows.ids.to(device),
            "labels": rows.labels.clamp(min=0).to(device),
            "loss_mask": rows.loss_mask.float().to(device),
            "position_ids": rows.positions.to(device),
            "attention_mask": None,
            "cu_seqlens": rows.cu_seqlens,
            "media": one.media,
        }


def agree_over(group: torch.distributed.ProcessGroup | None = None) -> Agree:
    """Failures of all ranks of `group` (by default the world), in one order everywhere. Every rank has to call it for
    every batch."""

    def agree(number: int, failures: Sequence[Failure]) -> Sequence[Failure]:
        told: list[str] = [""] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(told, json.dumps([asdict(one) for one in failures]), group)
        found = {Failure(**one) for words in told for one in json.loads(words)}
        return sorted(found, key=lambda one: (one.row, one.digest, one.sample))

    return agree
