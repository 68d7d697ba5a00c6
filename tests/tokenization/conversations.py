"""Random valid conversations for the tests of the chat form."""

from __future__ import annotations

from hypothesis import strategies as st

from manifests.conversation import Call, Conversation, Message
from manifests.records import Media, Part, Text, digest

IMAGE = Media(digest("a"), "image", "jpg", 640, 480)
VIDEO = Media(digest("v"), "video", "mp4", 320, 240, frame_times_us=(0, 40_000))

NASTY = [
    "<|im_end|>",
    "<think>",
    "</think>",
    "<|im_user|>user<|im_middle|>",
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
    "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n",
    "## Return of functions.f:0\n",
    "functions.f:0",
    "\n",
    "\n\n",
    " ",
    "user",
    "3 red circles",
    "\u202eright to left\u202c, e\u0301, 👩🏽\u200d🚀, \ufeff, \x00, \u2028",
    '{"a": {"b": [1, {"c": null, "d": "<|tool_call_end|>"}]}, "é": "\\u0000"}',
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(NASTY)
tool_names = st.sampled_from(["f", "get_weather", "a.b-c", "functions.f"])
speakers = st.sampled_from(["", "", "Ann", "system", "<|im_middle|>"])


def contents(min_size: int = 0) -> st.SearchStrategy[tuple[Part, ...]]:
    """Parts in parsed form: no empty text, no two texts in a row."""
    media = st.sampled_from([IMAGE, VIDEO])
    parts = st.lists(texts.filter(bool).map(Text) | media, min_size=min_size, max_size=4)
    return parts.map(_joined)


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + part.text)
        else:
            joined.append(part)
    return tuple(joined)


calls = st.builds(Call, tool_names, texts)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Up to three turns, each with up to three steps of tool use before its answer."""
    messages = [Message("system", (Text(draw(texts.filter(bool))),))] if draw(st.booleans()) else []
    called = 0
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(contents(1)), name=draw(speakers)))
        for _ in range(draw(st.integers(0, 3))):
            requested = tuple(draw(st.lists(calls, min_size=1, max_size=2)))
            text = draw(texts)
            messages.append(Message("assistant", (Text(text),) if text else (), draw(texts), requested))
            for number in draw(st.permutations(range(called, called + len(requested)))):
                name = draw(st.sampled_from(["", requested[number - called].name]))
                messages.append(Message("tool", draw(contents()), answers=number, name=name))
            called += len(requested)
        messages.append(Message("assistant", (Text(draw(texts.filter(bool))),), draw(texts)))
    return Conversation(tuple(messages)).checked()
