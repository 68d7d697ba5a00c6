"""Timed events of a video: subtitles (SRT, WebVTT) and rows of events, in one form.

The text of the document has one line per event, sorted by start; the notes hold the events as `events`:

    0.00-2.50 s: A kettle is put on the stove.

Times are seconds from the first frame. Each pair of times is a fact `time`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from manifests.errors import RecordError
from manifests.records import Json, Media
from pipelines.ingest.annotations.shapes import LabelText, numbers
from pipelines.ingest.formats.text import check_text, decode_text, printable

MOST_EVENTS = 20_000
SLACK_S = 1.0
"""Seconds by which an event may end after the video. It is shortened to the end of the video."""
CAPTIONS = ("caption", "text", "sentence", "label")
STARTS, STOPS = ("start", "start_s", "start_time"), ("end", "stop", "end_s", "stop_s", "end_time")
"""Fields of an event."""

_TIMES = re.compile(r"^\s*(\S{1,20})\s+-->\s+(\S{1,20})")
_TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|<\d[\d:.]{0,15}>|\{\\[^{}]{0,100}\}")


@dataclass(frozen=True)
class TimedEvent:
    """An event of a video, with times in seconds from its first frame."""

    start_s: float
    stop_s: float
    text: str


def events_text(events: Sequence[TimedEvent], video: Media) -> tuple[LabelText, list[Json]]:
    """Return (text, `notes.events`). Raises RecordError: `bad_annotation`, `event_outside`, `too_many_events`."""
    if video.kind != "video":
        raise RecordError("bad_annotation", "events of an image, expected a video")
    if len(events) > MOST_EVENTS:
        raise RecordError("too_many_events", f"{len(events)} events, the limit is {MOST_EVENTS}")
    frames = video.frame_times_us
    length_s = (frames[-1] + (frames[-1] - frames[0]) / max(1, len(frames) - 1)) / 1e6
    lines: list[str] = []
    facts: list[tuple[str, int, int]] = []
    notes: list[Json] = []
    at = 0
    for event in sorted(events, key=lambda event: (event.start_s, event.stop_s)):
        if not 0 <= event.start_s <= event.stop_s:
            raise RecordError("bad_annotation", f"an event from {event.start_s} to {event.stop_s} s")
        if event.start_s > length_s or event.stop_s > length_s + SLACK_S:
            message = f"an event from {event.start_s} to {event.stop_s} s in a video of {length_s:.2f} s"
            raise RecordError("event_outside", message)
        stop_s = min(event.stop_s, length_s)
        times = f"{event.start_s:.2f}-{stop_s:.2f}"
        facts.append(("time", at, at + len(times)))
        lines.append(f"{times} s: {event.text}")
        at += len(lines[-1]) + 1
        notes.append({"start_s": event.start_s, "stop_s": stop_s, "text": event.text})
    return LabelText("\n".join(lines), tuple(facts), ()), notes


def subtitles(data: bytes) -> tuple[TimedEvent, ...]:
    """Read SRT or WebVTT; styles, positions and notes are dropped.

    Raises RecordError: `bad_annotation`, and the reasons of `decode_text`.
    """
    events = tuple(_cues(decode_text(data)[0]))
    if not events:
        raise RecordError("bad_annotation", "no subtitles")
    return events


def _cues(content: str) -> Iterator[TimedEvent]:
    for block in re.split(r"\n[ \t]*\n", content):
        lines = block.strip("\n").split("\n")
        at = next((i for i, line in enumerate(lines[:3]) if "-->" in line), None)
        if at is None:
            continue  # the head of a WebVTT file, a note, a style
        times = _TIMES.match(lines[at])
        if times is None:
            raise RecordError("bad_annotation", f"no two times: {printable(lines[at][:80])}")
        words = " ".join(_TAG.sub("", " ".join(lines[at + 1 :])).split())
        if words:
            yield TimedEvent(_seconds(times[1]), _seconds(times[2]), words)


def _seconds(written: str) -> float:
    """Seconds of a time such as `00:01:02,500`. Raises RecordError `bad_annotation`."""
    match = _TIME.fullmatch(written)
    if match is None:
        raise RecordError("bad_annotation", f"no time: {printable(written)}")
    hours, minutes, seconds, rest = match.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(rest.ljust(3, "0")) / 1000


def in_row(row: Json) -> bool:
    """Whether a row of JSON holds timed events."""
    if not isinstance(row, dict):
        return False
    events = row.get("events")
    if isinstance(events, list) and events:
        return all(isinstance(event, dict) and not {*STARTS}.isdisjoint(event) for event in events)
    return all(isinstance(row.get(name), list) for name in ("timestamps", "sentences"))


def of_row(row: dict[str, Json]) -> tuple[TimedEvent, ...]:
    """Return the events of a row, with times in seconds.

    Forms: `{"events": [{"start": 0, "end": 2.5, "caption": "..."}]}`, or lists `timestamps` and `sentences`, as in
    ActivityNet Captions. Raises RecordError `bad_annotation`.
    """
    if row.get("events"):
        return tuple(map(_event, row["events"]))
    times, sentences = row["timestamps"], row["sentences"]
    if len(times) != len(sentences):
        raise RecordError("bad_annotation", f"{len(times)} timestamps for {len(sentences)} sentences")
    return tuple(_timed(pair, sentence) for pair, sentence in zip(times, sentences, strict=True))


def _event(event: dict[str, Json]) -> TimedEvent:
    start, stop = (next((event[name] for name in names if name in event), None) for names in (STARTS, STOPS))
    words = next((event[name] for name in CAPTIONS if name in event), None)
    return _timed([start, stop], words)


def _timed(times: Json, value: Json) -> TimedEvent:
    """Raises RecordError `bad_annotation`."""
    start_s, stop_s = numbers(times, 2)
    words = " ".join(check_text(value).split()) if isinstance(value, str) else ""
    if not words:
        raise RecordError("bad_annotation", "an event without text")
    return TimedEvent(start_s, stop_s, words)
