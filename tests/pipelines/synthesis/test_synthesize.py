"""The node `synthesize`: its tasks, quarantine, budget, and reproducible output from cached answers."""

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
from pipelines.synthesis.synthesize import Synthesize
from pipelines.synthesis.tasks import chunk_count, chunks, formulas
from stores.forget.forget import forget
from stores.store import Snapshot, Store
from tests.pipelines import small_data
from tests.pipelines.build.test_materialize import product, stored
from tests.pipelines.dag.test_run import head, roots, run, start
from tests.servers.chat import Chat, default_reply, last_text
from tests.stores.forget.traces import traces


@pytest.fixture
def folder(quick_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=quick_folder))


def document(name: str, text: str | None = None, domain: str = "web", **more: Any) -> Document:
    body = Text(small_data.text(sum(name.encode()), 30) if text is None else text)
    rights = {"license": "CC0-1.0", "origin": f"https://a.example/{name}", "consent": "opt-in"}
    return Document(record_id("raw", name), "raw", name, domain, (body,), **rights | more)


def with_pictures(name: str, *seeds: int) -> Document:
    payloads = [small_data.image(seed) for seed in seeds]
    media = [Media(sha256(data).hexdigest(), "image", "png", 40, 30, payload=data) for data in payloads]
    return replace(document(name), parts=(Text("Look."), *media))


def texts(number: int = 12) -> dict[str, list[Document]]:
    return {f"u{unit}": [document(f"{unit}-{row}") for row in range(unit, number, 3)] for unit in range(3)}


def node(chat: Chat, over: Snapshot, task: Json | None = None, **more: Any) -> Synthesize:
    parameters = task or {}
    if parameters.get("kind") != "caption":
        parameters = {"kind": "rephrase", "chunk_characters": 120} | parameters
    fields = {
        "kind": "synthesize",
        "input": over.name,
        "endpoint": {"url": chat.url, "at_once": 4, "deadline_s": 20.0},
        "model": "m",
        "task": parameters,
    }
    return pydantic.TypeAdapter(Synthesize).validate_json(json.dumps(fields | more))


def made(
    folder: Path, synthesize: Synthesize, over: Snapshot, place: str = "made", seed: int = 0
) -> tuple[Snapshot, list[Outcome]]:
    """Run all units of a node `made`, in an order that `seed` chooses, and commit them together."""
    inputs = {over.name: product(over)}
    wanted = graph.unit_names("made", synthesize, synthesize.survey("made", inputs))
    store = Store.create(str(folder / place), "documents", "made")
    todo = list(wanted.items())
    random.Random(seed).shuffle(todo)
    tasks = [StoreTask(synthesize, store.url, name, UnitTask("made", unit, inputs), 50, 0.5) for name, unit in todo]
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
def test_chunks_join_to_the_text_and_their_number_follows_from_its_length(text: str, most: int) -> None:
    pieces = chunks(text, chunk_count(len(text), most))
    assert "".join(pieces) == text and len(pieces) == chunk_count(len(text), most)
    assert all(0 < len(chunk) <= 1.5 * most + 1 for chunk in pieces)


def test_a_formula_is_not_cut_and_a_price_is_no_formula() -> None:
    text = "So we add both. " * 6 + "$a + b + c + d + e + f$ is what we get. " + "And so it goes on. " * 6
    for most in range(30, 160):
        assert sum(map(len, map(formulas, chunks(text, chunk_count(len(text), most))))) == 1 or most < 60
    assert formulas("from $5 to $10, \\( a \\) and $$b\n c$$") == ["\\(a\\)", "$$bc$$"]


@pytest.mark.parametrize("mark", ["\\[", "$$ ", "\\begin{a}", "$a "])
def test_formulas_without_an_end_take_linear_time(mark: str) -> None:
    began = time.process_time()
    text = mark * 20_000
    assert "".join(chunks(text, chunk_count(len(text), 60))) == text
    assert time.process_time() - began < 5


# -------------------------------------------------------------------- tasks


def test_rephrasings_have_lineage_inherited_rights_and_different_styles(chat: Chat, folder: Path) -> None:
    over = stored(folder, texts())
    snapshot, _ = made(folder, node(chat, over, {"per_document": 2}), over)
    parents = {parent.id: parent for parent in over.records()}
    rephrasings = list(snapshot.records())
    assert len(rephrasings) == 24 and len({each.id for each in rephrasings}) == 24
    for each in rephrasings:
        parent = parents[each.parents[0]]
        assert (each.source, each.domain, each.license, each.origin, each.consent) == (
            "made", parent.domain, parent.license, parent.origin, parent.consent,
        )  # fmt: skip
        words = [word for word in each.text.split() if not word.startswith("(")]
        assert Counter(words) == Counter(parent.text.split())
        assert each.notes["synthetic"] is True and each.notes["model"] == "m" and each.notes["fidelity"] == 0.9
        assert each.notes["prompt"] in prompts.STYLES
        cached = {file.stem for file in (folder / "answers" / parent.id).iterdir()}
        assert each.notes["requests"] and set(each.notes["requests"]) <= cached
    assert len({(each.parents[0], each.notes["prompt"]) for each in rephrasings}) == 24
    assert len({each.notes["prompt"] for each in rephrasings}) > 5


def test_each_chunk_follows_the_previous_one_and_is_compared(chat: Chat, folder: Path) -> None:
    over = stored(folder, {"u": [document("long", small_data.text(3, 100))]})
    synthesize = node(chat, over, {"context_characters": 40})
    snapshot, _ = made(folder, synthesize, over)
    (written,) = snapshot.records()
    requests = [json.loads(body) for body in chat.seen]
    whole = over.record(0).text
    assert len(requests) == 2 * chunk_count(len(whole), 120) == synthesize.task.requests(len(whole), [])
    rewriting = [last_text(request) for request in requests if "First:" not in last_text(request)]
    last = written.text.split("\n\n")
    assert "So ends" not in rewriting[0]
    assert all(f"<<<\n{before[-40:]}\n>>>" in text for before, text in zip(last, rewriting[1:], strict=False))
    assert len({request["seed"] for request in requests}) == len(requests)


def test_a_text_in_parts_sends_no_more_requests_than_the_index_predicts(chat: Chat, folder: Path) -> None:
    parts = (Text("some words here " * 15), Text("and more of them " * 14 + "so"))
    over = stored(folder, {"u": [replace(document("parts"), parts=parts)]})
    (characters,) = over.table(["characters"]).column("characters").to_pylist()
    assert characters == 480 < len(over.record(0).text)
    synthesize = node(chat, over)
    made(folder, synthesize, over)
    assert sum(chat.seen.values()) == synthesize.task.requests(characters, []) == 8


def test_math_becomes_notes_and_a_translation_keeps_its_formulas(chat: Chat, folder: Path) -> None:
    over = stored(folder, {"u": [document(f"{i}", f"Es gilt $x_{i} + 1$ und mehr.", "math") for i in range(6)]})
    snapshot, _ = made(folder, node(chat, over), over)
    assert {each.notes["prompt"] for each in snapshot.records()} <= set(prompts.MATH_STYLES)
    loses = record_id("raw", "4")

    def reply(request: Json) -> str:
        if "whole number" in last_text(request):
            return "88 of 100"
        assert "into English" in request["messages"][0]["content"]
        text = last_text(request).partition("<<<\n")[2].partition("\n>>>")[0]
        return text.replace("Es gilt", "We have").replace("$x_4 + 1$", "$x_4$").replace("+", " +  ")

    chat.reply = reply
    snapshot, _ = made(folder, node(chat, over, {"kind": "translate", "into": "English"}), over, "english")
    assert len(list(snapshot.records())) == 5 and reasons(snapshot) == {loses: "formula_lost"}
    assert all(each.text.startswith("We have $x_") for each in snapshot.records())
    assert all(each.notes["language"] == "English" for each in snapshot.records())


def test_pictures_get_captions_with_their_bytes(chat: Chat, folder: Path) -> None:
    over = stored(folder, {"u": [with_pictures("a", 1, 2), with_pictures("b", 3), document("c")]})
    snapshot, outcomes = made(folder, node(chat, over, {"kind": "caption"}), over)
    captions = list(snapshot.documents(range(3)))
    assert sorted(each.media[0].payload or b"" for each in captions) == sorted(small_data.image(i) for i in (1, 2, 3))
    assert all(each.domain == "caption" and each.text.startswith("A picture ") for each in captions)
    assert noted(outcomes) == {"no_image": 1}
    assert all("base64," not in file.read_text() for file in (folder / "answers").rglob("*.json"))


def test_unusable_answers_are_quarantined_and_other_documents_skipped(chat: Chat, folder: Path) -> None:
    bad: dict[str, Any] = {
        "refused": {"message": {"content": "No.", "refusal": "policy"}, "finish_reason": "stop"},
        "answer_cut": {"message": {"content": "and so"}, "finish_reason": "length"},
        "empty_answer": {"message": {"content": " \n"}, "finish_reason": "stop"},
        "answer_too_long": "word " * 1000,
    }
    verdicts = {"unfaithful": "40", "no_verdict": "Quite well!"}
    texts = [document(name, f"{name} is the first word here.") for name in [*bad, *verdicts, "fine"]]
    other = [
        with_pictures("shown", 1),
        document("talk", notes={"messages": [{"role": "user"}]}),
        document("blank", " "),
    ]
    over = stored(folder, {"u": texts + other})

    def reply(request: Json) -> Any:
        text = last_text(request)
        name = next(each.locator for each in texts if each.locator in text)
        if "whole number" in text:
            return verdicts.get(name, "100")
        return bad.get(name) or default_reply(request) + f" {name}"

    chat.reply = reply
    snapshot, outcomes = made(folder, node(chat, over), over)
    assert reasons(snapshot) == {record_id("raw", name): name for name in [*bad, *verdicts]}
    assert [each.parents for each in snapshot.records()] == [(record_id("raw", "fine"),)]
    assert noted(outcomes) == {"has_media": 1, "conversation": 1, "no_text": 1}


# -------------------------------------------------------------------- cached answers and failures


def test_content_does_not_depend_on_order_and_a_second_run_sends_no_request(chat: Chat, folder: Path) -> None:
    over = stored(folder, texts())
    synthesize = node(chat, over)
    dice = random.Random(0)
    chat.delay = lambda request: dice.uniform(0, 0.02)
    chat.rule = lambda request, again: "429" if again == 0 and request["seed"] % 3 == 0 else None
    first, _ = made(folder, synthesize, over)
    sent = sum(chat.seen.values())
    assert sent > len(chat.answered) and set(chat.answered.values()) == {1}
    moved = replace(synthesize, endpoint=replace(synthesize.endpoint, at_once=1, url=chat.url + "/v1/"))
    again, _ = made(folder, moved, over, "again", seed=1)
    assert again.content_root == first.content_root and sum(chat.seen.values()) == sent


def test_a_failed_endpoint_stops_the_run_and_answered_requests_are_not_repeated(chat: Chat, folder: Path) -> None:
    over = stored(folder, texts())
    synthesize = node(chat, over)
    chat.rule = lambda request, again: "500" if len(chat.answered) > 11 else None
    hasty = replace(synthesize, endpoint=replace(synthesize.endpoint, deadline_s=1.0))
    with pytest.raises(MillraceError, match="no good answer"):
        made(folder, hasty, over)
    cached = len(list((folder / "answers").rglob("*.json")))
    chat.reset()
    snapshot, _ = made(folder, synthesize, over, "again")
    needed = sum(len(each.notes["requests"]) for each in snapshot.records())
    assert cached > 4 and sum(chat.seen.values()) == needed - cached


@pytest.mark.parametrize("most", [0, 5, 21, 30])
def test_a_budget_bounds_requests_and_skips_documents_by_hash(chat: Chat, folder: Path, most: int) -> None:
    over = stored(folder, texts(9) | {"pictures": [with_pictures("p", 1)]})

    def chosen(place: str, **budget: int) -> tuple[set[str], int]:
        """Ids of the rephrased documents, and the number of requests."""
        shutil.rmtree(folder / "answers", ignore_errors=True)
        chat.seen.clear()
        snapshot, outcomes = made(folder, node(chat, over, budget=budget, seed=1), over, place)
        parents = {each.parents[0] for each in snapshot.records()}
        assert noted(outcomes).get("over_budget", 0) == 9 - len(parents)
        return parents, sum(chat.seen.values())

    fits, sent = chosen("limited", max_requests=most)
    assert sent <= most and len(fits) < 9
    wider, _ = chosen("wider", max_requests=most + 8)
    assert fits < wider
    assert chosen("tokens", max_answer_tokens=most * 4096 + 4095)[0] == fits
    assert len(chosen("free", max_requests=10**6)[0]) == 9


# -------------------------------------------------------------------- whole runs


DAG = """
name: synthetic
nodes:
  documents: {{kind: ingest_folder, path: ./data}}
  synthetic:
    kind: synthesize
    input: documents
    endpoint: {{url: "{url}", at_once: 2}}
    model: m
    task: {{kind: rephrase, per_document: 2}}
"""


def test_a_killed_run_repeats_no_answered_request_and_forget_deletes_answers(chat: Chat, tmp_path: Path) -> None:
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
    cached = {file.stem for file in (tmp_path / "out" / "answers").rglob("*.json")}
    assert len(cached) >= 38
    chat.reset()
    run(tmp_path / "dag.yaml", tmp_path / "out", workers=2)
    sent = sum(chat.seen.values())
    assert sent == 160 - len(cached)
    before = roots(tmp_path / "out", ["synthetic"])

    name = next(each.id for each in head(tmp_path / "out", "documents").records() if each.locator == "07.txt")
    (explained,) = explain.explain(tmp_path / "out", name)["records"]
    children = [each for each in head(tmp_path / "out", "synthetic").records() if each.parents == (name,)]
    assert [row["id"] for row in explained["derived"]] == [child.id for child in children] and len(children) == 2
    assert [row["variant"].partition("-")[2] for row in explained["derived"]] == [
        child.notes["prompt"] for child in children
    ]
    none: frozenset[str] = frozenset()
    names = {"ids": frozenset([name]), "sources": none, "places": none, "media": none}
    receipt = forget(str(tmp_path / "out"), names)  # type: ignore[arg-type]
    assert receipt["cached_responses"] == 4 and receipt["records"] == {"documents": 1, "synthetic": 2}
    assert not traces(tmp_path / "out", [canary.encode(), canary.split()[0].encode()])
    assert "already committed" in run(tmp_path / "dag.yaml", tmp_path / "out")
    assert roots(tmp_path / "out", ["synthetic"]) == before and sum(chat.seen.values()) == sent
