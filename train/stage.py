"""Training stage: the schema of `manifests/train/*.yaml`, which `train/loop.py` reads.

A stage is as long as the plan unless `steps` is less; the learning rate is a pure function of the step.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from manifests.load import schema
from packing.augment import Augmentation
from train.muon import Optimizer


@schema
class Schedule:
    """Learning-rate schedule: warm-up, constant, decay; a factor on every peak rate.

    Kimi K2 (arXiv 2507.20534): 500 warm-up steps, constant for 65 % of the tokens, cosine to a tenth.
    """

    warmup_steps: int = 0
    """Steps of linear warm-up; the factor of the first step is 1 / warmup_steps."""
    decay_from: float = 0.65
    """Share of the stage after which the factor decays; between warm-up and decay it is 1."""
    decay: Literal["cosine", "linear"] = "cosine"
    floor: float = 0.1
    """Factor at which the decay ends, one step after the last."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or not 0 <= self.decay_from <= 1 or not 0 <= self.floor <= 1:
            raise ValueError("warmup_steps must be at least 0, decay_from and floor in [0, 1]")

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of step `step`, counted from 0, in a stage of `steps`."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        start = self.decay_from * steps
        if step < start:
            return warm
        progress = (step - start) / (steps - start)
        fall = (1 + math.cos(math.pi * progress)) / 2 if self.decay == "cosine" else 1 - progress
        return warm * (self.floor + (1 - self.floor) * fall)


@schema
class GroundingTest:
    """Visual grounding test: loss with a scene's own image against loss with the image of another unseen scene.

    Every number is fixed before training, so that the verdict can't be chosen afterwards.
    """

    store: str
    """Samples store of scenes that training never saw, one image each, with spans for attributes."""
    scenes: int = 600
    """Number of scenes drawn from the store, seeded; a store with fewer is an error."""
    attributes: tuple[str, ...] = ("color", "shape", "count", "value")
    """Names of spans, each reported separately; one that no scene has is reported with n = 0."""
    must_exceed: dict[str, float]
    """Attribute or `all` -> nats per token that the lower end of its 95 % interval must exceed to pass."""
    resamples: int = 2000
    """Bootstrap resamples over scenes."""
    seed: int = 0
    """Seed of the choice of scenes, of their pairing and of the bootstrap."""

    def __post_init__(self) -> None:
        unknown = set(self.must_exceed) - {"all", *self.attributes}
        if unknown:
            raise ValueError(f"must_exceed names {sorted(unknown)}, which are neither 'all' nor attributes")
        if self.scenes < 2 or self.resamples < 100:
            raise ValueError(f"scenes is {self.scenes} (at least 2), resamples {self.resamples} (at least 100)")


@schema
class Evaluation:
    """Evaluation after the last step."""

    RENAMED: ClassVar[dict[str, str]] = {"seeing": "grounding"}

    held_out: tuple[str, ...] = ()
    """URLs of samples stores that training never saw; each domain is reported separately."""
    tokens_per_domain: int = 20_000
    """Expanded tokens evaluated per domain; samples are taken in seeded order."""
    seed: int = 0
    """Seed of the order in which samples are taken."""
    grounding: GroundingTest | None = None
    """Visual grounding test; none by default."""


@schema
class Stage:
    """One stage of training: data, model, optimizer, schedule, evaluation."""

    kind: Literal["stage"] = "stage"
    model: str
    """Path of a model manifest."""
    packs: str | tuple[str, ...]
    """URL of the packs store; its newest complete snapshot is trained on, once, in order. For a run whose plan was
    amended: the packs of all its plans, in order (docs/plan.md)."""
    vocabulary: str = "tiny"
    """`tiny`, or the path of a vocabulary; the one that the packs were made with."""
    augment: Augmentation | None = None
    """Seeded augmentation of images (docs/loader.md); None trains on them unchanged."""
    steps: int | None = None
    """Optimizer steps; None takes every global batch of the plan."""
    seed: int = 0
    """Seed of the initial weights."""
    threads: int = 2
    """Threads of torch. Part of the run's identity, because another number rounds differently."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    checkpoint_every_steps: int = 100
    """Steps between checkpoints; 0 saves only after the last step."""
    keep_checkpoints: int = 2
    """Number of checkpoints kept; older ones are deleted after a newer one is on disk."""
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        if not self.packs:
            raise ValueError("packs is empty; give the URL of a packs store")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; leave it out for the whole plan")
        if self.threads < 1 or self.checkpoint_every_steps < 0 or self.keep_checkpoints < 1:
            raise ValueError("threads and keep_checkpoints must be at least 1, checkpoint_every_steps at least 0")
