"""Tensors of the loader's two streams; the only file of this room that imports torch.

`loader/loader.py` feeds it, and `model/multimodal.py` reads it: `RowTensors` and `MediaTensors` satisfy its protocols
`RowBatch` and `MediaBatch`. Three interfaces: tensors of one batch, an `IterableDataset` with a state, and the iterator
that Megatron's training loops expect.
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
from packing.loader.batch import Failure, MediaItems, TokenRows
from packing.loader.global_batch import GlobalBatch
from packing.loader.loader import Loader, LoaderState
from packing.loader.stand_ins import Agree

Device = str | torch.device


@dataclass(frozen=True, slots=True)
class RowTensors:
    """`TokenRows` as tensors: R rows of L positions."""

    ids: torch.Tensor
    """(R, L) int64."""
    labels: torch.Tensor
    """(R, L) int64, -100 at positions without a target."""
    loss_mask: torch.Tensor
    """(R, L) bool."""
    positions: torch.Tensor
    """(R, L) int64."""
    segment_lengths: tuple[tuple[int, ...], ...]

    @property
    def cu_seqlens(self) -> tuple[torch.Tensor, ...]:
        """Per row (S + 1,) int32: first positions of its S segments, then the end of the last one."""
        return tuple(
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self.ids.device)
            for lengths in self.segment_lengths
        )


@dataclass(frozen=True, slots=True)
class MediaTensors:
    """`MediaItems` as tensors: N patches of M items, which fill S slots."""

    patches: torch.Tensor
    """(N, 3, 14, 14) uint8, a quarter of the bytes of float32; the model normalizes."""
    grids: tuple[tuple[int, int, int], ...]
    """(t, h, w) of each item in patches."""
    slots: torch.Tensor
    """(S,) int64, for each feature in the order of the items: row of the global batch * L + position."""


@dataclass(frozen=True, slots=True)
class RankBatch:
    """Part of a global batch that one rank takes."""

    number: int
    rows: RowTensors
    media: MediaTensors
    state: LoaderState
    """Position after this batch."""
    shapes: Mapping[tuple[int, int], tuple[VisibleShape, ...]]
    """Shapes on `media`, keyed as in `GlobalBatch.shapes`."""


def rows_to(rows: TokenRows, device: Device) -> RowTensors:
    """Copy token rows to a device."""
    ids, labels, loss_mask, positions = (
        torch.from_numpy(array).to(device) for array in (rows.ids, rows.labels, rows.loss_mask, rows.positions)
    )
    return RowTensors(ids, labels, loss_mask, positions, rows.segment_lengths)


def media_to(media: MediaItems, row_tokens: int, device: Device) -> MediaTensors:
    """Copy media items to a device. `row_tokens` is L, the length of the rows that hold their slots."""
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
    """Batches of one rank, for `torch.utils.data.DataLoader(..., batch_size=None)`.

    Worker processes share the batches and deliver them in order, so their number changes nothing. Every batch carries
    the position after it: save the state of the last batch that was consumed, however many were loaded ahead.
    """

    def __init__(self, open_loader: Callable[..., Loader], rank: int = 0, encoder: int | None = None) -> None:
        """
        Args:
            open_loader: `functools.partial(Loader, packs, ...)`; called with `state`, `part`, `ranks` and `row_ranks`.
            rank: data-parallel rank whose rows these are.
            encoder: rank whose media these are, by default `rank`.
        """
        self._open, self._rank = open_loader, rank
        self._encoder = rank if encoder is None else encoder
        self._state: LoaderState | None = None

    def __iter__(self) -> Iterator[RankBatch]:
        worker = get_worker_info()
        part = (0, 1) if worker is None else (worker.id, worker.num_workers)
        with self._open(state=self._state, part=part, ranks=(self._encoder,), row_ranks=(self._rank,)) as loader:
            for batch in loader:
                rank_batch = self._rank_batch(batch, loader.state)
                if worker is None:
                    self._state = rank_batch.state
                yield rank_batch

    def state_dict(self) -> LoaderState | None:
        """Return the position after the last batch of this process; with worker processes use `RankBatch.state`."""
        return self._state

    def load_state_dict(self, state: LoaderState | None) -> None:
        """Set the position at which the next iteration begins."""
        self._state = state

    def _rank_batch(self, batch: GlobalBatch, state: LoaderState) -> RankBatch:
        rows = rows_to(batch.rows(self._rank), "cpu")
        encoded = batch.media(self._encoder)
        media = media_to(encoded, rows.ids.shape[1], "cpu")
        own = set(zip(encoded.rows.tolist(), encoded.first_slots.tolist(), strict=True))
        shapes = {place: visible for place, visible in batch.shapes.items() if place in own} if own else {}
        return RankBatch(batch.number, rows, media, state, shapes)


def for_megatron(batches: Iterable[RankBatch], device: Device = "cpu") -> Iterator[dict[str, Any]]:
    """Yield dicts as the `data_iterator` of Megatron's pre-training loops does, with media added.

    Keys: `tokens`, `labels` (0 at positions without a target), `loss_mask` float32 and `position_ids`, each (R, L);
    `cu_seqlens`, one per row, for block-diagonal attention in place of `attention_mask`, which is None; `media`, a
    `MediaTensors`.
    """
    for batch in batches:
        rows = batch.rows
        yield {
            "tokens": rows.ids.to(device),
            "labels": rows.labels.clamp(min=0).to(device),
            "loss_mask": rows.loss_mask.float().to(device),
            "position_ids": rows.positions.to(device),
            "attention_mask": None,
            "cu_seqlens": rows.cu_seqlens,
            "media": batch.media,
        }


def agree_over(group: torch.distributed.ProcessGroup | None = None) -> Agree:
    """Return an exchange of failures between all ranks of `group`, by default the world, for `StandIns`.

    Every rank has to call it for every batch; all of them get the same list.
    """

    def agree(batch: int, failures: Sequence[Failure]) -> Sequence[Failure]:
        gathered: list[str] = [""] * torch.distributed.get_world_size(group)
        own = json.dumps([asdict(failure) for failure in failures])
        torch.distributed.all_gather_object(gathered, own, group)
        every = {Failure(**raw) for text in gathered for raw in json.loads(text)}
        return sorted(every, key=lambda failure: (failure.row, failure.digest, failure.sample))

    return agree
