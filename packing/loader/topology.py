"""Mapping from a process of a large training to its part of a global batch.

A trainer opens its `Loader` with these numbers. Ranks are numbered as Megatron-core does by default ("tp-cp-ep-dp-pp"):
tensor ranks are neighbors, then context, then data, pipeline stages last. Expert ranks regroup tensor, context and data
ranks and read the same rows. Encoding (DEP, Kimi K2.5 report section 4.5.1) is spread over *all* processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manifests.errors import ManifestError


@dataclass(frozen=True, slots=True)
class Share:
    """Part of every global batch that one process takes."""

    data_rank: int
    """Argument of `GlobalBatch.rows`; equal for all tensor, context and pipeline ranks of one replica."""
    media_rank: int
    """Argument of `GlobalBatch.media`: number of the process in the world."""
    positions: np.ndarray
    """(L / context,) int64: positions of each row that this context rank computes; keys and values come from all."""
    needs_ids: bool
    """First pipeline stage: it embeds token ids and takes the vision features."""
    needs_labels: bool
    """Last pipeline stage: it computes the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Sizes of the process groups; `expert` divides tensor * context * data."""

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
                f"{self.expert} expert ranks don't divide the {self.world // self.pipeline} ranks of a stage",
                where=str(self),
                fix="choose a divisor of tensor * context * data",
            )

    @property
    def world(self) -> int:
        """Number of processes, and of ranks that media are dealt to (`encoders` of a loader)."""
        return self.data * self.tensor * self.context * self.pipeline

    def share(self, rank: int, row_tokens: int) -> Share:
        """Return the part of global rank `rank`; `row_tokens` is L.

        Raises:
            ManifestError: context ranks can't share a row evenly.
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
    """(L / ranks,) int64: positions of a row that a context rank computes.

    The row is cut into 2 * ranks pieces; each rank takes one from the front and its mirror image from the back, so that
    causal attention costs all ranks the same. Source: Megatron-core's context parallelism.

    Raises:
        ManifestError: 2 * ranks does not divide the row.
    """
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
