"""The chat form: exact ids, round trips, ids that are only appended, and loss masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.conversation import Call, Conversation, Message
from manifests.errors import RecordError
from manifests.records import Document, Fact, Sample, Text, record_id
from tests.tokenization.conversations import IMAGE, NASTY, VIDEO, conversations, texts
from tokenization.chat import Chat, Rendering, encode_conversation, generation_prompt, parse, render
from tokenization.encode import decode_sample, placeholder
from tokenization.vocabulary import Vocabulary

tiny = Vocabulary.load("tiny")
RELEASED, KEPT = Chat(), Chat(past_thinking="kept")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Temperature unit"},
            },
            "required": ["location"],
        },
    },
}


def content(text: str) -> tuple[Text, ...]:
    return (Text(text),)


STEPS = Conversation(
    (
        Message("system", content("You are a helpful assistant.")),
        Message("user", content("Compare the weather in NYC and LA.")),
        Message("assistant", (), "NYC first.", (Call("get_weather", '{"location": "New York, NY"}'),)),
        Message("tool", content('{"temperature": 72}'), answers=0, name="get_weather"),
        Message("assistant", content("Now LA."), "", (Call("get_weather", '{"location": "Los Angeles, CA"}'),)),
        Message("tool", content('{"temperature": 85}'), answers=1),
        Message("assistant", content("LA is warmer."), "85 is more than 72."),
    ),
    (WEATHER,),
)
STEPS_TEXT = (
    "<|im_system|>tool_declare<|im_middle|># Tools\n\n## functions\nnamespace functions {\n"
    "// Get the current weather for a location\n"
    "type get_weather = (_: {\n"
    "  // The city and state, e.g. San Francisco, CA\n"
    "  location: string,\n"
    "  // Temperature unit\n"
    '  unit?: "celsius" | "fahrenheit"\n'
    "}) => any;\n}\n<|im_end|>"
    "<|im_system|>system<|im_middle|>You are a helpful assistant.<|im_end|>"
    "<|im_user|>user<|im_middle|>Compare the weather in NYC and LA.<|im_end|>"
    "<|im_assistant|>assistant<|im_middle|><think>NYC first.</think><|tool_calls_section_begin|><|tool_call_begin|>"
    'functions.get_weather:0<|tool_call_argument_begin|>{"location": "New York, NY"}<|tool_call_end|>'
    "<|tool_calls_section_end|><|im_end|>"
    '<|im_system|>get_weather<|im_middle|>## Return of functions.get_weather:0\n{"temperature": 72}<|im_end|>'
    "<|im_assistant|>assistant<|im_middle|><think></think>Now LA.<|tool_calls_section_begin|><|tool_call_begin|>"
    'functions.get_weather:1<|tool_call_argument_begin|>{"location": "Los Angeles, CA"}<|tool_call_end|>'
    "<|tool_calls_section_end|><|im_end|>"
    '<|im_system|>tool<|im_middle|>## Return of functions.get_weather:1\n{"temperature": 85}<|im_end|>'
    "<|im_assistant|>assistant<|im_middle|><think>85 is more than 72.</think>LA is warmer.<|im_end|>"
)


def spelled(text: str) -> list[int]:
    """Ids of a text in which names of special tokens stand for these; the text between two of them is encoded at
    once."""
    ids: list[int] = []
    plain = ""
    while text:
        name = next((name for name in tiny.special if text.startswith(name)), "")
        if name:
            ids += [*tiny.encode(plain), tiny.special[name]]
            plain = ""
        else:
            plain += text[0]
        text = text[len(name) or 1 :]
    return ids + tiny.encode(plain)


def sample(conversation: Conversation, chat: Chat = RELEASED, facts: Sequence[Fact] = ()) -> Sample:
    document = Document(
        record_id("test", "1"), "test", "1", "agent", conversation.parts, tuple(facts), conversation.notes
    )
    return encode_conversation(document, conversation, tiny, chat)


def predicted(made: Sample) -> list[str]:
    """Texts that carry loss."""
    return [tiny.decode(made.ids[start:stop]) for start, stop in made.loss_runs]


def test_a_conversation_with_tools_becomes_exactly_these_ids() -> None:
    assert render(STEPS, tiny, RELEASED).ids == spelled(STEPS_TEXT)


def test_a_tool_can_be_declared_as_json() -> None:
    ids = render(STEPS, tiny, Chat(tools="json")).ids
    text = tiny.decode(ids)
    assert text.startswith('<|im_system|>tool_declare<|im_middle|>[{"function":{"description":"Get the current weather')
    assert text.endswith(STEPS_TEXT[STEPS_TEXT.index("<|im_system|>system") :])


def test_special_ids_have_the_published_offsets() -> None:
    ids = {name: tiny.special[name] - tiny.base for name in ("<|im_end|>", "<|im_user|>", "<|im_assistant|>")}
    assert ids == {"<|im_end|>": 2, "<|im_user|>": 3, "<|im_assistant|>": 4}
    assert [tiny.special[f"<|{name}|>"] - tiny.base for name in ("im_system", "im_middle")] == [10, 17]
    calls = ["calls_section_begin", "calls_section_end", "call_begin", "call_argument_begin", "call_end"]
    assert [tiny.special[f"<|tool_{name}|>"] - tiny.base for name in calls] == [11, 12, 13, 14, 15]


def test_media_in_messages_are_placeholders_followed_by_a_line_end() -> None:
    conversation = Conversation(
        (
            Message("user", (IMAGE, Text("What?"), VIDEO, IMAGE)),
            Message("assistant", (), "", (Call("look", "{}"),)),
            Message("tool", (IMAGE, Text("seen")), answers=0),
            Message("assistant", content("A dog.")),
        )
    )
    made = sample(conversation)
    image = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"
    expected = [f"user<|im_middle|>{image}What?<|kimi_k25_video_placeholder|>\n{image}<|im_end|>"]
    expected += [f"tool<|im_middle|>## Return of functions.look:0\n{image}seen<|im_end|>"]
    assert all(text in tiny.decode(made.ids) for text in expected)
    assert made.media == (IMAGE, VIDEO, IMAGE, IMAGE)
    marks = {"image": tiny.media_pad_id, "video": tiny.video_placeholder_id}
    assert [made.ids[place] for place in made.places] == [marks[medium.kind] for medium in made.media]
    assert "[image 640x480]\nWhat?[video 320x240]" in decode_sample(made, tiny)
    assert (made.whole, made.splits.tolist()) == (True, [])


@pytest.mark.parametrize("thinking", [True, False])
def test_the_generation_prompt_equals_the_ids_before_the_loss(thinking: bool) -> None:
    """At inference the model gets exactly the ids that precede its first target in training."""
    question = (Message("system", content("Short.")), Message("user", content("2+2?")))
    answer = Message("assistant", content("4"), "Two and two." if thinking else "")
    prompt = render(Conversation(question), tiny, RELEASED).ids + generation_prompt(tiny, thinking)
    end = "<|im_assistant|>assistant<|im_middle|>" + ("<think>" if thinking else "<think></think>")
    assert tiny.decode(prompt).endswith(end)
    made = sample(Conversation((*question, answer)))
    start = made.loss_runs[0][0]
    assert made.ids[:start].tolist() == prompt
    assert predicted(made) == ["Two and two.</think>4<|im_end|>" if thinking else "4<|im_end|>"]


def test_thinking_of_past_turns_is_dropped_without_loss_or_kept() -> None:
    conversation = Conversation(
        (
            Message("user", content("2+2?")),
            Message("assistant", content("The answer is 4."), "OLD"),
            Message("user", content("3+3?")),
            Message("assistant", content("Instant.")),
            Message("user", content("4+4?")),
            Message("assistant", content("Let me see."), "STEP", (Call("add", "{}"),)),
            Message("tool", content("8"), answers=0),
            Message("assistant", content("It is 8."), "NEW"),
        )
    )
    dropped, kept = sample(conversation), sample(conversation, KEPT)
    assert "<think></think>The answer is 4." in tiny.decode(dropped.ids)
    assert "<think>OLD</think>The answer is 4." in tiny.decode(kept.ids)
    assert all(f"<think>{thinking}</think>" in tiny.decode(dropped.ids) for thinking in ("STEP", "NEW"))
    call = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    )
    call += "<|tool_calls_section_end|><|im_end|>"
    turn = [f"STEP</think>Let me see.{call}", "NEW</think>It is 8.<|im_end|>"]
    assert predicted(dropped) == ["Instant.<|im_end|>", *turn]
    assert predicted(kept) == ["OLD</think>The answer is 4.<|im_end|>", "Instant.<|im_end|>", *turn]
    assert predicted(sample(conversation, Chat(train_on="last"))) == turn


@given(conversations())
@settings(max_examples=60)
def test_rendered_conversations_parse_back(conversation: Conversation) -> None:
    rendering = render(conversation, tiny, KEPT)
    assert parse(np.array(rendering.ids, np.uint32), rendering.media, tiny) == conversation.messages


@given(conversations(), st.sampled_from([RELEASED, KEPT, Chat(train_on="last")]))
@settings(max_examples=25)
def test_with_past_thinking_dropped_everything_else_parses_back(conversation: Conversation, chat: Chat) -> None:
    rendering = render(conversation, tiny, chat)
    messages = parse(rendering.ids, rendering.media, tiny)
    assert [replace(message, thinking="") for message in messages] == [
        replace(message, thinking="") for message in conversation.messages
    ]
    thinking = [message.thinking for message in conversation.messages]
    parsed = [message.thinking for message in messages]
    assert all(after in ("", before) for after, before in zip(parsed, thinking, strict=True))


@given(conversations())
@settings(max_examples=25)
def test_rendering_message_by_message_only_ever_appends(conversation: Conversation) -> None:
    rendering = Rendering(tiny)
    earlier: list[int] = []
    for count, message in enumerate(conversation.messages, 1):
        rendering.add(message)
        assert rendering.ids[: len(earlier)] == earlier
        earlier = list(rendering.ids)
        assert earlier == render(Conversation(conversation.messages[:count]), tiny, KEPT).ids


@given(conversations())
@settings(max_examples=25)
def test_special_ids_come_from_the_chat_form_alone(conversation: Conversation) -> None:
    """Their counts equal those of messages, thinking and calls, even if texts and arguments spell their names."""
    ids = render(conversation, tiny, KEPT).ids
    counts = {name: ids.count(tiny.special[name]) for name in ("<|im_end|>", "<|im_middle|>", "<think>", "</think>")}
    messages = conversation.messages
    answers = sum(message.role == "assistant" for message in messages)
    assert counts == {
        "<|im_end|>": len(messages),
        "<|im_middle|>": len(messages),
        "<think>": answers,
        "</think>": answers,
    }
    assert ids.count(tiny.special["<|tool_call_begin|>"]) == sum(len(message.calls) for message in messages)
    assert ids.count(tiny.special["<|media_end|>"]) == sum(part == IMAGE for part in conversation.parts)


@given(conversations())
@settings(max_examples=25)
def test_loss_falls_on_the_assistant_and_never_on_prompts_results_or_media(conversation: Conversation) -> None:
    made = sample(conversation, KEPT)
    has_loss = np.zeros(len(made.ids), bool)
    for start, stop in made.loss_runs:
        has_loss[start:stop] = True
    ends = np.flatnonzero(made.ids == tiny.special["<|im_end|>"]) + 1
    starts = [0, *ends[:-1]]
    for message, start, end in zip(conversation.messages, starts, ends, strict=True):
        inside = has_loss[start:end]
        if message.role != "assistant":
            assert not inside.any()
            continue
        prompt = spelled("<|im_assistant|>assistant<|im_middle|><think>" + ("" if message.thinking else "</think>"))
        assert made.ids[start : start + len(prompt)].tolist() == prompt
        assert not inside[: len(prompt)].any()
        assert inside[len(prompt) :].all()


@given(st.lists(texts.filter(bool), min_size=3, max_size=3), st.data())
def test_facts_in_thinking_content_and_arguments_become_spans(drawn: list[str], data: st.DataObject) -> None:
    conversation = Conversation(
        (
            Message("user", (IMAGE, Text("Q"))),
            Message("assistant", content(drawn[0]), drawn[1], (Call("f", drawn[2]),)),
        )
    )
    order = [IMAGE, Text("Q"), Text(drawn[1]), Text(drawn[0]), Text(drawn[2])]
    assert list(conversation.parts) == order
    part = data.draw(st.sampled_from([1, 2, 3, 4]))
    text = order[part].text
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    made = sample(conversation, facts=[Fact("answer", part, start, stop)])
    (span,) = made.spans
    covered = b"".join(tiny.tokens[id] for id in made.ids[span.start : span.stop])
    assert text[start:stop].encode() in covered


def test_facts_in_dropped_thinking_are_dropped() -> None:
    old, new = Message("assistant", content("a"), "OLD"), Message("assistant", content("b"), "NEW")
    conversation = Conversation((Message("user", content("x")), old, Message("user", content("y")), new))
    facts = [Fact("answer", 1, 0, 3), Fact("answer", 4, 0, 3)]
    spans = sample(conversation, facts=facts).spans
    assert [tiny.decode(sample(conversation).ids[span.start : span.stop]) for span in spans] == ["NEW"]


def test_a_conversation_without_loss_is_refused() -> None:
    with pytest.raises(RecordError) as caught:
        sample(Conversation((Message("user", content("Anyone?")),)))
    assert caught.value.reason == "nothing_to_learn"


GOOD = spelled(STEPS_TEXT)


@pytest.mark.parametrize("cut", [1, 5, len(GOOD) // 2, len(GOOD) - 1])
def test_a_truncated_conversation_does_not_parse(cut: int) -> None:
    assert GOOD[cut - 1] != tiny.special["<|im_end|>"]
    with pytest.raises(RecordError) as caught:
        parse(GOOD[:cut], [], tiny)
    assert caught.value.reason == "bad_chat"


@pytest.mark.parametrize(
    ("text", "media"),
    [
        ("hello", []),
        ("<|im_user|>user<|im_middle|>a<|im_middle|>b<|im_end|>", []),
        ("<|im_assistant|>assistant<|im_middle|>no thinking<|im_end|>", []),
        ("<|im_system|>tool<|im_middle|>## Return of functions.f:0\nx<|im_end|>", []),
        ("<|im_system|>tool<|im_middle|>a result<|im_end|>", []),
        (STEPS_TEXT.replace("functions.get_weather:1<|tool_call_arg", "functions.get_weather:2<|tool_call_arg"), []),
        (STEPS_TEXT.replace("## Return of functions.get_weather:1", "## Return of functions.get_wind:1"), []),
        ("<|im_user|>user<|im_middle|>a<|im_end|>", [IMAGE]),
        ("<|im_user|>user<|im_middle|><|kimi_k25_video_placeholder|>\n<|im_end|>", [IMAGE]),
        ("<|im_user|>user<|im_middle|><|kimi_k25_video_placeholder|>x<|im_end|>", [VIDEO]),
    ],
)
def test_ids_that_no_conversation_renders_to_do_not_parse(text: str, media: list) -> None:
    with pytest.raises(RecordError) as caught:
        parse(spelled(text), media, tiny)
    assert caught.value.reason == "bad_chat"


def test_the_random_texts_spell_names_of_special_tokens() -> None:
    """Without such names the properties above would test little."""
    assert all(any(name in text for text in NASTY) for name in ("<|im_end|>", "</think>", "<|tool_call_begin|>"))
    assert placeholder(IMAGE, tiny) == spelled("<|media_begin|>image<|media_content|><|media_pad|><|media_end|>")
