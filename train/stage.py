"""A stage of training as data: the schema of `manifests/train/*.yaml`.

What the loop needs to know besides the model and the packs, and nothing that a machine could find out by itself. The
length of the stage is the plan's unless `steps` says less; the learning rate is a pure function of the step.
"""

from __future__ import annotations

import math
from typing import Literal

from manifests.load import schema
from packing.augment import Augmentation
from train.muon import Optimizer


@schema
class Schedule:
    """Warm-up, constant, decay: the factor on every peak rate, as a function of the step alone.

    Kimi K2 (arXiv 2507.20534): 500 warm-up steps, constant for 65 % of the tokens, cosine to a tenth.
    """

    warmup_steps: int = 0
    """Steps in which the factor climbs linearly; the first step already has 1 / warmup_steps."""
    decay_from: float = 0.65
    """Share of the stage after which the factor falls; before it and after warm-up it is 1."""
    decay: Literal["cosine", "linear"] = "cosine"
    floor: float = 0.1
    """Where the decay would end, one step after the last."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or not 0 <= self.decay_from <= 1 or not 0 <= self.floor <= 1:
            raise ValueError("warmup_steps is at least 0, decay_from and floor lie in [0, 1]")

    def factor(self, step: int, steps: int) -> float:
        """Factor for step `step`, counted from 0, of a stage of `steps`."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        start = self.decay_from * steps
        if step < start:
            return warm
        gone = (step - start) / (steps - start)
        fall = (1 + math.cos(math.pi * gone)) / 2 if self.decay == "cosine" else 1 - gone
        return warm * (self.floor + (1 - self.floor) * fall)


@schema
class Seeing:
    """The paired test that the model uses its eyes: own image against the image of another, unseen scene.

    Every number is fixed before training, so that the verdict can't be chosen afterwards.
    """

    store: str
    """Samples store of scenes that training never saw, one image each, with spans for attributes."""
    scenes: int = 600
    """How many are drawn from it, seeded; fewer in the store is an error."""
    attributes: tuple[str, ...] = ("colour", "shape", "count", "value")
    """Names of spans, each reported apart. One that no scene has is reported with n = 0."""
    must_exceed: dict[str, float]
    """Attribute (or `all`) -> nats per token that the lower end of its 95 % interval must exceed for the verdict."""
    resamples: int = 2000
    """Bootstrap resamples over scenes."""
    seed: int = 0
    """Of the choice of scenes, of who gets whose image, and of the bootstrap."""

    def __post_init__(self) -> None:
        unknown = set(self.must_exceed) - {"all", *self.attributes}
        if unknown:
            raise ValueError(f"must_exceed names {sorted(unknown)}, which are neither 'all' nor attributes")
        if self.scenes < 2 or self.resamples < 100:
            raise ValueError("at least 2 scenes and 100 resamples")


@schema
class Evaluation:
    """What is measured once, after the last step."""

    held_out: tuple[str, ...] = ()
    """Samples stores that training never saw; their domains are reported apart."""
    tokens_per_domain: int = 20_000
    """Samples are taken in seeded order until this many expanded tokens of a domain are together."""
    seed: int = 0
    seeing: Seeing | None = None


@schema
class Stage:
    """One stage: where rows come from, what is trained on them, and how."""

    kind: Literal["stage"] = "stage"
    model: str
    """Path of a model manifest."""
    packs: str | tuple[str, ...]
    """URL of the packs store; its newest complete snapshot is trained on, once, in order. Of a run whose plan was
    amended, those of all its plans, the first one first (docs/plan.md)."""
    vocabulary: str = "tiny"
    """`tiny`, or the path of a vocabulary; must be the one that the packs were made with."""
    augment: Augmentation | None = None
    """Seeded changes of pictures (docs/loader.md); None trains on them as they are."""
    steps: int | None = None
    """Optimizer steps; None is every global batch of the plan."""
    seed: int = 0
    """Of the initial weights."""
    threads: int = 2
    """Of the tensor library. Part of the result: another number rounds differently."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    checkpoint_every_steps: int = 100
    """0 keeps only the one after the last step."""
    keep_checkpoints: int = 2
    """Older ones are deleted after a newer one is safe."""
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        if not self.packs:
            raise ValueError("packs names no store")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; leave it out for the whole plan")
        if self.threads < 1 or self.checkpoint_every_steps < 0 or self.keep_checkpoints < 1:
            raise ValueError("threads and keep_checkpoints are at least 1, checkpoint_every_steps at least 0")
