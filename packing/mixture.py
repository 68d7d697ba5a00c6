"""Mixture: the sources of a plan, their proportions, the vision share over time, and the size of packs.

People write it as YAML; `plan/planner.py` compiles it. Meaning of the numbers:

- `horizon_tokens` counts non-padding tokens. The plan ends with the first whole global batch that reaches it. Without a
  horizon it ends with the sources, and pieces that the vision share leaves over are not used.
- `vision_share` is exact and outranks the weights. A piece of a sample is *rich* if its slots exceed that share of its
  tokens, else *poor* (text is poor). The share decides when a rich piece comes and when a poor one.
- `weight` divides tokens between sources, among rich pieces and among poor pieces separately. A source with both kinds
  divides its weight between them in proportion to its own tokens, so that three captions without a picture don't claim
  a share of all text.
- `max_epochs` caps how often any piece is seen; K2.5's joint stage caps epochs per source as well (report, section
  4.3). Where a source is used up, the others take its part in proportion to their weights, and the plan records when.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from math import isqrt
from typing import ClassVar, Literal

from manifests.geometry import RELEASED_LIMITS, MediaLimits
from manifests.load import schema
from manifests.records import canonical_json, digest
from manifests.schedule import Curve, VisionShare

Pixels = Literal["exact", "fast"]


@schema
class Source:
    """One part of a mixture: the samples of a store, or some of them."""

    RENAMED: ClassVar[dict[str, str]] = {"store": "input"}

    name: str
    """Name of the source in the plan and in reports; unique in the mixture."""
    input: str
    """Node that makes the samples; outside a DAG the URL of their store. Not in the digest of the mixture: the plan
    names content roots instead."""
    weight: float
    """Relative number of tokens; only ratios matter."""
    domains: tuple[str, ...] = ()
    """Domains of the samples that are used; all if empty."""
    min_tokens: int = 0
    """Least tokens of a sample that is used, counted after `media_limits` shrank its media."""
    max_tokens: int | None = None
    """Most tokens of a sample that is used. Two sources of one store, one on each side of a length, mix long and short
    documents by their weights."""
    max_epochs: int = 1
    """Most times that any piece is seen, over all plans of a run."""
    group: str | None = None
    """Group in `Mixture.groups` whose weight this source shares with the group's other sources."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(
                f"weight of {self.name} is {self.weight}, expected a number > 0; remove the source instead"
            )
        if self.max_tokens is not None and self.max_tokens < max(1, self.min_tokens):
            raise ValueError(f"max_tokens of {self.name} is {self.max_tokens}, below min_tokens or 1")
        if self.max_epochs < 1:
            raise ValueError(f"max_epochs of {self.name} is {self.max_epochs}, expected at least 1")


@schema
class PackLimits:
    """Limits of one pack besides its tokens. None means no limit.

    A document over a limit is cut like one that is longer than a pack. A sample with a medium that exceeds a limit
    alone is refused, and counted under `refused`.
    """

    patches: int | None = None
    """14-px patches of all frames that the encoder sees for one pack; bounds its memory and the spread between
    packs."""
    media: int | None = None
    """Images and videos."""
    attention: int | None = None
    """Sum of squared segment lengths, in tokens squared: the cost of attention. No segment is longer than its root."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"pack_limits: {name} is {value}, expected at least 1")

    @property
    def any(self) -> bool:
        """Whether any limit is set."""
        return self != PackLimits()


@schema
class Mixture:
    """Everything that people decide about a plan. Field names are the keys of the YAML."""

    RENAMED: ClassVar[dict[str, str]] = {"limits": "media_limits"}

    sources: tuple[Source, ...]
    """Parts of the mixture."""
    max_pack_tokens: int
    """Length of every row, with padding."""
    global_batch_packs: int
    """Packs of one training step over all ranks."""
    seed: int = 0
    """Seed of the order of all samples."""
    horizon_tokens: int | None = None
    """Non-padding tokens of the run; None takes the sources as far as they go."""
    vision_share: VisionShare = VisionShare()
    """Vision slots over non-padding tokens (`manifests/schedule.py`); `{from_data: true}` takes the share of the
    samples."""
    media_limits: MediaLimits = RELEASED_LIMITS
    """Limits of one image or video; larger media are shrunk to them. Smaller limits make media fit smaller packs."""
    pixels: Pixels = "exact"
    """Decoding of pictures when batches are made: `exact` gives the released processor's pixels. `fast` decodes a JPEG
    that `media_limits` shrink to less than half at a half, a quarter or an eighth of its size before it is resized:
        close to
    those pixels, not equal (docs/loader.md)."""
    pack_limits: PackLimits = PackLimits()
    """Limits of a pack besides `max_pack_tokens`: {patches: 16384, media: 64, attention: 50000000}."""
    segment_align: int = 1
    """Every segment begins at a multiple of this, and is padded up to the next one: 2 n for a trainer that deals each
    segment to n context ranks."""
    groups: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Weights of groups of sources, e.g. of domains. `weight` divides the weight of a group between its sources, and
    the part of a source that is used up goes to its group first."""
    max_media_exposures: int | None = None
    """Most times that any image or video is shown, over all samples, sources and plans of a run."""
    block_packs: int = 256
    """Packs that are filled together, about: more fill better and shuffle wider, fewer compile in parallel."""

    def __post_init__(self) -> None:
        for name in ("max_pack_tokens", "global_batch_packs", "horizon_tokens", "block_packs", "max_media_exposures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if self.segment_align < 1 or self.max_pack_tokens % self.segment_align:
            raise ValueError(
                f"segment_align is {self.segment_align}, expected a divisor of max_pack_tokens, {self.max_pack_tokens}"
            )
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"sources need different names and there must be one, got {names}")
        named = {source.group for source in self.sources} - {None}
        if named != set(self.groups):
            raise ValueError(f"groups with a weight are {sorted(self.groups)}, sources name {sorted(map(str, named))}")
        for name, weight in self.groups.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of group {name} is {weight}, expected a number > 0")
        if not self.vision_share.from_data:
            self.vision_share.over(self.horizon_tokens)  # raises if positions need a horizon

    @property
    def curve(self) -> Curve:
        """The vision share as a function of tokens. Raises ValueError while it is `from_data`."""
        return self.vision_share.over(self.horizon_tokens)

    @property
    def groups_of_sources(self) -> list[str]:
        """Name of the group of each source; a source without a group is a group of its own."""
        return [f"group {source.group}" if source.group else f"source {source.name}" for source in self.sources]

    @property
    def weights(self) -> list[Fraction]:
        """Weight of each source: its part of the weight of its group."""
        own = [Fraction(str(source.weight)) for source in self.sources]
        groups = self.groups_of_sources
        return [
            weight
            if source.group is None
            else Fraction(str(self.groups[source.group]))
            * weight
            / sum(w for w, g in zip(own, groups, strict=True) if g == group)
            for source, weight, group in zip(self.sources, own, groups, strict=True)
        ]

    @property
    def max_piece_tokens(self) -> int:
        """Length of the longest segment that a pack can hold."""
        most = self.pack_limits.attention
        return self.max_pack_tokens if most is None else min(self.max_pack_tokens, isqrt(most))

    @property
    def digest(self) -> str:
        """Digest of everything that decides the plan; the locations of stores are left out."""
        values = dataclasses.asdict(self)
        for source in values["sources"]:
            del source["input"]
        return digest("mixture", canonical_json(values))
