"""Extreme corpora in stores: planned, packed, proved and inspected, or refused with changes that work."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import yaml

from manifests.errors import ManifestError
from manifests.geometry import RELEASED_LIMITS, MediaLimits
from manifests.records import Document, Media, MediaKind, Sample, record_id
from manifests.schedule import VisionShare
from packing.mixture import Mixture, PackLimits, Source
from packing.pack import pack_unit, packs_meta
from packing.plan.planner import compile_plan
from packing.proof import Recount, prove
from pipelines.inspect.plan_stats import plan_statistics
from pipelines.inspect.plan_view import PlanView
from stores.store import Snapshot
from tests.packing.corpus import create, tiny, write
from tests.packing.plan.test_infeasible import tuples
from tokenization.encode import join_runs, placeholder

SMALL = MediaLimits(max_image_patches=4096, max_frame_patches=256, max_video_frames=96)
Parts = Sequence[int | Media]
"""Parts of a sample: numbers of text ids, and media."""


class Corpus:
    """Samples of random ids and of media with bytes that are never decoded."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._numbers = count()
        self.documents: list[tuple[str, Parts]] = []
        """(domain, parts) of each."""

    def image(self) -> Media:
        width, height = np.exp(self.random.uniform(np.log(60), np.log(1600), 2)).astype(int).tolist()
        return self._medium("image", width, height)

    def video(self, seconds: int) -> Media:
        return self._medium("video", 1280, 720, tuple(range(0, seconds * 1_000_000, 40_000)))

    def _medium(self, kind: MediaKind, width: int, height: int, times: tuple[int, ...] = ()) -> Media:
        payload = b"medium %d" % next(self._numbers)
        form = "mp4" if kind == "video" else "jpg"
        return Media(hashlib.sha256(payload).hexdigest(), kind, form, width, height, times, payload=payload)

    def text(self, many: int, domain: str = "text") -> None:
        """Add text documents of log-normal length."""
        lengths = np.clip(np.exp(self.random.normal(6.5, 1.2, many)), 1, 60_000).astype(int).tolist()
        self.documents += [(domain, (length,)) for length in lengths]

    def images(self, many: int) -> None:
        self.documents += [("image", (self.image(), int(self.random.integers(1, 40)))) for _ in range(many)]

    def stored(self, folder: Path) -> Snapshot:
        made = [(record_id("made", str(i)), domain, parts) for i, (domain, parts) in enumerate(self.documents)]
        media = [(id, tuple(part for part in parts if isinstance(part, Media))) for id, _, parts in made]
        documents = write(create(folder, "documents"), (Document(id, "made", id, "", shown) for id, shown in media))
        stored_media = {m.digest: dataclasses.replace(m, payload=None) for d in documents.records() for m in d.media}
        samples = (self._sample(id, domain, parts, stored_media) for id, domain, parts in made)
        return write(create(folder, "samples"), samples, [documents], vocabulary=tiny.digest)

    def _sample(self, id: str, domain: str, parts: Parts, stored_media: dict[str, Media]) -> Sample:
        ids: list[int] = []
        loss, places, splits, media = [], [], [], []
        for part in parts:
            if isinstance(part, Media):
                splits += [len(ids)] if ids else []
                around = placeholder(part, tiny)
                mark = tiny.video_placeholder_id if part.kind == "video" else tiny.media_pad_id
                places.append(len(ids) + around.index(mark))
                media.append(stored_media[part.digest])
                ids += around
            else:
                splits += range(len(ids) + 24, len(ids) + part - 24, 24)
                loss.append((len(ids), len(ids) + part))
                ids += self.random.integers(0, tiny.base, part).tolist()
        loss.append((len(ids), len(ids) + 1))
        every = np.array([*ids, tiny.eos_id], np.uint32)
        offsets = np.array(sorted(set(splits)), np.int64)
        return Sample(id, "made", domain, every, join_runs(loss), tuple(media), offsets, (), tuple(places))


def huge_and_tiny(corpus: Corpus) -> None:
    corpus.text(300)
    corpus.images(12)


def thirty_five(corpus: Corpus) -> None:
    for source in range(35):
        for _ in range(int(corpus.random.integers(1, 9))):
            words = int(corpus.random.integers(1, 900))
            corpus.documents.append((f"d{source}", (corpus.image(), words) if source % 3 == 0 else (words,)))


def mixed(corpus: Corpus) -> None:
    corpus.text(300)
    corpus.images(100)
    for _ in range(30):
        pairs = ((int(corpus.random.integers(20, 600)), corpus.image()) for _ in range(6))
        corpus.documents.append(("page", tuple(part for pair in pairs for part in pair)))
    corpus.documents += [("video", (corpus.video(int(corpus.random.integers(2, 90))), 20)) for _ in range(6)]


def book(corpus: Corpus) -> None:
    corpus.documents.append(("book", (300_000,)))


def hours(corpus: Corpus) -> None:
    corpus.documents += [("video", (corpus.video(3600), 12)) for _ in range(2)]


CORPORA: dict[str, tuple[Callable[[Corpus], None], float]] = {
    "one huge source and a tiny one": (huge_and_tiny, 0.0),
    "35 tiny ones": (thirty_five, 0.1),
    "all images": (lambda corpus: corpus.images(200), 0.1),
    "no images": (lambda corpus: corpus.text(300), 0.1),
    "one book": (book, 0.0),
    "hours of video": (hours, 0.1),
    "mixed": (mixed, 0.1),
}
"""Name -> (function that fills a corpus, vision share of the mixture)."""


def make_mixture(samples: Snapshot, tokens: int, share: float, limits: MediaLimits, pack_limits: PackLimits) -> Mixture:
    domains = sorted(set(samples.table(["domain"])["domain"].to_pylist()))
    return Mixture(
        sources=tuple(Source(name=d, input="samples", weight=1.0, domains=(d,), max_epochs=2) for d in domains),
        max_pack_tokens=tokens,
        global_batch_packs=1,
        vision_share=VisionShare(constant=share),
        media_limits=limits,
        pack_limits=pack_limits,
    )


def proved(folder: Path, samples: Snapshot, mixture: Mixture) -> tuple[Snapshot, Recount]:
    """(stored plan, recount of its packs)."""
    by_source = dict.fromkeys((source.name for source in mixture.sources), samples)
    plan = compile_plan(mixture, by_source, tiny)
    stores = dict.fromkeys(by_source, samples.name)
    blocks = write(create(folder, "plan"), plan.blocks, [samples], **plan.meta, stores=stores)
    made = (pack for block in blocks.records() for pack in pack_unit(block, by_source, tiny))
    packs = write(create(folder, "packs"), made, [blocks], **packs_meta(blocks.meta))
    return blocks, prove(packs, blocks.meta, tiny)


def changed(mixture: Mixture, change: str) -> Mixture:
    """The mixture with a change that an error names."""
    for part in change.split(" and "):
        key, value = part.split(": ", 1)
        setting = yaml.safe_load(value)
        if key == "vision_share":
            mixture = dataclasses.replace(
                mixture, vision_share=VisionShare(**{n: tuples(v) for n, v in setting.items()})
            )
        elif key == "pack_limits":
            mixture = dataclasses.replace(mixture, pack_limits=PackLimits(**setting))
        elif key == "media_limits":
            mixture = dataclasses.replace(mixture, media_limits=dataclasses.replace(mixture.media_limits, **setting))
        else:
            mixture = dataclasses.replace(mixture, **{key: setting})
    return mixture


def outcomes(folder: Path, samples: Snapshot, mixture: Mixture) -> Iterator[tuple[str, Snapshot, Recount]]:
    """(change, plan, recount) of the mixture, or of each change that its error names."""
    try:
        yield ("", *proved(folder / "asked", samples, mixture))
    except ManifestError as error:
        changes = error.fix.split("; or ")
        assert len(changes) >= 3, error
        for number, change in enumerate(changes):
            if change.startswith(("sources with", "drop source")):
                continue
            other = changed(mixture, change)
            try:
                yield (change, *proved(folder / str(number), samples, other))
            except ManifestError as another:  # now packs take the samples, but the share is infeasible
                assert "has no sample" in str(error) and "has no sample" not in str(another), (change, another)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [*((name, tokens) for name in CORPORA for tokens in (4096, 32768)), ("mixed", 262_144), ("all images", 262_144)],
)
def test_an_extreme_corpus_is_planned_and_proved_or_refused_with_changes_that_work(
    tmp_path: Path, name: str, tokens: int
) -> None:
    make, share = CORPORA[name]
    corpus = Corpus(3)
    make(corpus)
    samples = corpus.stored(tmp_path)
    limits = RELEASED_LIMITS if name == "hours of video" and tokens < 262_144 else SMALL
    tight = PackLimits(patches=4 * tokens, media=max(8, tokens // 32)) if name == "mixed" else PackLimits()
    for change, plan, counted in outcomes(tmp_path, samples, make_mixture(samples, tokens, share, limits, tight)):
        meta = plan.meta
        for source in meta["sources"]:
            seen = counted.exposures.get(source["name"], {})
            assert max(seen, default=0) <= source["max_epochs"]
            assert source["epochs"] == counted.source_tokens.get(source["name"], 0) / source["tokens"]
        held = {"tokens": counted.pack_tokens, "patches": counted.pack_patches, "media": counted.pack_media}
        room = {"tokens": meta["max_pack_tokens"]} | {n: m for n, m in meta["pack_limits"].items() if m is not None}
        fill = {limit: held[limit].sum() / (counted.packs * most) for limit, most in room.items()}
        assert meta["fill_by_limit"] == pytest.approx(fill), change
        statistics = plan_statistics(PlanView(plan))
        assert {row["quantity"]: row["max"] for row in statistics["pack_limits"]} == {
            limit: int(column.max()) for limit, column in (held | {"attention": counted.pack_attention}).items()
        }
        fewest = max(-(-int(held[limit].sum()) // most) for limit, most in room.items())
        assert counted.packs <= fewest + max(1, fewest // 100), f"{counted.packs} packs, {fewest} would do: {fill}"
