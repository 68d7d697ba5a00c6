"""The node `augment`: shapes move with their pixels, texts stay true, bytes are reproducible."""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from manifests.records import Document, Fact, Json, Media, Text, record_id
from pipelines.dag import graph
from pipelines.dag.unit import StoreTask, run_unit
from pipelines.node import UnitTask
from pipelines.synthesis.augment import MOST_PERSPECTIVE, Augment, Perspective, add_noise
from stores.store import Snapshot, Store
from tests.pipelines.build.test_materialize import product, stored

SIZE = (160, 120)
SQUARE = (60, 40, 90, 70)


@pytest.fixture
def folder(quick_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=quick_folder))


def pictured(name: str, facts: tuple[Fact, ...] = (), **notes: Json) -> Document:
    """A white square on black, with its box, and a text."""
    picture = Image.new("RGB", SIZE)
    left, top, right, bottom = SQUARE
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=(255, 255, 255))
    out = io.BytesIO()
    picture.save(out, "png")
    medium = Media(sha256(out.getvalue()).hexdigest(), "image", "png", *SIZE, payload=out.getvalue())
    box = {"media": 0, "kind": "box", "name": "square", "corners": [[left, top], [right, bottom]]}
    parts = (medium, Text("A white square."))
    return Document(
        record_id("raw", name), "raw", name, "caption", parts, facts, {"shapes": [box], **notes}, license="CC0-1.0"
    )


def made(
    folder: Path, over: Snapshot, place: str = "made", seed: int = 0, **fields: Any
) -> tuple[Snapshot, dict[str, int]]:
    values = {"kind": "augment", "input": over.name} | fields
    node = pydantic.TypeAdapter(Augment).validate_json(json.dumps(values))
    inputs = {over.name: product(over)}
    wanted = graph.unit_names("made", node, node.survey("made", inputs))
    store = Store.create(str(folder / place), "documents", "made")
    todo = list(wanted.items())
    random.Random(seed).shuffle(todo)
    tasks = [StoreTask(node, store.url, stored_as, UnitTask("made", unit, inputs), 9, 0.5) for stored_as, unit in todo]
    outcomes = [run_unit(task, frozenset(), lambda ordinal: None) for task in tasks]
    noted = dict(sum((outcome.counts.noted for outcome in outcomes), Counter()))
    return store.commit([outcome.receipt for outcome in outcomes], node="n", units=list(wanted)), noted


def pixels(document: Document) -> np.ndarray:
    (medium,) = document.media
    assert medium.payload is not None and sha256(medium.payload).hexdigest() == medium.digest
    rgb = np.asarray(Image.open(io.BytesIO(medium.payload)).convert("RGB"))
    assert rgb.shape[:2] == (medium.height_px, medium.width_px)
    return rgb


CHANGES = {"least_area": 0.5, "turn_degrees": 20, "perspective": 0.15, "noise": 4, "brightness": 0.2}


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_a_box_moves_with_its_pixels_and_the_rest_is_inherited(folder: Path, format: str) -> None:
    over = stored(folder, {"u": [pictured(f"{i}", boxes=[[1, 2, 3, 4]]) for i in range(6)]})
    snapshot, _ = made(folder, over, copies=3, format=format, **CHANGES)
    copies = list(snapshot.documents(range(18)))
    assert len({copy.media[0].digest for copy in copies}) == 18
    compared = 0
    for copy in copies:
        assert copy.text == "A white square." and copy.license == "CC0-1.0" and copy.source == "made"
        assert copy.parents[0] in {document.id for document in over.records()} and "boxes" not in copy.notes
        rows, columns = np.nonzero(pixels(copy).mean(2) > 128)
        for shape in copy.notes["shapes"]:
            (left, top), (right, bottom) = shape["corners"]
            tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.allclose((left, top, right, bottom), tight, atol=1.6)
            compared += 1
    assert compared > 9


def test_content_depends_on_parameters_and_not_on_the_order_of_units(folder: Path) -> None:
    over = stored(folder, {f"u{unit}": [pictured(f"{unit}-{i}") for i in range(3)] for unit in range(3)})
    first, _ = made(folder, over, **CHANGES)
    again, _ = made(folder, over, "again", seed=1, **CHANGES)
    other, _ = made(folder, over, "other", **CHANGES | {"brightness": 0.3})
    assert first.content_root == again.content_root != other.content_root


def test_a_picture_with_a_fact_keeps_its_geometry_unless_the_fact_stays_true(folder: Path) -> None:
    over = stored(folder, {"u": [pictured("fact", (Fact("place", 1, 0, 7),), boxes=[1])]})
    geometry = {"least_area": 0.4, "turn_degrees": 20, "perspective": 0.1}
    snapshot, noted = made(folder, over, **geometry)
    assert snapshot.counts["records"] == 0 and noted == {"unchanged": 1}
    snapshot, _ = made(folder, over, "colored", **geometry, brightness=0.5)
    (copy,) = snapshot.records()
    assert copy.notes["boxes"] == [1] and copy.notes["shapes"] == over.record(0).notes["shapes"]
    snapshot, _ = made(folder, over, "allowed", **geometry, facts_kept=["place"])
    (copy,) = snapshot.records()
    assert copy.facts == over.record(0).facts and copy.notes["shapes"] != over.record(0).notes["shapes"]


def test_documents_without_a_picture_are_counted_and_bad_shapes_quarantined(folder: Path) -> None:
    text = Document(record_id("raw", "t"), "raw", "t", "web", (Text("No picture."),))
    bad = pictured("bad")
    bad.notes["shapes"][0]["kind"] = "blob"  # type: ignore[index]
    over = stored(folder, {"u": [text, bad]})
    snapshot, noted = made(folder, over, noise=3)
    assert noted == {"no_image": 1}
    reasons = [row["reason"] for row in snapshot.quarantined().to_pylist()]
    assert reasons == ["bad_shape"]


shares = st.lists(st.floats(0, MOST_PERSPECTIVE), min_size=8, max_size=8)


@given(st.tuples(st.integers(2, 4000), st.integers(2, 4000)), shares, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40)
def test_perspective_maps_the_quadrangle_to_the_picture_and_inverts(
    size: tuple[int, int], drawn: list[float], x: float, y: float
) -> None:
    perspective = Perspective.from_shares(size, drawn)
    width, height = size
    corners = [
        (drawn[0], drawn[1]), (1 - drawn[2], drawn[3]), (1 - drawn[4], 1 - drawn[5]), (drawn[6], 1 - drawn[7]),
    ]  # fmt: skip
    for (u, v), wanted in zip(corners, [(0, 0), (width, 0), (width, height), (0, height)], strict=True):
        assert np.allclose(perspective.map_point((u * width, v * height)), wanted, atol=1e-3)
    a, b, c, d, e, f, g, h = perspective.back
    new_x, new_y = perspective.map_point((x * width, y * height))
    depth = g * new_x + h * new_y + 1
    assert depth > 0
    back = ((a * new_x + b * new_y + c) / depth, (d * new_x + e * new_y + f) / depth)
    assert np.allclose(back, (x * width, y * height), atol=1e-3)


def test_noise_has_the_given_deviation_and_no_bias() -> None:
    gray = np.full((600, 301, 3), 128, np.uint8)
    added = add_noise(gray, 6.0, 7).astype(int) - 128
    assert abs(added.mean()) < 0.05 and abs(added.std() - 6.0) < 0.1
    assert sha256(add_noise(gray[:2, :3], 6.0, 7).tobytes()).hexdigest() == NOISE
    assert len({row.tobytes() for row in added}) == 600


NOISE = "eba77da93c4a639a5104a7b43d9b200a2f64b55c7a660ac53ceba4b69a5112c1"
"""Digest of a few noisy pixels, equal on all machines."""
