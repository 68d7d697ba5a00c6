"""Evaluation at the end of a stage: held-out loss per domain, and the visual grounding test.

Reads finished weights and samples stores that training never saw; the loop writes the result to `evaluation.json`.

**Visual grounding.** Each of some hundred unseen scenes is scored twice: with its own image and with the image of
another scene (one seeded cycle, so every image is used once on each side). Counted are the tokens of attributes
(colors, shapes, counts, values) after the image, as the scene's generator marked them. The loss with the other image
minus the loss with the own one, in nats per token, is above zero only if the words depend on the image. The interval is
a bootstrap over scenes. The manifest names, before training, the attributes that must exceed a threshold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from manifests.errors import ManifestError, RecordError, StoreError
from manifests.geometry import MediaLimits
from manifests.records import FORGOTTEN, Json, PackedMedia, Sample, canonical_json, digest
from model.multimodal import MultimodalModel
from packing.navit import Expanded, expand, patches_of
from stores.store import Snapshot, Store
from tokenization.vocabulary import Vocabulary
from train.judge.interval import bootstrap, derangement
from train.judge.score import Score, ScoringItem, score
from train.stage import Evaluation, GroundingTest

ALL = "all"
"""Name under which all attributes together are reported."""


@dataclass(frozen=True)
class RowFormat:
    """Format of rows: media limits, row length and vocabulary of the packs that the model was trained on."""

    limits: MediaLimits
    row_tokens: int
    vocabulary: Vocabulary

    @classmethod
    def of(cls, packs: Mapping[str, Json], vocabulary: Vocabulary) -> RowFormat:
        """Read the format from the meta of a packs store."""
        return cls(MediaLimits(**packs["media_limits"]), packs["max_pack_tokens"], vocabulary)

    def expand(self, sample: Sample) -> Expanded:
        """Expand the media of a sample to slots."""
        return expand(sample, self.limits, self.vocabulary)


class Evaluator:
    """Evaluation of one run. Opens its stores before training, so that a missing one fails at once."""

    def __init__(self, settings: Evaluation, frame: RowFormat) -> None:
        self.frame, self.grounding = frame, settings.grounding
        stores = [_opened(url) for url in settings.held_out]
        self.documents = [_choose(store, settings, frame) for store in stores]
        self.scenes: list[GroundingScene] = []
        if settings.grounding is not None:
            stores.append(_opened(settings.grounding.store))
            self.scenes = choose_scenes(stores[-1], settings.grounding, frame)
        values = asdict(settings) | {"held_out": len(settings.held_out)}
        if settings.grounding is not None:
            values["grounding"] = {key: value for key, value in values["grounding"].items() if key != "store"}
        self.identity = digest("evaluation", canonical_json(values), *(store.content_root for store in stores))
        """Digest over the settings and the contents of the stores, not over their URLs."""

    def measure(self, model: MultimodalModel) -> Json:
        """Evaluate a model; plain values without times, so that equal weights and stores give equal results."""
        results: dict[str, Json] = {"held_out": self._held_out(model)}
        if self.grounding is not None:
            results["grounding"] = grounding_test(model, self.scenes, self.grounding, self.frame)
        return results

    def _held_out(self, model: MultimodalModel) -> Json:
        domains: defaultdict[str, list[ScoringItem]] = defaultdict(list)
        for snapshot, samples in self.documents:
            for sample in samples:
                whole = self.frame.expand(sample)
                text = _first_piece(whole, self.frame.row_tokens)
                domains[sample.domain].append(ScoringItem(text, _pixels(text.media, snapshot, sample)))
        losses = {}
        for domain, texts in sorted(domains.items()):
            scores = score(model, texts, self.frame.row_tokens, self.frame.vocabulary.pad_id)
            targets = sum(int(text.expanded.targets[1:].sum()) for text in texts)
            loss = sum(float(scored.losses.sum()) for scored in scores) / targets
            losses[domain] = {"loss": loss, "targets": targets, "documents": len(texts)}
        return losses


def summary(results: Json) -> str:
    """Return the results as one or two lines of text."""
    lines = []
    if results["held_out"]:
        losses = "  ".join(f"{domain} {result['loss']:.3f}" for domain, result in results["held_out"].items())
        lines.append(f"held-out loss, nats per token: {losses}")
    if "grounding" in results:
        lines.append(f"visual grounding: {results['grounding']['verdict']}")
    return "\n".join(lines)


@dataclass(frozen=True)
class GroundingScene:
    """Sample with one image and marked attribute words after it."""

    sample: Sample
    snapshot: Snapshot
    frame: RowFormat

    @cached_property
    def own(self) -> Expanded:
        """The sample expanded with its own image."""
        return self.frame.expand(self.sample)

    @cached_property
    def pixels(self) -> tuple[np.ndarray, ...]:
        """Patches of its own image."""
        return _pixels(self.own.media, self.snapshot, self.sample)

    def with_image_of(self, other: GroundingScene) -> ScoringItem:
        """Return this scene's words with the image of `other`, which may take another number of slots."""
        return ScoringItem(self.frame.expand(replace(self.sample, media=other.sample.media)), other.pixels)


def attribute_positions(expanded: Expanded, names: Iterable[str]) -> np.ndarray:
    """Return the ascending positions of the tokens of these attributes after the first medium, int64."""
    wanted, image = set(names), expanded.media[0].items[0].slot
    spans = [span for span in expanded.spans if span.name in wanted and span.start > image]
    return np.array(sorted({i for span in spans for i in range(span.start, span.stop)}), np.int64)


def choose_scenes(store: Snapshot, settings: GroundingTest, frame: RowFormat) -> list[GroundingScene]:
    """Choose `settings.scenes` scenes, seeded by id, that fit a row and have one image and an attribute after it.

    Raises:
        ManifestError: the store has too few such scenes.
    """
    fitting = []
    for sample in store.records():
        if len(sample.media) == 1 and sample.media[0].kind == "image":
            scene = GroundingScene(sample, store, frame)
            if len(attribute_positions(scene.own, settings.attributes)) and len(scene.own.ids) <= frame.row_tokens:
                fitting.append(scene)
    if len(fitting) < settings.scenes:
        raise ManifestError(
            f"the grounding test needs {settings.scenes} scenes with one image and a marked attribute, "
            f"{store.name} has {len(fitting)}",
            where="evaluation.grounding",
            fix="make more held-out scenes, or lower evaluation.grounding.scenes",
        )
    return sorted(fitting, key=lambda scene: digest("scene", str(settings.seed), scene.sample.id))[: settings.scenes]


def grounding_test(
    model: MultimodalModel, scenes: Sequence[GroundingScene], settings: GroundingTest, frame: RowFormat
) -> Json:
    """Run the grounding test for each attribute and for all together; see the module's docstring."""
    partners = derangement(len(scenes), np.random.default_rng(settings.seed))
    own = [ScoringItem(scene.own, scene.pixels) for scene in scenes]
    swapped = [scene.with_image_of(scenes[i]) for scene, i in zip(scenes, partners.tolist(), strict=True)]
    scores = score(model, own + swapped, frame.row_tokens, frame.vocabulary.pad_id)
    pairs = list(zip(own, scores[: len(scenes)], swapped, scores[len(scenes) :], strict=True))
    results: dict[str, Json] = {}
    for name in (ALL, *settings.attributes):
        names = settings.attributes if name == ALL else (name,)
        rows = []
        for item, own_score, swapped_item, swapped_score in pairs:
            positions, swapped_at = (attribute_positions(text.expanded, names) for text in (item, swapped_item))
            if len(positions):
                rows.append((len(positions), *_sums(own_score, positions), *_sums(swapped_score, swapped_at)))
        results[name] = _compared(np.array(rows).reshape(-1, 5), settings)
    return {"scenes": len(scenes), "attributes": results, **_verdict(results, settings)}


def _sums(scored: Score, positions: np.ndarray) -> tuple[float, float]:
    return float(scored.losses[positions].sum()), float(scored.hits[positions].sum())


def _compared(rows: np.ndarray, settings: GroundingTest) -> Json:
    """Compare rows (S, 5): per scene tokens, loss and hits with the own image, loss and hits with the other image."""
    if not len(rows):
        return {"scenes": 0, "tokens": 0}
    tokens, loss, hits, other_loss, other_hits = rows.T
    interval = bootstrap(other_loss - loss, tokens, settings.resamples, np.random.default_rng(settings.seed))
    total = tokens.sum()
    return {
        "scenes": len(rows),
        "tokens": int(total),
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "loss_own": loss.sum() / total,
        "loss_other": other_loss.sum() / total,
        "accuracy_own": hits.sum() / total,
        "accuracy_other": other_hits.sum() / total,
    }


def _verdict(results: Mapping[str, Json], settings: GroundingTest) -> Json:
    """Return the verdict: `sees` is True if every attribute in `must_exceed` exceeds its threshold."""
    passed = {name: results[name].get("low", -np.inf) > threshold for name, threshold in settings.must_exceed.items()}
    measured = ", ".join(
        f"{name} {result['difference']:+.2f} [{result['low']:.2f}, {result['high']:.2f}]"
        for name, result in results.items()
        if result["scenes"]
    )
    failed = [name for name, exceeds in passed.items() if not exceeds]
    required = ", ".join(f"{name} > {threshold:g}" for name, threshold in settings.must_exceed.items())
    word = f"fail on {', '.join(failed)}" if failed else "pass"
    text = f"{word} (required: {required}). Loss with another scene's image minus own, nats/token [95 % CI]: {measured}"
    return {"sees": not failed, "verdict": text}


def _opened(url: str) -> Snapshot:
    snapshot = Store.open(url).head()
    if snapshot is None or not snapshot.complete:
        raise ManifestError("the store has no complete snapshot", where=url, fix="let its node finish first")
    return snapshot


def _choose(store: Snapshot, settings: Evaluation, frame: RowFormat) -> tuple[Snapshot, list[Sample]]:
    """Choose samples of each domain in seeded order, up to `tokens_per_domain` expanded tokens."""
    spent: defaultdict[str, int] = defaultdict(int)
    chosen = []
    for sample in sorted(store.records(), key=lambda sample: digest("held out", str(settings.seed), sample.id)):
        if sample.source != FORGOTTEN and spent[sample.domain] < settings.tokens_per_domain:
            chosen.append(sample)
            spent[sample.domain] += min(len(frame.expand(sample).ids), frame.row_tokens)
    return store, chosen


def _first_piece(whole: Expanded, tokens: int) -> Expanded:
    """Return the beginning of a sample that fits a row, cut before a medium that would not fit whole."""
    for packed in whole.media:
        last = packed.items[-1]
        if last.slot + last.grid[1] * last.grid[2] // 4 > tokens:
            tokens = min(tokens, packed.items[0].slot)
    media = tuple(packed for packed in whole.media if packed.items[0].slot < tokens)
    return replace(whole, ids=whole.ids[:tokens], targets=whole.targets[:tokens], media=media)


def _pixels(media: Sequence[PackedMedia], snapshot: Snapshot, sample: Sample) -> tuple[np.ndarray, ...]:
    patches: list[np.ndarray] = []
    for packed in media:
        if packed.media.location is None:
            raise StoreError(f"medium {packed.media.digest[:16]} has no location", where=f"sample {sample.id}")
        try:
            patches += patches_of(packed, snapshot.read(packed.media.location))
        except RecordError as error:
            raise StoreError(
                f"medium {packed.media.digest[:16]} does not decode: {error.message}", where=f"sample {sample.id}"
            ) from error
    return tuple(patches)
