"""What happens when in a clip: subtitles beside it (SRT, WebVTT) and rows of timed events, in one form.

The text of the document has a line per event, in the order of their beginnings, the notes hold them as `events`:

    0.00-2.50 s: A kettle is put on the stove.

Times count from the clip's first frame; each is a fact `time`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from manifests.errors import RecordError
from manifests.records import Json, Media
from pipelines.ingest.annotations.shapes import LabelText, numbers
from pipelines.ingest.formats import text

MOST_EVENTS = 20_000
SLACK_S = 1.0
"""By which an event may end behind the clip; it then ends with it."""
SUBTITLES = (".srt", ".vtt")
SAID = ("caption", "text", "sentence", "label")
STARTS, STOPS = ("start", "start_s", "start_time"), ("end", "stop", "end_s", "stop_s", "end_time")

_TIMES = re.compile(r"^\s*(\S{1,20})\s+-->\s+(\S{1,20})")
_TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|<\d[\d:.]{0,15}>|\{\\[^{}]{0,100}\}")


@dataclass(frozen=True)
class TimedEvent:
    start_s: float
    stop_s: float
    text: str


def events_text(events: Sequence[TimedEvent], clip: Media) -> tuple[LabelText, list[Json]]:
    """Text, and what stands in the notes. Raises RecordError: `bad_annotation`, `event_outside`, `too_many_events`."""
    if clip.kind != "video":
        raise RecordError("bad_annotation", "events happen in clips, not in pictures")
    if len(events) > MOST_EVENTS:
        raise RecordError("too_many_events", f"{len(events)} events, the limit is {MOST_EVENTS}")
    frames = clip.frame_times_us
    length_s = (frames[-1] + (frames[-1] - frames[0]) / max(1, len(frames) - 1)) / 1e6
    lines: list[str] = []
    facts: list[tuple[str, int, int]] = []
    notes: list[Json] = []
    at = 0
    for one in sorted(events, key=lambda event: (event.start_s, event.stop_s)):
        if not 0 <= one.start_s <= one.stop_s:
            raise RecordError("bad_annotation", f"an event from {one.start_s} to {one.stop_s} s")
        if one.start_s > length_s or one.stop_s > length_s + SLACK_S:
            raise RecordError("event_outside", f"{one.start_s} to {one.stop_s} s of a clip of {length_s:.2f} s")
        stop_s = min(one.stop_s, length_s)
        times = f"{one.start_s:.2f}-{stop_s:.2f}"
        facts.append(("time", at, at + len(times)))
        lines.append(f"{times} s: {one.text}")
        at += len(lines[-1]) + 1
        notes.append({"start_s": one.start_s, "stop_s": stop_s, "text": one.text})
    return LabelText("\n".join(lines), tuple(facts), ()), notes


def subtitles(data: bytes) -> tuple[TimedEvent, ...]:
    """SRT or WebVTT, without styles, positions and notes. Raises RecordError: `bad_annotation`, and those of
    `text.decode`."""
    found = tuple(_cues(text.decode_text(data)[0]))
    if not found:
        raise RecordError("bad_annotation", "no subtitles")
    return found


def _cues(content: str) -> Iterator[TimedEvent]:
    for block in re.split(r"\n[ \t]*\n", content):
        lines = block.strip("\n").split("\n")
        at = next((i for i, line in enumerate(lines[:3]) if "-->" in line), None)
        if at is None:
            continue  # the head of a WebVTT file, a note, a style
        times = _TIMES.match(lines[at])
        if times is None:
            raise RecordError("bad_annotation", f"no two times: {text.printable(lines[at][:80])}")
        said = " ".join(_TAG.sub("", " ".join(lines[at + 1 :])).split())
        if said:
            yield TimedEvent(_seconds(times[1]), _seconds(times[2]), said)


def _seconds(said: str) -> float:
    found = _TIME.fullmatch(said)
    if found is None:
        raise RecordError("bad_annotation", f"no time: {text.printable(said)}")
    hours, minutes, seconds, rest = found.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(rest.ljust(3, "0")) / 1000


def in_row(row: Json) -> bool:
    if not isinstance(row, dict):
        return False
    told = row.get("events")
    if isinstance(told, list) and told:
        return all(isinstance(one, dict) and not {*STARTS}.isdisjoint(one) for one in told)
    return all(isinstance(row.get(name), list) for name in ("timestamps", "sentences"))


def of_row(row: dict[str, Json]) -> tuple[TimedEvent, ...]:
    """`{"events": [{"start": 0, "end": 2.5, "caption": "..."}]}`, or lists `timestamps` and `sentences`, as ActivityNet
    has them; in seconds. Raises RecordError `bad_annotation`."""
    if row.get("events"):
        return tuple(map(_event, row["events"]))
    times, said = row["timestamps"], row["sentences"]
    if len(times) != len(said):
        raise RecordError("bad_annotation", f"{len(times)} timestamps for {len(said)} sentences")
    return tuple(_lasting(pair, words) for pair, words in zip(times, said, strict=True))


def _event(told: dict[str, Json]) -> TimedEvent:
    start, stop = (next((told[name] for name in names if name in told), None) for names in (STARTS, STOPS))
    words = next((told[name] for name in SAID if name in told), None)
    return _lasting([start, stop], words)


def _lasting(times: Json, value: Json) -> TimedEvent:
    start_s, stop_s = numbers(times, 2)
    words = " ".join(text.check_text(value).split()) if isinstance(value, str) else ""
    if not words:
        raise RecordError("bad_annotation", "an event of which nothing is said")
    return TimedEvent(start_s, stop_s, words)
