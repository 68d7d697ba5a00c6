"""Shapes on images: COCO, Pascal VOC and rows with `shapes` to one form, and on to samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import Json, Media, Shape
from pipelines.ingest.annotations import coco, xml
from pipelines.ingest.annotations.shapes import AnnotatedImage, Instance, box, polygon, shapes_text
from tests.pipelines.ingest.ingested import documents, fact_words, ingest, quarantined
from tests.pipelines.small_data import image
from tokenization.encode import encode
from tokenization.vocabulary import Vocabulary

SIZE = (100, 50)
CORNERS = [10, 10, 40, 10, 40, 30]


def picture(folder: Path, name: str, seed: int = 1) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(image(seed, size=SIZE))


def instances(annotations: list[Json], **more: Json) -> Json:
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 50, "license": 3} for i in (1, 2)]
    person = {"id": 7, "name": "person", "keypoints": ["nose", "left_eye"]}
    lists = {"images": images, "categories": [person, {"id": 8, "name": "cat"}], "licenses": [{"id": 3, "name": "CC0"}]}
    return {"info": {"year": 2026}, **lists, "annotations": annotations, **more}


def annotation(number: int, picture: int | str, bbox: Json, category: int = 8, **more: Json) -> Json:
    return {"id": number, "image_id": picture, "category_id": category, "bbox": bbox, **more}


def test_coco_objects_become_counts_boxes_points_and_polygons(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("val/1.png", "val/2.png"):
        picture(data, name)
    (data / "annotations").mkdir()
    found = [
        annotation(1, 1, [10, 10, 30, 20], segmentation=[CORNERS]),
        annotation(2, 1, [0, 0, 100, 50], 7, keypoints=[20, 25, 2, 0, 0, 0], num_keypoints=1),
        annotation(3, 1, [50.5, 5, 10, 20], segmentation={"size": [50, 100], "counts": [2510, 10, 40, 10, 2430]}),
        annotation(4, 2, [1, 1, 9, 9]),
        annotation(5, 2, [20, 20, 50, 25], iscrowd=1, segmentation={"size": [50, 100], "counts": [5000]}),
    ]
    (data / "annotations" / "instances.json").write_text(json.dumps(instances(found)))
    snapshot = ingest(data, tmp_path / "store")
    assert quarantined(snapshot) == {}
    objects, crowd = (documents(snapshot)[f"annotations/instances.json#{i}"] for i in (1, 2))
    assert objects.text == (
        "2 cat: [0.100, 0.200, 0.400, 0.600], [0.505, 0.100, 0.605, 0.500]\n"
        "1 person: [0.000, 0.000, 1.000, 1.000] nose (0.200, 0.500)"
    )
    assert fact_words(objects)[:2] == [("count", "2"), ("box", "[0.100, 0.200, 0.400, 0.600]")]
    assert fact_words(objects)[-1] == ("point", "(0.200, 0.500)")
    assert (objects.domain, objects.license, objects.notes["file_name"]) == ("perception", "CC0", "val/1.png")
    assert crowd.text.startswith("cat: [")  # a crowd is not counted
    assert [name for name, _ in fact_words(crowd)] == ["box", "box"]

    sample = encode(objects, Vocabulary.load("tiny"))
    assert sample.shapes[0] == (
        Shape("box", "cat", ((10, 10), (40, 30))),
        Shape("polygon", "cat", ((10, 10), (40, 10), (40, 30))),
        Shape("box", "person", ((0, 0), (100, 50))),
        Shape("point", "person nose", ((20, 25),)),
        Shape("box", "cat", ((50.5, 5), (60.5, 25))),
        Shape("polygon", "cat", ((50, 10), (52, 10), (52, 20), (50, 20))),
    )
    assert {span.name for span in sample.spans} == {"count", "box", "point"}


def test_kinds_of_shapes_in_the_text_are_chosen(tmp_path: Path) -> None:
    picture(tmp_path / "data", "1.png")
    picture(tmp_path / "data", "2.png")
    found = [annotation(1, 1, [10, 10, 30, 20], segmentation=[CORNERS]), annotation(2, 2, [1, 1, 2, 2])]
    (tmp_path / "data" / "a.json").write_text(json.dumps(instances(found)))
    texts = [
        documents(ingest(tmp_path / "data", tmp_path / str(i), shapes_in_text=kinds))["a.json#1"].text
        for i, kinds in enumerate([(), ("polygon",)])
    ]
    assert texts == ["1 cat", "1 cat: [(0.100, 0.200), (0.400, 0.200), (0.400, 0.600)]"]


def test_coco_captions_and_referring_expressions(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("1.png", "2.png"):
        picture(data, name)
    captions = [{"id": i, "image_id": 1, "caption": words} for i, words in enumerate(["A cat. ", "A gray cat."])]
    (data / "captions.json").write_text(json.dumps(instances(captions)))
    refs = [{"ann_id": 1, "sentences": [{"sent": "the gray cat"}, {"sent": "left cat"}]}]
    boxes = [annotation(1, 1, [10, 10, 30, 20]), annotation(2, 1, [50, 10, 30, 20])]
    (data / "refs.json").write_text(json.dumps(instances(boxes, refs=refs)))
    found = documents(ingest(data, tmp_path / "store"))
    assert (found["captions.json#1"].text, found["captions.json#1"].domain) == ("A cat.\nA gray cat.", "caption")
    place = "[0.100, 0.200, 0.400, 0.600]"
    assert found["refs.json#1"].text == f"left cat: {place}\nthe gray cat: {place}"
    assert fact_words(found["refs.json#1"]) == [("box", place)] * 2


def test_images_of_lvis_are_found_by_their_url(tmp_path: Path) -> None:
    picture(tmp_path / "data", "train2017/000000000009.png")
    url = "http://images.example/train2017/000000000009.png"
    image = {"id": 9, "coco_url": url, "width": 100, "height": 50, "neg_category_ids": [3]}
    lists = {"images": [image], "categories": [{"id": 8, "name": "cat", "synset": "cat.n.01", "frequency": "f"}]}
    (tmp_path / "data" / "lvis.json").write_text(
        json.dumps(lists | {"annotations": [annotation(1, 9, [10, 10, 30, 20])]})
    )
    (one,) = documents(ingest(tmp_path / "data", tmp_path / "store")).values()
    assert one.text == "1 cat: [0.100, 0.200, 0.400, 0.600]" and one.origin == url


def test_a_bad_annotation_refuses_its_own_image_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    bad: dict[str, Json] = {
        "outside": [90, 10, 30, 20],
        "negative": [10, 10, -5, 20],
        "far": [-50, 10, 20, 20],
        "huge": [10**400, 0, 1, 1],
        "short": [1, 2, 3],
        "words": ["1", "2", "3", "4"],
        "empty": [5, 5, 0, 5],
        "nan": [float("nan"), 0, 1, 1],
    }
    reasons = dict.fromkeys(bad, "bad_annotation") | {
        "outside": "shape_outside",
        "far": "shape_outside",
        "nan": "not_a_number",
        "missing": "missing_media",
        "up": "outside_folder",
        "small": "wrong_size",
        "deep": "too_deep",
        "nameless": "bad_annotation",
    }
    images = [{"id": name, "file_name": f"{name}.png", "width": 100, "height": 50} for name in [*reasons, "good"]]
    for entry in images:
        entry |= {"file_name": "../up.png"} if entry["id"] == "up" else {"width": 99} if entry["id"] == "small" else {}
        if entry["id"] not in ("missing", "up"):
            picture(data, str(entry["file_name"]))
    annotations = [annotation(i, name, bad.get(name, [1, 1, 2, 2])) for i, name in enumerate([*reasons, "good"])]
    deep: Json = []
    for _ in range(80):
        deep = [deep]
    annotations[[*reasons].index("deep")]["segmentation"] = deep
    annotations[[*reasons].index("nameless")]["category_id"] = 99
    annotations.append(annotation(99, 12345, [1, 1, 2, 2]))
    lists = {"images": images, "categories": [{"id": 8, "name": "cat"}], "annotations": annotations}
    (data / "a.json").write_text(json.dumps(lists))
    snapshot = ingest(data, tmp_path / "store")
    assert quarantined(snapshot) == {f"a.json#{name}": reason for name, reason in reasons.items()} | {
        "a.json": "unknown_picture"
    }
    assert documents(snapshot).keys() == {"a.json#good"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"images": [{"id": 1, "file_name": "1.png"}], "annotations": [', "bad_json"),
        ('{"images": [{"id": 1, "file_name": "1.png"} {}], "annotations": []}', "bad_json"),
        ('{"images": [{"id": 1}], "annotations": []}', "bad_annotation"),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": "1", "file_name": "b"}]}', "bad_annotation"),
        ('{"images": [{"id": 1, "file_name": "1.png"}], "annotations": ' + "[" * 200_000, "too_deep"),
        ('{"images": [{"id": 1, "file_name": "' + "x" * (5 << 20) + '"}], "annotations": []}', "too_large"),
    ],
)
def test_a_file_that_is_no_coco_is_refused_as_a_whole(content: str, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        coco.scan_coco(content.encode())
    assert caught.value.reason == reason


def test_a_changed_annotation_changes_its_own_image_only() -> None:
    boxes = [annotation(1, 1, [1, 1, 2, 2]), annotation(2, 2, [1, 1, 2, 2])]
    before = coco.scan_coco(json.dumps(instances(boxes)).encode()).images
    boxes[1]["bbox"] = [1, 1, 3, 3]
    after = coco.scan_coco(json.dumps(instances(boxes), indent=2).encode().replace(b"\n", b" ")).images
    pairs = zip(before, after, strict=True)
    assert [json.loads(old.annotation) == json.loads(new.annotation) for old, new in pairs] == [True, False]


def voc(*objects: tuple[str, float, float, float, float], size: tuple[int, int] = SIZE) -> str:
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        + "".join(
            f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
            "</bndbox></object>"
            for name, a, b, c, d in objects
        )
        + "</annotation>"
    )


def test_voc_boxes_become_counts_and_shapes_from_the_outer_corner(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("a", "b", "c", "d"):
        picture(data, f"JPEGImages/{name}.png")
    (data / "Annotations").mkdir()
    boxes = [("RBC", 1, 2, 30, 40), ("WBC", 5, 6, 7, 8), ("RBC", 9, 9, 101, 50)]
    (data / "Annotations" / "a.xml").write_text(voc(*boxes))
    (data / "Annotations" / "b.xml").write_text(voc(("RBC", 9, 9, 140, 50)))
    (data / "Annotations" / "c.xml").write_text(voc(("RBC", 9, 9, 10, 10), size=(50, 100)))
    (data / "Annotations" / "d.xml").write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>&a;</annotation>')
    snapshot = ingest(data, tmp_path / "store")
    assert quarantined(snapshot) == {
        "JPEGImages/b.png": "shape_outside",
        "JPEGImages/c.png": "wrong_size",
        "JPEGImages/d.png": "bad_caption",
    }
    found = documents(snapshot)["JPEGImages/a.png"]
    assert [words for name, words in fact_words(found) if name == "count"] == ["2", "1"]
    assert [shape["corners"] for shape in found.notes["shapes"]] == [
        [[0, 1], [30, 40]],
        [[4, 5], [7, 8]],
        [[8, 8], [100, 50]],  # one pixel outside is a rounding error
    ]


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>&a;</annotation>',
        "<annotation><object></object></annotation>",
        "<annotation><object><name>x</name><bndbox><xmin>nan</xmin></bndbox></object></annotation>",
        voc(("x", 1, 1, float("inf"), 2)),
        voc(("x", 5, 5, 1, 1)),
        "<html/>",
        "<annotation>",
        "<a>" * 200_000,
    ],
)
def test_hostile_xml_is_refused(content: str) -> None:
    with pytest.raises(RecordError) as caught:
        xml.labels(content.encode())
    assert caught.value.reason == "bad_annotation"


def test_rows_with_shapes_in_the_form_of_the_notes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    picture(data, "a.png")
    shape = {"kind": "box", "name": "red mill", "corners": [[10, 10], [40, 30]]}
    referred = {"kind": "point", "name": "the wheel on the left", "corners": [[20, 25]]}
    crossing = {"kind": "polygon", "name": "x", "corners": [[0, 0], [40, 30], [40, 0], [0, 30]]}
    rows: list[Json] = [
        {"image": "a.png", "shapes": [shape, shape]},
        {"image": "a.png", "shapes": [referred], "counted": False, "domain": "agent"},
        {"image": "a.png", "shapes": [crossing]},
        {"image": "a.png", "shapes": [shape | {"kind": "circle"}]},
        {"image": "missing.png", "shapes": [shape]},
        {"shapes": [shape]},
    ]
    (data / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    snapshot = ingest(data, tmp_path / "store")
    assert quarantined(snapshot) == {
        "own.jsonl#3": "crossing_polygon",
        "own.jsonl#4": "bad_annotation",
        "own.jsonl#5": "missing_media",
        "own.jsonl#6": "no_text_field",
    }
    boxes, point = documents(snapshot).values()
    assert boxes.text == "2 red mill: [0.100, 0.200, 0.400, 0.600], [0.100, 0.200, 0.400, 0.600]"
    assert (point.text, point.domain) == ("the wheel on the left: (0.200, 0.500)", "agent")


corners = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=9)


@given(corners)
def test_polygons_that_are_kept_have_no_crossing_edges(outline: list[tuple[int, int]]) -> None:
    """Definition: two edges cross if the ends of each are strictly on both sides of the other."""

    def turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    edges = list(zip(outline, [*outline[1:], outline[0]], strict=True))
    crosses = any(
        turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0 for a, b in edges for c, d in edges
    )
    try:
        polygon("x", outline)
    except RecordError as error:
        assert error.reason == ("crossing_polygon" if crosses else "bad_annotation")
    else:
        assert not crosses


@given(st.lists(st.sampled_from(["cat", "dog", "a b"]), max_size=12))
def test_counts_in_the_text_are_those_of_the_instances(names: list[str]) -> None:
    medium = Media("0" * 64, "image", "png", 100, 50)
    found = shapes_text(
        AnnotatedImage(tuple(Instance(name, (box(name, 1, 1, 2, 2),)) for name in names)), medium, ("box",)
    )
    counts = [int(found.text[start:stop]) for name, start, stop in found.facts if name == "count"]
    assert sorted(counts) == sorted(names.count(name) for name in set(names))
    assert len(found.shapes) == len(names) == sum(name == "box" for name, *_ in found.facts)
