"""What a model behind an endpoint makes of documents: the same whatever happens on the way, and nothing asked twice."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import MillraceError
from manifests.records import Document, Json, Media, Text, record_id
from pipelines.dag import graph
from pipelines.dag.unit import Outcome, StoreTask, run_unit
from pipelines.inspect import explain
from pipelines.node import UnitTask
from pipelines.synthesis import prompts
from pipelines.synthesis.synthesize import Synthesise
from pipelines.synthesis.tasks import chunk_count, chunks, formulas
from stores.forget.forget import forget
from stores.store import Snapshot, Store
from tests.pipelines import small_data
from tests.pipelines.build.test_materialize import product, stored
from tests.pipelines.dag.test_run import head, roots, run, start
from tests.servers.chat import Chat, default_reply, last_text
from tests.stores.forget.traces import traces


@pytest.fixture
def here(quick_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=quick_folder))


def document(name: str, text: str | None = None, domain: str = "web", **more: Any) -> Document:
    body = Text(small_data.text(sum(name.encode()), 30) if text is None else text)
    rights = {"licence": "CC0-1.0", "origin": f"https://a.example/{name}", "consent": "opt-in"}
    return Document(record_id("raw", name), "raw", name, domain, (body,), **rights | more)


def shown(name: str, *seeds: int) -> Document:
    payloads = [small_data.image(seed) for seed in seeds]
    media = [Media(sha256(data).hexdigest(), "image", "png", 40, 30, payload=data) for data in payloads]
    return replace(document(name), parts=(Text("Look."), *media))


def texts(number: int = 12) -> dict[str, list[Document]]:
    return {f"u{unit}": [document(f"{unit}-{row}") for row in range(unit, number, 3)] for unit in range(3)}


def node(chat: Chat, over: Snapshot, task: Json | None = None, **more: Any) -> Synthesise:
    told = task or {}
    if told.get("kind") != "caption":
        told = {"kind": "rephrase", "chunk_characters": 120} | told
    fields = {
        "kind": "synthesise",
        "input": over.name,
        "endpoint": {"url": chat.url, "at_once": 4, "deadline_s": 20.0},
        "model": "m",
        "task": told,
    }
    return pydantic.TypeAdapter(Synthesise).validate_json(json.dumps(fields | more))


def made(
    folder: Path, one: Synthesise, over: Snapshot, place: str = "made", seed: int = 0
) -> tuple[Snapshot, list[Outcome]]:
    """What the node `made` makes, its units in some order, committed together."""
    inputs = {over.name: product(over)}
    wanted = graph.unit_names("made", one, one.survey("made", inputs))
    store = Store.create(str(folder / place), "documents", "made")
    todo = list(wanted.items())
    random.Random(seed).shuffle(todo)
    tasks = [StoreTask(one, store.url, stored_as, UnitTask("made", unit, inputs), 50, 0.5) for stored_as, unit in todo]
    outcomes = [run_unit(task, frozenset(), lambda ordinal: None) for task in tasks]
    receipts = [outcome.receipt for outcome in outcomes]
    return store.commit(receipts, node="n", units=list(wanted), parents=[over.as_parent]), outcomes


def noted(outcomes: list[Outcome]) -> dict[str, int]:
    return dict(sum((outcome.counts.noted for outcome in outcomes), Counter()))


def reasons(snapshot: Snapshot) -> dict[str, str]:
    return {row["locator"].partition("/")[0]: row["reason"] for row in snapshot.quarantined().to_pylist()}


# -------------------------------------------------------------------- chunks


pieces = st.sampled_from(["a word ", "Ends. ", "\n\n", "\n", "$x + y$", "\\[ a = b \\]", "日本。", "long" * 9, " "])


@given(st.lists(pieces, max_size=60).map("".join), st.integers(16, 200))
def test_chunks_are_the_text_and_as_many_as_its_length_says(text: str, most: int) -> None:
    found = chunks(text, chunk_count(len(text), most))
    assert "".join(found) == text and len(found) == chunk_count(len(text), most)
    assert all(0 < len(chunk) <= 1.5 * most + 1 for chunk in found)


def test_a_formula_is_not_cut_and_money_is_none() -> None:
    text = "So we add both. " * 6 + "$a + b + c + d + e + f$ is what we get. " + "And so it goes on. " * 6
    for most in range(30, 160):
        assert sum(map(len, map(formulas, chunks(text, chunk_count(len(text), most))))) == 1 or most < 60
    assert formulas("from $5 to $10, \\( a \\) and $$b\n c$$") == ["\\(a\\)", "$$bc$$"]


@pytest.mark.parametrize("mark", ["\\[", "$$ ", "\\begin{a}", "$a "])
def test_formulas_without_an_end_cost_little(mark: str) -> None:
    began = time.process_time()
    text = mark * 20_000
    assert "".join(chunks(text, chunk_count(len(text), 60))) == text
    assert time.process_time() - began < 5


# -------------------------------------------------------------------- what is made


def test_rephrasings_inherit_say_where_they_come_from_and_have_other_styles(chat: Chat, here: Path) -> None:
    over = stored(here, texts())
    snapshot, _ = made(here, node(chat, over, {"per_document": 2}), over)
    parents = {one.id: one for one in over.records()}
    found = list(snapshot.records())
    assert len(found) == 24 and len({one.id for one in found}) == 24
    for one in found:
        parent = parents[one.parents[0]]
        assert (one.source, one.domain, one.licence, one.origin, one.consent) == (
            "made", parent.domain, parent.licence, parent.origin, parent.consent,
        )  # fmt: skip
        words = [word for word in one.text.split() if not word.startswith("(")]
        assert Counter(words) == Counter(parent.text.split())
        assert one.notes["synthetic"] is True and one.notes["model"] == "m" and one.notes["fidelity"] == 0.9
        assert one.notes["prompt"] in prompts.STYLES
        kept = {file.stem for file in (here / "answers" / parent.id).iterdir()}
        assert one.notes["requests"] and set(one.notes["requests"]) <= kept
    assert len({(one.parents[0], one.notes["prompt"]) for one in found}) == 24
    assert len({one.notes["prompt"] for one in found}) > 5


def test_a_chunk_is_written_behind_the_last_one_and_each_is_compared(chat: Chat, here: Path) -> None:
    over = stored(here, {"u": [document("long", small_data.text(3, 100))]})
    one = node(chat, over, {"context_characters": 40})
    snapshot, _ = made(here, one, over)
    (written,) = snapshot.records()
    asked = [json.loads(body) for body in chat.seen]
    whole = over.record(0).text
    assert len(asked) == 2 * chunk_count(len(whole), 120) == one.task.requests(len(whole), [])
    rewriting = [last_text(request) for request in asked if "First:" not in last_text(request)]
    last = written.text.split("\n\n")
    assert "So ends" not in rewriting[0]
    assert all(f"<<<\n{before[-40:]}\n>>>" in text for before, text in zip(last, rewriting[1:], strict=False))
    assert len({request["seed"] for request in asked}) == len(asked)


def test_a_text_in_parts_asks_for_no_more_than_the_index_lets_expect(chat: Chat, here: Path) -> None:
    parts = (Text("some words here " * 15), Text("and more of them " * 14 + "so"))
    over = stored(here, {"u": [replace(document("parts"), parts=parts)]})
    (characters,) = over.table(["characters"]).column("characters").to_pylist()
    assert characters == 480 < len(over.record(0).text)
    one = node(chat, over)
    made(here, one, over)
    assert sum(chat.seen.values()) == one.task.requests(characters, []) == 8


def test_math_is_rewritten_as_notes_and_keeps_its_formulas_in_translation(chat: Chat, here: Path) -> None:
    over = stored(here, {"u": [document(f"{i}", f"Es gilt $x_{i} + 1$ und mehr.", "math") for i in range(6)]})
    snapshot, _ = made(here, node(chat, over), over)
    assert {one.notes["prompt"] for one in snapshot.records()} <= set(prompts.MATH_STYLES)
    loses = record_id("raw", "4")

    def reply(request: Json) -> str:
        if "whole number" in last_text(request):
            return "88 of 100"
        assert "into English" in request["messages"][0]["content"]
        text = last_text(request).partition("<<<\n")[2].partition("\n>>>")[0]
        return text.replace("Es gilt", "We have").replace("$x_4 + 1$", "$x_4$").replace("+", " +  ")

    chat.reply = reply
    snapshot, _ = made(here, node(chat, over, {"kind": "translate", "into": "English"}), over, "english")
    assert len(list(snapshot.records())) == 5 and reasons(snapshot) == {loses: "formula_lost"}
    assert all(one.text.startswith("We have $x_") and one.notes["language"] == "English" for one in snapshot.records())


def test_pictures_get_captions_with_their_bytes(chat: Chat, here: Path) -> None:
    over = stored(here, {"u": [shown("a", 1, 2), shown("b", 3), document("c")]})
    snapshot, outcomes = made(here, node(chat, over, {"kind": "caption"}), over)
    found = list(snapshot.documents(range(3)))
    assert sorted(one.media[0].payload or b"" for one in found) == sorted(small_data.image(i) for i in (1, 2, 3))
    assert all(one.domain == "caption" and one.text.startswith("A picture ") for one in found)
    assert noted(outcomes) == {"no_image": 1}
    assert all("base64," not in file.read_text() for file in (here / "answers").rglob("*.json"))


def test_what_can_not_be_used_is_set_aside_and_what_is_no_text_passed_over(chat: Chat, here: Path) -> None:
    bad: dict[str, Any] = {
        "refused": {"message": {"content": "No.", "refusal": "policy"}, "finish_reason": "stop"},
        "answer_cut": {"message": {"content": "and so"}, "finish_reason": "length"},
        "empty_answer": {"message": {"content": " \n"}, "finish_reason": "stop"},
        "answer_too_long": "word " * 1000,
    }
    verdicts = {"unfaithful": "40", "no_verdict": "Quite well!"}
    some = [document(name, f"{name} stands here and is told.") for name in [*bad, *verdicts, "fine"]]
    other = [shown("shown", 1), document("talk", notes={"messages": [{"role": "user"}]}), document("blank", " ")]
    over = stored(here, {"u": some + other})

    def reply(request: Json) -> Any:
        text = last_text(request)
        name = next(one.locator for one in some if one.locator in text)
        if "whole number" in text:
            return verdicts.get(name, "100")
        return bad.get(name) or default_reply(request) + f" {name}"

    chat.reply = reply
    snapshot, outcomes = made(here, node(chat, over), over)
    assert reasons(snapshot) == {record_id("raw", name): name for name in [*bad, *verdicts]}
    assert [one.parents for one in snapshot.records()] == [(record_id("raw", "fine"),)]
    assert noted(outcomes) == {"has_media": 1, "conversation": 1, "no_text": 1}


# -------------------------------------------------------------------- whatever happens on the way


def test_content_depends_on_no_order_and_a_second_time_nothing_is_asked(chat: Chat, here: Path) -> None:
    over = stored(here, texts())
    one = node(chat, over)
    dice = random.Random(0)
    chat.delay = lambda request: dice.uniform(0, 0.02)
    chat.rule = lambda request, again: "429" if again == 0 and request["seed"] % 3 == 0 else None
    first, _ = made(here, one, over)
    asked = sum(chat.seen.values())
    assert asked > len(chat.answered) and set(chat.answered.values()) == {1}
    moved = replace(one, endpoint=replace(one.endpoint, at_once=1, url=chat.url + "/v1/"))
    again, _ = made(here, moved, over, "again", seed=1)
    assert again.content_root == first.content_root and sum(chat.seen.values()) == asked


def test_a_gone_endpoint_stops_the_run_and_what_was_answered_is_not_asked_again(chat: Chat, here: Path) -> None:
    over = stored(here, texts())
    one = node(chat, over)
    chat.rule = lambda request, again: "500" if len(chat.answered) > 11 else None
    hasty = replace(one, endpoint=replace(one.endpoint, deadline_s=1.0))
    with pytest.raises(MillraceError, match="no good answer"):
        made(here, hasty, over)
    kept = len(list((here / "answers").rglob("*.json")))
    chat.reset()
    snapshot, _ = made(here, one, over, "again")
    assert (
        kept > 4 and sum(chat.seen.values()) == sum(len(made.notes["requests"]) for made in snapshot.records()) - kept
    )


@pytest.mark.parametrize("most", [0, 5, 21, 30])
def test_a_budget_is_kept_and_leaves_out_by_hash(chat: Chat, here: Path, most: int) -> None:
    over = stored(here, texts(9) | {"pictures": [shown("p", 1)]})

    def chosen(place: str, **budget: int) -> tuple[set[str], int]:
        """Whose rephrasings there are, and how many requests that took."""
        shutil.rmtree(here / "answers", ignore_errors=True)
        chat.seen.clear()
        snapshot, outcomes = made(here, node(chat, over, budget=budget, seed=1), over, place)
        found = {one.parents[0] for one in snapshot.records()}
        assert noted(outcomes).get("over_budget", 0) == 9 - len(found)
        return found, sum(chat.seen.values())

    fits, asked = chosen("limited", max_requests=most)
    assert asked <= most and len(fits) < 9
    wider, _ = chosen("wider", max_requests=most + 8)
    assert fits < wider
    assert chosen("tokens", max_answer_tokens=most * 4096 + 4095)[0] == fits
    assert len(chosen("free", max_requests=10**6)[0]) == 9


# -------------------------------------------------------------------- in a run


DAG = """
name: synthetic
nodes:
  documents: {{kind: ingest_folder, path: ./data}}
  synthetic:
    kind: synthesise
    input: documents
    endpoint: {{url: "{url}", at_once: 2}}
    model: m
    task: {{kind: rephrase, per_document: 2}}
"""


def test_killed_in_the_middle_it_asks_for_the_rest_only_and_forgets_what_it_must(chat: Chat, tmp_path: Path) -> None:
    canary = "Zwölf kanaryvogels"
    (tmp_path / "data").mkdir()
    for i in range(40):
        (tmp_path / "data" / f"{i:02d}.txt").write_text(small_data.text(i) + (canary if i == 7 else ""))
    (tmp_path / "dag.yaml").write_text(DAG.format(url=chat.url))
    chat.delay = lambda request: 0.03
    process = start(tmp_path / "dag.yaml", tmp_path / "out", workers=0)
    until = time.monotonic() + 60
    while len(chat.answered) < 40 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.2)
    kept = {file.stem for file in (tmp_path / "out" / "answers").rglob("*.json")}
    assert len(kept) >= 38
    chat.reset()
    run(tmp_path / "dag.yaml", tmp_path / "out", workers=2)
    asked = sum(chat.seen.values())
    assert asked == 160 - len(kept)
    calm = roots(tmp_path / "out", ["synthetic"])

    name = next(one.id for one in head(tmp_path / "out", "documents").records() if one.locator == "07.txt")
    (explained,) = explain.explain(tmp_path / "out", name)["records"]
    children = [one for one in head(tmp_path / "out", "synthetic").records() if one.parents == (name,)]
    assert [one["id"] for one in explained["made of it"]] == [one.id for one in children] and len(children) == 2
    assert [one["variant"].partition("-")[2] for one in explained["made of it"]] == [
        one.notes["prompt"] for one in children
    ]
    none: frozenset[str] = frozenset()
    names = {"ids": frozenset([name]), "sources": none, "places": none, "media": none}
    receipt = forget(str(tmp_path / "out"), names)  # type: ignore[arg-type]
    assert receipt["answers"] == 4 and receipt["records"] == {"documents": 1, "synthetic": 2}
    assert not traces(tmp_path / "out", [canary.encode(), canary.split()[0].encode()])
    assert "already committed" in run(tmp_path / "dag.yaml", tmp_path / "out")
    assert roots(tmp_path / "out", ["synthetic"]) == calm and sum(chat.seen.values()) == asked
