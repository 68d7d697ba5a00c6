"""Scores of a user's model as columns: from code, a fastText file, an endpoint; a failing document costs only
itself."""

from __future__ import annotations

import base64
import json
import math
import random
import shutil
import tempfile
import zlib
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pydantic
import pytest

from manifests.errors import ManifestError, MillraceError
from manifests.records import Document, Json, Media, Text, record_id
from pipelines.catalogue import NODES
from pipelines.dag import graph
from pipelines.dag.unit import Outcome, StoreTask, run_unit
from pipelines.inspect.explain import explain
from pipelines.inspect.what_if import what_if
from pipelines.node import UnitTask
from stores.store import Snapshot, Store
from tests.pipelines import small_data
from tests.pipelines.build.test_materialize import product, stored
from tests.pipelines.dag.test_run import head, run
from tests.servers.chat import Chat, last_text

CODE = """
def length(documents, least=0, weights=None):
    if any("poison" in document.text for document in documents):
        raise RuntimeError("no scores for this batch")
    extra = int(open(weights).read()) if weights else 0
    texts = [document.text for document in documents]
    return [float("nan") if "blank" in text else len(text) + extra if len(text) > least else 0 for text in texts]

def too_few(documents):
    return [1.0] * (len(documents) - 1)

def endless(documents):
    return [float("inf")] * len(documents)

def bright(documents):
    from io import BytesIO
    from PIL import Image
    return [sum(Image.open(BytesIO(document.media[0].payload)).convert("L").tobytes()) / 1200 for document in documents]

class Model:
    made = 0
    def __init__(self, least):
        Model.made += 1
        self.least = least
    def __call__(self, documents):
        return [Model.made * 1000 + self.least for document in documents]
"""


@pytest.fixture
def here(quick_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=quick_folder))


def document(name: str, text: str | None = None, domain: str = "web", pictures: tuple[int, ...] = ()) -> Document:
    payloads = [small_data.image(seed) for seed in pictures]
    media = [Media(sha256(data).hexdigest(), "image", "png", 40, 30, payload=data) for data in payloads]
    words = Text(f"{name} is said. " * 3 if text is None else text)
    return Document(record_id("raw", name), "raw", name, domain, (*media, words))


def texts(count: int = 30) -> dict[str, list[Document]]:
    return {f"u{unit}": [document(f"d{row}", "x" * (row + 1)) for row in range(unit, count, 3)] for unit in range(3)}


def node(kind: str, over: Snapshot, **fields: Any) -> Any:
    return pydantic.TypeAdapter(NODES[kind]).validate_json(json.dumps({"kind": kind, "input": over.name, **fields}))


def function(over: Snapshot, folder: Path, name: str, **fields: Any) -> Any:
    (folder / "own.py").write_text(CODE)
    return node("score_function", over, function=f"{folder / 'own.py'}:{name}", version="1", **fields)


def made(folder: Path, scorer: Any, over: Snapshot, place: str = "scored") -> tuple[Snapshot, list[Outcome]]:
    inputs = {over.name: product(over)}
    wanted = graph.unit_names(place, scorer, scorer.survey(place, inputs))
    store = Store.create(str(folder / place), "view", place)
    tasks = [
        StoreTask(scorer, store.url, stored_as, UnitTask(place, unit, inputs), 50, 0.5)
        for stored_as, unit in wanted.items()
    ]
    random.Random(0).shuffle(tasks)
    outcomes = [run_unit(task, frozenset(), lambda ordinal: None) for task in tasks]
    receipts = [outcome.receipt for outcome in outcomes]
    meta = outcomes[0].meta
    return store.commit(receipts, node=place, units=list(wanted), parents=[over.as_parent], meta=meta), outcomes


def scores(view: Snapshot, place: str = "scored") -> dict[str, float | None]:
    """Scores by locator, None for NaN."""
    table = view.table(["locator", f"{place}.score"])
    pairs = zip(table["locator"].to_pylist(), table[f"{place}.score"].to_pylist(), strict=True)
    return {name: None if math.isnan(score) else score for name, score in pairs}


def reasons(view: Snapshot) -> dict[str, str]:
    table = view.table(["locator", "keep", "reason"]).to_pylist()
    return {row["locator"]: row["reason"] for row in table if not row["keep"]}


def noted(outcomes: list[Outcome]) -> dict[str, int]:
    return dict(sum((outcome.counts.noted for outcome in outcomes), Counter()))


# -------------------------------------------------------------------- code


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_code_scores_in_batches_and_a_bad_document_costs_only_itself(here: Path, batch: int) -> None:
    odd = [document("p", "poison"), document("b", "blank"), document("k", "a long line", "knowledge")]
    over = stored(here, texts() | {"odd": odd})
    scorer = function(over, here, "length", batch=batch, domains=["web"], min_score=10, max_score=20)
    view, _ = made(here, scorer, over)
    expected: dict[str, float | None] = {f"d{row}": row + 1 for row in range(30)}
    assert scores(view) == expected | {"p": None, "b": None, "k": None}
    short = {f"d{row}": "low_score" for row in range(9)}
    assert reasons(view) == short | {f"d{row}": "high_score" for row in range(20, 30)} | {"p": "unusable"}
    aside = {row["locator"]: row["message"] for row in view.quarantined().to_pylist()}
    assert aside == {"p": "RuntimeError: no scores for this batch"}


@pytest.mark.parametrize(("name", "reason"), [("too_few", "wrong_scores"), ("endless", "infinite_score")])
def test_documents_without_a_valid_score_are_quarantined(here: Path, name: str, reason: str) -> None:
    over = stored(here, {"u": [document("a"), document("b")]})
    view, _ = made(here, function(over, here, name), over)
    assert {row["reason"] for row in view.quarantined().to_pylist()} == {reason}
    assert set(reasons(view).values()) == {"unusable"}


def test_code_gets_pictures_and_a_class_is_made_once(here: Path) -> None:
    over = stored(
        here, {"u": [document("a", pictures=(1,)), document("b", pictures=(2,))], "v": [document("c", pictures=(3,))]}
    )
    view, _ = made(here, function(over, here, "bright", media=True), over, "bright")
    assert len(set(scores(view, "bright").values())) == 3 and all(
        0 < (v or 0) < 255 for v in scores(view, "bright").values()
    )
    view, _ = made(here, function(over, here, "Model", arguments={"least": 7}), over, "own")
    assert set(scores(view, "own").values()) == {1007.0}


def test_identity_covers_the_code_and_not_its_path(here: Path) -> None:
    over = stored(here, texts())
    inputs = {over.name: product(over)}
    (here / "weights").write_text("5")

    def identity(scorer: Any) -> str:
        return graph.identity("scored", scorer, inputs, scorer.survey("scored", inputs))

    first = function(over, here, "length", files={"weights": str(here / "weights")})
    before = identity(first)
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    for file in ("own.py", "weights"):
        shutil.copy(here / file, elsewhere / file)
    moved = replace(first, function=f"{elsewhere / 'own.py'}:length", files={"weights": str(elsewhere / "weights")})
    assert identity(moved) == before
    assert identity(replace(first, version="2")) != before
    assert identity(replace(first, arguments={"least": 3})) != before
    (here / "weights").write_text("66")
    assert identity(first) != before
    view, _ = made(here, first, over)
    assert scores(view)["d0"] == 67


def test_missing_code_stops_the_run_with_a_fix(here: Path) -> None:
    over = stored(here, {"u": [document("a")]})
    for name in (f"{here / 'own.py'}:nothing", "no_such_package_here:score"):
        with pytest.raises(ManifestError, match="can't be imported"):
            made(here, replace(function(over, here, "length"), function=name), over, f"x{len(name)}")
    with pytest.raises(ManifestError, match="can't be read"):
        made(here, replace(function(over, here, "length"), function=f"{here / 'gone.py'}:length"), over, "y")


# -------------------------------------------------------------------- fastText

MODEL = (
    "c-q?~=C9Agz`(!(#H>Ip3B-(0Hi%}1Vq}m4#JbKhuOFF7*@N_Q0WlL0Ur>O^|A&H-jMSpkwEUt}hUqXPa#C}16B+tp+=8O~{4|DE7#FAks5+"
    "M+6(*3JSe%)c&+wcH%1<h-WVj9EBxj^17BJj^amzFF@=}W!PQs;gGLy3z*21_p`o(q(5inkSd`@CgYEFE7dVYQigAOA^lo2kRl!zn>_8<c^k"
    "U$`GSNQ(pQ@!oa1uE{(6ARhrV({1Qjrwofo_7lNZZ{9vD133=-~PtJzNSNHzxGmxeOrG$wR2K>Vr#1>WdG#P2AljU`~B6MP3$-6^Y1sax7oL"
    "S*8{uQH}`CVuJhTi|Fp(t#{sMTb+!if-<NUkUp~`(U$5S6JGGpfwrc~p?XRv~VN(+7V4u=tx_|y<e*4X0wst<dAMW#ebAPXKHUIwC+t==qu&"
    "}c~(`3AVtsS4e5|g#vIs5zjW|iLE%l({pfAP81dqf57?5ksq_rFr$v*)^PWfvfLe_xgR-Mw`udG}9SwR(^LNo)IA=7#&ja(V0x=ULd*r{39T"
    "vhdd4tzta;&F8G#6FS4xJ|RJSzt$Ocd#w&5yY-4!_dUzLymxj5`+g19C3`B3@@!2`CG4${H?n=En`N`*IQQNIE4cP3Y%<)tT;=*M1}3xsefs"
    "hA{`B$#_7+Vu_Wx}-vCljv-~Mz#uH6Hb8TNiA7PhZGp0)?d@3(83Vb9Tc!p<%xfB)@*+<muHX6z3$vDga$*PQGQ"
)
"""Model of fastText 0.9.2 (`fasttext-wheel`, one thread), trained on 600 lines of twelve words: four of mathematics are
`good`, five of advertising `bad`; dim 8, 25 epochs, rate 0.05, no subwords. zlib in base 85."""
PROBABILITIES = {"theorem proof buy": 0.8640874624252319, "": 0.3461166322231293}
"""Probabilities of `good` by that build."""


def test_a_fasttext_classifier_gives_the_probability_of_its_label(here: Path) -> None:
    pytest.importorskip("fasttext", reason="fastText is not installed: pip install 'millrace[fasttext]'")
    (here / "model.bin").write_bytes(zlib.decompress(base64.b85decode(MODEL)))
    texts = {"mixed": "theorem proof\nbuy", "unknown": "zzz", "ad": "buy cheap casino", "empty": " \n"}
    over = stored(here, {"u": [document(name, text) for name, text in texts.items()]})
    scorer = node("score_fasttext", over, model=str(here / "model.bin"), label="good", min_score=0.3)
    view, outcomes = made(here, scorer, over)
    by_locator = scores(view)
    assert by_locator["mixed"] == pytest.approx(PROBABILITIES["theorem proof buy"], abs=1e-6)
    assert by_locator["unknown"] == pytest.approx(PROBABILITIES[""], abs=1e-6)
    assert by_locator["ad"] is not None and by_locator["ad"] < 0.05 and by_locator["empty"] is None
    assert reasons(view) == {"ad": "low_score"} and noted(outcomes) == {"no_text": 1}
    with pytest.raises(ManifestError, match="knows no __label__best"):
        made(here, replace(scorer, label="best"), over, "other")
    (here / "model.bin").write_bytes(b"no model")
    with pytest.raises(ManifestError, match="no fastText model"):
        made(here, scorer, over, "broken")


# -------------------------------------------------------------------- endpoints


def opinion(over: Snapshot, chat: Chat, **fields: Any) -> Any:
    endpoint = {"url": chat.url, "at_once": 4, "deadline_s": 20.0}
    return node("score_endpoint", over, endpoint=endpoint, model="m", question="How much does it teach?", **fields)


def test_a_rating_is_a_number_on_the_scale_and_requested_once(chat: Chat, here: Path) -> None:
    answers_by_locator = {
        "plain": "4",
        "json": '{"score": 3.5}',
        "thought": 'I said {"score": 1} at first.\n{"score":2}',
        "minus": '{"score": -1}',
        "words": "Four of 5",
        "high": '{"score": 9}',
        "blank": "",
    }
    by_unit = {"u": [document(name) for name in answers_by_locator] + [document("none", " ")]}
    over = stored(here, by_unit)
    chat.reply = lambda request: next(
        answer for name, answer in answers_by_locator.items() if f"{name} is said" in last_text(request)
    )
    chat.rule = lambda request, again: "429" if again == 0 and "plain is" in last_text(request) else None
    scorer = opinion(over, chat, min_score=3, scale=[-1, 5])
    view, outcomes = made(here, scorer, over)
    assert scores(view) == dict.fromkeys([*answers_by_locator, "none"]) | {
        "plain": 4,
        "json": 3.5,
        "thought": 2,
        "minus": -1,
    }
    assert reasons(view) == {"thought": "low_score", "minus": "low_score"} | dict.fromkeys(
        ["words", "high", "blank"], "unusable"
    )
    aside = {row["locator"]: row["reason"] for row in view.quarantined().to_pylist()}
    assert aside == {"words": "no_score", "high": "score_off_scale", "blank": "empty_answer"}
    assert noted(outcomes) == {"nothing_to_show": 1}
    asked = sum(chat.seen.values())
    again, _ = made(here, replace(scorer, min_score=1.0), over, "again")
    assert (
        sum(chat.seen.values()) == asked and reasons(again)["minus"] == "low_score" and "thought" not in reasons(again)
    )


def test_documents_over_the_budget_have_no_score_and_pictures_are_sent(chat: Chat, here: Path) -> None:
    over = stored(here, {"u": [document(f"p{i}", pictures=(i, i + 50)) for i in range(6)]})
    chat.reply = lambda request: '{"score": 1}'
    view, outcomes = made(here, opinion(over, chat, budget={"max_requests": 4}, pictures=1, min_score=2), over)
    assert len(reasons(view)) == 4 and list(scores(view).values()).count(None) == 2
    assert noted(outcomes) == {"over_budget": 2}
    assert len(chat.seen) == 4 and all(body.count("base64,") == 1 for body in chat.seen)


def test_an_unreachable_endpoint_stops_the_run(chat: Chat, here: Path) -> None:
    over = stored(here, {"u": [document("a")]})
    chat.rule = lambda request, again: "500"
    scorer = opinion(over, chat)
    with pytest.raises(MillraceError, match="no good answer"):
        made(here, replace(scorer, endpoint=replace(scorer.endpoint, deadline_s=0.5)), over)


def test_agreement_is_the_cosine_of_the_best_picture(chat: Chat, here: Path) -> None:
    pairs = [document("near", pictures=(1,)), document("far", pictures=(2,)), document("both", pictures=(2, 3))]
    odd = [document("zero", pictures=(4,)), document("length", pictures=(5,)), document("alone")]
    over = stored(here, {"u": pairs + odd})
    by_picture = {sha256(small_data.image(seed)).hexdigest(): seed for seed in range(1, 6)}
    vectors = {1: [0.8, 0.6], 2: [0.0, 2.0], 3: [3.0, 3.0], 4: [0.0, 0.0], 5: [1.0, 0.0, 0.0]}

    def vector(request: Json) -> list[float]:
        if "input" in request:
            return [2.0, 0.0]
        shown = request["messages"][0]["content"][0]["image_url"]["url"].partition("base64,")[2]
        return vectors[by_picture[sha256(base64.b64decode(shown)).hexdigest()]]

    chat.vector = vector
    endpoint = {"url": chat.url, "deadline_s": 20.0}
    scorer = node("score_agreement", over, endpoint=endpoint, model="m", min_score=0.3)
    view, outcomes = made(here, scorer, over)
    expected = {"near": 0.8, "far": 0.0, "both": 0.707107, "zero": None, "length": None, "alone": None}
    assert scores(view) == pytest.approx(expected)
    assert reasons(view) == {"far": "low_score", "zero": "unusable", "length": "unusable"}
    assert {row["reason"] for row in view.quarantined().to_pylist()} == {"zero_vector", "wrong_schema"}
    assert noted(outcomes) == {"no_image": 1}
    asked = sum(chat.seen.values())
    again, _ = made(here, scorer, over, "again")
    assert scores(again, "again") == scores(view) and sum(chat.seen.values()) == asked + 1  # an error is not kept


# -------------------------------------------------------------------- in a run


DAG = """
name: scored
nodes:
  documents: {kind: ingest_folder, path: ./data}
  quality:
    kind: score_function
    input: documents
    function: ./own.py:length
    version: "1"
    LIMIT
"""


def test_limits_can_be_moved_afterwards_and_explain_names_them(here: Path) -> None:
    (here / "data").mkdir()
    (here / "own.py").write_text(CODE)
    for row in range(12):
        (here / "data" / f"{row:02d}.txt").write_text("A" * (10 + row))
    (here / "dag.yaml").write_text(DAG.replace("LIMIT", ""))
    run(here / "dag.yaml", here / "out", workers=1)
    view = head(here / "out", "quality")
    (row,) = what_if(view, ["score.min_score=15"])["kept"]
    assert (row["documents"], row["documents_after"]) == (12, 7)
    (here / "dag.yaml").write_text(DAG.replace("LIMIT", "min_score: 15"))
    run(here / "dag.yaml", here / "out")
    view = head(here / "out", "quality")
    assert int(view.table(["keep"])["keep"].to_numpy().sum()) == 7
    assert what_if(view, ["score.min_score=0"])["kept"][0]["documents_after"] == 12
    explained = json.dumps(explain(here / "out", "03.txt"))
    assert (
        '"decision": "dropped: low_score"' in explained
        and '"value": 13.0' in explained
        and '"limit": "at least 15"' in explained
    )
