"""Print and its places, questions about pictures, charts with tables, subtitles and events of clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import Json, Media, Shape
from pipelines.ingest.annotations import events, fields, ocr
from pipelines.ingest.annotations.events import TimedEvent
from tests.pipelines.ingest.ingested import aside, documents, ingest, told
from tests.pipelines.small_data import clip, image
from tokenization.encode import encode
from tokenization.vocabulary import Vocabulary

SIZE = (100, 50)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def rows(*told: Json) -> str:
    return "".join(json.dumps(row) + "\n" for row in told)


def test_print_in_rows_keeps_its_places(tmp_path: Path) -> None:
    line = {"text": "TOTAL  4.20", "box": [10, 20, 90, 40]}
    word = {"text": "mill", "polygon": [[1, 1], [9, 1], [9, 9], [1, 9]]}
    lines = rows(
        {"image": "a.png", "lines": [line, {"text": "Thank you"}]},
        {"image": "a.png", "words": [word, word | {"polygon": [1, 1, 9, 1, 9, 9]}], "domain": "knowledge"},
        {"image": "a.png", "text": "All of it.", "lines": [line]},
        {"image": "a.png", "lines": [line | {"box": [10, 20, 190, 40]}]},
        {"image": "a.png", "lines": [line | {"box": [10, 20, 90]}]},
        {"image": "a.png", "lines": [{"text": 5}]},
        {"image": "gone.png", "lines": [line]},
    )
    snapshot = ingest(write(tmp_path / "data", {"a.png": image(1, size=SIZE), "o.jsonl": lines}), tmp_path / "store")
    assert aside(snapshot) == {
        "o.jsonl#4": "shape_outside",
        "o.jsonl#5": "bad_annotation",
        "o.jsonl#6": "bad_annotation",
        "o.jsonl#7": "missing_media",
    }
    receipt, words, whole = documents(snapshot).values()
    assert (receipt.text, receipt.domain) == ("TOTAL 4.20\nThank you", "ocr")
    assert told(receipt) == [("text", "TOTAL 4.20")]
    assert encode(receipt, Vocabulary.load("tiny")).shapes[0] == (Shape("box", "TOTAL 4.20", ((10, 20), (90, 40))),)
    assert (words.text, words.domain, [len(one["corners"]) for one in words.notes["shapes"]]) == (
        "mill mill",
        "knowledge",
        [4, 3],
    )
    assert (whole.text, len(whole.notes["shapes"])) == ("All of it.", 1)


ALTO = """<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#"><Layout><Page WIDTH="1000" HEIGHT="500"><PrintSpace>
<TextBlock><TextLine HPOS="100" VPOS="100" WIDTH="300" HEIGHT="50"><String CONTENT="The"/><SP/><String CONTENT="mill"/>
</TextLine></TextBlock></PrintSpace></Page></Layout></alto>"""
HOCR = """<!DOCTYPE html><html><body><div class='ocr_page' title='image "x.png"; bbox 0 0 1000 500'>
<span class='ocr_line' title='bbox 100 100 400 150; baseline 0 -5'><span class='ocrx_word'>The</span>
<span class='ocrx_word'>mi&#108;l</span></span></div></body></html>"""
OUTLINED = "10,10,40,10,40,15,10,15,The mill\r\n"


def test_files_of_ocr_engines_say_the_same(tmp_path: Path) -> None:
    pictures: dict[str, str | bytes] = {f"img/{name}.png": image(1, size=SIZE) for name in "abcde"}
    labels: dict[str, str | bytes] = {"alto/a.xml": ALTO, "img/b.hocr": HOCR, "box/c.csv": OUTLINED}
    labels |= {"img/d.xml": ALTO.replace('HPOS="100"', 'HPOS="9000"'), "box/e.csv": "1,2,three\n"}
    snapshot = ingest(write(tmp_path / "data", pictures | labels), tmp_path / "store")
    assert aside(snapshot) == {"img/d.png": "shape_outside", "img/e.png": "bad_caption"}
    found = documents(snapshot)
    assert {one.text for one in found.values()} == {"The mill"} and {one.domain for one in found.values()} == {"ocr"}
    shapes = [found[f"img/{name}.png"].notes["shapes"][0]["corners"] for name in "abc"]
    assert shapes[0] == shapes[1] == [[10, 10], [40, 15]]
    assert shapes[2] == [[10, 10], [40, 10], [40, 15], [10, 15]]


@pytest.mark.parametrize(
    "hostile",
    [
        "<span class=ocr_line>" * 20_000,
        "<div " * 50_000,
        "<p " + "class=" * 300 + ">" * 99,
        "<" * 99_000,
        "<!--" * 50_000,
        "",
    ],
)
@pytest.mark.timeout(20)
def test_hocr_without_words_is_refused(hostile: str) -> None:
    with pytest.raises(RecordError) as caught:
        ocr.hocr(hostile.encode())
    assert caught.value.reason in ("no_text", "empty_file")


def test_charts_with_questions_and_tables(tmp_path: Path) -> None:
    asked = [{"imgname": "x.png", "query": "How many in 2020?", "label": "14"}]
    files: dict[str, str | bytes] = {
        "test/png/x.png": image(1),
        "test/png/y.png": image(2),
        "test/q.json": json.dumps(asked),
    }
    files |= {"test/tables/x.csv": "Year,Mills\n2020,14\n2021,a|b\n", "test/tables/y.csv": "Year,Mills\n2020\n"}
    snapshot = ingest(write(tmp_path / "data", files), tmp_path / "store")
    assert aside(snapshot) == {"test/png/y.png": "bad_caption"}
    question, chart = documents(snapshot)["test/q.json#0"], documents(snapshot)["test/png/x.png"]
    assert (question.text, question.domain, told(question)) == (
        "How many in 2020?\n14",
        "knowledge",
        [("answer", "14")],
    )
    assert chart.text == "| Year | Mills |\n| --- | --- |\n| 2020 | 14 |\n| 2021 | a\\|b |"
    assert chart.domain == "knowledge" and chart.media == question.media


def test_of_many_answers_the_one_given_most_often_counts(tmp_path: Path) -> None:
    answers = [{"answer": one} for one in ("mill", "a mill", "a mill", "house")]
    lines = rows(
        {"image": "a.png", "question": "What is it?", "answers": answers},
        {"image": "a.png", "question": "What does it say?", "answers": ["B", "A"], "domain": "ocr"},
        {"image": "gone.png", "question": "What?", "answers": ["x"]},
    )
    snapshot = ingest(write(tmp_path / "data", {"a.png": image(1), "vqa.jsonl": lines}), tmp_path / "store")
    assert aside(snapshot) == {"vqa.jsonl#3": "missing_media"}
    one, other = documents(snapshot).values()
    assert (one.text, told(one), one.domain) == ("What is it?\na mill", [("answer", "a mill")], "knowledge")
    assert (other.text, other.domain, other.notes["answers"]) == ("What does it say?\nB", "ocr", ["B", "A"])


@pytest.mark.parametrize("row", [{"question": "Q", "answers": ["a", "b"]}, {"query": "Q", "label": "x"}, ["x"], "x"])
def test_rows_without_pictures_are_left_as_they_are(row: Json) -> None:
    assert fields.question_and_answer(row) is row


SRT = """1
00:00:00,000 --> 00:00:01,500
<i>The wheel</i>
{\\an8}turns.

2
00:00:01,500 --> 00:00:02,500
It stops.
"""
VTT = """WEBVTT

NOTE nobody sees this

STYLE
::cue { color: red }

00:01.500 --> 00:02.500 align:start
It stops.

00:00:00.000 --> 00:01.500
<v Ann>The wheel turns.</v>
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three seconds."""
    path = tmp_path_factory.mktemp("film") / "x.mp4"
    clip(path)
    return path.read_bytes()


def test_clips_with_subtitles_and_events(tmp_path: Path, film: bytes) -> None:
    stops = {"start": 1.5, "end": 2.5, "caption": "It stops."}
    happened = [stops, {"start": 0, "end": 1.5, "text": "The wheel turns."}]
    files: dict[str, str | bytes] = {f"{name}.mp4": film for name in ("a", "b", "c", "d", "e", "f", "g", "r")}
    files |= {"a.srt": SRT, "b.vtt": VTT, "c.json": json.dumps({"events": happened})}
    files |= {"d.srt": SRT.replace("00:00:02,500", "00:10:00,000"), "e.srt": "no subtitles"}
    files |= {"f.srt": SRT.replace("00:00:02,500", "late"), "g.srt": SRT.replace("00:00:02,500", "00:00:01,000")}
    told_of = {"video": "r.mp4", "timestamps": [[0, 1.5], [1.5, 2.5]], "sentences": ["The wheel turns.", "It stops."]}
    lines = rows(
        told_of,
        told_of | {"timestamps": [[0, 1.5]]},
        {"video": "r.mp4", "events": [stops | {"start": -1}]},
    )
    snapshot = ingest(write(tmp_path / "data", files | {"r.jsonl": lines}), tmp_path / "store")
    assert aside(snapshot) == {
        "d.mp4": "event_outside",
        "e.mp4": "bad_caption",
        "f.mp4": "bad_caption",
        "g.mp4": "bad_annotation",
        "r.jsonl#2": "bad_annotation",
        "r.jsonl#3": "bad_annotation",
    }
    found = documents(snapshot)
    assert found.keys() == {"a.mp4", "b.mp4", "c.mp4", "r.jsonl#1"}
    for one in found.values():
        assert one.text == "0.00-1.50 s: The wheel turns.\n1.50-2.50 s: It stops."
        assert told(one) == [("time", "0.00-1.50"), ("time", "1.50-2.50")]
        assert one.notes["events"][1] == {"start_s": 1.5, "stop_s": 2.5, "text": "It stops."}
        assert one.domain == "video"


def test_captions_of_activitynet_find_their_clips_by_name(tmp_path: Path, film: bytes) -> None:
    happened = {"duration": 3.0, "timestamps": [[0, 1.5], [1.5, 2.5]], "sentences": ["The wheel turns.", " It stops."]}
    told_of = {"v_one": happened, "v_two": happened | {"timestamps": [[0, 1.5]]}, "v_gone": happened}
    files = {"videos/v_one.mp4": film, "videos/v_two.webm": film, "train.json": json.dumps(told_of)}
    snapshot = ingest(write(tmp_path / "data", files), tmp_path / "store")
    assert aside(snapshot) == {"train.json#v_two": "bad_annotation", "train.json#v_gone": "missing_media"}
    (one,) = documents(snapshot).values()
    assert (one.locator, one.domain) == ("train.json#v_one", "video")
    assert one.text == "0.00-1.50 s: The wheel turns.\n1.50-2.50 s: It stops."


times = st.tuples(st.floats(0, 10), st.floats(0, 10)).map(sorted)


@given(st.lists(st.tuples(times, st.sampled_from(["x", "y z"])), min_size=1, max_size=8))
def test_events_are_told_in_the_order_of_time_and_end_with_the_clip(happened: list[tuple[list[float], str]]) -> None:
    film = Media("0" * 64, "video", "mp4", 64, 48, tuple(range(0, 10_000_001, 500_000)))
    made = tuple(TimedEvent(start, stop, words) for (start, stop), words in happened)
    text, notes = events.events_text(made, film)
    assert [one["start_s"] for one in notes] == sorted(start for (start, _), _ in happened)
    assert len(text.facts) == len(text.text.split("\n")) == len(made)
    assert all(one["stop_s"] <= 10.5 for one in notes)
