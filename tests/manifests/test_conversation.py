"""Conversations: order of roles, and their form in a document."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from manifests.conversation import Call, Conversation, Message, conversation_in
from manifests.errors import RecordError
from manifests.records import Document, Media, Text
from tests.tokenization.conversations import conversations


def document(conversation: Conversation) -> Document:
    return Document("0" * 32, "test", "1", "agent", conversation.parts, notes=conversation.notes)


@given(conversations())
@settings(max_examples=25)
def test_a_document_holds_the_conversation_that_it_was_made_of(conversation: Conversation) -> None:
    conversation = replace(conversation, tools=({"type": "function", "function": {"name": "f"}},))
    made = document(conversation)
    assert conversation_in(made) == conversation
    texts = [message.thinking for message in conversation.messages] + [
        call.arguments for message in conversation.messages for call in message.calls
    ]
    assert all(text in made.text for text in texts)


def test_an_ordinary_document_holds_no_conversation() -> None:
    assert conversation_in(Document("0" * 32, "test", "1", "web", (Text("a"),))) is None


USER, ANSWER = Message("user", (Text("Q"),)), Message("assistant", (Text("A"),))
CALLS = Message("assistant", calls=(Call("f", "{}"), Call("g", "{}")))
IMAGE = Media("0" * 64, "image", "jpg", 8, 8)


def result(number: int) -> Message:
    return Message("tool", (Text("R"),), answers=number)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty_conversation"),
        ([USER, Message("assistant")], "empty_message"),
        ([Message("user", (Text(""),)), ANSWER], "empty_message"),
        ([USER, Message("critic", (Text("x"),))], "unknown_role"),  # type: ignore[arg-type]
        ([ANSWER], "roles_out_of_order"),
        ([USER, ANSWER, ANSWER], "roles_out_of_order"),
        ([USER, USER, ANSWER], "roles_out_of_order"),
        ([USER, ANSWER, Message("system", (Text("x"),)), USER, ANSWER], "roles_out_of_order"),
        ([Message("user", (Text("x"),), thinking="y"), ANSWER], "roles_out_of_order"),
        ([USER, result(0), ANSWER], "result_without_call"),
        ([USER, CALLS, result(0), result(2), ANSWER], "result_without_call"),
        ([USER, CALLS, result(0), result(0), ANSWER], "result_without_call"),
        ([USER, CALLS, result(1), ANSWER], "call_without_result"),
        ([USER, CALLS, USER, ANSWER], "call_without_result"),
        ([USER, Message("assistant", (IMAGE,))], "media_in_answer"),
        ([USER, Message("assistant", calls=(Call("a b", "{}"),))], "bad_name"),
        ([Message("system", (Text("x"),), name="Ann"), USER, ANSWER], "bad_name"),
        ([USER, CALLS, replace(result(0), name="tool_declare"), result(1), ANSWER], "bad_name"),
    ],
)
def test_an_invalid_conversation_is_refused_with_a_reason(messages: list[Message], reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        Conversation(tuple(messages)).checked()
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "messages", [[USER], [USER, CALLS], [USER, CALLS, result(1), result(0), ANSWER], [USER, CALLS, result(0)]]
)
def test_results_may_come_in_any_order_and_be_missing_at_the_end(messages: list[Message]) -> None:
    assert Conversation(tuple(messages)).checked().messages == tuple(messages)


@pytest.mark.parametrize("parts", [(), (Text("Q"),), (Text("Q"), Text("A"), Text("B")), (IMAGE, IMAGE)])
def test_notes_that_do_not_match_the_parts_are_refused(parts: tuple[Text | Media, ...]) -> None:
    conversation = Conversation((USER, Message("assistant", calls=(Call("f", "{}"),))))
    with pytest.raises(RecordError) as caught:
        conversation_in(replace(document(conversation), parts=parts))
    assert caught.value.reason == "bad_conversation"
