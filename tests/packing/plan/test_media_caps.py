"""No medium is shown more often than a mixture says, whichever samples, sources and plans it stands in."""

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
from tests.packing.plan.test_amend import materialised, stored
from tests.packing.plan.test_planner import TEXT, column, mixture, pieces, supplies


def showing(name: str, media: list[list[int]]) -> SourcePieces:
    """Pieces of 20 tokens with 9 slots, each with these media."""
    plain = pieces(name, [(20, 9 if some else 0) for some in media])
    offsets = np.cumsum([0, *map(len, media)], dtype=np.int64)
    keys = np.array([medium for some in media for medium in some], np.uint64)
    return dataclasses.replace(plain, media_offsets=offsets, media_keys=keys)


def limited(sources: list[SourcePieces], most: int, epochs: int, **values: object) -> Mixture:
    plain = mixture(sources, 0.2)
    named = tuple(dataclasses.replace(source, max_epochs=epochs) for source in plain.sources)
    return dataclasses.replace(plain, sources=named, max_media_exposures=most, **values)  # type: ignore[arg-type]


def allowed_of(supply: Supply, pieces: int) -> np.ndarray:
    """How often each piece may be seen in all, over all plans of a run."""
    allowed = np.zeros(pieces, np.int64)
    for epoch in range(supply.source.max_epochs):
        for rows, _ in supply.epochs.parts(epoch):
            allowed[rows["ordinal"]] += 1
    return allowed


shown_in = st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=20)


@given(st.lists(shown_in, min_size=1, max_size=3), st.integers(1, 5), st.integers(1, 4))
@settings(deadline=None)
def test_no_medium_is_shown_more_often_and_none_is_withheld_that_could_be(
    media: list[list[list[int]]], most: int, epochs: int
) -> None:
    sources = [showing(f"s{i}", one) for i, one in enumerate(media)]
    mixed = limited(sources, most, epochs)
    made = supplies(mixed, sources)
    may = [allowed_of(source, len(one)) for source, one in zip(made, media, strict=True)]
    shown: Counter[int] = Counter()
    for allowed, one in zip(may, media, strict=True):
        assert max(allowed) <= epochs
        for times, some in zip(allowed.tolist(), one, strict=True):
            for medium in some:
                shown[medium] += times
    assert max(shown.values(), default=0) <= most
    for allowed, one in zip(may, media, strict=True):
        for times, some in zip(allowed.tolist(), one, strict=True):
            assert times == epochs or any(shown[m] + some.count(m) > most for m in some), "it could be shown again"
    drawn: Counter[tuple[int, int]] = Counter()
    for chunk in Order(mixed, made):
        drawn.update(zip(chunk["source"].tolist(), chunk["ordinal"].tolist(), strict=True))
    assert all(times <= may[source][ordinal] for (source, ordinal), times in drawn.items())


def test_what_is_withheld_stands_in_the_account_and_counts_over_a_chain(tmp_path: Path) -> None:
    text = dataclasses.replace(pieces("text", TEXT * 60), media_offsets=np.zeros(60 * len(TEXT) + 1, np.int64))
    sources = [showing("a", [[0]] * 10 + [[n] for n in range(1, 40)]), showing("b", [[0], [1, 2]]), text]
    one = limited(sources, 3, 4, horizon_tokens=700)
    plan = arrange(one, sources, "v")
    a, b, _ = plan.meta["sources"]
    assert a["withheld_tokens"] == 20 * (4 * 10 - 3 + 39 + 2) and b["withheld_tokens"] >= 20 * 4
    prefix = prefix_at([stored(plan, tmp_path)], 2, one, "v")
    rest = supplies(dataclasses.replace(one, horizon_tokens=None), sources, prefix)
    together: Counter[int] = Counter()
    for supply, source in zip(rest, sources, strict=True):
        for piece, times in enumerate(allowed_of(supply, len(source.keys)).tolist()):
            for medium in source.media_keys[slice(*source.media_offsets[piece : piece + 2])].tolist():
                together[medium] += times
    assert max(together.values()) <= 3
    assert (column(plan, "epoch") < 4).all()


def test_media_of_real_stores_are_counted_by_their_digests(made: Made, tmp_path: Path) -> None:
    """Ten pages show one picture twice each; three exposures let one of them be seen once."""
    one = dataclasses.replace(MIXTURE, max_media_exposures=3, vision_share=VisionShare(constant=0.05))
    found = pieces_of(made.samples, one.sources[0], one)
    digests = {
        int.from_bytes(bytes.fromhex(media.digest)[:8], "little"): media.digest
        for sample in made.samples.records()
        for media in sample.media
    }
    for piece in range(len(found.ordinal)):
        keys = found.media_keys[slice(*found.media_offsets[piece : piece + 2])].tolist()
        held = [media.digest for media in made.samples.record(int(found.ordinal[piece])).media]
        assert [digests[key] for key in keys] == held or len(keys) < len(held)
    plan = compile_plan(one, made.by_source, tiny)
    packs = materialised(plan, made, tmp_path)
    counted = prove(packs, plan.meta, tiny)
    assert counted.after.media.most <= 3
    free = recount(made.packs.records(), Curve.of(made.plan.meta["schedule"]), tiny.media_pad_id, tiny.pad_id)
    assert free.after.media.most > 3, "without the limit it is shown more often"
    with pytest.raises(StoreError, match="exposures of any medium within 3"):
        prove(made.packs, {**made.plan.meta, "max_media_exposures": 3}, tiny)
    first = write(create(tmp_path / "a", "plan"), plan.blocks, [made.samples], **plan.meta)
    following = compile_plan(one, made.by_source, tiny, amends=(first, 1))
    seen = recount(packs.records(0, 12), one.curve, tiny.media_pad_id, tiny.pad_id).after
    after = prove(materialised(following, made, tmp_path / "b"), following.meta, tiny, seen).after
    assert after.media.most <= 3
