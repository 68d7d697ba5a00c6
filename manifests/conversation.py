"""A conversation, and how a `Document` holds one: messages, thinking, tool calls and what they returned.

    ingest -> Conversation -> Document -> `tokenization/chat.py`

The words of a conversation stand once, in the order in which they are said, as the parts of its document;
`notes["messages"]` says to which message and field each part belongs, `notes["tools"]` which tools were declared. So
filters, facts, cleaning, deduplication and forgetting meet an ordinary document and need to know nothing of roles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from manifests.errors import RecordError
from manifests.records import Document, Json, Media, Part, Text

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)

DECLARATION = "tool_declare"
"""Name of the system message that declares tools; no other system message has a name, and no tool has this one."""


@dataclass(frozen=True, slots=True)
class Call:
    """An assistant asks for a tool. Calls are counted through the whole conversation, from 0."""

    name: str
    arguments: str
    """As the model writes them: JSON, kept as it was written."""


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: tuple[Part, ...] = ()
    thinking: str = ""
    """What an assistant thinks before it says its content."""
    calls: tuple[Call, ...] = ()
    """After the content of an assistant."""
    answers: int = -1
    """The call whose result a tool message is."""
    name: str = ""
    """Who speaks, where it is not said by the role: the name of a tool or of one of several users."""


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[Json, ...] = ()
    """Declarations as JSON: `{"type": "function", "function": {"name": ..., "parameters": {...}}}`."""

    def checked(self) -> Conversation:
        """Itself, if everybody speaks in turn.

        Raises RecordError: `empty_conversation`, `empty_message`, `unknown_role`, `roles_out_of_order`,
        `result_without_call`, `call_without_result` (but for calls at the very end), `media_in_answer`, `bad_name`.
        """
        if not self.messages:
            raise RecordError("empty_conversation", "no messages")
        before: Role | None = None
        calls: list[str] = []
        waiting: set[int] = set()
        for number, message in enumerate(self.messages):
            at = f"message {number}"
            if message.role not in ROLES:
                raise RecordError("unknown_role", f"{at}: {message.role!r}")
            _check_fields(message, at)
            if message.role == "tool":
                if message.answers not in waiting:
                    raise RecordError("result_without_call", f"{at} is the result of no call that waits for one")
                waiting.remove(message.answers)
            elif waiting:
                raise RecordError("call_without_result", f"{at} follows calls without results")
            if before not in _MAY_FOLLOW[message.role]:
                raise RecordError("roles_out_of_order", f"{at}: {message.role} after {before or 'nothing'}")
            before = message.role
            waiting |= set(range(len(calls), len(calls) + len(message.calls)))
            calls += [call.name for call in message.calls]
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that is said, in order: of a message its thinking, its content, the arguments of its calls."""
        return tuple(part for message in self.messages for part in _parts(message))

    @property
    def notes(self) -> dict[str, Json]:
        """What a document of these parts has to note."""
        told: dict[str, Json] = {"messages": [_noted(message) for message in self.messages]}
        return told | ({"tools": list(self.tools)} if self.tools else {})


_MAY_FOLLOW: Mapping[Role, tuple[Role | None, ...]] = {
    "system": (None, "system"),
    "user": (None, "system", "assistant", "tool"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def conversation_in(document: Document) -> Conversation | None:
    """The conversation that a document holds, if it holds one.

    Raises RecordError `bad_conversation` where notes and parts no longer fit together.
    """
    noted = document.notes.get("messages")
    if noted is None:
        return None
    parts = iter(document.parts)
    try:
        messages = tuple(_message(told, parts) for told in noted)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"notes.messages does not fit the parts: {type(error).__name__} {error}"
        raise RecordError("bad_conversation", message) from None
    if next(parts, None) is not None:
        raise RecordError("bad_conversation", "notes.messages leaves parts over")
    return Conversation(messages, tuple(document.notes.get("tools", ())))


def _check_fields(message: Message, at: str) -> None:
    own = message.role == "assistant"
    if (message.thinking or message.calls) and not own:
        raise RecordError("roles_out_of_order", f"{at}: a {message.role} neither thinks nor calls tools")
    if own and any(isinstance(part, Media) for part in message.content):
        raise RecordError("media_in_answer", f"{at}: an assistant speaks in words")
    says = message.calls or any(isinstance(part, Media) or part.text for part in _parts(message))
    if not says and message.role != "tool":  # a command may have nothing to print
        raise RecordError("empty_message", f"{at} says nothing")
    if message.role == "system" and message.name not in ("", DECLARATION):
        raise RecordError("bad_name", f"{at}: a system message can't be named {message.name!r}")
    if message.role == "tool" and message.name in ("system", DECLARATION):
        raise RecordError("bad_name", f"{at}: a tool can't be named {message.name!r}")
    for call in message.calls:
        if not call.name or any(character.isspace() or character == ":" for character in call.name):
            raise RecordError("bad_name", f"{at}: a tool can't be named {call.name!r}")


def _parts(message: Message) -> Iterator[Part]:
    if message.thinking:
        yield Text(message.thinking)
    yield from message.content
    for call in message.calls:
        yield Text(call.arguments)


def _noted(message: Message) -> dict[str, Json]:
    noted: dict[str, Json] = {"role": message.role, "content": len(message.content)}
    noted |= {"name": message.name} if message.name else {}
    noted |= {"thinking": True} if message.thinking else {}
    noted |= {"calls": [call.name for call in message.calls]} if message.calls else {}
    return noted | ({"answers": message.answers} if message.role == "tool" else {})


def _message(told: Mapping[str, Json], parts: Iterator[Part]) -> Message:
    thinking = _words(_next(parts)) if told.get("thinking") else ""
    content = tuple(_next(parts) for _ in range(told["content"]))
    calls = tuple(Call(name, _words(_next(parts))) for name in told.get("calls", ()))
    return Message(told["role"], content, thinking, calls, told.get("answers", -1), told.get("name", ""))


def _next(parts: Iterator[Part]) -> Part:
    part = next(parts, None)
    if part is None:
        raise ValueError("more parts than there are")
    return part


def _words(part: Part) -> str:
    if isinstance(part, Media):
        raise ValueError("a medium where words are expected")
    return part.text
