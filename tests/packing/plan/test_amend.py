"""Amended plans: nothing before global batch N moves, and no piece of a kept source is lost or repeated."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError, StoreError
from manifests.schedule import Curve, VisionShare
from packing.mixture import Mixture
from packing.pack import pack_unit, packs_meta
from packing.plan.amend import ChainedPlan, plan_chain, prefix_at
from packing.plan.pieces import SourcePieces
from packing.plan.planner import Plan, arrange, compile_plan
from packing.proof import prove, recount
from stores.store import Snapshot
from tests.packing.corpus import MIXTURE, Made, create, tiny, write
from tests.packing.plan.test_planner import CAPTIONS, INTERLEAVED, TEXT, L, book, column, make_mixture, per_pack, pieces
from tests.packing.plan.test_schedules import SCHEDULES


def materialized(plan: Plan, made: Made, folder: Path) -> Snapshot:
    packs = (pack for block in plan.blocks for pack in pack_unit(block, made.by_source, tiny))
    return write(create(folder, "packs"), packs, **packs_meta(plan.meta))


Uses = Counter[tuple[str, int, int]]
"""(source, ordinal, start) of a piece -> times that it is seen."""


def stored(plan: Plan, folder: Path) -> ChainedPlan:
    amends = plan.meta["amends"]
    return (amends["at_batch"] if amends else 0), write(create(folder, "plan"), plan.blocks, **plan.meta)


def uses(plan: Plan, packs: int | None = None) -> Uses:
    """Pieces of the first `packs` packs, or of all."""
    counted: Uses = Counter()
    for block in plan.blocks:
        offsets = block.arrays["pack_offsets"]
        here = len(offsets) - 1 if packs is None else min(packs, len(offsets) - 1)
        packs = None if packs is None else packs - here
        rows = (block.arrays[name][: offsets[here]].tolist() for name in ("source", "ordinal", "start"))
        names = block.header["sources"]
        counted.update((names[source], ordinal, start) for source, ordinal, start in zip(*rows, strict=True))
    return counted


def corpus(rng: random.Random) -> list[SourcePieces]:
    kept = [pieces("pictures", CAPTIONS * 60), pieces("pages", INTERLEAVED * 20), pieces("text", TEXT * 40)]
    return [*kept[: rng.randint(2, 3)], book("book", rng.randint(3, 30))]


def weighed(sources: Sequence[SourcePieces], rng: random.Random, **values: object) -> Mixture:
    plain = make_mixture(sources, **values)  # type: ignore[arg-type]
    named = (dataclasses.replace(source, weight=rng.choice([0.5, 1.0, 4.0]), max_epochs=3) for source in plain.sources)
    return dataclasses.replace(plain, sources=tuple(named))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_kept_sources_neither_repeat_nor_lose_anything_over_a_chain(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("chain")
    sources = corpus(rng)
    first = dataclasses.replace(
        weighed(sources, rng, horizon_tokens=9000),
        vision_share=VisionShare(**rng.choice(SCHEDULES)),  # type: ignore[arg-type]
    )
    try:
        plan = arrange(first, sources, "v")
    except ManifestError:
        return
    chain, seen, error = [stored(plan, folder / "0")], Counter[tuple[str, int, int]](), Fraction(0)
    reached, tokens, slots, ought = 0, 0, 0, Fraction(0)
    for number in (1, 2):
        batches = plan.meta["packs"] // 2
        at_batch = reached + rng.randint(1, batches)
        left = 2 * (at_batch - reached)
        seen += uses(plan, left)
        curve = Curve.of(plan.meta["schedule"])
        lengths, held = per_pack(plan, "length")[:left], per_pack(plan, "slots")[:left]
        error += sum(held) - curve.slots_until(tokens + sum(lengths)) + curve.slots_until(tokens)
        tokens, slots = tokens + sum(lengths), slots + sum(held)
        ought = max([ought, curve.highest * L, *map(Fraction, held)])
        # other weights, another schedule, fewer or more sources, another seed
        sources = [*sources[: rng.randint(1, len(sources))], pieces(f"new {number}", (TEXT + CAPTIONS) * 30)]
        following = dataclasses.replace(
            weighed(sources, rng, horizon_tokens=rng.choice([None, tokens + 3000]), seed=rng.randint(0, 9)),
            vision_share=VisionShare(constant=rng.choice([0.0, 0.05, 0.1, 0.3])),
        )
        prefix = prefix_at(chain, at_batch, following, "v")
        assert (prefix.tokens, prefix.slots) == (tokens, slots)
        assert 0 <= error - Fraction(prefix.error, 2 * 10**6) < Fraction(1, 2 * 10**6)
        assert prefix.bound == ought * 2 * 10**6
        try:
            plan = arrange(following, sources, "v", prefix=prefix)
        except ManifestError:
            return
        chain.append(stored(plan, folder / str(number)))
        reached = at_batch
        # the error continues from the end of the prefix
        running, until = error, tokens
        bound = max([ought, following.curve.highest * L, *map(Fraction, per_pack(plan, "slots"))])
        for pack_tokens, pack_slots in zip(per_pack(plan, "length"), per_pack(plan, "slots"), strict=True):
            running += (
                pack_slots - following.curve.slots_until(until + pack_tokens) + following.curve.slots_until(until)
            )
            until += pack_tokens
            assert abs(running) <= bound + Fraction(1, 10**6)
    together = seen + uses(plan)
    assert max(together.values()) <= 3, "the cap is over the chain"


def test_the_suffix_has_exactly_the_pieces_that_the_prefix_left(tmp_path: Path) -> None:
    """With nothing changed and no pictures, prefix and suffix together have every piece once per epoch."""
    rng = random.Random(1)
    sources = [pieces("text", TEXT * 50), book("book", 40)]
    mixture = dataclasses.replace(weighed(sources, rng, share=0.0), global_batch_packs=1)
    whole = arrange(mixture, sources, "v")
    for at_batch in (1, 7, 40, whole.meta["packs"] - 1):
        link = stored(whole, tmp_path / str(at_batch))
        prefix = prefix_at([link], at_batch, mixture, "v")
        rest = arrange(mixture, sources, "v", prefix=prefix)
        assert uses(whole, at_batch) + uses(rest) == uses(whole)
        assert set(uses(whole).values()) == {3}
        assert rest.meta["amends"] == prefix.as_json()
        # in the suffix, too, no piece comes again before all others of its source
        before = uses(whole, at_batch)
        for source in (0, 1):
            mine = column(rest, "source") == source
            epochs = column(rest, "epoch")[mine].tolist()
            rows = zip(column(rest, "ordinal")[mine].tolist(), column(rest, "start")[mine].tolist(), strict=True)
            times = Counter(before)
            for epoch, (ordinal, start) in zip(epochs, rows, strict=True):
                assert epoch >= times[sources[source].content_root, ordinal, start]


def test_a_document_cut_at_the_batch_continues_with_its_next_pieces(tmp_path: Path) -> None:
    sources = [book("book", 40), pieces("text", TEXT * 20)]
    mixture = dataclasses.replace(make_mixture(sources, 0.0), global_batch_packs=1)
    whole = arrange(mixture, sources, "v")
    link = stored(whole, tmp_path / "a")
    prefix = prefix_at([link], 20, mixture, "v")
    rest = arrange(mixture, sources, "v", prefix=prefix)
    starts = {start for name, _, start in uses(whole, 20) if name == "book"}
    left = {start for name, _, start in uses(rest) if name == "book"}
    assert starts and left and not starts & left and starts | left == {L * i for i in range(40)}


def test_a_change_of_a_value_that_a_run_keeps_is_refused(tmp_path: Path) -> None:
    sources = [pieces("text", TEXT * 50), pieces("pictures", CAPTIONS * 50)]
    mixture = make_mixture(sources, horizon_tokens=2000)
    chain = [stored(arrange(mixture, sources, "v"), tmp_path / "a")]
    other = dataclasses.replace(sources[0], content_root="other")
    moved = dataclasses.replace(sources[0], start=sources[0].start + 1)
    cases = [
        ({"at_batch": 0}, "global batch 0 is none"),
        ({"at_batch": 99}, "global batch 99 is none"),
        ({"mixture": dataclasses.replace(mixture, max_pack_tokens=2 * L)}, "max_pack_tokens is 128"),
        ({"mixture": dataclasses.replace(mixture, global_batch_packs=4)}, "global_batch_packs is 4"),
        ({"mixture": dataclasses.replace(mixture, pixels="fast")}, "pixels is fast"),
        ({"mixture": dataclasses.replace(mixture, horizon_tokens=10)}, "horizon_tokens is 10"),
        ({"vocabulary": "w"}, "vocabulary is w"),
        ({"sources": [other, sources[1]]}, "source text has other samples"),
        ({"sources": [moved, sources[1]]}, "source text is cut into other pieces"),
    ]
    for change, words in cases:
        case = {"at_batch": 2, "mixture": mixture, "sources": sources, "vocabulary": "v"} | change
        renamed = dataclasses.replace(case["mixture"], sources=mixture.sources)  # type: ignore[type-var]
        with pytest.raises(ManifestError, match=words):
            prefix = prefix_at(chain, case["at_batch"], renamed, case["vocabulary"])  # type: ignore[arg-type]
            arrange(renamed, case["sources"], "v", prefix=prefix)  # type: ignore[arg-type]


def test_a_chain_is_proved_from_the_bytes_of_its_packs(made: Made, tmp_path: Path) -> None:
    """Three plans, each amending the one before, are recounted one after the other."""
    first = write(create(tmp_path / "a", "plan"), made.plan.blocks, [made.samples], **made.plan.meta)
    more = dataclasses.replace(MIXTURE, seed=9, vision_share=VisionShare(constant=0.2))
    second = compile_plan(more, made.by_source, tiny, amends=(first, 2))
    kept = write(create(tmp_path / "b", "plan"), second.blocks, [made.samples, first], **second.meta)
    third = compile_plan(MIXTURE, made.by_source, tiny, amends=(kept, 3))
    last = write(create(tmp_path / "c", "plan"), third.blocks, [made.samples, kept], **third.meta)
    assert [at for at, _ in plan_chain(last)] == [0, 2, 3]
    assert [plan.meta["plan"] for _, plan in plan_chain(last)] == [p.meta["plan"] for p in (made.plan, second, third)]
    size = MIXTURE.global_batch_packs
    seen = None
    tokens: Counter[str] = Counter()
    for plan, batches in ((made.plan, 2), (second, 1), (third, None)):
        packs = materialized(plan, made, tmp_path / f"packs {batches} {plan.meta['plan'][:8]}")
        proved = prove(packs, plan.meta, tiny, seen)
        if batches is not None:
            prefix = packs.records(0, batches * size)
            counted = recount(prefix, Curve.of(plan.meta["schedule"]), tiny.media_pad_id, tiny.pad_id, seen)
            seen = counted.after
            tokens.update(counted.source_tokens)
    for source in third.meta["sources"]:  # like its cap, over the whole run
        assert source["seen_before_tokens"] == tokens[source["name"]] > 0
        assert source["epochs"] * source["tokens"] == pytest.approx(
            tokens[source["name"]] + proved.source_tokens[source["name"]]
        )
    assert max(proved.exposures["seen"]) <= 3 and max(proved.exposures["read"]) <= 2
    false_claim = {**third.meta, "amends": {**third.meta["amends"], "tokens": third.meta["amends"]["tokens"] - 1}}
    with pytest.raises(StoreError, match="tokens before it"):
        prove(packs, false_claim, tiny, seen)
    with pytest.raises(StoreError, match="epochs of seen within 1"):
        sources = [{**source, "max_epochs": 1} for source in third.meta["sources"]]
        prove(packs, {**third.meta, "sources": sources}, tiny, seen)
