"""Plans under any schedule: the bound after every pack and over every window, for random and extreme corpora."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.schedule import VisionShare
from packing import reference
from packing.mixture import Mixture, Source
from packing.plan.order import COLUMNS, Order
from packing.plan.pieces import SourcePieces
from packing.plan.planner import Plan, arrange
from tests.packing.plan.test_planner import CAPTIONS, INTERLEAVED, TEXT, L, per_pack, pieces, supplies

H = 6000
"""Horizon of most cases, about 94 packs."""
SCHEDULES: list[dict[str, object]] = [
    {"constant": 0.1},
    {"constant": 0.0},
    {"steps": ((0, 0.0), (0.5, 0.2))},
    {"steps": ((0, 0.0), (0.8, 0.5))},
    {"steps": ((0, 0.5), (0.3, 0.05), (0.6, 0.3))},
    {"steps": ((0, 0.3), (0.25, 0.0), (0.75, 0.2))},
    {"steps": ((0, 0.05), (8 * L, 0.4), (16 * L, 0.1))},  # where blocks of 8 packs would end anyway
    {"steps": ((0, 0.05), (9 * L + 1, 0.4), (9 * L + 5, 0.1), (9 * L + 200, 0.2))},
    {"linear": (0.0, 0.4)},
    {"linear": (0.5, 0.0)},
    {"piecewise": ((0, 0.0), (0.1, 0.0), (0.5, 0.5), (0.5, 0.1), (1, 0.3))},
    {"piecewise": ((0, 0.6), (700, 0.01), (703, 0.6), (5000, 0.0))},
]


def check(plan: Plan, mixture: Mixture) -> None:
    """Recount every promise about the share in fractions, from the arrays."""
    curve = mixture.vision_share.over(mixture.horizon_tokens)
    tokens, slots = per_pack(plan, "length"), per_pack(plan, "slots")
    ought = curve.highest * mixture.max_pack_tokens
    errors = [Fraction(0)]
    until = given_slots = most = 0
    for pack_tokens, pack_slots in zip(tokens, slots, strict=True):
        begin, until = until, until + pack_tokens
        given_slots, most = given_slots + pack_slots, max(most, pack_slots)
        errors.append(given_slots - curve.slots_until(until))
        assert abs(errors[-1]) <= max(most, ought)
        wanted_here = curve.slots_until(until) - curve.slots_until(max(0, begin - mixture.max_pack_tokens))
        assert wanted_here or not pack_slots, "vision where none is wanted"
    claimed = Fraction(str(plan.meta["largest_error_slots"]))
    assert 0 <= float(claimed) - float(max(map(abs, errors))) < 1e-6
    assert plan.meta["one_pack_slots"] == float(max(max(slots), ought))
    bound = max(max(slots), ought)
    for packs in (1, 7, 30):
        ends = zip(errors, errors[packs:], strict=False)
        assert all(abs(after - before) <= 2 * bound for before, after in ends)


Sizes = list[tuple[int, int]]


def extremes(rng: random.Random) -> dict[str, list[Sizes]]:
    """Corpora that are hard to plan, each for another reason."""

    def of(kinds: Sizes, least: int = 1, most: int = 150) -> Sizes:
        return [rng.choice(kinds) for _ in range(rng.randint(least, most))]

    def any_size() -> tuple[int, int]:
        length = rng.randint(1, L)
        return length, rng.randint(0, length)

    long_video = [(L, L - 3)] * rng.randint(1, 150)  # cut into packs that hold nothing else
    return {
        "one huge source": [of(TEXT + CAPTIONS, 300, 500), *([rng.choice(CAPTIONS + TEXT)] for _ in range(5))],
        "35 tiny ones": [of(CAPTIONS + TEXT, 1, 12) for _ in range(35)],
        "all images": [of(CAPTIONS), of([(64, 64), (64, 49)])],
        "no images": [of(TEXT, 100, 300)],
        "one book": [[(L, 0)] * 150, of(CAPTIONS)],
        "hour-long videos": [long_video],
        "hour-long videos and a little text": [long_video, of(TEXT, 1, 60)],
        "all equal": [[any_size()] * rng.randint(1, 300)],
        "pages alone": [of([*INTERLEAVED, (50, 10), (50, 20)], 50, 200)],
        "anything": [[any_size() for _ in range(rng.randint(1, 100))] for _ in range(rng.randint(1, 4))],
    }


def made(schedule: dict[str, object], corpus: list[Sizes], rng: random.Random) -> tuple[Mixture, list[SourcePieces]]:
    sources = [pieces(f"s{i}", sizes) for i, sizes in enumerate(corpus)]
    named = tuple(
        Source(
            name=source.content_root,
            input="",
            weight=rng.choice([0.3, 1.0, 7.0]),
            max_epochs=rng.randint(1, 4),
            group=rng.choice([None, "g"]) if i else "g",
        )
        for i, source in enumerate(sources)
    )
    mixture = Mixture(
        sources=named,
        max_pack_tokens=L,
        global_batch_packs=rng.randint(1, 3),
        block_packs=rng.randint(1, 40),
        seed=rng.randint(0, 99),
        horizon_tokens=rng.choice([H, 1500, rng.randint(1, H)]),
        vision_share=VisionShare(**schedule),  # type: ignore[arg-type]
        groups={"g": 2.0},
    )
    return mixture, sources


def outcome(mixture: Mixture, sources: Sequence[SourcePieces]) -> str:
    """Check the longest feasible plan: with its own horizon (`kept`), with one that an error names (`shortened`), or
    none (`refused`)."""
    for refused in range(3):
        try:
            plan = arrange(mixture, sources, "v")
        except ManifestError as error:
            changes = dict(change.split(": ", 1) for change in error.fix.split("; or ") if ": " in change)
            if "horizon_tokens" not in changes or any(0 < place <= 1 for place, _ in _points(mixture.vision_share)):
                return "refused"
            mixture = dataclasses.replace(mixture, horizon_tokens=int(changes["horizon_tokens"]))
            continue
        check(plan, mixture)
        return "kept" if not refused else "shortened"
    raise AssertionError("the shorter horizon in the error is infeasible, too")


def _points(share: VisionShare) -> Iterable[tuple[float, float]]:
    return share.steps or share.piecewise or (((1, 0.0),) if share.linear else ())


def test_extreme_corpora_keep_every_schedule() -> None:
    """Ten kinds of corpora and twelve schedules, four times: 480 plans, and more that are infeasible first."""
    seen: dict[str, int] = {}
    for seed in range(4):
        rng = random.Random(seed)
        for schedule in SCHEDULES:
            for corpus in extremes(rng).values():
                result = outcome(*made(schedule, corpus, rng))
                seen[result] = seen.get(result, 0) + 1
    assert seen["kept"] > 60 and seen["refused"] > 60 and seen["shortened"] > 20, seen


points = st.lists(st.integers(2, H), unique=True, max_size=4).map(lambda places: [0, *sorted(places)])
millionths = st.integers(0, 700_000).map(lambda share: share / 10**6)


@given(st.data())
@settings(max_examples=60)
def test_any_schedule_is_feasible_with_plenty_of_data(data: st.DataObject) -> None:
    """Text and pictures for any share make every schedule feasible."""
    kind = data.draw(st.sampled_from(["steps", "piecewise"]))
    schedule = {kind: tuple((float(place), data.draw(millionths)) for place in data.draw(points))}
    rng = random.Random(data.draw(st.integers(0, 999)))
    sources = [CAPTIONS * 60 + [(L, 60)] * 60, TEXT * 60, [*INTERLEAVED, (50, 20), (60, 30)] * 30]
    mixture, made_of = made(schedule, sources, rng)
    assert outcome(mixture, made_of) == "kept"


def test_in_every_window_of_4096_packs_the_share_is_within_a_tenth_of_a_percentage_point() -> None:
    rng = random.Random(3)
    captions = [(length, rng.randint(1, length)) for length in (rng.randint(1, L) for _ in range(16_000))]
    text = [(rng.randint(1, L), 0) for _ in range(17_000)]
    sources = [pieces("captions", captions), pieces("text", text)]
    named = tuple(Source(name=source.content_root, input="", weight=1.0) for source in sources)
    for schedule in ({"linear": (0.1, 0.4)}, {"steps": ((0, 0.0), (0.5, 0.4))}, {"constant": 0.2}):
        mixture = Mixture(
            sources=named,
            max_pack_tokens=L,
            global_batch_packs=1,
            horizon_tokens=700_000,
            vision_share=VisionShare(**schedule),  # type: ignore[arg-type]
        )
        plan = arrange(mixture, sources, "v")
        tokens, slots = (np.cumsum([0, *per_pack(plan, name)]) for name in ("length", "slots"))
        wanted = np.array([float(mixture.curve.slots_until(int(until))) for until in tokens])
        off = (slots[4096:] - slots[:-4096]) - (wanted[4096:] - wanted[:-4096])
        assert len(off) > 5000
        assert np.abs(off / (tokens[4096:] - tokens[:-4096])).max() < 0.001
        check(plan, mixture)


@given(st.integers(0, 10**6))
@settings(max_examples=40)
def test_the_compiled_order_equals_the_slow_one(seed: int) -> None:
    rng = random.Random(seed)
    corpus = rng.choice(list(extremes(rng).values()))
    mixture, sources = made(rng.choice(SCHEDULES), corpus, rng)
    fast = Order(mixture, supplies(mixture, sources), goal=mixture.horizon_tokens or 0)
    chunks = list(fast)
    slow, missing = reference.order(mixture, sources, mixture.horizon_tokens or 0)
    drawn = [row for chunk in chunks for row in zip(*(chunk[name].tolist() for name in COLUMNS), strict=True)]
    assert drawn == slow
    assert fast.missing == missing


def test_blocks_may_be_filled_in_any_order_for_any_schedule() -> None:
    def backwards(fill: Callable, blocks: Iterable) -> Iterable:  # type: ignore[type-arg]
        return reversed([fill(block) for block in reversed(list(blocks))])

    for schedule in SCHEDULES:
        mixture, sources = made(schedule, [CAPTIONS * 100, TEXT * 100, INTERLEAVED * 40], random.Random(1))
        planned = partial(arrange, mixture, sources, "v")
        assert planned().meta["plan"] == planned(backwards).meta["plan"]
