"""Conversations to ids and back: the chat form of Kimi K2.5.

Before this stands `manifests/conversation.py`, after it a plan, or a model that goes on from a generation prompt.

    <|im_user|>user<|im_middle|> ... <|im_end|>
    <|im_assistant|>assistant<|im_middle|><think> ... </think> ... <|im_end|>
    <|im_system|>system, tool_declare, tool or its name<|im_middle|> ... <|im_end|>

Nothing stands between messages, before the first or after the last. Only this module puts special ids there: text that
spells their names stays text, so what is rendered parses back to the same messages, whatever is said in them. A message
is rendered without a look at those after it, so ids are only ever appended.

Sources. The envelope, tool calls, their numbering and the generation prompts: the K2 report and the released template.
Where the released template leaves the thinking of past turns out, see `Chat.past_thinking`. It puts a line end after
every image; after a video it is inferred, as are the masks. No system message is added where there is none.
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
    """How conversations become samples."""

    tools: Form = "typescript"
    """Of the declarations: the namespace that K2.5 is given, or the JSON that K2 was trained on beside it."""
    past_thinking: Literal["dropped", "kept"] = "dropped"
    """`dropped` as released: an assistant's thinking is left out once a later message of the assistant without tool
    calls has been said; within a chain of calls it stays. `kept` is what the release calls preserved thinking. A
    message whose thinking is left out carries no loss, as it is not what the model said."""
    train_on: Literal["assistant", "last"] = "assistant"
    """Every message of the assistant carries loss, or those after the last user message."""


class Rendering:
    """Ids of a conversation, appended to message by message; what stands there never changes."""

    def __init__(self, vocabulary: Vocabulary, declared: str = "") -> None:
        """`declared`: text of the message that declares tools, which comes first; see `tools.declare`."""
        self.ids: list[int] = []
        self.loss: list[tuple[int, int]] = []
        """Half-open runs of what the model should say, ascending."""
        self.media: list[Media] = []
        self.places: list[int] = []
        self.texts: list[tuple[int, str, dict[int, int]]] = []
        """Stretches of text between special ids: the first id, the text, and the offset in it of each part, by the
        part's number in the conversation."""
        self._vocabulary = vocabulary
        self._calls: list[str] = []
        self._parts = 0
        self._words = ""
        self._begins: dict[int, int] = {}
        if declared:
            self._parts = -1  # it is no part of the conversation
            self.add(declaration(declared))

    def add(self, message: Message, learned: bool = False, with_thinking: bool = True) -> None:
        """Append a message. `learned`: an assistant's words carry loss, from where the generation prompt ends."""
        self._special(_OPENERS[message.role])
        self._words += message.name or message.role
        self._special("<|im_middle|>")
        if message.role == "assistant":
            self._answer(message, learned, with_thinking)
            return
        if message.role == "tool":
            self._words += f"## Return of {_call_id(self._calls[message.answers], message.answers)}\n"
        self._say(message.content)
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
            start = len(self.ids)  # the prompt of instant mode holds both
        self._say(message.content)
        if message.calls:
            self._special("<|tool_calls_section_begin|>")
            for call in message.calls:
                self._special("<|tool_call_begin|>")
                self._words += _call_id(call.name, len(self._calls))
                self._special("<|tool_call_argument_begin|>")
                self._text(call.arguments)
                self._parts += 1
                self._special("<|tool_call_end|>")
                self._calls.append(call.name)
            self._special("<|tool_calls_section_end|>")
        self._special("<|im_end|>")
        if learned:
            self.loss.append((start, len(self.ids)))

    def _say(self, content: Sequence[Part]) -> None:
        for part in content:
            if isinstance(part, Text):
                self._text(part.text)
            else:
                self._flush()
                stands = placeholder(part, self._vocabulary)
                marks = (self._vocabulary.video_placeholder_id, self._vocabulary.media_pad_id)
                self.places += [len(self.ids) + i for i, id in enumerate(stands) if id in marks]
                self.media.append(part)
                self.ids += stands
                self._words = "\n"
            self._parts += 1

    def _text(self, words: str) -> None:
        self._begins[self._parts] = len(self._words)
        self._words += words

    def _special(self, name: str) -> None:
        self._flush()
        self.ids.append(self._vocabulary.special[name])

    def _flush(self) -> None:
        """What stands between two special ids is one text to the tokenizer, as in the release."""
        if self._words:
            self.texts.append((len(self.ids), self._words, self._begins))
            self.ids += self._vocabulary.encode(self._words)
        self._words, self._begins = "", {}


def declaration(text: str) -> Message:
    """The message that declares tools."""
    return Message("system", (Text(text),), name=DECLARATION)


def render(conversation: Conversation, vocabulary: Vocabulary, chat: Chat) -> Rendering:
    """A whole conversation: the declaration of its tools, then its messages."""
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
    """What follows a conversation when the assistant shall speak: it goes on inside its thinking, or after none."""
    special = vocabulary.special
    start = [special["<|im_assistant|>"], *vocabulary.encode("assistant"), special["<|im_middle|>"], special["<think>"]]
    return start if thinking else [*start, special["</think>"]]


def encode_conversation(document: Document, conversation: Conversation, vocabulary: Vocabulary, chat: Chat) -> Sample:
    """The sample of a document that holds a conversation; it is never cut.

    Raises RecordError: what `encode` raises; `nothing_to_learn` where no id carries loss.
    """
    rendering = render(conversation, vocabulary, chat)
    if not rendering.loss:
        raise RecordError("nothing_to_learn", "no word of an assistant is left to learn")
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
    """Facts as spans, but for those in thinking that was left out."""
    facts = facts_by_part(document)
    for first, words, begins in rendering.texts if facts else ():
        told = [(fact, offset) for part, offset in begins.items() for fact in facts.get(part, ())]
        if told:
            layout = TokenOffsets(words, vocabulary.byte_lengths[vocabulary.encode(words)])
            yield from (layout.span(replace(f, start=f.start + at, stop=f.stop + at), first) for f, at in told)


def parse(ids: Sequence[int] | np.ndarray, media: Sequence[Media], vocabulary: Vocabulary) -> tuple[Message, ...]:
    """The messages that were rendered: neighbouring texts joined, empty ones gone.

    Raises RecordError `bad_chat` for ids that no conversation has.
    """
    return tuple(_Parser(ids, media, vocabulary).messages())


def _call_id(name: str, number: int) -> str:
    return f"functions.{name}:{number}"


_RETURN = re.compile(r"## Return of functions\.([^\s:]+):(\d+)\n")


def _past(messages: Sequence[Message]) -> int:
    """Messages before this one have been followed by an answer: the release leaves out their thinking.

    The last message is what is being learned, whatever it is.
    """
    answers = [i for i, message in enumerate(messages[:-1]) if message.role == "assistant" and not message.calls]
    return answers[-1] + 1 if answers else 0


class _Parser:
    """Reads ids from left to right. Text is decoded between special ids only, so it can't be taken for one."""

    def __init__(self, ids: Sequence[int] | np.ndarray, media: Sequence[Media], vocabulary: Vocabulary) -> None:
        self._ids = [int(id) for id in ids]
        self._at = 0
        self._media = iter(media)
        self._vocabulary = vocabulary
        self._names = {id: name for name, id in vocabulary.special.items()}
        self._calls: list[str] = []

    def messages(self) -> Iterator[Message]:
        while self._at < len(self._ids):
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
        words = self._text()
        if name in ("system", DECLARATION):
            return Message("system", self._content(words), name="" if name == "system" else name)
        head = _RETURN.match(words)
        if head is None or int(head[2]) >= len(self._calls) or self._calls[int(head[2])] != head[1]:
            raise self._wrong(f"message of {name!r} is the result of no call")
        content = self._content(words[head.end() :])
        return Message("tool", content, answers=int(head[2]), name="" if name == "tool" else name)

    def _answer(self, name: str) -> Message:
        self._mark("<think>")
        thinking = self._text()
        self._mark("</think>")
        words = self._text()
        calls = []
        if self._mark("<|tool_calls_section_begin|>", "<|im_end|>") == "<|tool_calls_section_begin|>":
            while self._mark("<|tool_call_begin|>", "<|tool_calls_section_end|>") == "<|tool_call_begin|>":
                calls.append(self._call())
            self._mark("<|im_end|>")
        return Message("assistant", (Text(words),) if words else (), thinking, tuple(calls), name=name)

    def _call(self) -> Call:
        told = self._text()
        name = told.removeprefix("functions.").rpartition(":")[0]
        if told != _call_id(name, len(self._calls)):
            raise self._wrong(f"call {told!r} is not number {len(self._calls)}")
        self._mark("<|tool_call_argument_begin|>")
        arguments = self._text()
        self._mark("<|tool_call_end|>")
        self._calls.append(name)
        return Call(name, arguments)

    def _content(self, words: str) -> tuple[Part, ...]:
        """Text and media up to the end of a message, of which `words` were read."""
        parts: list[Part] = [Text(words)] if words else []
        while self._at < len(self._ids) and self._names.get(self._ids[self._at]) != "<|im_end|>":
            medium = next(self._media, None)
            stands = placeholder(medium, self._vocabulary) if medium else []
            if medium is None or self._ids[self._at : self._at + len(stands)] != stands:
                raise self._wrong("neither the end of a message nor the next medium")
            self._at += len(stands)
            after = self._text()
            if not after.startswith("\n"):
                raise self._wrong("no line end after a medium")
            parts += [medium, Text(after[1:])] if len(after) > 1 else [medium]
        self._mark("<|im_end|>")
        return tuple(parts)

    def _text(self) -> str:
        """Everything up to the next special id."""
        start = self._at
        while self._at < len(self._ids) and self._ids[self._at] not in self._names:
            self._at += 1
        return self._vocabulary.decode(self._ids[start : self._at])

    def _mark(self, *names: str) -> str:
        """The special id that stands here, which must be one of these."""
        name = self._names.get(self._ids[self._at], "text") if self._at < len(self._ids) else "the end"
        if name not in names:
            raise self._wrong(f"{name} where {' or '.join(names)} is expected")
        self._at += 1
        return name

    def _wrong(self, message: str) -> RecordError:
        return RecordError("bad_chat", f"id {self._at}: {message}")
