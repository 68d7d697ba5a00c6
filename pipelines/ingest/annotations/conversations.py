"""Rows that hold conversations: OpenAI messages, ShareGPT, function calling, SWE-agent trajectories.

`ingest/readers/row_files.py` makes documents of them; `manifests/conversation.py` defines a conversation. The forms
mainly differ in the names of fields, so that one reader understands them all, field by field:

    messages | conversations | conversation | history     a list of messages
    role | from,  content | value | text                  the speaker; content as text or as a list of parts
    reasoning_content | reasoning | thinking, <think>     an assistant's thoughts before its reply
    tool_calls | function_call, <tool_call>               its calls of tools; results by id or in order
    trajectory                                            steps of thought, action and observation, under a task
    query + answers                                       one question and the calls that answer it
    tools | functions | function                          declarations of tools

An unknown role, a result without a call and the like are refused with a reason. The order of messages is never guessed.
The only repair: consecutive messages of the user in an agent's history become one.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from manifests.conversation import Call, Conversation, Message, Role
from manifests.errors import RecordError
from manifests.records import Json, Media, Part, Text
from pipelines.ingest.annotations import fields
from pipelines.ingest.formats.rows import parse_json
from pipelines.ingest.formats.text import check_text, printable

Load = Callable[[str], Media]
"""Function that loads a medium by the path that a row gives, or from a `data:` URI."""

LISTS = ("messages", "conversations", "conversation", "history", "trajectory", "question")
"""Fields that hold a conversation if their value is a list of maps, in the order of trial."""
AGENTS = ("history", "trajectory")

ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "ai", "model", "bot"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
}
"""Role of a data set -> role of a conversation."""
MARKER = re.compile(r"<(?:image|video)>\n?")
"""Place of a medium in a text, as in ShareGPT and LLaVA."""

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_CALL = re.compile(r"\s*<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
_SHELL = "bash"
"""Name of the tool for actions of a trajectory that are plain commands."""


def place_media(words: str, loaded: Sequence[Media]) -> list[Part]:
    """Put media at their markers if there are as many markers as media, otherwise before the text."""
    pieces = MARKER.split(words)
    if len(pieces) != len(loaded) + 1:
        return [*loaded, Text(MARKER.sub("", words))]
    parts: list[Part] = []
    for piece, medium in zip(pieces, [*loaded, None], strict=True):
        parts += [Text(piece)] if piece else []
        parts += [medium] if medium else []
    return parts


def holds_conversation(row: Json) -> bool:
    """Whether a row holds a conversation in one of the forms above."""
    return isinstance(row, dict) and (_message_list(row) is not None or _is_query(row))


def read_conversation(row: dict[str, Json], load: Load) -> Conversation:
    """Return the conversation of a row for which `holds_conversation` is true.

    Raises RecordError: `bad_message`, `bad_call`, `bad_tools`, `unknown_role`, `empty_message`, `no_task`,
    `result_without_call`, `missing_media`, `media_left_over`, and the reasons of `Conversation.checked` and of `load`.
    """
    named = _message_list(row)
    field, items = named if named is not None else ("", _query_messages(row))
    reader = _MessageReader(load, fields.media_references(row))
    system = row.get("system", row.get("system_prompt"))
    if isinstance(system, str) and system.strip() and not (items and ROLES.get(_raw_role(items[0])) == "system"):
        reader.add({"role": "system", "content": system})
    if field == "trajectory" and items and not _raw_role(items[0]):
        items = [*_task_messages(row), *(message for step in items for message in _step_messages(step))]
    for item in items:
        reader.add(item)
    return Conversation(tuple(reader.finished(merge=field in AGENTS)), tuple(_tools(row))).checked()


def conversation_media(row: Json) -> list[str]:
    """Return the paths of the media in a row's messages, up to the first error."""
    targets: list[str] = []

    def note(target: str) -> Media:
        targets.append(target)
        return Media("", "image", "", 1, 1)

    if holds_conversation(row):
        with suppress(RecordError):
            read_conversation(row, note)
    return [target for target in dict.fromkeys(targets) if not target.startswith("data:")]


def data_uri(target: str) -> bytes:
    """Return the content of a `data:` URI. Raises RecordError `bad_data_uri`."""
    head, _, body = target.partition(",")
    if not head.endswith(";base64"):
        raise RecordError("bad_data_uri", f"expected base64, got {printable(head[:60])}")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordError("bad_data_uri", str(error)) from None


# ------------------------------------------------------------------------------------------- messages of each form


def _message_list(row: dict[str, Json]) -> tuple[str, list[Json]] | None:
    """(field, messages) of the first field that holds a conversation."""
    for field in LISTS:
        value = _parsed(row.get(field))
        if field == "question" and isinstance(value, list) and all(isinstance(turn, list) for turn in value):
            value = [message for turn in value for message in turn]
        if isinstance(value, list) and (_is_message(field, value[0]) if value else field == LISTS[0]):
            return field, value
    return None


def _is_message(field: str, first: Json) -> bool:
    """Whether the first item of a list is a message. Some fields also hold lists of other maps."""
    has_role = isinstance(first, dict) and ("role" in first or "from" in first or "action" in first)
    return has_role or (isinstance(first, dict) and field in ("messages", "conversations"))


def _parsed(value: Json) -> Json:
    """The value of JSON in a text cell, as columns of tables have it; any other value unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(RecordError):
            return parse_json(value)
    return value


def _is_query(row: dict[str, Json]) -> bool:
    return isinstance(row.get("query"), str) and "tools" in row and isinstance(_parsed(row.get("answers")), list)


def _query_messages(row: dict[str, Json]) -> list[Json]:
    calls = _parsed(row["answers"])
    return [{"role": "user", "content": row["query"]}, {"role": "assistant", "tool_calls": calls}]


def _task_messages(row: dict[str, Json]) -> list[Json]:
    """The task of a trajectory as a message of the user. Raises RecordError `no_task`."""
    task = next((row[name] for name in ("problem_statement", "task", "issue", "instance_id") if name in row), None)
    if not isinstance(task, str):
        raise RecordError("no_task", "a trajectory without a history and without a task")
    return [{"role": "user", "content": task}]


def _step_messages(step: Json) -> Iterator[Json]:
    """A step of a trajectory as a call and its result. Raises RecordError `bad_message`."""
    if not isinstance(step, dict) or not isinstance(step.get("action"), str):
        raise RecordError("bad_message", "a step without an action")
    call = {"name": _SHELL, "arguments": {"command": step["action"]}}
    yield {"role": "assistant", "content": step.get("thought"), "tool_calls": [call]}
    yield {"role": "tool", "content": step.get("observation")}


def _tools(row: dict[str, Json]) -> Iterator[Json]:
    """Declarations of tools in the form of OpenAI. Raises RecordError `bad_tools`."""
    raw: Json = next((row[name] for name in ("tools", "functions", "function") if row.get(name)), [])
    tools = _parsed(raw)
    for tool in tools if isinstance(tools, list) else [tools]:
        match tool:
            case {"type": "function", "function": {"name": str()}}:
                yield tool
            case {"name": str()}:
                yield {"type": "function", "function": tool}
            case _:
                raise RecordError("bad_tools", f"{printable(repr(tool)[:80])} declares no function")


def _raw_role(item: Json) -> str:
    """Role of a message as its data set writes it; "" if there is none."""
    role = item.get("role", item.get("from")) if isinstance(item, dict) else None
    return role if isinstance(role, str) else ""


class _MessageReader:
    """Messages in order, with the calls that wait for results and the media that wait for their places."""

    def __init__(self, load: Load, media: Sequence[str]) -> None:
        """
        Args:
            media: targets of the row's media, for the markers in the messages.
        """
        self._load = load
        self._media = list(media)
        self._placed = False
        self._messages: list[Message] = []
        self._waiting: dict[int, tuple[str, str]] = {}
        """Number of a call -> its id and name, for the calls without a result."""
        self._calls = 0

    def add(self, item: Json) -> None:
        """Read one message. Raises RecordError."""
        raw_role = _raw_role(item)
        role = ROLES.get(raw_role)
        if role is None:
            message = f"role {raw_role!r}" if raw_role else f"a {type(item).__name__} without a role"
            raise RecordError("unknown_role", printable(message[:80]))
        content = item.get("content", item.get("value", item.get("text", item.get("system_prompt"))))
        if raw_role.endswith("_call"):
            self._assistant(item, None, _parsed(content))
        elif role == "assistant":
            self._assistant(item, content, _parsed(item.get("tool_calls")) or item.get("function_call") or [])
        elif role == "tool":
            self._results(item, content)
        elif parts := self._parts(content):
            self._messages.append(Message(role, parts, name=_name(item, role) if role == "user" else ""))
        elif role == "user":
            raise RecordError("empty_message", "a message of the user without content")

    def finished(self, merge: bool) -> Iterator[Message]:
        """Yield all messages. Media without a marker go before the first message of the user.

        Args:
            merge: join consecutive messages of the user.
        Raises:
            RecordError: `media_left_over`, and the reasons of `load`.
        """
        messages = self._messages
        if self._media and self._placed:
            raise RecordError("media_left_over", f"{len(self._media)} media have no place in the messages")
        first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
        if self._media and first is not None:
            loaded = tuple(self._load(target) for target in self._media)
            messages[first] = replace(messages[first], content=(*loaded, *messages[first].content))
        last: Message | None = None
        for message in messages:
            if last is not None and merge and last.role == message.role == "user":
                last = replace(last, content=(*last.content, Text("\n\n"), *message.content))
                continue
            if last is not None:
                yield last
            last = message
        if last is not None:
            yield last

    def _assistant(self, item: dict[str, Json], content: Json, raw_calls: Json) -> None:
        """Thoughts and calls may be in fields of their own or in tags inside the text."""
        parts = self._parts(content)
        thinking = _thinking(item, content)
        if len(parts) == 1 and isinstance(parts[0], Text):
            words = parts[0].text
            if not thinking and (thought := _THOUGHT.match(words)):
                thinking, words = thought[1].strip(), words[thought.end() :]
            if not raw_calls and (tagged := _CALL.findall(words)):
                raw_calls, words = [_tagged_json(call) for call in tagged], _CALL.sub("", words).strip()
            parts = (Text(words),) if words else ()
        calls = tuple(map(self._call, raw_calls if isinstance(raw_calls, list) else [raw_calls]))
        name = _name(item, "assistant")
        self._messages.append(Message("assistant", parts, check_text(thinking), calls, name=name))

    def _call(self, raw: Json) -> Call:
        function = raw.get("function", raw) if isinstance(raw, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError("bad_call", f"{printable(repr(raw)[:80])} names no function")
        arguments = function.get("arguments", function.get("parameters"))
        if not isinstance(arguments, str):
            arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
        call_id = raw.get("id")
        self._waiting[self._calls] = (call_id if isinstance(call_id, str) else "", function["name"])
        self._calls += 1
        return Call(check_text(function["name"]), check_text(arguments))

    def _results(self, item: dict[str, Json], content: Json) -> None:
        ids = item.get("tool_call_ids")
        wanted = item.get("tool_call_id", ids[0] if isinstance(ids, list) and ids else None)
        tagged = _RESULT.findall(content) if isinstance(content, str) else []
        for result in tagged or [content]:
            number = self._answered_call(wanted, item.get("name"))
            self._messages.append(Message("tool", self._parts(result), answers=number, name=_name(item, "tool")))

    def _answered_call(self, wanted: Json, name: Json) -> int:
        """Number of the waiting call with the id `wanted`; if ids are not used, of the first one with this name, or of
        the first one."""
        if isinstance(wanted, str) and any(call_id for call_id, _ in self._waiting.values()):
            matches = [number for number, (call_id, _) in self._waiting.items() if call_id == wanted]
        else:
            matches = [number for number, (_, called) in self._waiting.items() if called == name] or [*self._waiting]
        if not matches:
            raise RecordError("result_without_call", "a result, and no call waits for it")
        del self._waiting[matches[0]]
        return matches[0]

    def _parts(self, content: Json) -> tuple[Part, ...]:
        match content:
            case None:
                return ()
            case str():
                return tuple(self._with_media(content))
            case list():
                return tuple(part for item in content for part in self._part(item))
            case bool() | int() | float():
                return (Text(str(content)),)
            case dict():
                return (Text(check_text(json.dumps(content, ensure_ascii=False))),)  # the result of a tool
        raise RecordError("bad_message", f"a {type(content).__name__} where content was expected")

    def _part(self, item: Json) -> Iterator[Part]:
        match item:
            case str() | {"type": "text" | "input_text" | "output_text", "text": str()}:
                yield from self._with_media(item if isinstance(item, str) else item["text"])
            case {"type": "thinking" | "reasoning"}:
                return
            case {"type": str(kind)} if (target := _target(item, kind)) is not None:
                self._media.clear()  # parts that name their media replace the row's own list
                yield self._load(target)
            case {"type": "image" | "video"}:
                yield self._next_medium()
            case {"text": str(words)}:
                yield from self._with_media(words)
            case _:
                raise RecordError("bad_message", f"{printable(repr(item)[:80])} is no part of a message")

    def _with_media(self, words: str) -> Iterator[Part]:
        """Text with the row's media at their markers. In a row without media, a marker is text."""
        check_text(words)
        pieces = MARKER.split(words) if self._media or self._placed else [words]
        for i, piece in enumerate(pieces):
            if i:
                yield self._next_medium()
            if piece:
                yield Text(piece)

    def _next_medium(self) -> Media:
        if not self._media:
            raise RecordError("missing_media", "more places for media than media")
        self._placed = True
        return self._load(self._media.pop(0))


def _target(item: dict[str, Json], kind: str) -> str | None:
    """Path or URI in a part such as `{"type": "image_url", "image_url": {"url": ...}}`."""
    match item.get("source"):
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return f"data:{media_type};base64,{data}"
    for name in (kind, "image_url", "video_url", "image", "video", "path", "url", "file_name"):
        value = item.get(name)
        value = value.get("url", value.get("path")) if isinstance(value, dict) else value
        if isinstance(value, str) and value:
            return value.removeprefix("file://")
    return None


def _thinking(item: dict[str, Json], content: Json) -> str:
    """Thoughts in a field of the message, or in a part of its content; "" if there are none."""
    candidates: list[Json] = [item.get(name) for name in ("reasoning_content", "reasoning", "thinking")]
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type") in ("thinking", "reasoning"):
            candidates.append(part.get("thinking", part.get("text")))
    return next((words for words in candidates if isinstance(words, str) and words), "")


def _name(item: dict[str, Json], role: Role) -> str:
    """Name of the speaker; "" if it is only the role."""
    name = item.get("name")
    return check_text(name) if isinstance(name, str) and name != role else ""


def _tagged_json(words: str) -> Json:
    try:
        return parse_json(words)
    except RecordError as error:
        raise RecordError("bad_call", error.message) from None
