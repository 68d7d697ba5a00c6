"""Conversations to ids and back, in the chat form of Kimi K2.5.

The records come from `manifests/conversation.py`; the samples go to a plan, and a model continues a generation prompt.

    <|im_user|>user<|im_middle|> ... <|im_end|>
    <|im_assistant|>assistant<|im_middle|><think> ... </think> ... <|im_end|>
    <|im_system|>system, tool_declare, tool or its name<|im_middle|> ... <|im_end|>

There are no ids between messages, before the first one or after the last one. Text that spells the name of a special
token stays text, so rendered ids parse back to the same messages for any content. A message is rendered without regard
to later ones, so ids are only ever appended.

Sources. The K2 report and the released template: the envelope, tool calls, their numbering and the generation prompts,
and which thinking of past turns is left out (`Chat.past_thinking`). The template puts a line end after every image; the
one after a video is inferred, as are the loss masks. No system message is added to a conversation without one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from manifests.conversation import DECLARATION, Call, Conversation, Message
from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import Document, Media, Part, Sample, Span, Text
from tokenization.encode import TokenOffsets, facts_by_part, join_runs, placeholder, shapes_of
from tokenization.tools import Form, declare
from tokenization.vocabulary import Vocabulary

_OPENERS = {"system": "<|im_system|>", "user": "<|im_user|>", "assistant": "<|im_assistant|>", "tool": "<|im_system|>"}


@schema
class Chat:
    """Settings for encoding conversations: the key `chat` of the node `tokenize`."""

    tools: Form = "typescript"
    """Form of tool declarations: the namespace that K2.5 reads, or JSON, on which K2 was trained as well."""
    past_thinking: Literal["dropped", "kept"] = "dropped"
    """`dropped` as released: an assistant's thinking is left out if a later assistant message has no tool calls; within
    a chain of calls it stays. `kept`: preserved thinking, in the words of the release. A message whose thinking is left
    out carries no loss, because it is not the message that the model wrote."""
    train_on: Literal["assistant", "last"] = "assistant"
    """Messages with loss: all of the assistant, or those of the assistant after the last user message."""


class Rendering:
    """Ids of a conversation. Messages are appended one by one; existing ids never change."""

    def __init__(self, vocabulary: Vocabulary, declared: str = "") -> None:
        """
        Args:
            declared: text of the first message, which declares tools; see `tools.declare`.
        """
        self.ids: list[int] = []
        self.loss: list[tuple[int, int]] = []
        """Half-open runs of ids with loss, ascending."""
        self.media: list[Media] = []
        self.places: list[int] = []
        """Index of each medium's pad or placeholder id."""
        self.texts: list[tuple[int, str, dict[int, int]]] = []
        """Text between special ids: index of its first id, the text, and the offset of each part in it, by the part's
        number in the conversation."""
        self._vocabulary = vocabulary
        self._calls: list[str] = []
        self._parts = 0
        self._pending = ""
        """Text since the last special id."""
        self._begins: dict[int, int] = {}
        if declared:
            self._parts = -1  # the declaration is no part of the conversation
            self.add(declaration(declared))

    def add(self, message: Message, learned: bool = False, with_thinking: bool = True) -> None:
        """Append a message.

        Args:
            learned: an assistant's message carries loss, from the end of the generation prompt on.
            with_thinking: an assistant's thinking is rendered.
        """
        self._special(_OPENERS[message.role])
        self._pending += message.name or message.role
        self._special("<|im_middle|>")
        if message.role == "assistant":
            self._answer(message, learned, with_thinking)
            return
        if message.role == "tool":
            self._pending += f"## Return of {_call_id(self._calls[message.answers], message.answers)}\n"
        self._content(message.content)
        self._special("<|im_end|>")

    def _answer(self, message: Message, learned: bool, with_thinking: bool) -> None:
        self._special("<think>")
        start = len(self.ids)
        thinks = bool(message.thinking) and with_thinking
        if thinks:
            self._text(message.thinking)
        self._parts += bool(message.thinking)
        self._special("</think>")
        if not thinks:
            start = len(self.ids)  # the generation prompt of instant mode ends here
        self._content(message.content)
        if message.calls:
            self._special("<|tool_calls_section_begin|>")
            for call in message.calls:
                self._special("<|tool_call_begin|>")
                self._pending += _call_id(call.name, len(self._calls))
                self._special("<|tool_call_argument_begin|>")
                self._text(call.arguments)
                self._parts += 1
                self._special("<|tool_call_end|>")
                self._calls.append(call.name)
            self._special("<|tool_calls_section_end|>")
        self._special("<|im_end|>")
        if learned:
            self.loss.append((start, len(self.ids)))

    def _content(self, content: Sequence[Part]) -> None:
        for part in content:
            if isinstance(part, Text):
                self._text(part.text)
            else:
                self._flush()
                medium_ids = placeholder(part, self._vocabulary)
                marks = (self._vocabulary.video_placeholder_id, self._vocabulary.media_pad_id)
                self.places += [len(self.ids) + i for i, id in enumerate(medium_ids) if id in marks]
                self.media.append(part)
                self.ids += medium_ids
                self._pending = "\n"
            self._parts += 1

    def _text(self, text: str) -> None:
        self._begins[self._parts] = len(self._pending)
        self._pending += text

    def _special(self, name: str) -> None:
        self._flush()
        self.ids.append(self._vocabulary.special[name])

    def _flush(self) -> None:
        """Encode the pending text. All text between two special ids is encoded at once, as in the release."""
        if self._pending:
            self.texts.append((len(self.ids), self._pending, self._begins))
            self.ids += self._vocabulary.encode(self._pending)
        self._pending, self._begins = "", {}


def declaration(text: str) -> Message:
    """Return the message that declares tools."""
    return Message("system", (Text(text),), name=DECLARATION)


def render(conversation: Conversation, vocabulary: Vocabulary, chat: Chat) -> Rendering:
    """Render a whole conversation: the declaration of its tools, then its messages."""
    rendering = Rendering(vocabulary, declare(conversation.tools, chat.tools))
    messages = conversation.messages
    dropped = _past(messages) if chat.past_thinking == "dropped" else 0
    last_turn = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    for i, message in enumerate(messages):
        complete = i >= dropped or not message.thinking
        learned = complete and (chat.train_on == "assistant" or i > last_turn)
        rendering.add(message, learned, with_thinking=i >= dropped)
    return rendering


def generation_prompt(vocabulary: Vocabulary, thinking: bool) -> list[int]:
    """Return the ids that follow a conversation to make the model answer.

    Args:
        thinking: the model continues inside its thinking; else after an empty one.
    """
    special = vocabulary.special
    start = [special["<|im_assistant|>"], *vocabulary.encode("assistant"), special["<|im_middle|>"], special["<think>"]]
    return start if thinking else [*start, special["</think>"]]


def encode_conversation(document: Document, conversation: Conversation, vocabulary: Vocabulary, chat: Chat) -> Sample:
    """Encode a document that holds a conversation as a sample that is never cut.

    Raises:
        RecordError: as `encode`, and `nothing_to_learn` if no id carries loss.
    """
    rendering = render(conversation, vocabulary, chat)
    if not rendering.loss:
        raise RecordError("nothing_to_learn", "no assistant message carries loss")
    return Sample(
        id=document.id,
        source=document.source,
        domain=document.domain,
        ids=np.array(rendering.ids, np.uint32),
        loss_runs=join_runs(rendering.loss),
        media=tuple(replace(medium, payload=None) for medium in rendering.media),
        spans=tuple(_spans(document, rendering, vocabulary)),
        places=tuple(rendering.places),
        shapes=shapes_of(document),
        whole=True,
    )


def _spans(document: Document, rendering: Rendering, vocabulary: Vocabulary) -> Iterator[Span]:
    """Yield facts as spans, except those in thinking that was left out."""
    facts = facts_by_part(document)
    for first, text, begins in rendering.texts if facts else ():
        inside = [(fact, offset) for part, offset in begins.items() for fact in facts.get(part, ())]
        if inside:
            offsets = TokenOffsets(text, vocabulary.byte_lengths[vocabulary.encode(text)])
            for fact, offset in inside:
                yield offsets.span(replace(fact, start=fact.start + offset, stop=fact.stop + offset), first)


def parse(ids: Sequence[int] | np.ndarray, media: Sequence[Media], vocabulary: Vocabulary) -> tuple[Message, ...]:
    """Return the messages of rendered ids, with adjacent texts joined and empty ones left out.

    Args:
        media: media of the conversation, in order.
    Raises:
        RecordError: `bad_chat` for ids that `render` never gives.
    """
    return tuple(_Parser(ids, media, vocabulary).messages())


def _call_id(name: str, number: int) -> str:
    return f"functions.{name}:{number}"


_RETURN = re.compile(r"## Return of functions\.([^\s:]+):(\d+)\n")


def _past(messages: Sequence[Message]) -> int:
    """Return the number of leading messages whose thinking the release leaves out.

    They end with the last assistant message without tool calls; the final message of the conversation does not count,
    because it is the one to learn.
    """
    answers = [i for i, message in enumerate(messages[:-1]) if message.role == "assistant" and not message.calls]
    return answers[-1] + 1 if answers else 0


class _Parser:
    """Parser of ids from left to right. Only text between special ids is decoded, so text is never read as a special
    id."""

    def __init__(self, ids: Sequence[int] | np.ndarray, media: Sequence[Media], vocabulary: Vocabulary) -> None:
        self._ids = [int(id) for id in ids]
        self._next = 0
        self._media = iter(media)
        self._vocabulary = vocabulary
        self._names = {id: name for name, id in vocabulary.special.items()}
        self._calls: list[str] = []

    def messages(self) -> Iterator[Message]:
        while self._next < len(self._ids):
            yield self._message()
        if next(self._media, None) is not None:
            raise self._wrong("media are left over")

    def _message(self) -> Message:
        opener = self._mark("<|im_user|>", "<|im_assistant|>", "<|im_system|>")
        name = self._text()
        self._mark("<|im_middle|>")
        if opener == "<|im_assistant|>":
            return self._answer("" if name == "assistant" else name)
        if opener == "<|im_user|>":
            return Message("user", self._content(self._text()), name="" if name == "user" else name)
        text = self._text()
        if name in ("system", DECLARATION):
            return Message("system", self._content(text), name="" if name == "system" else name)
        head = _RETURN.match(text)
        if head is None or int(head[2]) >= len(self._calls) or self._calls[int(head[2])] != head[1]:
            raise self._wrong(f"the message of {name!r} is no result of an earlier call")
        content = self._content(text[head.end() :])
        return Message("tool", content, answers=int(head[2]), name="" if name == "tool" else name)

    def _answer(self, name: str) -> Message:
        self._mark("<think>")
        thinking = self._text()
        self._mark("</think>")
        text = self._text()
        calls = []
        if self._mark("<|tool_calls_section_begin|>", "<|im_end|>") == "<|tool_calls_section_begin|>":
            while self._mark("<|tool_call_begin|>", "<|tool_calls_section_end|>") == "<|tool_call_begin|>":
                calls.append(self._call())
            self._mark("<|im_end|>")
        return Message("assistant", (Text(text),) if text else (), thinking, tuple(calls), name=name)

    def _call(self) -> Call:
        call_id = self._text()
        name = call_id.removeprefix("functions.").rpartition(":")[0]
        if call_id != _call_id(name, len(self._calls)):
            raise self._wrong(f"call {call_id!r} does not have the number {len(self._calls)}")
        self._mark("<|tool_call_argument_begin|>")
        arguments = self._text()
        self._mark("<|tool_call_end|>")
        self._calls.append(name)
        return Call(name, arguments)

    def _content(self, text: str) -> tuple[Part, ...]:
        """Read text and media up to the end of a message; `text` was read already."""
        parts: list[Part] = [Text(text)] if text else []
        while self._next < len(self._ids) and self._names.get(self._ids[self._next]) != "<|im_end|>":
            medium = next(self._media, None)
            expected = placeholder(medium, self._vocabulary) if medium else []
            if medium is None or self._ids[self._next : self._next + len(expected)] != expected:
                raise self._wrong("expected the end of a message or the next medium")
            self._next += len(expected)
            after = self._text()
            if not after.startswith("\n"):
                raise self._wrong("expected a line end after a medium")
            parts += [medium, Text(after[1:])] if len(after) > 1 else [medium]
        self._mark("<|im_end|>")
        return tuple(parts)

    def _text(self) -> str:
        """Read text up to the next special id."""
        start = self._next
        while self._next < len(self._ids) and self._ids[self._next] not in self._names:
            self._next += 1
        return self._vocabulary.decode(self._ids[start : self._next])

    def _mark(self, *names: str) -> str:
        """Read a special id, which must be one of `names`, and return its name."""
        name = self._names.get(self._ids[self._next], "text") if self._next < len(self._ids) else "the end"
        if name not in names:
            raise self._wrong(f"expected {' or '.join(names)}, got {name}")
        self._next += 1
        return name

    def _wrong(self, message: str) -> RecordError:
        return RecordError("bad_chat", f"id {self._next}: {message}")
