"""The measurements at the end of a stage: held-out loss per domain, and whether the model sees.

Before it, finished weights and samples stores that training never touched; after it `evaluation.json`.

**Seeing.** Each of some hundred unseen scenes is scored twice: with its own image, and with that of another scene (one
seeded circle, so every image is used once on each side). What counts are the tokens of its attributes: colours, shapes,
counts, values, as the scene's generator marked them, after the image. Loss with the other's minus loss with its own, in
nats per token, is above zero only if the words depend on the picture; the interval is a bootstrap over scenes. Which
attributes must exceed what stands in the manifest before training.
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
from train.judge.interval import bootstrap, others
from train.judge.score import Score, Text, score
from train.stage import Evaluation, Seeing

ALL = "all"
"""Every attribute together."""


@dataclass(frozen=True)
class Frame:
    """How samples become rows: as the packs were made that the model was trained on."""

    limits: MediaLimits
    row_tokens: int
    vocabulary: Vocabulary

    @classmethod
    def of(cls, packs: Mapping[str, Json], vocabulary: Vocabulary) -> Frame:
        """From the meta of a packs store."""
        return cls(MediaLimits(**packs["limits"]), packs["max_pack_tokens"], vocabulary)

    def expand(self, sample: Sample) -> Expanded:
        return expand(sample, self.limits, self.vocabulary)


class Judge:
    """Opens what will be measured before training begins, so that a missing store or too few scenes fail at once."""

    def __init__(self, settings: Evaluation, frame: Frame) -> None:
        self.frame, self.seeing = frame, settings.seeing
        stores = [_opened(url) for url in settings.held_out]
        self.documents = [_choose(store, settings, frame) for store in stores]
        self.scenes: list[Scene] = []
        if settings.seeing is not None:
            stores.append(_opened(settings.seeing.store))
            self.scenes = choose_scenes(stores[-1], settings.seeing, frame)
        values = asdict(settings) | {"held_out": len(settings.held_out)}
        if settings.seeing is not None:
            values["seeing"] = {key: value for key, value in values["seeing"].items() if key != "store"}
        self.identity = digest("evaluation", canonical_json(values), *(store.content_root for store in stores))
        """Over the settings and what lies in the stores, not over where they lie."""

    def measure(self, model: MultimodalModel) -> Json:
        """Everything, as plain values without times: equal weights and stores give equal results."""
        results: dict[str, Json] = {"held_out": self._held_out(model)}
        if self.seeing is not None:
            results["seeing"] = paired_test(model, self.scenes, self.seeing, self.frame)
        return results

    def _held_out(self, model: MultimodalModel) -> Json:
        domains: defaultdict[str, list[Text]] = defaultdict(list)
        for snapshot, samples in self.documents:
            for sample in samples:
                whole = self.frame.expand(sample)
                text = _first_piece(whole, self.frame.row_tokens)
                domains[sample.domain].append(Text(text, _pixels(text.media, snapshot, sample)))
        found = {}
        for domain, texts in sorted(domains.items()):
            scores = score(model, texts, self.frame.row_tokens, self.frame.vocabulary.pad_id)
            targets = sum(int(text.expanded.targets[1:].sum()) for text in texts)
            loss = sum(float(one.losses.sum()) for one in scores) / targets
            found[domain] = {"loss": loss, "targets": targets, "documents": len(texts)}
        return found


def in_words(results: Json) -> str:
    """Two or three lines for people."""
    lines = []
    if results["held_out"]:
        losses = "  ".join(f"{domain} {found['loss']:.3f}" for domain, found in results["held_out"].items())
        lines.append(f"held-out loss, nats per token: {losses}")
    if "seeing" in results:
        lines.append(f"seeing: {results['seeing']['verdict']}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Scene:
    """A sample with one image and words about it."""

    sample: Sample
    snapshot: Snapshot
    frame: Frame

    @cached_property
    def own(self) -> Expanded:
        return self.frame.expand(self.sample)

    @cached_property
    def pixels(self) -> tuple[np.ndarray, ...]:
        return _pixels(self.own.media, self.snapshot, self.sample)

    def beside(self, other: Scene) -> Text:
        """This scene's words with the image of `other`, which may take another number of slots."""
        return Text(self.frame.expand(replace(self.sample, media=other.sample.media)), other.pixels)


def attribute_places(expanded: Expanded, names: Iterable[str]) -> np.ndarray:
    """Ascending positions of the tokens that these attributes cover, after the first medium."""
    wanted, image = set(names), expanded.media[0].items[0].slot
    spans = [span for span in expanded.spans if span.name in wanted and span.start > image]
    return np.array(sorted({i for span in spans for i in range(span.start, span.stop)}), np.int64)


def choose_scenes(store: Snapshot, settings: Seeing, frame: Frame) -> list[Scene]:
    """The wanted number of scenes that fit a row, have one image and at least one attribute after it; seeded by id."""
    fitting = []
    for sample in store.records():
        if len(sample.media) == 1 and sample.media[0].kind == "image":
            scene = Scene(sample, store, frame)
            if len(attribute_places(scene.own, settings.attributes)) and len(scene.own.ids) <= frame.row_tokens:
                fitting.append(scene)
    if len(fitting) < settings.scenes:
        raise ManifestError(
            f"the seeing test wants {settings.scenes} scenes with one image and a marked attribute, "
            f"{store.name} has {len(fitting)}",
            where="evaluation.seeing",
            fix="make more held-out scenes, or lower evaluation.seeing.scenes",
        )
    return sorted(fitting, key=lambda scene: digest("scene", str(settings.seed), scene.sample.id))[: settings.scenes]


def paired_test(model: MultimodalModel, scenes: Sequence[Scene], settings: Seeing, frame: Frame) -> Json:
    """Own image against another's, each attribute apart and all together; see the module's docstring."""
    others_image = others(len(scenes), np.random.default_rng(settings.seed))
    own = [Text(scene.own, scene.pixels) for scene in scenes]
    swapped = [scene.beside(scenes[i]) for scene, i in zip(scenes, others_image.tolist(), strict=True)]
    scores = score(model, own + swapped, frame.row_tokens, frame.vocabulary.pad_id)
    pairs = list(zip(own, scores[: len(scenes)], swapped, scores[len(scenes) :], strict=True))
    found: dict[str, Json] = {}
    for name in (ALL, *settings.attributes):
        names = settings.attributes if name == ALL else (name,)
        rows = []
        for mine, mine_scored, theirs, theirs_scored in pairs:
            here, there = (attribute_places(text.expanded, names) for text in (mine, theirs))
            if len(here):
                rows.append((len(here), *_sums(mine_scored, here), *_sums(theirs_scored, there)))
        found[name] = _compared(np.array(rows).reshape(-1, 5), settings)
    return {"scenes": len(scenes), "attributes": found, **_verdict(found, settings)}


def _sums(scored: Score, places: np.ndarray) -> tuple[float, float]:
    return float(scored.losses[places].sum()), float(scored.hits[places].sum())


def _compared(rows: np.ndarray, settings: Seeing) -> Json:
    """rows (S, 5): per scene tokens, loss and hits with the own image, loss and hits with the other's."""
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


def _verdict(found: Mapping[str, Json], settings: Seeing) -> Json:
    """`sees` is True where every attribute that was named beforehand exceeds what was named for it."""
    passed = {name: found[name].get("low", -np.inf) > least for name, least in settings.must_exceed.items()}
    measured = ", ".join(
        f"{name} {one['difference']:+.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        for name, one in found.items()
        if one["scenes"]
    )
    failed = [name for name, good in passed.items() if not good]
    asked = ", ".join(f"{name} > {least:g}" for name, least in settings.must_exceed.items())
    word = f"no, not on {', '.join(failed)}" if failed else "yes"
    text = f"{word} (asked: {asked}; other's minus own image, nats per token, 95 % interval): {measured}"
    return {"sees": not failed, "verdict": text}


def _opened(url: str) -> Snapshot:
    snapshot = Store.open(url).head()
    if snapshot is None or not snapshot.complete:
        raise ManifestError("the store has no complete snapshot", where=url, fix="let its node finish first")
    return snapshot


def _choose(store: Snapshot, settings: Evaluation, frame: Frame) -> tuple[Snapshot, list[Sample]]:
    """Samples of each domain in seeded order until the wanted number of expanded tokens is together."""
    spent: defaultdict[str, int] = defaultdict(int)
    chosen = []
    for sample in sorted(store.records(), key=lambda sample: digest("held out", str(settings.seed), sample.id)):
        if sample.source != FORGOTTEN and spent[sample.domain] < settings.tokens_per_domain:
            chosen.append(sample)
            spent[sample.domain] += min(len(frame.expand(sample).ids), frame.row_tokens)
    return store, chosen


def _first_piece(whole: Expanded, tokens: int) -> Expanded:
    """What fits one row: the beginning, cut before a medium that would not fit whole."""
    for packed in whole.media:
        last = packed.items[-1]
        if last.slot + last.grid[1] * last.grid[2] // 4 > tokens:
            tokens = min(tokens, packed.items[0].slot)
    media = tuple(packed for packed in whole.media if packed.items[0].slot < tokens)
    return replace(whole, ids=whole.ids[:tokens], targets=whole.targets[:tokens], media=media)


def _pixels(media: Sequence[PackedMedia], snapshot: Snapshot, sample: Sample) -> tuple[np.ndarray, ...]:
    found: list[np.ndarray] = []
    for packed in media:
        if packed.media.location is None:
            raise StoreError(f"medium {packed.media.digest[:16]} has no location", where=f"sample {sample.id}")
        try:
            found += patches_of(packed, snapshot.read(packed.media.location))
        except RecordError as error:
            raise StoreError(
                f"medium {packed.media.digest[:16]} does not decode: {error.message}", where=f"sample {sample.id}"
            ) from error
    return tuple(found)
