"""Plans with `pixels: fast`: equal rows, nearly equal patches, and no run that changes between the two kinds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from manifests.errors import ManifestError, ResumeError
from manifests.geometry import MediaLimits
from manifests.records import Document, Text
from packing.loader.certificate import FAST_PIXELS, check, components
from packing.loader.certify import certify
from packing.loader.loader import DecodeOptions, Loader
from packing.mixture import Mixture, Source
from stores.media import fingerprints, image
from tests.packing.corpus import Made, document, make, medium, picture

EXACT = Mixture(
    sources=(
        Source(name="seen", input="samples", weight=1.0, domains=("caption",), max_epochs=2),
        Source(name="read", input="samples", weight=1.0, domains=("knowledge",), max_epochs=9),
    ),
    max_pack_tokens=64,
    global_batch_packs=4,
    media_limits=MediaLimits(max_image_patches=24),
)
SIZE = EXACT.global_batch_packs


def documents() -> list[Document]:
    forms = ("JPEG", "JPEG", "PNG")
    sides = [(180, 150), (90, 60), (60, 50)]
    media = [medium(picture(i, *sides[i // 3 % 3], forms[i % 3])) for i in range(36)]
    captions = [document(f"shown {i}", "caption", one, Text(f"a circle, {i}")) for i, one in enumerate(media)]
    return captions + [document(f"text {i}", "knowledge", Text("one two three " * (1 + i % 9))) for i in range(60)]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("exact"), documents(), EXACT)


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("fast"), documents(), dataclasses.replace(EXACT, pixels="fast"))


def test_rows_are_equal_and_only_jpegs_that_shrink_by_half_have_other_patches(exact: Made, fast: Made) -> None:
    differ = []
    with Loader(exact.packs, SIZE) as loader, Loader(fast.packs, SIZE) as other:
        for one, two in zip(loader, other, strict=True):
            assert np.array_equal(one.rows(0).ids, two.rows(0).ids)
            true, near = one.media(0), two.media(0)
            assert np.array_equal(true.first_slots, near.first_slots)
            stops = true.grids.prod(axis=1).cumsum()
            for i, place in enumerate(zip(true.rows.tolist(), true.first_slots.tolist(), strict=True)):
                packed = next(packed for packed in one.packs[place[0]].media if packed.items[0].slot == place[1])
                part = slice(stops[i - 1] if i else 0, stops[i])
                is_different = not np.array_equal(true.patches[part], near.patches[part])
                width, height = packed.size_px
                halved = packed.media.width_px >= 2 * width and packed.media.height_px >= 2 * height
                assert is_different == (halved and packed.media.format == "jpg")
                differ.append(is_different)
    assert 0 < sum(differ) < len(differ) / 2


def test_fast_batches_are_equal_for_any_world_threads_and_position(fast: Made) -> None:
    with Loader(fast.packs, SIZE, decode=DecodeOptions(threads=1)) as loader:
        read = [(batch.media(0).patches, loader.state) for batch in loader]
    for k, (_, state) in enumerate(read[:-1]):
        with Loader(fast.packs, SIZE, state=state, decode=DecodeOptions(threads=3)) as loader:
            assert np.array_equal(next(loader).media(0).patches, read[k + 1][0])
    with Loader(fast.packs, SIZE, world=2, decode=DecodeOptions(threads=2)) as loader:
        for batch, (patches, _) in zip(loader, read, strict=True):
            dealt = np.concatenate([batch.media(rank).patches for rank in range(2)])
            assert sorted(map(bytes, dealt)) == sorted(map(bytes, patches))


@pytest.mark.parametrize("begun", ["exact", "fast"])
def test_a_run_does_not_continue_with_the_other_kind_of_pixels(exact: Made, fast: Made, begun: str) -> None:
    made = {"exact": exact, "fast": fast}
    with Loader(made.pop(begun).packs, SIZE) as loader:
        next(loader)
        state = loader.state
    ((other, packs),) = made.items()
    with pytest.raises(ResumeError, match=f"other pixels: saved {begun}, now {other}") as refused:
        Loader(packs.packs, SIZE, state=state)
    assert refused.value.exit_code == 3
    with pytest.raises(ManifestError, match=f"planned for {other} pixels, those before them for {begun}"):
        Loader([(0, {"exact": exact, "fast": fast}[begun].packs), (2, packs.packs)], SIZE)


def test_a_certificate_of_fast_pixels_names_the_swapped_decoder(
    exact: Made, fast: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, _ = certify(fast.packs, batches=2)
    assert FAST_PIXELS in certificate["components"] and FAST_PIXELS not in components(exact.packs)
    assert check(fast.packs) == ()
    whole = image.decode_near

    def planted(*given: object, **options: object) -> object:
        rgb, size = whole(*given, **options)  # type: ignore[arg-type]
        return rgb ^ 1, size

    monkeypatch.setattr(fingerprints.image, "decode_near", planted)
    with pytest.raises(ResumeError, match="another fast pixels"):
        Loader(fast.packs, SIZE)
