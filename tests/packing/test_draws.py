"""Order of prompts and pairs: content of a step, shares of the sources, and resume."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError, ResumeError
from manifests.records import record_id
from packing.draws import Draws, DrawSource
from stores.store import Snapshot
from tests.packing.corpus import Made, corpus, create, write


def samples_once(made: Made, epochs: int) -> dict[str, DrawSource]:
    return {"all": DrawSource(made.samples, epochs)}


@given(per_step=st.integers(1, 60), epochs=st.integers(1, 4), seed=st.integers(0, 3), stop=st.integers(0, 400))
def test_resume_at_any_step_gives_the_steps_of_an_uninterrupted_run(
    made: Made, per_step: int, epochs: int, seed: int, stop: int
) -> None:
    sources = samples_once(made, epochs)
    whole = list(Draws(sources, per_step, seed=seed))
    interrupted = Draws(sources, per_step, seed=seed)
    first = list(islice(interrupted, stop))
    resumed = Draws(sources, per_step, seed=seed, state=interrupted.state)
    assert first + list(resumed) == whole
    assert len(whole) == len(interrupted) == epochs * (226 // per_step)


def test_an_epoch_draws_a_record_at_most_once_and_epochs_have_different_orders(made: Made) -> None:
    order = Draws(samples_once(made, 3), 16)
    ids = made.samples.table(["id"])["id"].to_pylist()
    steps = [order.step(number) for number in range(len(order))]
    by_epoch = [[draw for step in steps[14 * e : 14 * e + 14] for draw in step] for e in range(3)]
    for epoch, draws in enumerate(by_epoch):
        assert len({draw.id for draw in draws}) == len(draws) == 224
        assert all(draw.epoch == epoch and ids[draw.ordinal] == draw.id for draw in draws)
        assert all(draw.source == "all" for draw in draws)
    assert len({tuple(draw.id for draw in draws) for draws in by_epoch}) == 3


def test_the_order_does_not_depend_on_how_records_are_stored(made: Made, tmp_path: Path) -> None:
    reversed_ = write(create(tmp_path, "samples"), list(made.samples.records())[::-1])
    one, other = Draws(samples_once(made, 2), 10), Draws({"all": DrawSource(reversed_, 2)}, 10)
    assert one.digest == other.digest
    assert [[d.id for d in step] for step in one] == [[d.id for d in step] for step in other]
    assert one.step(3)[0].ordinal != other.step(3)[0].ordinal


def test_pairs_of_a_step_show_different_media_and_records_of_one_medium_take_turns(tmp_path: Path) -> None:
    """Twelve of thirty pictures have two captions."""
    captions = [one for one in corpus() if one.domain == "caption"][:30]
    again = [replace(one, id=record_id("again", one.locator), source="again") for one in captions[:12]]
    documents = write(create(tmp_path, "documents"), [*captions, *again])
    media_of = [one.media[0].digest for one in documents.records()]
    order = Draws({"captions": DrawSource(documents, 4)}, 10, distinct="medium")
    assert len(order) == 4 * 3
    drawn: Counter[str] = Counter()
    for step in order:
        media = [media_of[draw.ordinal] for draw in step]
        assert len(set(media)) == len(media) == 10
        drawn.update(draw.id for draw in step)
    twice = {one.id for one in captions[:12]} | {one.id for one in again}
    assert all(count == (2 if name in twice else 4) for name, count in drawn.items()) and len(drawn) == 42


def test_a_state_of_another_order_and_too_few_records_are_refused(made: Made) -> None:
    state = Draws(samples_once(made, 1), 10).state
    for per_step, seed in ((10, 1), (11, 0)):
        with pytest.raises(ResumeError, match="another order"):
            Draws(samples_once(made, 1), per_step, seed=seed, state={**state})
    assert Draws(samples_once(made, 7), 10, state=state).state == state, "more epochs only append steps"
    with pytest.raises(ManifestError, match="226 records are too few for steps of up to 227"):
        Draws(samples_once(made, 1), 227)
    with pytest.raises(IndexError):
        Draws(samples_once(made, 1), 10).step(22)


@pytest.fixture(scope="module")
def sources(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DrawSource]:
    folder = tmp_path_factory.mktemp("sources")
    samples = list(made.samples.records())
    weights = {"knowledge": (3.0, 3), "caption": (1.5, 3)}
    return {
        domain: DrawSource(
            write(create(folder / domain, "samples"), [one for one in samples if one.domain == domain]),
            epochs,
            weight,
        )
        for domain, (weight, epochs) in weights.items()
    }


def test_a_mixed_order_keeps_weights_and_epochs_and_ends_with_the_first_exhausted_source(
    sources: dict[str, DrawSource],
) -> None:
    order = Draws(sources, 20, seed=2)
    drawn: Counter[tuple[str, str]] = Counter()
    for number, step in enumerate(order, 1):
        assert len({draw.id for draw in step}) == len(step) == 20
        drawn.update((draw.source, draw.id) for draw in step)
        by_source = Counter(source for source, _ in drawn.elements())
        assert abs(by_source["knowledge"] - 20 * number * 2 / 3) < 2
        assert all(sources[d.source].records.record(d.ordinal).id == d.id for d in step)
    most = {source: max(n for (name, _), n in drawn.items() if name == source) for source in sources}
    assert most["caption"] == 3 and most["knowledge"] <= 3
    assert len(order) == 60 * 3 * 3 // 20, "sixty captions three times are a third of all"
    assert Counter(n for (name, _), n in drawn.items() if name == "caption")[3] > 55


@given(per_step=st.integers(1, 25), seed=st.integers(0, 3), stop=st.integers(0, 40))
def test_a_mixed_order_resumes_at_any_step(sources: dict[str, DrawSource], per_step: int, seed: int, stop: int) -> None:
    whole = list(Draws(sources, per_step, seed=seed))
    interrupted = Draws(sources, per_step, seed=seed)
    first = list(islice(interrupted, stop))
    assert first + list(Draws(sources, per_step, seed=seed, state=interrupted.state)) == whole
    with pytest.raises(ResumeError, match="another order"):
        Draws(sources, per_step, seed=seed + 1, state=interrupted.state)


def test_a_medium_of_two_sources_is_drawn_from_the_first_and_never_twice_in_a_step(tmp_path: Path) -> None:
    captions = [one for one in corpus() if one.domain == "caption"]
    again = [replace(one, id=record_id("again", one.locator), source="again") for one in captions[:40]]
    groups = (("a", captions[:30]), ("b", again))
    stores = [write(create(tmp_path / name, "documents"), group) for name, group in groups]
    order = Draws({"a": DrawSource(stores[0], 4, 2.0), "b": DrawSource(stores[1], 4, 1.0)}, 6, distinct="medium")
    media_of = {one.id: one.media[0].digest for one in (*captions, *again)}
    first = {one.media[0].digest for one in captions[:30]}
    assert len(order) > 10
    for step in order:
        assert len({media_of[draw.id] for draw in step}) == 6
        assert all((media_of[draw.id] in first) == (draw.source == "a") for draw in step)
    with pytest.raises(ManifestError, match="30 media are too few for steps of up to 23"):
        Draws({"a": DrawSource(stores[0], 4, 2.0), "b": DrawSource(stores[1], 4, 2.0)}, 40, distinct="medium")


def sha(order: Draws) -> tuple[str, str, int]:
    """Hash of all draws, digest of the order, number of steps."""
    draws = repr([[(draw.id, draw.epoch) for draw in step] for step in order])
    return hashlib.sha256(draws.encode()).hexdigest()[:16], order.digest[:16], len(order)


def test_orders_of_one_and_of_several_sources_are_the_recorded_ones(tmp_path: Path) -> None:
    """Another order breaks the resume of every run that draws: change these hashes only with a reason."""
    captions = [one for one in corpus() if one.domain == "caption"]
    texts = [one for one in corpus() if one.domain == "knowledge"]
    again = [replace(one, id=record_id("again", one.locator), source="again") for one in captions[:12]]

    def stored(name: str, *records: object) -> Snapshot:
        return write(create(tmp_path / name, "documents"), records)

    one = {"captions": DrawSource(both := stored("both", *captions, *again), 3)}
    assert sha(Draws(one, 7, seed=3)) == ("7b6229a4e4d59674", "f1d9d4ba9b5bea57", 30)
    assert sha(Draws(one, 7, seed=3, distinct="medium")) == ("3d4d60e6b7d09a47", "b673a88112bcc621", 24)
    several = {"captions": DrawSource(both, 3, 1.5), "texts": DrawSource(stored("texts", *texts), 2, 3.0)}
    assert sha(Draws(several, 10, seed=3)) == ("8057a76d60124fd8", "1dc0ab8debf74c4a", 45)
    several = {
        "a": DrawSource(stored("a", *captions[:30]), 4, 2.0),
        "b": DrawSource(stored("b", *captions[20:], *again), 4, 1.0),
    }
    assert sha(Draws(several, 6, seed=3, distinct="medium")) == ("7dc583200b303a28", "0dadb953f33c9ed7", 30)
