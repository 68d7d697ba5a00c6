"""Printed text with places, questions about images, charts with tables, subtitles and events of videos."""

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
from tests.pipelines.ingest.ingested import documents, fact_words, ingest, quarantined
from tests.pipelines.small_data import clip, image
from tokenization.encode import encode
from tokenization.vocabulary import Vocabulary

SIZE = (100, 50)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def rows(*records: Json) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_printed_text_in_rows_keeps_its_places(tmp_path: Path) -> None:
    line = {"text": "TOTAL  4.20", "box": [10, 20, 90, 40]}
    word = {"text": "mill", "polygon": [[1, 1], [9, 1], [9, 9], [1, 9]]}
    lines = rows(
        {"image": "a.png", "lines": [line, {"text": "Thank you"}]},
        {"image": "a.png", "words": [word, word | {"polygon": [1, 1, 9, 1, 9, 9]}], "domain": "knowledge"},
        {"image": "a.png", "text": "All of it.", "lines": [line]},
        {"image": "a.png", "lines": [line | {"box": [10, 20, 190, 40]}]},
        {"image": "a.png", "lines": [line | {"box": [10, 20, 90]}]},
        {"image": "a.png", "lines": [{"text": 5}]},
        {"image": "missing.png", "lines": [line]},
    )
    snapshot = ingest(write(tmp_path / "data", {"a.png": image(1, size=SIZE), "o.jsonl": lines}), tmp_path / "store")
    assert quarantined(snapshot) == {
        "o.jsonl#4": "shape_outside",
        "o.jsonl#5": "bad_annotation",
        "o.jsonl#6": "bad_annotation",
        "o.jsonl#7": "missing_media",
    }
    receipt, words, whole = documents(snapshot).values()
    assert (receipt.text, receipt.domain) == ("TOTAL 4.20\nThank you", "ocr")
    assert fact_words(receipt) == [("text", "TOTAL 4.20")]
    assert encode(receipt, Vocabulary.load("tiny")).shapes[0] == (Shape("box", "TOTAL 4.20", ((10, 20), (90, 40))),)
    assert (words.text, words.domain, [len(shape["corners"]) for shape in words.notes["shapes"]]) == (
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


def test_files_of_ocr_engines_give_the_same_text_and_places(tmp_path: Path) -> None:
    images: dict[str, str | bytes] = {f"img/{name}.png": image(1, size=SIZE) for name in "abcde"}
    labels: dict[str, str | bytes] = {"alto/a.xml": ALTO, "img/b.hocr": HOCR, "box/c.csv": OUTLINED}
    labels |= {"img/d.xml": ALTO.replace('HPOS="100"', 'HPOS="9000"'), "box/e.csv": "1,2,three\n"}
    snapshot = ingest(write(tmp_path / "data", images | labels), tmp_path / "store")
    assert quarantined(snapshot) == {"img/d.png": "shape_outside", "img/e.png": "bad_caption"}
    by_locator = documents(snapshot)
    texts = {(document.text, document.domain) for document in by_locator.values()}
    assert texts == {("The mill", "ocr")}
    shapes = [by_locator[f"img/{name}.png"].notes["shapes"][0]["corners"] for name in "abc"]
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
    questions = [{"imgname": "x.png", "query": "How many in 2020?", "label": "14"}]
    files: dict[str, str | bytes] = {
        "test/png/x.png": image(1),
        "test/png/y.png": image(2),
        "test/q.json": json.dumps(questions),
    }
    files |= {"test/tables/x.csv": "Year,Mills\n2020,14\n2021,a|b\n", "test/tables/y.csv": "Year,Mills\n2020\n"}
    snapshot = ingest(write(tmp_path / "data", files), tmp_path / "store")
    assert quarantined(snapshot) == {"test/png/y.png": "bad_caption"}
    question, chart = documents(snapshot)["test/q.json#0"], documents(snapshot)["test/png/x.png"]
    assert (question.text, question.domain, fact_words(question)) == (
        "How many in 2020?\n14",
        "knowledge",
        [("answer", "14")],
    )
    assert chart.text == "| Year | Mills |\n| --- | --- |\n| 2020 | 14 |\n| 2021 | a\\|b |"
    assert chart.domain == "knowledge" and chart.media == question.media


def test_the_most_frequent_of_several_answers_is_taken(tmp_path: Path) -> None:
    answers = [{"answer": answer} for answer in ("mill", "a mill", "a mill", "house")]
    lines = rows(
        {"image": "a.png", "question": "What is it?", "answers": answers},
        {"image": "a.png", "question": "What does it say?", "answers": ["B", "A"], "domain": "ocr"},
        {"image": "missing.png", "question": "What?", "answers": ["x"]},
    )
    snapshot = ingest(write(tmp_path / "data", {"a.png": image(1), "vqa.jsonl": lines}), tmp_path / "store")
    assert quarantined(snapshot) == {"vqa.jsonl#3": "missing_media"}
    first, second = documents(snapshot).values()
    assert (first.text, fact_words(first), first.domain) == ("What is it?\na mill", [("answer", "a mill")], "knowledge")
    assert (second.text, second.domain, second.notes["answers"]) == ("What does it say?\nB", "ocr", ["B", "A"])


@pytest.mark.parametrize("row", [{"question": "Q", "answers": ["a", "b"]}, {"query": "Q", "label": "x"}, ["x"], "x"])
def test_rows_without_images_are_not_changed(row: Json) -> None:
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

NOTE a note is no subtitle

STYLE
::cue { color: red }

00:01.500 --> 00:02.500 align:start
It stops.

00:00:00.000 --> 00:01.500
<v Ann>The wheel turns.</v>
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of three seconds."""
    path = tmp_path_factory.mktemp("film") / "x.mp4"
    clip(path)
    return path.read_bytes()


def test_videos_with_subtitles_and_events(tmp_path: Path, film: bytes) -> None:
    stops = {"start": 1.5, "end": 2.5, "caption": "It stops."}
    pair = [stops, {"start": 0, "end": 1.5, "text": "The wheel turns."}]
    files: dict[str, str | bytes] = {f"{name}.mp4": film for name in ("a", "b", "c", "d", "e", "f", "g", "r")}
    files |= {"a.srt": SRT, "b.vtt": VTT, "c.json": json.dumps({"events": pair})}
    files |= {"d.srt": SRT.replace("00:00:02,500", "00:10:00,000"), "e.srt": "no subtitles"}
    files |= {"f.srt": SRT.replace("00:00:02,500", "late"), "g.srt": SRT.replace("00:00:02,500", "00:00:01,000")}
    timed = {"video": "r.mp4", "timestamps": [[0, 1.5], [1.5, 2.5]], "sentences": ["The wheel turns.", "It stops."]}
    lines = rows(
        timed,
        timed | {"timestamps": [[0, 1.5]]},
        {"video": "r.mp4", "events": [stops | {"start": -1}]},
    )
    snapshot = ingest(write(tmp_path / "data", files | {"r.jsonl": lines}), tmp_path / "store")
    assert quarantined(snapshot) == {
        "d.mp4": "event_outside",
        "e.mp4": "bad_caption",
        "f.mp4": "bad_caption",
        "g.mp4": "bad_annotation",
        "r.jsonl#2": "bad_annotation",
        "r.jsonl#3": "bad_annotation",
    }
    by_locator = documents(snapshot)
    assert by_locator.keys() == {"a.mp4", "b.mp4", "c.mp4", "r.jsonl#1"}
    for document in by_locator.values():
        assert document.text == "0.00-1.50 s: The wheel turns.\n1.50-2.50 s: It stops."
        assert fact_words(document) == [("time", "0.00-1.50"), ("time", "1.50-2.50")]
        assert document.notes["events"][1] == {"start_s": 1.5, "stop_s": 2.5, "text": "It stops."}
        assert document.domain == "video"


def test_captions_of_activitynet_find_their_videos_by_name(tmp_path: Path, film: bytes) -> None:
    timed = {"duration": 3.0, "timestamps": [[0, 1.5], [1.5, 2.5]], "sentences": ["The wheel turns.", " It stops."]}
    by_name = {"v_one": timed, "v_two": timed | {"timestamps": [[0, 1.5]]}, "v_missing": timed}
    files = {"videos/v_one.mp4": film, "videos/v_two.webm": film, "train.json": json.dumps(by_name)}
    snapshot = ingest(write(tmp_path / "data", files), tmp_path / "store")
    assert quarantined(snapshot) == {"train.json#v_two": "bad_annotation", "train.json#v_missing": "missing_media"}
    (document,) = documents(snapshot).values()
    assert (document.locator, document.domain) == ("train.json#v_one", "video")
    assert document.text == "0.00-1.50 s: The wheel turns.\n1.50-2.50 s: It stops."


times = st.tuples(st.floats(0, 10), st.floats(0, 10)).map(sorted)


@given(st.lists(st.tuples(times, st.sampled_from(["x", "y z"])), min_size=1, max_size=8))
def test_events_are_sorted_by_time_and_end_with_the_video(drawn: list[tuple[list[float], str]]) -> None:
    film = Media("0" * 64, "video", "mp4", 64, 48, tuple(range(0, 10_000_001, 500_000)))
    timed = tuple(TimedEvent(start, stop, words) for (start, stop), words in drawn)
    text, notes = events.events_text(timed, film)
    assert [note["start_s"] for note in notes] == sorted(start for (start, _), _ in drawn)
    assert len(text.facts) == len(text.text.split("\n")) == len(timed)
    assert all(note["stop_s"] <= 10.5 for note in notes)
