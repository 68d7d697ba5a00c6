"""Rows that hold conversations: OpenAI messages, ShareGPT, function calling, SWE-agent trajectories.

Used by `ingest/documents.py`; what a conversation is says `manifests/conversation.py`. The forms differ in the names of
things more than in the things, so one reader takes them all, field by field:

    messages | conversations | conversation | history     a list of messages
    role | from,  content | value | text                  who says what; content as text or as a list of parts
    reasoning_content | reasoning | thinking, <think>     what an assistant thinks first
    tool_calls | function_call, <tool_call>               what it asks tools for; results by id or in order
    trajectory                                            steps of thought, action and observation, under a task
    query + answers                                       one question and the calls that answer it
    tools | functions | function                          declarations

An unknown role, a result without a call and the like are refused with a reason; nothing is guessed into order, but for
two messages of the user in a row in an agent's history, which are one.
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
from pipelines.ingest.formats import rows, text

Load = Callable[[str], Media]
"""A medium by what a row calls it: a path beside the row's file, or a `data:` URI."""

LISTS = ("messages", "conversations", "conversation", "history", "trajectory", "question")
"""Fields whose value is a conversation when it is a list of maps, in the order in which they are tried."""
AGENTS = ("history", "trajectory")

ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "ai", "model", "bot"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
}
MARKER = re.compile(r"<(?:image|video)>\n?")
"""Where a medium of the row stands in a message, in the form of ShareGPT and LLaVA."""

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_CALL = re.compile(r"\s*<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
_SHELL = "bash"
"""Name of the tool that the actions of a trajectory are calls of, where they are no calls already."""


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
    return isinstance(row, dict) and (_found(row) is not None or _is_query(row))


def read_conversation(row: dict[str, Json], load: Load) -> Conversation:
    """The conversation of a row that holds one. Raises RecordError: what `Conversation.checked` and `load` raise;
    `bad_message`, `bad_call`, `bad_tools` for what is not of any known form; `missing_media`, `media_left_over`."""
    found = _found(row)
    name, items = found if found is not None else ("", _query(row))
    reader = _MessageReader(load, fields.media_references(row))
    system = row.get("system", row.get("system_prompt"))
    if isinstance(system, str) and system.strip() and not (items and ROLES.get(_said_role(items[0])) == "system"):
        reader.add({"role": "system", "content": system})
    if name == "trajectory" and items and not _said_role(items[0]):
        items = [*_task(row), *(said for step in items for said in _step(step))]
    for item in items:
        reader.add(item)
    return Conversation(tuple(reader.finished(merge=name in AGENTS)), tuple(_tools(row))).checked()


def conversation_media(row: Json) -> list[str]:
    """Paths of the media in the messages of a row, as far as they can be read."""
    found: list[str] = []

    def note(target: str) -> Media:
        found.append(target)
        return Media("", "image", "", 1, 1)

    if holds_conversation(row):
        with suppress(RecordError):
            read_conversation(row, note)
    return [target for target in dict.fromkeys(found) if not target.startswith("data:")]


def data_uri(target: str) -> bytes:
    """What a `data:` URI holds. Raises RecordError `bad_data_uri`."""
    head, _, body = target.partition(",")
    if not head.endswith(";base64"):
        raise RecordError("bad_data_uri", f"expected base64, got {text.printable(head[:60])}")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordError("bad_data_uri", str(error)) from None


def _found(row: dict[str, Json]) -> tuple[str, list[Json]] | None:
    for name in LISTS:
        value = _unpacked(row.get(name))
        if name == "question" and isinstance(value, list) and all(isinstance(turn, list) for turn in value):
            value = [message for turn in value for message in turn]
        if isinstance(value, list) and (_begins_one(name, value[0]) if value else name == LISTS[0]):
            return name, value
    return None


def _begins_one(name: str, first: Json) -> bool:
    """Under some names other things are lists of maps, too."""
    known = isinstance(first, dict) and ("role" in first or "from" in first or "action" in first)
    return known or (isinstance(first, dict) and name in ("messages", "conversations"))


def _unpacked(value: Json) -> Json:
    """Columns of tables hold JSON as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(RecordError):
            return rows.parse_json(value)
    return value


def _is_query(row: dict[str, Json]) -> bool:
    return isinstance(row.get("query"), str) and "tools" in row and isinstance(_unpacked(row.get("answers")), list)


def _query(row: dict[str, Json]) -> list[Json]:
    calls = _unpacked(row["answers"])
    return [{"role": "user", "content": row["query"]}, {"role": "assistant", "tool_calls": calls}]


def _task(row: dict[str, Json]) -> list[Json]:
    told = next((row[name] for name in ("problem_statement", "task", "issue", "instance_id") if name in row), None)
    if not isinstance(told, str):
        raise RecordError("no_task", "a trajectory without a history says nowhere what the task is")
    return [{"role": "user", "content": told}]


def _step(step: Json) -> Iterator[Json]:
    if not isinstance(step, dict) or not isinstance(step.get("action"), str):
        raise RecordError("bad_message", "a step without an action")
    call = {"name": _SHELL, "arguments": {"command": step["action"]}}
    yield {"role": "assistant", "content": step.get("thought"), "tool_calls": [call]}
    yield {"role": "tool", "content": step.get("observation")}


def _tools(row: dict[str, Json]) -> Iterator[Json]:
    told: Json = next((row[name] for name in ("tools", "functions", "function") if row.get(name)), [])
    tools = _unpacked(told)
    for tool in tools if isinstance(tools, list) else [tools]:
        match tool:
            case {"type": "function", "function": {"name": str()}}:
                yield tool
            case {"name": str()}:
                yield {"type": "function", "function": tool}
            case _:
                raise RecordError("bad_tools", f"{text.printable(repr(tool)[:80])} declares no function")


def _said_role(item: Json) -> str:
    role = item.get("role", item.get("from")) if isinstance(item, dict) else None
    return role if isinstance(role, str) else ""


class _MessageReader:
    """Messages one after the other, with the calls that wait for results and the media that wait for their place."""

    def __init__(self, load: Load, media: Sequence[str]) -> None:
        self._load = load
        self._media = list(media)
        self._placed = False
        self._messages: list[Message] = []
        self._waiting: dict[int, tuple[str, str]] = {}
        """By number of the call: its id and name."""
        self._called = 0

    def add(self, item: Json) -> None:
        said = _said_role(item)
        role = ROLES.get(said)
        if role is None:
            what = f"role {said!r}" if said else f"a {type(item).__name__} without a role"
            raise RecordError("unknown_role", text.printable(what[:80]))
        content = item.get("content", item.get("value", item.get("text", item.get("system_prompt"))))
        if said.endswith("_call"):
            self._assistant(item, None, _unpacked(content))
        elif role == "assistant":
            self._assistant(item, content, _unpacked(item.get("tool_calls")) or item.get("function_call") or [])
        elif role == "tool":
            self._results(item, content)
        elif parts := self._parts(content):
            self._messages.append(Message(role, parts, name=_name(item, role) if role == "user" else ""))
        elif role == "user":
            raise RecordError("empty_message", "a user says nothing")

    def finished(self, merge: bool) -> Iterator[Message]:
        """All messages. `merge`: those of a user that follow each other become one."""
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

    def _assistant(self, item: dict[str, Json], content: Json, asked: Json) -> None:
        parts = self._parts(content)
        thinking = _thinking(item, content)
        if len(parts) == 1 and isinstance(parts[0], Text):
            words = parts[0].text
            if not thinking and (thought := _THOUGHT.match(words)):
                thinking, words = thought[1].strip(), words[thought.end() :]
            if not asked and (tagged := _CALL.findall(words)):
                asked, words = [_json(call) for call in tagged], _CALL.sub("", words).strip()
            parts = (Text(words),) if words else ()
        calls = tuple(map(self._call, asked if isinstance(asked, list) else [asked]))
        self._messages.append(
            Message("assistant", parts, text.check_text(thinking), calls, name=_name(item, "assistant"))
        )

    def _call(self, told: Json) -> Call:
        function = told.get("function", told) if isinstance(told, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError("bad_call", f"{text.printable(repr(told)[:80])} calls nothing")
        arguments = function.get("arguments", function.get("parameters"))
        if not isinstance(arguments, str):
            arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
        call_id = told.get("id")
        self._waiting[self._called] = (call_id if isinstance(call_id, str) else "", function["name"])
        self._called += 1
        return Call(text.check_text(function["name"]), text.check_text(arguments))

    def _results(self, item: dict[str, Json], content: Json) -> None:
        ids = item.get("tool_call_ids")
        wanted = item.get("tool_call_id", ids[0] if isinstance(ids, list) and ids else None)
        tagged = _RESULT.findall(content) if isinstance(content, str) else []
        for one in tagged or [content]:
            number = self._answered(wanted, item.get("name"))
            self._messages.append(Message("tool", self._parts(one), answers=number, name=_name(item, "tool")))

    def _answered(self, wanted: Json, name: Json) -> int:
        """The call that waits under this id; without one the first, of this name if it is known."""
        if isinstance(wanted, str) and any(call_id for call_id, _ in self._waiting.values()):
            fitting = [number for number, (call_id, _) in self._waiting.items() if call_id == wanted]
        else:
            fitting = [number for number, (_, called) in self._waiting.items() if called == name] or [*self._waiting]
        if not fitting:
            raise RecordError("result_without_call", "a result of no call that waits for one")
        del self._waiting[fitting[0]]
        return fitting[0]

    def _parts(self, content: Json) -> tuple[Part, ...]:
        match content:
            case None:
                return ()
            case str():
                return tuple(self._marked(content))
            case list():
                return tuple(part for item in content for part in self._part(item))
            case bool() | int() | float():
                return (Text(str(content)),)
            case dict():
                return (Text(text.check_text(json.dumps(content, ensure_ascii=False))),)  # the result of a tool
        raise RecordError("bad_message", f"a {type(content).__name__} where content was expected")

    def _part(self, item: Json) -> Iterator[Part]:
        match item:
            case str() | {"type": "text" | "input_text" | "output_text", "text": str()}:
                yield from self._marked(item if isinstance(item, str) else item["text"])
            case {"type": "thinking" | "reasoning"}:
                return
            case {"type": str(kind)} if (target := _target(item, kind)) is not None:
                self._media.clear()  # parts that name their media need no list beside them
                yield self._load(target)
            case {"type": "image" | "video"}:
                yield self._next()
            case {"text": str(words)}:
                yield from self._marked(words)
            case _:
                raise RecordError("bad_message", f"{text.printable(repr(item)[:80])} is no part of a message")

    def _marked(self, words: str) -> Iterator[Part]:
        """Text with the row's media at their markers; where a row has none, a marker is text."""
        text.check_text(words)
        pieces = MARKER.split(words) if self._media or self._placed else [words]
        for i, piece in enumerate(pieces):
            if i:
                yield self._next()
            if piece:
                yield Text(piece)

    def _next(self) -> Media:
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
    told: list[Json] = [item.get(name) for name in ("reasoning_content", "reasoning", "thinking")]
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type") in ("thinking", "reasoning"):
            told.append(part.get("thinking", part.get("text")))
    return next((words for words in told if isinstance(words, str) and words), "")


def _name(item: dict[str, Json], role: Role) -> str:
    name = item.get("name")
    return text.check_text(name) if isinstance(name, str) and name != role else ""


def _json(words: str) -> Json:
    try:
        return rows.parse_json(words)
    except RecordError as error:
        raise RecordError("bad_call", error.message) from None
