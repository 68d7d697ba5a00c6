"""The order of prompts and of pairs: what a step holds, and that it resumes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError, ResumeError
from manifests.records import record_id
from packing.draws import Draws
from packing.mixed_draws import MixedDraws, Weighed
from tests.packing.corpus import Made, corpus, create, write


@given(per_step=st.integers(1, 60), epochs=st.integers(1, 4), seed=st.integers(0, 3), stop=st.integers(0, 400))
def test_a_restored_order_goes_on_as_if_nothing_had_been(
    made: Made, per_step: int, epochs: int, seed: int, stop: int
) -> None:
    whole = list(Draws(made.samples, per_step, epochs=epochs, seed=seed))
    begun = Draws(made.samples, per_step, epochs=epochs, seed=seed)
    first = list(islice(begun, stop))
    after = Draws(made.samples, per_step, epochs=epochs, seed=seed, state=begun.state)
    assert first + list(after) == whole
    assert len(whole) == len(begun) == epochs * (226 // per_step)


def test_every_epoch_draws_each_record_at_most_once_and_in_another_order(made: Made) -> None:
    order = Draws(made.samples, 16, epochs=3)
    ids = made.samples.table(["id"])["id"].to_pylist()
    steps = [order.step(number) for number in range(len(order))]
    by_epoch = [[draw for step in steps[14 * e : 14 * e + 14] for draw in step] for e in range(3)]
    for epoch, draws in enumerate(by_epoch):
        assert len({draw.id for draw in draws}) == len(draws) == 224
        assert all(draw.epoch == epoch and ids[draw.ordinal] == draw.id for draw in draws)
    assert len({tuple(draw.id for draw in draws) for draws in by_epoch}) == 3


def test_the_order_is_the_same_however_records_are_stored(made: Made, tmp_path: Path) -> None:
    turned = write(create(tmp_path, "samples"), list(made.samples.records())[::-1])
    one, other = Draws(made.samples, 10, epochs=2), Draws(turned, 10, epochs=2)
    assert one.digest == other.digest
    assert [[d.id for d in step] for step in one] == [[d.id for d in step] for step in other]
    assert one.step(3)[0].ordinal != other.step(3)[0].ordinal


def test_pairs_of_one_step_show_different_media_and_records_of_one_medium_take_turns(tmp_path: Path) -> None:
    """Of thirty captions twelve are told twice."""
    captions = [one for one in corpus() if one.domain == "caption"][:30]
    again = [replace(one, id=record_id("again", one.locator), source="again") for one in captions[:12]]
    documents = write(create(tmp_path, "documents"), [*captions, *again])
    shown = [one.media[0].digest for one in documents.records()]
    order = Draws(documents, 10, epochs=4, once="medium")
    assert len(order) == 4 * 3
    seen: Counter[str] = Counter()
    for step in order:
        media = [shown[draw.ordinal] for draw in step]
        assert len(set(media)) == len(media) == 10
        seen.update(draw.id for draw in step)
    twice = {one.id for one in captions[:12]} | {one.id for one in again}
    assert all(count == (2 if name in twice else 4) for name, count in seen.items()) and len(seen) == 42


def test_another_order_or_too_few_records_are_refused(made: Made) -> None:
    state = Draws(made.samples, 10, epochs=1).state
    for other in (Draws(made.samples, 10, epochs=1, seed=1), Draws(made.samples, 11, epochs=1)):
        with pytest.raises(ResumeError, match="another order"):
            Draws(made.samples, 10, epochs=1, state={**other.state})
    assert Draws(made.samples, 10, epochs=7, state=state).state == state, "more epochs only go on longer"
    with pytest.raises(ManifestError, match="226 records give no step of 227"):
        Draws(made.samples, 227, epochs=1)
    with pytest.raises(IndexError):
        Draws(made.samples, 10, epochs=1).step(22)


@pytest.fixture(scope="module")
def sources(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Weighed]:
    folder = tmp_path_factory.mktemp("sources")
    samples = list(made.samples.records())
    weights = {"knowledge": (3.0, 3), "caption": (1.5, 3)}
    return {
        domain: Weighed(
            write(create(folder / domain, "samples"), [one for one in samples if one.domain == domain]),
            weight,
            epochs,
        )
        for domain, (weight, epochs) in weights.items()
    }


def test_a_mixed_order_keeps_its_weights_and_epochs_and_ends_with_the_first_source_that_is_used_up(
    sources: dict[str, Weighed],
) -> None:
    order = MixedDraws(sources, 20, seed=2)
    seen: Counter[tuple[str, str]] = Counter()
    for number, step in enumerate(order, 1):
        assert len({draw.id for draw in step}) == len(step) == 20
        seen.update((draw.source, draw.id) for draw in step)
        given = Counter(source for source, _ in seen.elements())
        assert abs(given["knowledge"] - 20 * number * 2 / 3) < 2
        assert all(sources[d.source].records.record(d.ordinal).id == d.id for d in step)
    most = {source: max(n for (name, _), n in seen.items() if name == source) for source in sources}
    assert most["caption"] == 3 and most["knowledge"] <= 3
    assert len(order) == 60 * 3 * 3 // 20, "sixty captions three times are a third of all"
    assert Counter(n for (name, _), n in seen.items() if name == "caption")[3] > 55


@given(per_step=st.integers(1, 25), seed=st.integers(0, 3), stop=st.integers(0, 40))
def test_a_mixed_order_resumes_to_the_draw(sources: dict[str, Weighed], per_step: int, seed: int, stop: int) -> None:
    whole = list(MixedDraws(sources, per_step, seed=seed))
    begun = MixedDraws(sources, per_step, seed=seed)
    first = list(islice(begun, stop))
    assert first + list(MixedDraws(sources, per_step, seed=seed, state=begun.state)) == whole
    with pytest.raises(ResumeError, match="another order"):
        MixedDraws(sources, per_step, seed=seed + 1, state=begun.state)


def test_a_medium_of_two_sources_is_drawn_from_the_first_and_never_twice_in_a_step(tmp_path: Path) -> None:
    captions = [one for one in corpus() if one.domain == "caption"]
    again = [replace(one, id=record_id("again", one.locator), source="again") for one in captions[:40]]
    stores = [write(create(tmp_path / name, "documents"), some) for name, some in (("a", captions[:30]), ("b", again))]
    order = MixedDraws({"a": Weighed(stores[0], 2.0, 4), "b": Weighed(stores[1], 1.0, 4)}, 6, once="medium")
    shown = {one.id: one.media[0].digest for one in (*captions, *again)}
    first = {one.media[0].digest for one in captions[:30]}
    assert len(order) > 10
    for step in order:
        assert len({shown[draw.id] for draw in step}) == 6
        assert all((shown[draw.id] in first) == (draw.source == "a") for draw in step)
    with pytest.raises(ManifestError, match="are too few for steps that hold up to"):
        MixedDraws({"a": Weighed(stores[0], 2.0, 4)}, 20, once="medium")
