"""What a mixture says: which sources, in which proportion, up to when, in packs of which size.

Written by people as YAML, read by `plan/planner.py`. What the numbers mean:

- `horizon_tokens` counts non-padding tokens. The plan ends with the first whole global batch that reaches it; without
  a horizon it ends where the sources do, and what the vision share leaves over is not used.
- `vision_share` is exact and outranks the weights. A piece of a sample is *rich* where its slots exceed that share of
  its tokens and *poor* otherwise (text is poor). The share decides when a rich piece comes and when a poor one.
- `weight` divides tokens between sources, among the rich pieces and among the poor ones separately. A source that has
  both kinds divides its weight between them as its own tokens are divided, so that three captions without a picture
  don't claim a share of all text.
- `max_epochs` caps how often any piece is seen; K2.5's joint stage caps epochs per source as well (report, section
  4.3). What a source can no longer give goes to the others in proportion to their weights, and the plan says when.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from math import isqrt
from typing import Literal

from manifests.geometry import RELEASED_LIMITS, MediaLimits
from manifests.load import schema
from manifests.records import canonical_json, digest
from manifests.schedule import Curve, VisionShare

Pixels = Literal["exact", "fast"]


@schema
class Source:
    name: str
    store: str
    """Its samples: URL of the store, or the node that makes it where the mixture is part of a DAG. Not in the mixture's
    digest: the plan names content roots instead."""
    weight: float
    """Tokens relative to the other sources'; only ratios matter."""
    domains: tuple[str, ...] = ()
    """Only samples of these domains; of all where none is named."""
    min_tokens: int = 0
    """Only samples of at least so many tokens, as the plan's `limits` make them."""
    max_tokens: int | None = None
    """Only samples of at most so many. Two sources of one store, one on each side of a length, give long and short
    documents the mix that their weights say."""
    max_epochs: int = 1
    group: str | None = None
    """Shares the weight of this group (`Mixture.groups`) with its other sources."""

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
    """What one pack may hold beside its tokens. Without a limit its tokens alone decide.

    A document over a limit is cut as one that is longer than a pack; a medium that alone is over one takes its sample
    out, which is counted under `refused`."""

    patches: int | None = None
    """14-px patches of all frames that the encoder sees for one pack: its memory, and how unequal packs are for it."""
    media: int | None = None
    """Images and videos."""
    attention: int | None = None
    """Sum of the squared lengths of its segments, in tokens squared: what attention costs. No segment is longer than
    its root."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"pack_limits: {name} is {value}, expected at least 1")

    @property
    def any(self) -> bool:
        return self != PackLimits()


@schema
class Mixture:
    sources: tuple[Source, ...]
    max_pack_tokens: int
    """Length of every row, padding included."""
    global_batch_packs: int
    seed: int = 0
    horizon_tokens: int | None = None
    vision_share: VisionShare = VisionShare()
    limits: MediaLimits = RELEASED_LIMITS
    """Larger media are shrunk to these; smaller limits make media fit smaller packs."""
    pixels: Pixels = "exact"
    """How pictures are decoded when batches are made: `exact` gives the released processor's pixels. `fast` decodes a
    JPEG that `limits` shrink to less than half at a half, a quarter or an eighth of its size before it is resized:
    close to those pixels, not equal (docs/loader.md)."""
    pack_limits: PackLimits = PackLimits()
    """What a pack may hold beside `max_pack_tokens`: {patches: 16384, media: 64, attention: 50000000}."""
    segment_align: int = 1
    """Every segment begins at a multiple of this, and padding behind it fills it up: 2 n for a trainer that deals every
    segment to n context ranks."""
    groups: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Weights of groups of sources, e.g. of domains; `weight` divides that of its group between its sources. What a
    source can no longer give goes to its group first."""
    max_media_exposures: int | None = None
    """No image or video is shown more often, in whichever samples and sources it stands, over all plans of a run."""
    block_packs: int = 256
    """About how many packs are filled together: more packs fill better and shuffle wider, fewer compile in parallel."""

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
        self.vision_share.over(self.horizon_tokens)  # fails where positions are fractions and there is no horizon

    @property
    def curve(self) -> Curve:
        """The vision share over tokens."""
        return self.vision_share.over(self.horizon_tokens)

    @property
    def groups_of_sources(self) -> list[str]:
        """Per source; one that names no group is one of its own."""
        return [f"group {source.group}" if source.group else f"source {source.name}" for source in self.sources]

    @property
    def weights(self) -> list[Fraction]:
        """Per source, with that of its group in it."""
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
        """No segment is longer."""
        most = self.pack_limits.attention
        return self.max_pack_tokens if most is None else min(self.max_pack_tokens, isqrt(most))

    @property
    def digest(self) -> str:
        """Over everything that decides the plan, but not over where stores lie."""
        values = dataclasses.asdict(self)
        for source in values["sources"]:
            del source["store"]
        return digest("mixture", canonical_json(values))
