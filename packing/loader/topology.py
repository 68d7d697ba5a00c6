"""Which part of a global batch does each process of a large training take?

Ranks are numbered as Megatron-core numbers them by default ("tp-cp-ep-dp-pp"): tensor ranks are neighbours, then
context, then data, pipeline stages last. Expert ranks are a regrouping of tensor, context and data ranks and read what
those read. Encoding (DEP) is spread over *all* processes, whatever they do for the language model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manifests.errors import ManifestError


@dataclass(frozen=True, slots=True)
class Share:
    """What one process takes of every global batch."""

    data_rank: int
    """`GlobalBatch.rows(data_rank)`; equal for all tensor, context and pipeline ranks of one replica."""
    media_rank: int
    """`GlobalBatch.media(media_rank)`: its number in the world."""
    positions: np.ndarray
    """(L / context,) int64: which positions of each row this context rank computes; keys and values come from all."""
    needs_ids: bool
    """First pipeline stage: embeds token ids and takes the vision features."""
    needs_labels: bool
    """Last pipeline stage: computes the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Sizes of the groups; `expert` divides tensor * context * data."""

    data: int = 1
    tensor: int = 1
    context: int = 1
    pipeline: int = 1
    expert: int = 1

    def __post_init__(self) -> None:
        if min(self.data, self.tensor, self.context, self.pipeline, self.expert) < 1:
            raise ManifestError("a group has no rank", where=str(self), fix="give sizes of 1 or more")
        if self.tensor * self.context * self.data % self.expert:
            raise ManifestError(
                f"{self.expert} expert ranks don't divide {self.tensor * self.context * self.data} ranks of a stage",
                where=str(self),
                fix="choose a divisor of tensor * context * data",
            )

    @property
    def world(self) -> int:
        """Processes in all: the number of ranks that media are dealt to (`encoders` of a loader)."""
        return self.data * self.tensor * self.context * self.pipeline

    def share(self, rank: int, row_tokens: int) -> Share:
        """Of global rank `rank`; `row_tokens` is L.

        Raises ManifestError where context ranks can't share a row evenly.
        """
        if not 0 <= rank < self.world:
            raise IndexError(f"rank {rank} of {self.world}")
        rest, _ = divmod(rank, self.tensor)
        rest, context = divmod(rest, self.context)
        stage, data = divmod(rest, self.data)
        return Share(
            data_rank=data,
            media_rank=rank,
            positions=context_positions(row_tokens, context, self.context),
            needs_ids=stage == 0,
            needs_labels=stage == self.pipeline - 1,
        )


def context_positions(row_tokens: int, rank: int, ranks: int) -> np.ndarray:
    """(L / ranks,) int64. The row is cut into 2 * ranks pieces and each rank takes one from the front and its mirror
    image from the back, so that causal attention costs all of them the same. Source: Megatron-core's context
    parallelism. Raises ManifestError where that does not divide the row."""
    if ranks == 1:
        return np.arange(row_tokens)
    if row_tokens % (2 * ranks):
        raise ManifestError(
            f"rows of {row_tokens} tokens can't be cut into {2 * ranks} equal pieces",
            where=f"{ranks} context ranks",
            fix=f"plan with max_pack_tokens a multiple of {2 * ranks}",
        )
    pieces = np.arange(row_tokens).reshape(2 * ranks, -1)
    return np.concatenate([pieces[rank], pieces[2 * ranks - 1 - rank]])
