"""Augmentation at load time: shapes move with their pixels, texts stay true, and the seed alone decides."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from manifests.errors import ManifestError, ResumeError
from manifests.load import load
from manifests.records import Document, Fact, Shape, Text, record_id
from packing.augment import Augmentation, Crop, ImageTransform, draw_transform
from packing.augment_shapes import area, clip_polygon, move_shapes, scaling
from packing.loader.loader import DecodeOptions, Loader, LoaderState
from packing.loader.stand_ins import StandIns
from packing.loader.torch_batches import RankBatches
from tests.packing.corpus import Made, clip, corpus, document, make, medium
from tests.packing.loader.test_loader_changes import SIZE, WORLDS, PartHashes, part_hashes, undecodable
from train.stage import Stage

EVERYTHING = Augmentation(
    sources=("seen",), seed=3, least_area=0.4, turn_degrees=20, brightness=0.3, contrast=0.3, saturation=0.5,
    hue_degrees=40,
)  # fmt: skip
CROPS = Augmentation(sources=("seen",), least_area=0.3, turn_degrees=30)

sizes = st.tuples(st.integers(40, 260), st.integers(40, 260))
places = st.tuples(st.integers(0, 10**6), st.integers(0, 99), st.integers(0, 9999))


def scaled(size: tuple[int, int], by: float) -> tuple[int, int]:
    return max(1, int(size[0] * by)), max(1, int(size[1] * by))


# -------------------------------------------------------------------- pixels and shapes


@given(sizes, places, st.floats(0.5, 1), st.data())
@settings(deadline=None)
def test_pixels_painted_at_a_shape_are_where_the_shape_moved(
    size: tuple[int, int], place: tuple[int, int, int], by: float, data: st.DataObject
) -> None:
    radius = 6
    x, y = (data.draw(st.integers(radius, side - radius)) for side in size)
    picture = Image.new("RGB", size)
    ImageDraw.Draw(picture).rectangle((x - radius, y - radius, x + radius - 1, y + radius - 1), fill=(255, 255, 255))
    square = ((x - radius, y - radius), (x + radius, y - radius), (x + radius, y + radius), (x - radius, y + radius))
    shapes = [
        Shape("point", "p", ((x, y),)),
        Shape("box", "b", (square[0], square[2])),
        Shape("polygon", "q", square),
    ]
    transform = draw_transform(CROPS, place, size)
    target = scaled(size, by)
    light = transform.apply(np.asarray(picture), target)[..., 0] / 255
    assert light.shape == target[::-1]
    by_kind = {visible.shape.kind: visible for visible in transform.move_shapes(shapes, size, target)}
    if "polygon" not in by_kind:
        assert light.sum() < 3  # half a pixel of blur along an edge
        return
    polygon = by_kind["polygon"]
    assert light.sum() == pytest.approx(abs(area(polygon.shape.corners)), abs=3 + 0.1 * light.sum())
    assume(polygon.visible > 0.3)
    down, across = np.indices(light.shape) + 0.5
    center = ((across * light).sum() / light.sum(), (down * light).sum() / light.sum())
    if polygon.visible == 1:
        assert math.dist(center, by_kind["point"].shape.corners[0]) < 0.5
    (left, top), (right, bottom) = by_kind["box"].shape.corners
    assert by_kind["box"].visible == pytest.approx(polygon.visible)
    lit = np.argwhere(light > 0.5)
    assert (left - 1, top - 1) <= (lit[:, 1].min(), lit[:, 0].min()) and lit[:, 1].min() < left + 2.5
    assert right - 2.5 < lit[:, 1].max() + 1 < right + 1 and bottom - 2.5 < lit[:, 0].max() + 1 < bottom + 1


@given(sizes, places, st.floats(0.3, 1), st.floats(0, 45))
def test_no_corner_of_a_crop_is_outside_the_image(
    size: tuple[int, int], place: tuple[int, int, int], least: float, degrees: float
) -> None:
    crop = draw_transform(dataclasses.replace(CROPS, least_area=least, turn_degrees=degrees), place, size).crop
    if crop is None:
        assert least == 1 and degrees == 0
        return
    affine = crop.affine(crop_size := (crop.width_px, crop.height_px))
    visible = move_shapes([Shape("box", "all", ((0, 0), size))], affine, crop_size)
    assert abs(area([affine(corner) for corner in ((0, 0), (size[0], 0), size, (0, size[1]))])) == pytest.approx(
        size[0] * size[1]
    )
    (left, top), (right, bottom) = visible[0].shape.corners
    assert max(left, top) < 1e-4 and right > crop_size[0] - 1e-4 and bottom > crop_size[1] - 1e-4
    if not crop.degrees:
        assert crop.width_px * crop.height_px >= (least**0.5 * size[0] - 1) * (least**0.5 * size[1] - 1)


@given(sizes, places, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_affine_map_of_a_crop_has_an_inverse(
    size: tuple[int, int], place: tuple[int, int, int], at: tuple[float, float]
) -> None:
    crop = draw_transform(CROPS, place, size).crop
    assert crop is not None
    affine = crop.affine((100, 80))
    point = (at[0] * size[0], at[1] * size[1])
    x, y = affine(point)
    matrix = np.array([[affine.a, affine.b, affine.c], [affine.d, affine.e, affine.f], [0, 0, 1]])
    assert np.linalg.solve(matrix, [x, y, 1])[:2] == pytest.approx(point, abs=1e-6)


def test_a_crop_of_the_whole_image_without_color_changes_only_resizes() -> None:
    picture = np.arange(60 * 40 * 3, dtype=np.uint8).reshape(40, 60, 3)
    plain = draw_transform(Augmentation(sources=("s",)), (1, 2, 3), (60, 40))
    assert plain == ImageTransform()
    whole = ImageTransform(Crop(60, 40, (30.0, 20.0)))
    assert np.array_equal(whole.apply(picture, (30, 20)), plain.apply(picture, (30, 20)))
    shape = [Shape("point", "p", ((10, 10),))]
    assert whole.move_shapes(shape, (60, 40), (30, 20)) == plain.move_shapes(shape, (60, 40), (30, 20))


def test_a_crop_turned_by_90_degrees_shows_the_upper_right_quarter_at_its_upper_left() -> None:
    """The affine map of the crop agrees with its pixels."""
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[:5, 15:] = 255
    crop = Crop(20, 20, (10.0, 10.0), 90.0)
    pixels = crop.cut(picture)
    assert (pixels[:4, :4] > 200).all() and pixels[6:, 6:].max() == 0
    assert crop.affine((20, 20))((20, 0)) == pytest.approx((0, 0))


# -------------------------------------------------------------------- clipping


def crosses(polygon: list[tuple[float, float]]) -> bool:
    """Return whether two edges that are not neighbors properly cross."""

    def side(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    edges = list(zip(polygon, polygon[1:] + polygon[:1], strict=True))
    return any(
        side(a, b, c) * side(a, b, d) < -1e-6 and side(c, d, a) * side(c, d, b) < -1e-6
        for (a, b), (c, d) in combinations(edges, 2)
    )


@given(st.lists(st.floats(3, 60), min_size=3, max_size=14), st.floats(-10, 50), st.floats(-10, 50))
@settings(deadline=None)
def test_a_clipped_polygon_is_its_inside_as_simple_parts(radii: list[float], x: float, y: float) -> None:
    """Stars of any form, compared with the number of grid points inside them."""
    count = len(radii)
    star = [
        (x + r * math.cos(2 * math.pi * i / count), y + r * math.sin(2 * math.pi * i / count))
        for i, r in enumerate(radii)
    ]
    parts = clip_polygon(star, (40, 30))
    assert not any(crosses(part) for part in parts)
    for part in parts:
        assert all(-1e-9 <= px <= 40 + 1e-9 and -1e-9 <= py <= 30 + 1e-9 for px, py in part)
    scale = 8
    mask = Image.new("1", (40 * scale, 30 * scale))
    ImageDraw.Draw(mask).polygon([(px * scale, py * scale) for px, py in star], fill=1)
    expected = np.asarray(mask).sum() / scale**2
    assert sum(abs(area(part)) for part in parts) == pytest.approx(expected, abs=20 + 0.02 * expected)
    assert sum(abs(area(part)) for part in parts) <= abs(area(star)) + 1e-6


def test_a_comb_cut_through_by_an_edge_becomes_its_teeth() -> None:
    comb = [(-5, 0), (-5, 9), (5, 9), (5, 7), (-3, 7), (-3, 5), (5, 5), (5, 3), (-3, 3), (-3, 1), (5, 1), (5, 0)]
    by = scaling((10, 10), (10, 10))
    teeth = move_shapes([Shape("polygon", "comb", tuple(comb))], by, (10, 10))
    assert sorted(abs(area(tooth.shape.corners)) for tooth in teeth) == [5, 10, 10]
    assert sum(tooth.visible for tooth in teeth) == pytest.approx(25 / abs(area(comb)))
    assert {tooth.shape.name for tooth in teeth} == {"comb"}


# -------------------------------------------------------------------- in the loader


def square_document(name: str, fact: str | None, seed: int) -> Document:
    """A white square on black with its box as a shape, and a text with one fact or none."""
    picture = Image.new("RGB", (120, 90))
    x, y = 20 + seed * 7 % 70, 20 + seed * 11 % 40
    ImageDraw.Draw(picture).rectangle((x, y, x + 19, y + 19), fill=(255, 255, 255 - seed))
    out = io.BytesIO()
    picture.save(out, "PNG")
    facts = () if fact is None else (Fact(fact, 1, 2, 7),)
    box = {"media": 0, "kind": "box", "name": "square", "corners": [[x, y], [x + 20, y + 20]]}
    parts = (medium(out.getvalue()), Text("A square here."))
    return Document(record_id("made", name), "made", name, "caption", parts, facts, {"shapes": [box]})


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Squares with texts without facts, with a box and with a color; a source that is not augmented; a bad image."""
    documents = [square_document(f"{fact} {i}", fact, i) for i in range(25) for fact in (None, "box", "color")]
    documents += [one for one in corpus() if one.domain == "knowledge" and one.locator != "book"]
    documents += [
        document("clip", "video", medium(clip(30)), Text("moves")),
        document("bad", "caption", undecodable(1)),
    ]
    return make(tmp_path_factory.mktemp("squares"), documents)


def batches(
    made: Made,
    stand_ins: Path,
    world: int = 1,
    most: int | None = None,
    state: LoaderState | None = None,
    **options: object,
) -> list[PartHashes]:
    decode = DecodeOptions(**({"augment": EVERYTHING} | options))  # type: ignore[arg-type]
    with Loader(made.packs, SIZE, world, state, stand_ins=StandIns(str(stand_ins)), decode=decode) as loader:
        return [part_hashes(batch, range(world)) for batch in islice(loader, most)]


def test_batches_are_equal_for_any_resume_world_and_threads_and_differ_for_another_seed(
    squares: Made, tmp_path: Path
) -> None:
    expected = batches(squares, tmp_path)
    states = []
    with Loader(
        squares.packs, SIZE, stand_ins=StandIns(str(tmp_path)), decode=DecodeOptions(augment=EVERYTHING)
    ) as loader:
        states += [loader.state for _ in loader]
    for k, state in enumerate(states):
        world, threads = WORLDS[k % len(WORLDS)], 1 + k % 3
        state = json.loads(json.dumps(state))
        resumed = batches(squares, tmp_path, world, 2, state=state, threads=threads, ahead_bytes=1)
        assert resumed == expected[k + 1 : k + 3]
    plain = batches(squares, tmp_path, augment=None)
    other = batches(squares, tmp_path, augment=dataclasses.replace(EVERYTHING, seed=4))
    for one, two, three in zip(expected, plain, other, strict=True):
        rows = [address for address in one if address[1] == -1]
        assert one.keys() == two.keys() == three.keys() and all(one[row] == two[row] for row in rows)
        assert one == two == three or (one != two and one != three)
    assert expected != plain


def test_images_with_facts_are_not_cropped_and_boxes_are_where_the_pixels_are(squares: Made, tmp_path: Path) -> None:
    """The square is located by its light. It moved where the text has no facts, and its box is on it."""
    crops = dataclasses.replace(CROPS, least_area=0.5, turn_degrees=0)
    moved = {"": 0, "box": 0, "color": 0}
    with (
        Loader(
            squares.packs, SIZE, stand_ins=StandIns(str(tmp_path / "a")), decode=DecodeOptions(augment=crops)
        ) as loader,
        Loader(squares.packs, SIZE, stand_ins=StandIns(str(tmp_path / "b"))) as plain,
    ):
        for batch, untouched in zip(loader, plain, strict=True):
            shapes, before = batch.shapes, untouched.shapes
            assert before.keys() >= shapes.keys()
            media = batch.media(0)
            ends = np.cumsum(media.grids.prod(axis=1))
            for i, place in enumerate(zip(media.rows.tolist(), media.first_slots.tolist(), strict=True)):
                if place not in before:
                    continue
                packed = next(one for one in batch.packs[place[0]].media if one.items[0].slot == place[1])
                moved["".join(packed.fact_names)] += shapes[place] != before[place]
                _, rows, cols = media.grids[i].tolist()
                tiles = media.patches[ends[i] - rows * cols : ends[i]].reshape(rows, cols, 3, 14, 14)
                light = tiles[:, :, 0].transpose(0, 2, 1, 3).reshape(rows * 14, cols * 14) > 127
                if not shapes[place]:
                    assert light.sum() < 20
                    continue
                (left, top), (right, bottom) = shapes[place][0].shape.corners
                down, across = np.nonzero(light)
                assert across.min() == pytest.approx(left, abs=1) and across.max() + 1 == pytest.approx(right, abs=1)
                assert down.min() == pytest.approx(top, abs=1) and down.max() + 1 == pytest.approx(bottom, abs=1)
    assert moved[""] > 20 and moved["box"] == moved["color"] == 0


def test_facts_limit_the_transform() -> None:
    hue = Augmentation(sources=("s",), hue_degrees=50, saturation=0.5)
    place, size = (1, 2, 3), (50, 50)
    assert draw_transform(hue, place, size, ("count",)).color == draw_transform(hue, place, size).color is not None
    assert draw_transform(hue, place, size, ("color",)) == ImageTransform()
    assert draw_transform(CROPS, place, size, ("count",)) == ImageTransform() != draw_transform(CROPS, place, size)
    kept = dataclasses.replace(CROPS, facts_kept=("count",))
    assert draw_transform(kept, place, size, ("count",)) == draw_transform(CROPS, place, size)
    assert draw_transform(kept, place, size, ("count", "box")) == ImageTransform()
    both = dataclasses.replace(CROPS, brightness=0.5)
    assert draw_transform(both, place, size).crop == draw_transform(CROPS, place, size).crop


def test_media_of_other_sources_are_not_transformed(squares: Made, tmp_path: Path) -> None:
    other_source = dataclasses.replace(EVERYTHING, sources=("read",))  # texts without a picture
    assert batches(squares, tmp_path, augment=other_source) == batches(squares, tmp_path, augment=None)


def test_all_frames_of_a_clip_are_transformed_alike(squares: Made) -> None:
    """Its chunks may be dealt to different ranks; all of them show the same part in the same colors."""
    with Loader(squares.packs, SIZE, stand_ins=None, ranks=[]) as loader:
        number, row, packed = next(
            (batch.number, row, packed)
            for batch in loader
            for row, pack in enumerate(batch.packs)
            for packed in pack.media
            if len(packed.items) > 1
        )
    assert len({draw_transform(EVERYTHING, (number, row, packed.items[0].slot), (64, 48)) for _ in packed.items}) == 1


def test_a_run_is_not_resumed_with_another_augmentation(squares: Made, tmp_path: Path) -> None:
    stand_ins = StandIns(str(tmp_path))
    with Loader(squares.packs, SIZE, stand_ins=stand_ins, decode=DecodeOptions(augment=EVERYTHING)) as loader:
        next(loader)
        augmented = loader.state
    with Loader(squares.packs, SIZE, stand_ins=stand_ins) as loader:
        next(loader)
        plain = loader.state
    assert "augment" not in plain
    for state, augment in (
        (augmented, None),
        (augmented, dataclasses.replace(EVERYTHING, seed=4)),
        (plain, EVERYTHING),
    ):
        with pytest.raises(ResumeError, match="another augmentation") as refused:
            Loader(squares.packs, SIZE, state=state, stand_ins=stand_ins, decode=DecodeOptions(augment=augment))
        assert refused.value.exit_code == 3


def test_an_augmentation_of_an_unknown_source_is_refused(squares: Made) -> None:
    unknown = dataclasses.replace(EVERYTHING, sources=("seen", "typo"))
    with pytest.raises(ManifestError, match="augment names the sources typo, the packs have seen, read"):
        Loader(squares.packs, SIZE, decode=DecodeOptions(augment=unknown))


def test_rank_batches_carry_the_shapes_of_their_media(squares: Made, tmp_path: Path) -> None:
    options = {"stand_ins": StandIns(str(tmp_path)), "decode": DecodeOptions(augment=CROPS)}
    opened = functools.partial(Loader, squares.packs, SIZE, 2, **options)
    by_rank = [{} for _ in range(2)]
    for rank in range(2):
        for batch in RankBatches(opened, rank):
            by_rank[rank] |= {(batch.number, *address): visible for address, visible in batch.shapes.items()}
    assert by_rank[0] and by_rank[1] and not by_rank[0].keys() & by_rank[1].keys()
    with Loader(squares.packs, SIZE, **options) as loader:  # type: ignore[arg-type]
        expected = {(batch.number, *address): visible for batch in loader for address, visible in batch.shapes.items()}
    assert by_rank[0] | by_rank[1] == expected


def test_a_stage_has_a_key_augment(tmp_path: Path) -> None:
    file = tmp_path / "stage.yaml"
    file.write_text("model: m\npacks: p\naugment: {sources: [captions], least_area: 0.8, brightness: 0.1}\n")
    augment = load(Stage, [file]).value.augment
    assert augment == Augmentation(sources=("captions",), least_area=0.8, brightness=0.1)
    for wrong in ("sources: []", "sources: [a], least_area: 0", "sources: [a], turn_degrees: 90", "least_area: 1"):
        file.write_text(f"model: m\npacks: p\naugment: {{{wrong}}}\n")
        with pytest.raises(ManifestError):
            load(Stage, [file])
