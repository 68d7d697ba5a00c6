"""Conversations (messages, thinking, tool calls and their results), and their form inside a `Document`.

    ingest -> Conversation -> Document -> `tokenization/chat.py`

The texts and media of a conversation are the parts of its document, once and in order; `notes["messages"]` maps each
part to its message and field, `notes["tools"]` holds the declared tools. Filters, facts, cleaning, deduplication and
forgetting therefore see an ordinary document and need to know nothing about roles."""

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
    """Call of a tool by an assistant. Calls are numbered through the whole conversation, from 0."""

    name: str
    arguments: str
    """JSON text, byte for byte as the model writes it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: tuple[Part, ...] = ()
    thinking: str = ""
    """Thinking of an assistant before its content."""
    calls: tuple[Call, ...] = ()
    """Tool calls of an assistant, after its content."""
    answers: int = -1
    """Number of the call whose result this tool message is."""
    name: str = ""
    """Name of the speaker if the role is not enough: of a tool, or of one of several users."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, with the declared tools."""

    messages: tuple[Message, ...]
    tools: tuple[Json, ...] = ()
    """Declarations as JSON: `{"type": "function", "function": {"name": ..., "parameters": {...}}}`."""

    def checked(self) -> Conversation:
        """Validate the order of roles and the fields of messages, and return this conversation.

        Raises:
            RecordError: `empty_conversation`, `empty_message`, `unknown_role`, `roles_out_of_order`,
                `result_without_call`, `call_without_result` (calls at the very end may have none), `media_in_answer`,
                `bad_name`.
        """
        if not self.messages:
            raise RecordError("empty_conversation", "no messages")
        before: Role | None = None
        calls: list[str] = []
        waiting: set[int] = set()
        for number, message in enumerate(self.messages):
            where = f"message {number}"
            if message.role not in ROLES:
                raise RecordError("unknown_role", f"{where}: {message.role!r}")
            _check_fields(message, where)
            if message.role == "tool":
                if message.answers not in waiting:
                    raise RecordError("result_without_call", f"{where}: no open call has number {message.answers}")
                waiting.remove(message.answers)
            elif waiting:
                raise RecordError("call_without_result", f"{where} follows calls without results")
            if before not in _MAY_FOLLOW[message.role]:
                raise RecordError("roles_out_of_order", f"{where}: {message.role} after {before or 'nothing'}")
            before = message.role
            waiting |= set(range(len(calls), len(calls) + len(message.calls)))
            calls += [call.name for call in message.calls]
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the document, in order: of each message its thinking, its content, the arguments of its calls."""
        return tuple(part for message in self.messages for part in _parts(message))

    @property
    def notes(self) -> dict[str, Json]:
        """Notes of the document, which map its parts to messages."""
        notes: dict[str, Json] = {"messages": [_message_note(message) for message in self.messages]}
        return notes | ({"tools": list(self.tools)} if self.tools else {})


_MAY_FOLLOW: Mapping[Role, tuple[Role | None, ...]] = {
    "system": (None, "system"),
    "user": (None, "system", "assistant", "tool"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def conversation_in(document: Document) -> Conversation | None:
    """Return the conversation that a document holds; None if it holds none.

    Raises:
        RecordError: `bad_conversation` if notes and parts do not match.
    """
    notes = document.notes.get("messages")
    if notes is None:
        return None
    parts = iter(document.parts)
    try:
        messages = tuple(_message(note, parts) for note in notes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"notes.messages does not fit the parts: {type(error).__name__} {error}"
        raise RecordError("bad_conversation", message) from None
    if next(parts, None) is not None:
        raise RecordError("bad_conversation", "notes.messages names fewer parts than the document has")
    return Conversation(messages, tuple(document.notes.get("tools", ())))


def _check_fields(message: Message, where: str) -> None:
    is_assistant = message.role == "assistant"
    if (message.thinking or message.calls) and not is_assistant:
        raise RecordError("roles_out_of_order", f"{where}: a {message.role} neither thinks nor calls tools")
    if is_assistant and any(isinstance(part, Media) for part in message.content):
        raise RecordError("media_in_answer", f"{where}: an assistant message holds media")
    has_content = message.calls or any(isinstance(part, Media) or part.text for part in _parts(message))
    if not has_content and message.role != "tool":  # the result of a tool may be empty
        raise RecordError("empty_message", f"{where} has no content")
    if message.role == "system" and message.name not in ("", DECLARATION):
        raise RecordError("bad_name", f"{where}: a system message can't be named {message.name!r}")
    if message.role == "tool" and message.name in ("system", DECLARATION):
        raise RecordError("bad_name", f"{where}: a tool can't be named {message.name!r}")
    for call in message.calls:
        if not call.name or any(character.isspace() or character == ":" for character in call.name):
            raise RecordError("bad_name", f"{where}: a tool can't be named {call.name!r}")


def _parts(message: Message) -> Iterator[Part]:
    """Yield the parts of one message in order."""
    if message.thinking:
        yield Text(message.thinking)
    yield from message.content
    for call in message.calls:
        yield Text(call.arguments)


def _message_note(message: Message) -> dict[str, Json]:
    """Return the entry of `notes["messages"]` for a message."""
    note: dict[str, Json] = {"role": message.role, "content": len(message.content)}
    note |= {"name": message.name} if message.name else {}
    note |= {"thinking": True} if message.thinking else {}
    note |= {"calls": [call.name for call in message.calls]} if message.calls else {}
    return note | ({"answers": message.answers} if message.role == "tool" else {})


def _message(note: Mapping[str, Json], parts: Iterator[Part]) -> Message:
    """Build a message from its entry in the notes and the next parts of the document."""
    thinking = _text(_next_part(parts)) if note.get("thinking") else ""
    content = tuple(_next_part(parts) for _ in range(note["content"]))
    calls = tuple(Call(name, _text(_next_part(parts))) for name in note.get("calls", ()))
    return Message(note["role"], content, thinking, calls, note.get("answers", -1), note.get("name", ""))


def _next_part(parts: Iterator[Part]) -> Part:
    part = next(parts, None)
    if part is None:
        raise ValueError("the document has too few parts")
    return part


def _text(part: Part) -> str:
    if isinstance(part, Media):
        raise ValueError("expected a text part, got a medium")
    return part.text
