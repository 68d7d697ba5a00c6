"""Extreme corpora in real stores: planned, packed, proved and inspected, or refused with ways out that work."""

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
"""Numbers of text ids, and media."""


class Corpus:
    """Samples of random ids and of media whose bytes nobody decodes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._numbers = count()
        self.documents: list[tuple[str, Parts]] = []
        """Domain and parts of each."""

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
        """Documents of a log-normal length."""
        lengths = np.clip(np.exp(self.random.normal(6.5, 1.2, many)), 1, 60_000).astype(int).tolist()
        self.documents += [(domain, (length,)) for length in lengths]

    def images(self, many: int) -> None:
        self.documents += [("image", (self.image(), int(self.random.integers(1, 40)))) for _ in range(many)]

    def stored(self, folder: Path) -> Snapshot:
        made = [(record_id("made", str(i)), domain, parts) for i, (domain, parts) in enumerate(self.documents)]
        media = [(id, tuple(part for part in parts if isinstance(part, Media))) for id, _, parts in made]
        documents = write(create(folder, "documents"), (Document(id, "made", id, "", some) for id, some in media))
        lying = {one.digest: dataclasses.replace(one, payload=None) for d in documents.records() for one in d.media}
        samples = (self._sample(id, domain, parts, lying) for id, domain, parts in made)
        return write(create(folder, "samples"), samples, [documents], vocabulary=tiny.digest)

    def _sample(self, id: str, domain: str, parts: Parts, lying: dict[str, Media]) -> Sample:
        ids: list[int] = []
        loss, places, splits, media = [], [], [], []
        for part in parts:
            if isinstance(part, Media):
                splits += [len(ids)] if ids else []
                stands = placeholder(part, tiny)
                mark = tiny.video_placeholder_id if part.kind == "video" else tiny.media_pad_id
                places.append(len(ids) + stands.index(mark))
                media.append(lying[part.digest])
                ids += stands
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
"""And the share that is asked for."""


def mixture(samples: Snapshot, tokens: int, share: float, limits: MediaLimits, pack_limits: PackLimits) -> Mixture:
    domains = sorted(set(samples.table(["domain"])["domain"].to_pylist()))
    return Mixture(
        sources=tuple(Source(name=d, store="samples", weight=1.0, domains=(d,), max_epochs=2) for d in domains),
        max_pack_tokens=tokens,
        global_batch_packs=1,
        vision_share=VisionShare(constant=share),
        limits=limits,
        pack_limits=pack_limits,
    )


def proved(folder: Path, samples: Snapshot, one: Mixture) -> tuple[Snapshot, Recount]:
    """The stored plan, and what its packs hold."""
    by_source = dict.fromkeys((source.name for source in one.sources), samples)
    plan = compile_plan(one, by_source, tiny)
    stores = dict.fromkeys(by_source, samples.name)
    blocks = write(create(folder, "plan"), plan.blocks, [samples], **plan.meta, stores=stores)
    made = (pack for block in blocks.records() for pack in pack_unit(block, by_source, tiny))
    packs = write(create(folder, "packs"), made, [blocks], **packs_meta(blocks.meta))
    return blocks, prove(packs, blocks.meta, tiny)


def changed(one: Mixture, way: str) -> Mixture:
    """With the way out of a refusal that changes the mixture."""
    for change in way.split(" and "):
        key, value = change.split(": ", 1)
        told = yaml.safe_load(value)
        if key == "vision_share":
            one = dataclasses.replace(one, vision_share=VisionShare(**{n: tuples(v) for n, v in told.items()}))
        elif key == "pack_limits":
            one = dataclasses.replace(one, pack_limits=PackLimits(**told))
        elif key == "limits":
            one = dataclasses.replace(one, limits=dataclasses.replace(one.limits, **told))
        else:
            one = dataclasses.replace(one, **{key: told})
    return one


def outcomes(folder: Path, samples: Snapshot, one: Mixture) -> Iterator[tuple[str, Snapshot, Recount]]:
    """What is planned, or what is planned after each way out that is named."""
    try:
        yield ("", *proved(folder / "asked", samples, one))
    except ManifestError as error:
        ways = error.fix.split("; or ")
        assert len(ways) >= 3, error
        for number, way in enumerate(ways):
            if way.startswith(("sources with", "drop source")):
                continue
            other = changed(one, way)
            try:
                yield (way, *proved(folder / str(number), samples, other))
            except ManifestError as another:  # packs take what there is now, and then the share is refused
                assert "has no sample" in str(error) and "has no sample" not in str(another), (way, another)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [*((name, tokens) for name in CORPORA for tokens in (4096, 32768)), ("mixed", 262_144), ("all images", 262_144)],
)
def test_an_extreme_corpus_is_planned_and_proved_or_refused_with_ways_that_work(
    tmp_path: Path, name: str, tokens: int
) -> None:
    make, share = CORPORA[name]
    corpus = Corpus(3)
    make(corpus)
    samples = corpus.stored(tmp_path)
    limits = RELEASED_LIMITS if name == "hours of video" and tokens < 262_144 else SMALL
    tight = PackLimits(patches=4 * tokens, media=max(8, tokens // 32)) if name == "mixed" else PackLimits()
    for way, plan, counted in outcomes(tmp_path, samples, mixture(samples, tokens, share, limits, tight)):
        meta = plan.meta
        for source in meta["sources"]:
            seen = counted.exposures.get(source["name"], {})
            assert max(seen, default=0) <= source["max_epochs"]
            assert source["epochs"] == counted.source_tokens.get(source["name"], 0) / source["tokens"]
        held = {"tokens": counted.pack_tokens, "patches": counted.pack_patches, "media": counted.pack_media}
        room = {"tokens": meta["max_pack_tokens"]} | {n: m for n, m in meta["pack_limits"].items() if m is not None}
        fill = {limit: held[limit].sum() / (counted.packs * most) for limit, most in room.items()}
        assert meta["fill_by_limit"] == pytest.approx(fill), way
        found = plan_statistics(PlanView(plan))
        assert {row["of a pack"]: row["most"] for row in found["fill by limit"]} == {
            limit: int(column.max()) for limit, column in (held | {"attention": counted.pack_attention}).items()
        }
        fewest = max(-(-int(held[limit].sum()) // most) for limit, most in room.items())
        assert counted.packs <= fewest + max(1, fewest // 100), f"{counted.packs} packs, {fewest} would do: {fill}"
