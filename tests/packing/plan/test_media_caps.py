"""Cap on exposures of media, over all samples, sources and plans of a run."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import StoreError
from manifests.schedule import Curve, VisionShare
from packing.mixture import Mixture
from packing.plan.amend import prefix_at
from packing.plan.order import Order
from packing.plan.pieces import SourcePieces
from packing.plan.planner import arrange, compile_plan
from packing.plan.supply import Supply
from packing.proof import prove, recount
from tests.packing.corpus import MIXTURE, Made, create, pieces_of, tiny, write
from tests.packing.plan.test_amend import materialized, stored
from tests.packing.plan.test_planner import TEXT, column, make_mixture, pieces, supplies


def showing(name: str, media: list[list[int]]) -> SourcePieces:
    """A source with one piece of 20 tokens and 9 slots for each list of media."""
    plain = pieces(name, [(20, 9 if shown else 0) for shown in media])
    offsets = np.cumsum([0, *map(len, media)], dtype=np.int64)
    keys = np.array([medium for shown in media for medium in shown], np.uint64)
    return dataclasses.replace(plain, media_offsets=offsets, media_keys=keys)


def limited(sources: list[SourcePieces], most: int, epochs: int, **values: object) -> Mixture:
    plain = make_mixture(sources, 0.2)
    named = tuple(dataclasses.replace(source, max_epochs=epochs) for source in plain.sources)
    return dataclasses.replace(plain, sources=named, max_media_exposures=most, **values)  # type: ignore[arg-type]


def allowed_of(supply: Supply, pieces: int) -> np.ndarray:
    """(pieces,) times that each piece may be seen, over all plans of a run."""
    allowed = np.zeros(pieces, np.int64)
    for epoch in range(supply.source.max_epochs):
        for rows, _ in supply.epochs.parts(epoch):
            allowed[rows["ordinal"]] += 1
    return allowed


shown_in = st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=20)


@given(st.lists(shown_in, min_size=1, max_size=3), st.integers(1, 5), st.integers(1, 4))
@settings(deadline=None)
def test_the_cap_holds_and_withholds_no_piece_that_could_be_shown(
    media: list[list[list[int]]], most: int, epochs: int
) -> None:
    sources = [showing(f"s{i}", shown) for i, shown in enumerate(media)]
    mixed = limited(sources, most, epochs)
    made = supplies(mixed, sources)
    may = [allowed_of(source, len(pieces)) for source, pieces in zip(made, media, strict=True)]
    shown: Counter[int] = Counter()
    for allowed, source in zip(may, media, strict=True):
        assert max(allowed) <= epochs
        for times, held in zip(allowed.tolist(), source, strict=True):
            for medium in held:
                shown[medium] += times
    assert max(shown.values(), default=0) <= most
    for allowed, source in zip(may, media, strict=True):
        for times, held in zip(allowed.tolist(), source, strict=True):
            assert times == epochs or any(shown[m] + held.count(m) > most for m in held), "it could be shown again"
    drawn: Counter[tuple[int, int]] = Counter()
    for chunk in Order(mixed, made):
        drawn.update(zip(chunk["source"].tolist(), chunk["ordinal"].tolist(), strict=True))
    assert all(times <= may[source][ordinal] for (source, ordinal), times in drawn.items())


def test_withheld_tokens_are_in_the_meta_and_the_cap_holds_over_a_chain(tmp_path: Path) -> None:
    text = dataclasses.replace(pieces("text", TEXT * 60), media_offsets=np.zeros(60 * len(TEXT) + 1, np.int64))
    sources = [showing("a", [[0]] * 10 + [[n] for n in range(1, 40)]), showing("b", [[0], [1, 2]]), text]
    mixture = limited(sources, 3, 4, horizon_tokens=700)
    plan = arrange(mixture, sources, "v")
    a, b, _ = plan.meta["sources"]
    assert a["withheld_tokens"] == 20 * (4 * 10 - 3 + 39 + 2) and b["withheld_tokens"] >= 20 * 4
    prefix = prefix_at([stored(plan, tmp_path)], 2, mixture, "v")
    rest = supplies(dataclasses.replace(mixture, horizon_tokens=None), sources, prefix)
    together: Counter[int] = Counter()
    for supply, source in zip(rest, sources, strict=True):
        for piece, times in enumerate(allowed_of(supply, len(source.keys)).tolist()):
            for medium in source.media_keys[slice(*source.media_offsets[piece : piece + 2])].tolist():
                together[medium] += times
    assert max(together.values()) <= 3
    assert (column(plan, "epoch") < 4).all()


def test_media_of_stores_are_counted_by_their_digests(made: Made, tmp_path: Path) -> None:
    """Ten pages show one picture twice each; with three exposures, one of them may be seen once."""
    mixture = dataclasses.replace(MIXTURE, max_media_exposures=3, vision_share=VisionShare(constant=0.05))
    first_source = pieces_of(made.samples, mixture.sources[0], mixture)
    digests = {
        int.from_bytes(bytes.fromhex(media.digest)[:8], "little"): media.digest
        for sample in made.samples.records()
        for media in sample.media
    }
    for piece in range(len(first_source.ordinal)):
        keys = first_source.media_keys[slice(*first_source.media_offsets[piece : piece + 2])].tolist()
        held = [media.digest for media in made.samples.record(int(first_source.ordinal[piece])).media]
        assert [digests[key] for key in keys] == held or len(keys) < len(held)
    plan = compile_plan(mixture, made.by_source, tiny)
    packs = materialized(plan, made, tmp_path)
    counted = prove(packs, plan.meta, tiny)
    assert counted.after.media.most <= 3
    free = recount(made.packs.records(), Curve.of(made.plan.meta["schedule"]), tiny.media_pad_id, tiny.pad_id)
    assert free.after.media.most > 3, "without the limit it is shown more often"
    with pytest.raises(StoreError, match="exposures of any medium within 3"):
        prove(made.packs, {**made.plan.meta, "max_media_exposures": 3}, tiny)
    first = write(create(tmp_path / "a", "plan"), plan.blocks, [made.samples], **plan.meta)
    following = compile_plan(mixture, made.by_source, tiny, amends=(first, 1))
    seen = recount(packs.records(0, 12), mixture.curve, tiny.media_pad_id, tiny.pad_id).after
    after = prove(materialized(following, made, tmp_path / "b"), following.meta, tiny, seen).after
    assert after.media.most <= 3
