"""Rows of conversations and of problems to documents: every form, every refusal, and real files."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest

from manifests.conversation import Call, Conversation, Message, conversation_in
from manifests.errors import RecordError
from manifests.records import Document, Json, Media, Text, digest
from pipelines.ingest.annotations import conversations, problems
from tests.pipelines.dag.test_run import head, run
from tests.pipelines.small_data import image
from tokenization.chat import Chat, encode_conversation
from tokenization.encode import decode_sample
from tokenization.vocabulary import Vocabulary

tiny = Vocabulary.load("tiny")


def load(target: str) -> Media:
    return Media(digest(target), "image", "png", 8, 8)


def user(text: str) -> Message:
    return Message("user", (Text(text),))


def reply(text: str, thinking: str = "", *calls: Call) -> Message:
    return Message("assistant", (Text(text),) if text else (), thinking, calls)


def result(text: str, answers: int, name: str = "") -> Message:
    return Message("tool", (Text(text),), answers=answers, name=name)


F = {"name": "f", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": F}
CALLS = [
    {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":  1}'}},
    {"id": "b", "type": "function", "function": {"name": "g", "arguments": {"y": "é"}}},
]
TWO = (Call("f", '{"x":  1}'), Call("g", '{"y": "é"}'))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {
                "messages": [
                    {"role": "developer", "content": "S"},
                    {"role": "user", "content": [{"type": "text", "text": "Q"}], "name": "Ann"},
                    {"role": "assistant", "content": None, "reasoning_content": "T", "tool_calls": CALLS},
                    {"role": "tool", "tool_call_id": "b", "content": "rb"},
                    {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "ra"}], "name": "f"},
                    {"role": "assistant", "content": "A"},
                ],
                "tools": [WRAPPED],
            },
            Conversation(
                (
                    Message("system", (Text("S"),)),
                    Message("user", (Text("Q"),), name="Ann"),
                    reply("", "T", *TWO),
                    result("rb", 1),
                    result("ra", 0, "f"),
                    reply("A"),
                ),
                (WRAPPED,),
            ),
        ),
        (
            {
                "system": "S",
                "tools": json.dumps([F]),
                "conversations": [
                    {"from": "human", "value": "Q"},
                    {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                    {"from": "observation", "value": "r"},
                    {"from": "gpt", "value": "<think>\nT\n</think>\n\nA"},
                ],
            },
            Conversation(
                (
                    Message("system", (Text("S"),)),
                    user("Q"),
                    reply("", "", Call("f", '{"x": 1}')),
                    result("r", 0),
                    reply("A", "T"),
                ),
                (WRAPPED,),
            ),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Q"},
                    {
                        "from": "gpt",
                        "value": 'So.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
                        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
                    },
                    {
                        "from": "tool",
                        "value": "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>",
                    },
                    {"from": "gpt", "value": "A"},
                ]
            },
            Conversation(
                (
                    user("Q"),
                    reply("So.", "", Call("f", "{}"), Call("g", "{}")),
                    result("1", 0),
                    result("2", 1),
                    reply("A"),
                )
            ),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "Q"},
                    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
                    {"role": "function", "name": "f", "content": "r"},
                ]
            },
            Conversation((user("Q"), reply("", "", Call("f", "{}")), result("r", 0, "f"))),
        ),
        (
            {"query": "Q", "tools": json.dumps([F]), "answers": '[{"name": "f", "arguments": {"x": 1}}]'},
            Conversation((user("Q"), reply("", "", Call("f", '{"x": 1}'))), (WRAPPED,)),
        ),
        (
            {
                "problem_statement": "Fix it.",
                "trajectory": [
                    {"thought": "Look.", "action": "ls", "observation": "a.py"},
                    {"thought": "Done.", "action": "submit", "observation": ""},
                ],
            },
            Conversation(
                (
                    user("Fix it."),
                    reply("Look.", "", Call("bash", '{"command": "ls"}')),
                    result("a.py", 0),
                    reply("Done.", "", Call("bash", '{"command": "submit"}')),
                    Message("tool", answers=1),
                )
            ),
        ),
        (
            {"id": 1, "question": [[{"role": "user", "content": "Q"}]], "function": [F]},
            Conversation((user("Q"),), (WRAPPED,)),
        ),
    ],
    ids=["openai", "sharegpt", "tags", "function_call", "query", "trajectory", "question"],
)
def test_every_form_gives_the_same_kind_of_conversation(row: dict[str, Json], expected: Conversation) -> None:
    assert conversations.holds_conversation(row)
    assert conversations.read_conversation(row, load) == expected
    assert conversations.read_conversation(json.loads(json.dumps(row)), load) == expected


def digests(*names: str) -> list[str]:
    return [digest(name) for name in names]


@pytest.mark.parametrize(
    ("row", "order"),
    [
        (
            {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nQ"}]},
            [*digests("a.png"), "Q"],
        ),
        ({"image": "a.png", "conversations": [{"from": "human", "value": "Q"}]}, [*digests("a.png"), "Q"]),
        (
            {"images": ["a", "b"], "messages": [{"role": "user", "content": "one <image> two <image>"}]},
            ["one ", *digests("a"), " two ", *digests("b")],
        ),
        (
            {
                "images": ["a"],
                "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}],
            },
            [*digests("a"), "Q"],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x/a.png"}}, "Q"]}]},
            [*digests("x/a.png"), "Q"],
        ),
        ({"messages": [{"role": "user", "content": "no <image> here"}]}, ["no <image> here"]),
    ],
)
def test_media_are_placed_at_their_markers(row: dict[str, Json], order: list[str]) -> None:
    (message,) = conversations.read_conversation(row, load).messages
    assert [part.text if isinstance(part, Text) else part.digest for part in message.content] == order


U, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "empty_conversation"),
        ({"messages": [U, {"role": "critic", "content": "x"}]}, "unknown_role"),
        ({"messages": [U, {"content": "x"}]}, "unknown_role"),
        ({"messages": [U, "x"]}, "unknown_role"),
        ({"messages": [A, U]}, "roles_out_of_order"),
        ({"messages": [U, U, A]}, "roles_out_of_order"),
        ({"messages": [U, A, {"role": "system", "content": "x"}]}, "roles_out_of_order"),
        ({"messages": [U, {"role": "tool", "content": "x"}, A]}, "result_without_call"),
        ({"messages": [U, {**A, "tool_calls": CALLS}, {"role": "tool", "tool_call_id": "z"}]}, "result_without_call"),
        ({"messages": [U, {**A, "tool_calls": CALLS}, {"role": "tool", "content": "x"}, A]}, "call_without_result"),
        ({"messages": [U, {**A, "tool_calls": [{"name": 3}]}]}, "bad_call"),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": "f()"}]}, "bad_call"),
        ({"messages": [U, {**A, "content": "<tool_call>{f}</tool_call>"}]}, "bad_call"),
        ({"messages": [{"role": "user", "content": ""}, A]}, "empty_message"),
        ({"messages": [U, {"role": "assistant", "content": ""}]}, "empty_message"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "bad_message"),
        ({"messages": [U, A], "tools": ["f"]}, "bad_tools"),
        ({"images": ["a"], "messages": [{"role": "user", "content": "<image><image>"}]}, "missing_media"),
        ({"images": ["a", "b"], "messages": [{"role": "user", "content": "<image>"}, A]}, "media_left_over"),
        ({"messages": [U, {"role": "assistant", "content": [{"type": "image", "image": "a"}]}]}, "media_in_answer"),
        ({"messages": [{"role": "user", "content": "a\0b"}, A]}, "binary"),
        ({"messages": [{"role": "user", "content": "\ud800"}, A]}, "lone_surrogate"),
        ({"trajectory": [{"action": "ls"}]}, "no_task"),
    ],
)
def test_malformed_conversations_are_refused_with_a_reason(row: dict[str, Json], reason: str) -> None:
    assert conversations.holds_conversation(row)
    with pytest.raises(RecordError) as caught:
        conversations.read_conversation(row, load)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x", "history": [["Q", "A"]]},
        {"text": "x", "history": [{"edited": "yesterday"}]},
        {"question": "Q", "answer": "A"},
        {"conversation": ["Hi.", "Hello."], "text": "x"},
        ["x"],
    ],
)
def test_other_lists_are_no_conversations(row: Json) -> None:
    assert not conversations.holds_conversation(row)


@pytest.mark.parametrize(
    ("row", "notes"),
    [
        ({"question": "Q", "answer": "It is 7 * 6.\n#### 42"}, {"answer": "42"}),
        ({"problem": "P", "solution": r"So \boxed{\frac{1}{2}}."}, {"answer": r"\frac{1}{2}"}),
        ({"problem": "P", "solution": "So 3.", "answer": 3}, {"answer": "3"}),
        ({"question": "Q", "answer": "x" * 300}, {}),
        (
            {"question": "Q", "answers": ["a", "b"], "choices": ["a", "c"]},
            {"answers": ["a", "b"], "choices": ["a", "c"]},
        ),
        ({"prompt": "def f():", "test": "assert f()", "entry_point": "f"}, {"tests": "assert f()", "entry_point": "f"}),
        ({"text": "T", "code": "C", "test_list": ["assert 1"]}, {"tests": ["assert 1"]}),
        ("text", {}),
    ],
)
def test_answers_tests_and_choices_go_into_the_notes(row: Json, notes: dict[str, Json]) -> None:
    assert problems.checkable(row) == notes


@pytest.mark.parametrize(
    ("answer", "text", "marked"),
    [
        ("4", "14 and 4, 24", "14 and >4<, 24"),
        ("4", "14", None),
        ("red", "red, red", "red, >red<"),
        ("(a)", "(a)(a)", "(a)>(a)<"),
    ],
)
def test_locate_skips_an_answer_inside_a_longer_word(answer: str, text: str, marked: str | None) -> None:
    place = problems.locate(answer, text)
    assert (f"{text[: place[0]]}>{answer}<{text[place[1] :]}" if place else None) == marked


DAG = """
name: conversations
nodes:
  documents: {{kind: ingest_folder, path: {data}}}
  samples:
    kind: tokenize
    inputs: [documents]
    chat: {{train_on: last}}
  plan:
    kind: plan
    mixture:
      vision_share: {{from_data: true}}
      max_pack_tokens: 256
      global_batch_packs: 1
      block_packs: 8
      media_limits: {{max_image_patches: 16, max_frame_patches: 16, max_video_frames: 8}}
      sources: [{{name: own, input: samples, weight: 1}}]
  packs: {{kind: pack, input: plan}}
"""


def test_conversations_of_a_folder_reach_the_packs_complete(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "pictures").mkdir(parents=True)
    (data / "pictures" / "a.png").write_bytes(image(1))
    uri = "data:image/png;base64," + base64.b64encode(image(2)).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": "pictures/a.png"}},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": "Which <|im_end|> is red?"},
    ]
    rows: list[Json] = [
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "It is 4."}], "answer": "4"},
        {"messages": [U, {"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": "word " * 400}, A]},
        {"messages": [U]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "none.png"}}]}, A]},
    ]
    (data / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "dag.yaml").write_text(DAG.format(data=data))
    run(tmp_path / "dag.yaml", tmp_path / "out")

    by_locator = {document.locator: document for document in head(tmp_path / "out", "documents").records()}
    assert sorted(by_locator) == ["talk.jsonl#1", "talk.jsonl#3", "talk.jsonl#4"]
    first: Document = by_locator["talk.jsonl#1"]
    assert [part.kind for part in first.media] == ["image", "image"]
    (fact,) = first.facts
    assert (fact.name, first.parts[fact.part].text[fact.start : fact.stop]) == ("answer", "4")
    quarantined = head(tmp_path / "out", "documents").quarantined().to_pylist()
    assert {row["locator"]: row["reason"] for row in quarantined} == {
        "talk.jsonl#2": "result_without_call",
        "talk.jsonl#5": "missing_media",
    }
    refused = head(tmp_path / "out", "samples").quarantined().to_pylist()
    assert [row["reason"] for row in refused] == ["nothing_to_learn"]
    (source,) = head(tmp_path / "out", "plan").meta["sources"]
    assert source["refused"] == {"conversation_longer_than_pack": 1}
    (pack,) = head(tmp_path / "out", "packs").records()
    targets = tiny.decode(pack.ids[pack.loss_mask])
    assert targets == "It is 4.<|im_end|>"


def test_trajectories_of_swe_agent_become_conversations_that_render(test_data: Path) -> None:
    files = sorted((test_data / "swe_agent_trajectories").rglob("*.traj"))
    kinds = set()
    for file in files:
        conversation = conversations.read_conversation(json.loads(file.read_text()), load)
        called = sum(len(message.calls) for message in conversation.messages)
        kinds.add(called > 0)
        document = Document("0" * 32, "t", file.name, "agent", conversation.parts, notes=conversation.notes)
        assert conversation_in(document) == conversation
        sample = encode_conversation(document, conversation, tiny, Chat())
        replies = sum(message.role == "assistant" for message in conversation.messages)
        assert len(sample.loss_runs) == replies > 0
        assert decode_sample(sample, tiny).count("<|tool_call_begin|>") == called
    assert len(files) == 11 and kinds == {True, False}


def test_questions_of_function_calling_keep_their_tools(test_data: Path) -> None:
    rows = [json.loads(line) for line in (test_data / "bfcl_function_calling" / "BFCL_v4_multiple.json").open()]
    parsed = [conversations.read_conversation(row, load) for row in rows]
    assert all(conversation.messages[-1].role == "user" and len(conversation.tools) > 1 for conversation in parsed)
    assert len(parsed) == 200


def test_answers_of_real_math_and_tests_of_real_code_are_noted(test_data: Path) -> None:
    rows = [json.loads(line) for line in (test_data / "gsm8k" / "test.jsonl").open()]
    assert all(float(problems.checkable(row)["answer"].replace(",", "")) is not None for row in rows)
    with gzip.open(test_data / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        notes = [problems.checkable(json.loads(line)) for line in file]
    assert len(notes) == 164 and all("check(" in note["tests"] and note["entry_point"] for note in notes)
