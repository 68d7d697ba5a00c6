"""Plans over pieces: their promises, for ordinary and for extreme corpora."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.records import digest
from manifests.schedule import VisionShare
from packing.mixture import Mixture, PackLimits, Source
from packing.plan.amend import NO_PREFIX, RunPrefix
from packing.plan.media_caps import cap_media
from packing.plan.pieces import SourcePieces
from packing.plan.planner import Plan, arrange
from packing.plan.supply import Supply
from stores.spill import GIB, Scratch

L = 64
CAPTIONS = [(20, 9), (30, 16), (64, 49)]
INTERLEAVED = [(60, 4), (64, 2)]
TEXT = [(1, 0), (9, 0), (40, 0), (64, 0)]


def keys(*names: str) -> np.ndarray:
    return np.array([int(digest(name)[:16], 16) for name in names], np.uint64)


def pieces(name: str, sizes: Sequence[tuple[int, int]]) -> SourcePieces:
    """A source of one-piece samples, each (tokens, slots)."""
    length, slots = np.array(sizes, np.int32).reshape(-1, 2).T
    count = len(length)
    names = keys(*(f"{name}{i}" for i in range(count)))
    return SourcePieces(name, names, np.arange(count), np.zeros(count, np.int32), length, slots, count, 0, {}, 0, 0)


def book(name: str, count: int) -> SourcePieces:
    """One sample of `count` full pieces."""
    starts = np.arange(count, dtype=np.int32) * L
    full = np.full(count, L, np.int32)
    names = keys(*(f"{name} {start}" for start in starts))
    return SourcePieces(name, names, np.zeros(count, np.int64), starts, full, 0 * full, 1, 1, {}, 0, 0)


def make_mixture(sources: Sequence[SourcePieces], share: float = 0.1, **values: object) -> Mixture:
    made = tuple(Source(name=source.content_root, input="", weight=1.0) for source in sources)
    common = {"sources": made, "max_pack_tokens": L, "global_batch_packs": 2, "block_packs": 8}
    return Mixture(vision_share=VisionShare(constant=share), **(common | values))  # type: ignore[arg-type]


def supplies(
    mixture: Mixture, sources: Sequence[SourcePieces], prefix: RunPrefix = NO_PREFIX, memory_bytes: int = GIB
) -> list[Supply]:
    scratch = Scratch(memory_bytes)
    made = [Supply.from_pieces(mixture, number, pieces, scratch, prefix) for number, pieces in enumerate(sources)]
    cap_media(mixture, made, scratch)
    return made


sized = st.integers(1, L).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length)))
corpora = st.lists(
    st.lists(st.sampled_from(CAPTIONS + TEXT + INTERLEAVED) | sized, min_size=1, max_size=60)
    | st.lists(st.sampled_from(TEXT), min_size=1, max_size=200)
    | st.lists(st.sampled_from(CAPTIONS), min_size=1, max_size=60),
    min_size=1,
    max_size=4,
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Mixture, list[SourcePieces]]:
    sources = [pieces(f"s{i}", sizes) for i, sizes in enumerate(draw(corpora))]
    if draw(st.booleans()):
        sources.append(book("book", draw(st.integers(1, 60))))
    mixture = make_mixture(
        sources,
        draw(st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5])),
        seed=draw(st.integers(0, 3)),
        block_packs=draw(st.integers(1, 9)),
        global_batch_packs=draw(st.integers(1, 3)),
        horizon_tokens=draw(st.none() | st.integers(1, 3000)),
    )
    weighted = tuple(
        dataclasses.replace(source, weight=draw(st.sampled_from([0.5, 1, 3])), max_epochs=draw(st.integers(1, 3)))
        for source in mixture.sources
    )
    return dataclasses.replace(mixture, sources=weighted), sources


def compiled(case: tuple[Mixture, list[SourcePieces]]) -> Plan | None:
    """The plan, or None if it is infeasible."""
    try:
        return arrange(*case, "vocabulary")
    except ManifestError:
        return None


def column(plan: Plan, name: str) -> np.ndarray:
    return np.concatenate([block.arrays[name] for block in plan.blocks])


def per_pack(plan: Plan, name: str) -> list[int]:
    sums = []
    for block in plan.blocks:
        offsets = block.arrays["pack_offsets"].tolist()
        sums += [int(block.arrays[name][a:b].sum()) for a, b in pairwise(offsets)]
    return sums


@given(cases())
@settings(max_examples=200)
def test_after_every_pack_the_share_is_within_one_packs_slots_of_the_schedule(
    case: tuple[Mixture, list[SourcePieces]],
) -> None:
    plan = compiled(case)
    if plan is None:
        return
    share = Fraction(str(case[0].vision_share.constant))
    tokens, slots = per_pack(plan, "length"), per_pack(plan, "slots")
    errors = [abs(sum(slots[:n]) - share * sum(tokens[:n])) for n in range(1, len(tokens) + 1)]
    assert max(errors) <= max(max(slots), share * L)
    assert plan.meta["largest_error_slots"] == float(max(errors))
    assert plan.meta["one_pack_slots"] == float(max(max(slots), share * L))


@given(cases())
@settings(max_examples=100)
def test_no_pack_is_over_full_and_no_piece_is_seen_more_often_than_its_source_allows(
    case: tuple[Mixture, list[SourcePieces]],
) -> None:
    plan = compiled(case)
    if plan is None:
        return
    mixture, sources = case
    assert all(1 <= tokens <= L for tokens in per_pack(plan, "length"))
    rows = list(zip(*(column(plan, name).tolist() for name in ("source", "ordinal", "start", "epoch")), strict=True))
    assert len(set(rows)) == len(rows), "a piece came twice in one epoch"
    assert all(epoch < mixture.sources[source].max_epochs for source, _, _, epoch in rows)
    sizes_of = {
        (i, ordinal, start): (length, slots)
        for i, source in enumerate(sources)
        for ordinal, start, length, slots in zip(
            *(getattr(source, name).tolist() for name in ("ordinal", "start", "length", "slots")), strict=True
        )
    }
    sizes = zip(column(plan, "length").tolist(), column(plan, "slots").tolist(), strict=True)
    assert all(sizes_of[row[:3]] == size for row, size in zip(rows, sizes, strict=True))


@given(cases(), st.sampled_from([1, 4, 16]), st.integers(1, 4), st.integers(1, 3), st.booleans())
@settings(max_examples=100)
def test_every_pack_keeps_every_limit_and_the_bound_on_the_share(
    case: tuple[Mixture, list[SourcePieces]], align: int, patches: int, media: int, attention: bool
) -> None:
    """Pieces with four patches per slot, and one medium if they have slots; limits that each piece keeps alone."""
    limits = PackLimits(patches=4 * L * patches, media=media, attention=L * L if attention else None)
    sources = [
        dataclasses.replace(
            source, patches=(4 * source.slots).astype(np.int32), media_in=(source.slots > 0).astype(np.int32)
        )
        for source in case[1]
    ]
    plan = compiled((dataclasses.replace(case[0], pack_limits=limits, segment_align=align), sources))
    if plan is None:
        return
    for block in plan.blocks:
        assert "patches" not in block.arrays and "media_in" not in block.arrays
        length, slots = (block.arrays[name].astype(np.int64) for name in ("length", "slots"))
        first = block.arrays["pack_offsets"][:-1]
        for cost, most in (
            (length + -length % align, L),
            (4 * slots, limits.patches),
            (slots > 0, limits.media),
            (length**2, limits.attention or L**3),
        ):
            assert np.add.reduceat(cost, first, dtype=np.int64).max() <= (most or 0)
    assert plan.meta["largest_error_slots"] <= plan.meta["one_pack_slots"]


@given(cases())
@settings(max_examples=100)
def test_a_plan_is_whole_global_batches_and_ends_with_the_first_that_reaches_the_horizon(
    case: tuple[Mixture, list[SourcePieces]],
) -> None:
    plan = compiled(case)
    if plan is None:
        return
    mixture, tokens = case[0], per_pack(plan, "length")
    assert len(tokens) % mixture.global_batch_packs == 0 < len(tokens)
    if mixture.horizon_tokens is not None:
        assert sum(tokens) >= mixture.horizon_tokens > sum(tokens[: -mixture.global_batch_packs])
    firsts = [block.header["first_pack"] for block in plan.blocks]
    sizes = [len(block.arrays["pack_offsets"]) - 1 for block in plan.blocks]
    assert firsts == [sum(sizes[:i]) for i in range(len(sizes))]


def test_without_pictures_everything_is_seen_once_per_epoch() -> None:
    sources = [pieces("a", TEXT * 50), book("b", 30)]
    mixture = make_mixture(sources, 0.0, global_batch_packs=1)
    twice = tuple(dataclasses.replace(source, max_epochs=2) for source in mixture.sources)
    plan = arrange(dataclasses.replace(mixture, sources=twice), sources, "v")
    seen = Counter(zip(*(column(plan, name).tolist() for name in ("source", "ordinal", "start")), strict=True))
    assert set(seen.values()) == {2}
    assert len(seen) == 230
    assert [source["epochs"] for source in plan.meta["sources"]] == [2.0, 2.0]
    assert per_epoch(plan, 0) == per_epoch(plan, 1)


def per_epoch(plan: Plan, epoch: int) -> Counter[tuple[int, int, int]]:
    mine = column(plan, "epoch") == epoch
    return Counter(zip(*(column(plan, name)[mine].tolist() for name in ("source", "ordinal", "start")), strict=True))


@pytest.mark.parametrize("sizes", [[(51, 16)] * 40, [(51, 16)] * 40 + [(30, 10)], [(51, 16)]])
def test_equal_pictures_are_used_up_at_about_their_own_share(sizes: list[tuple[int, int]]) -> None:
    only = [pieces("only", sizes)]
    plan = arrange(make_mixture(only, 0.3137, global_batch_packs=1), only, "v")
    assert plan.meta["tokens"] == sum(length for length, _ in sizes)
    assert plan.meta["largest_error_slots"] <= plan.meta["one_pack_slots"]


MIXED = [pieces("scenes", CAPTIONS * 100), pieces("pages", INTERLEAVED * 60), pieces("text", TEXT * 400)]


def test_equal_inputs_give_equal_digests_and_others_do_not() -> None:
    mixture = make_mixture(MIXED)
    digests = [
        arrange(other, sources, vocabulary).meta["plan"]
        for other, sources, vocabulary in [
            (mixture, MIXED, "v"),
            (dataclasses.replace(mixture, seed=1), MIXED, "v"),
            (dataclasses.replace(mixture, block_packs=9), MIXED, "v"),
            (mixture, MIXED, "w"),
            (mixture, [*MIXED[:2], pieces("text", TEXT * 399)], "v"),
        ]
    ]
    assert digests[0] == arrange(make_mixture(MIXED), MIXED, "v").meta["plan"]
    assert len(set(digests)) == len(digests)


def test_the_plan_does_not_depend_on_the_mapper_or_the_order_of_blocks() -> None:
    def backwards(fill, blocks: Iterable[Sequence[int]]):  # type: ignore[no-untyped-def]
        return reversed([fill(block) for block in reversed(list(blocks))])

    mixture = make_mixture(MIXED)
    alone = arrange(mixture, MIXED, "v")
    with ProcessPoolExecutor(2) as pool:
        assert len(alone.blocks) > 3
        assert arrange(mixture, MIXED, "v", pool.map).meta["plan"] == alone.meta["plan"]
    assert arrange(mixture, MIXED, "v", backwards).meta["plan"] == alone.meta["plan"]


def test_the_plan_does_not_depend_on_how_samples_are_spread_over_shards() -> None:
    text = MIXED[2]
    order = np.random.default_rng(0).permutation(len(text.length))
    moved = dataclasses.replace(text, keys=text.keys[order], length=text.length[order], slots=text.slots[order])
    names = {True: text.keys.tolist(), False: moved.keys.tolist()}
    plans = {same: arrange(make_mixture(MIXED), [*MIXED[:2], text if same else moved], "v") for same in (True, False)}
    rows = {}
    for same, plan in plans.items():
        ordinals, sources = column(plan, "ordinal").tolist(), column(plan, "source").tolist()
        rows[same] = [names[same][o] if s == 2 else (s, o) for s, o in zip(sources, ordinals, strict=True)]
    assert rows[True] == rows[False]


def test_tokens_follow_the_weights_among_text_and_among_pictures() -> None:
    sources = [
        pieces(name, sizes * 400) for name, sizes in (("a", TEXT), ("b", TEXT), ("c", CAPTIONS), ("d", CAPTIONS))
    ]
    mixture = make_mixture(sources, horizon_tokens=12_000)
    weights = (3, 1, 1, 4)
    made = tuple(dataclasses.replace(s, weight=float(w)) for s, w in zip(mixture.sources, weights, strict=True))
    plan = arrange(dataclasses.replace(mixture, sources=made), sources, "v")
    a, b, c, d = (source["given_tokens"] for source in plan.meta["sources"])
    assert a / (a + b) == pytest.approx(3 / 4, abs=0.02)
    assert d / (c + d) == pytest.approx(4 / 5, abs=0.05)


def test_a_source_that_is_used_up_leaves_its_part_to_the_others_and_meta_has_the_token() -> None:
    sources = [pieces("small", TEXT * 5), pieces("large", TEXT * 100)]
    plan = arrange(make_mixture(sources, 0.0, horizon_tokens=3000), sources, "v")
    small, large = plan.meta["sources"]
    assert small["given_tokens"] == small["tokens"]
    assert 0 < small["spent_after_tokens"]["poor"] < 3000
    assert large["spent_after_tokens"]["poor"] is None
    assert small["given_tokens"] + large["given_tokens"] >= 3000


def test_a_source_of_pictures_with_a_few_texts_claims_no_share_of_all_text() -> None:
    sources = [pieces("scenes", CAPTIONS * 100 + TEXT), pieces("text", TEXT * 300)]
    mixture = make_mixture(sources, horizon_tokens=6000)
    often = (dataclasses.replace(mixture.sources[0], max_epochs=50), mixture.sources[1])
    plan = arrange(dataclasses.replace(mixture, sources=often), sources, "v")
    poor = column(plan, "slots") == 0
    from_scenes = int(column(plan, "length")[poor & (column(plan, "source") == 0)].sum())
    assert from_scenes < 0.05 * plan.meta["tokens"]


def test_a_plan_is_pinned() -> None:
    """A change of this digest needs a new `PLAN_VERSION`."""
    assert arrange(make_mixture(MIXED), MIXED, "v").meta["plan"][:16] == "469fcf5b1d7feaf0"


@pytest.mark.parametrize(
    ("sizes", "share", "horizon", "words"),
    [
        (TEXT * 99, 0.1, 3000, ["no piece left with more vision", "vision_share: {constant: 0}", "images or video"]),
        (TEXT * 99, 0.1, None, ["no piece left with more vision", "vision_share: {constant: 0}"]),
        (CAPTIONS * 99, 0.1, 3000, ["no piece left with less vision", "vision_share: {constant: 0.649}", "text"]),
        (CAPTIONS * 99, 0.0, None, ["no piece left with less vision"]),
        (TEXT * 99 + CAPTIONS * 3, 0.1, 2500, ["after 2,2", "of 2,500", "horizon_tokens: 17", "for only", "0.073"]),
        (TEXT, 0.0, None, ["fill 2 packs, one global batch needs 8"]),
    ],
)
def test_a_plan_that_can_not_keep_its_schedule_is_refused_with_changes_that_help(
    sizes: list[tuple[int, int]], share: float, horizon: int | None, words: list[str]
) -> None:
    only = [pieces("only", sizes)]
    with pytest.raises(ManifestError) as refused:
        arrange(make_mixture(only, share, horizon_tokens=horizon, global_batch_packs=8), only, "v")
    text = str(refused.value)
    assert all(word in text for word in words), text


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_share_that_an_error_names_for_media_alone_works(share: float) -> None:
    only = [pieces("only", [*CAPTIONS, (24, 20)] * 99)]
    with pytest.raises(ManifestError) as refused:
        arrange(make_mixture(only, share), only, "v")
    own = refused.value.fix.split("; or ")[0].removeprefix("vision_share: {constant: ").removesuffix("}")
    plan = arrange(make_mixture(only, float(own)), only, "v")
    assert plan.meta["tokens"] > 0.9 * int(only[0].length.sum())


def test_the_changes_that_an_error_names_work() -> None:
    only = [pieces("only", TEXT * 300 + CAPTIONS * 20)]
    mixture = make_mixture(only, horizon_tokens=16_000)
    with pytest.raises(ManifestError) as refused:
        arrange(mixture, only, "v")
    ways = refused.value.fix.split("; or ")
    shorter = int(ways[0].removeprefix("horizon_tokens: "))
    assert arrange(dataclasses.replace(mixture, horizon_tokens=shorter), only, "v").meta["tokens"] >= shorter
    lower = VisionShare(constant=float(ways[1].removeprefix("vision_share: {constant: ").removesuffix("}")))
    assert arrange(dataclasses.replace(mixture, vision_share=lower), only, "v").meta["tokens"] >= 16_000
    more = (dataclasses.replace(mixture.sources[0], max_epochs=9),)
    assert arrange(dataclasses.replace(mixture, sources=more), only, "v").meta["tokens"] >= 16_000


@pytest.mark.parametrize("sizes", [TEXT * 60, CAPTIONS * 60, TEXT * 60 + CAPTIONS * 60])
def test_a_share_from_data_is_that_of_all_pieces(sizes: list[tuple[int, int]]) -> None:
    only = [pieces("only", sizes)]
    share = sum(slots for _, slots in sizes) * 10_000 // sum(length for length, _ in sizes) / 10_000
    free = dataclasses.replace(make_mixture(only), vision_share=VisionShare(from_data=True))
    plan = arrange(free, only, "v")
    assert plan.meta["vision_share"] == {"constant": share}
    assert plan.meta == arrange(make_mixture(only, share), only, "v").meta


def test_captions_code_and_text_fill_packs_nearly_completely() -> None:
    random = np.random.default_rng(0)
    captions = [(int(n) + 21, 16) for n in random.integers(10, 60, 3000)]
    code = [(int(n), 0) for n in np.concatenate([random.integers(934, 1025, 600), random.integers(20, 1000, 100)])]
    text = [(int(n), 0) for n in random.lognormal(5.2, 1.0, 3000).clip(5, 1024)]
    sources = [pieces("captions", captions), pieces("code", code), pieces("text", text)]
    mixture = make_mixture(sources, max_pack_tokens=1024, block_packs=256, horizon_tokens=400_000)
    assert arrange(mixture, sources, "v").meta["fill"] > 0.98
    only_text = make_mixture(sources[2:], 0.0, max_pack_tokens=1024, block_packs=256)
    assert arrange(only_text, sources[2:], "v").meta["fill"] > 0.995
