"""Certificates of packs: equal bytes in every replay, and refusal of each component that gives other bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import millrace
from manifests.errors import RecordError, ResumeError, StoreError
from manifests.geometry import MediaLimits
from manifests.records import Document, Json, Text, record_id
from packing.loader import certificate
from packing.loader.certificate import DATA_PATH, check, components
from packing.loader.certify import certify, other_decoders
from packing.loader.loader import Loader
from packing.loader.replay import batch_hash
from packing.mixture import Mixture, Source
from stores.forget.forget import forget
from stores.media import codecs, fingerprints, image, video
from stores.snapshot import Snapshot
from stores.store import Store
from stores.upkeep import certificates
from stores.upkeep.copy import copy
from stores.upkeep.gc import collect_garbage
from tests.packing.corpus import Made, clip, document, make, medium, picture
from tests.packing.loader.test_loader_changes import undecodable

ROOT = Path(__file__).parents[3]
MIXTURE = Mixture(
    sources=(
        Source(name="seen", input="samples", weight=1.0, domains=("caption", "video"), max_epochs=3),
        Source(name="read", input="samples", weight=1.0, domains=("knowledge",), max_epochs=3),
    ),
    max_pack_tokens=96,
    global_batch_packs=6,
    media_limits=MediaLimits(max_image_patches=24, max_frame_patches=16, max_video_frames=8),
)


def documents() -> list[Document]:
    """Images, one clip, one undecodable image and texts."""
    images = [medium(picture(i, 50 + i, 40, ("PNG", "JPEG", "WEBP")[i % 3])) for i in range(40)]
    captions = [document(f"caption {i}", "caption", one, Text(f"a circle, number {i}")) for i, one in enumerate(images)]
    captions += [document("clip", "video", Text("see"), medium(clip(12)), Text("a square"))]
    captions += [document("bad", "caption", undecodable(1))]
    return captions + [document(f"text {i}", "knowledge", Text("one two three " * (1 + i % 9))) for i in range(90)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("certified"), documents(), MIXTURE)


@pytest.fixture(scope="module")
def first(made: Made) -> Json:
    certificate, notes = certify(made.packs, batches=4)
    assert not notes
    return certificate


@pytest.fixture
def mine(made: Made, first: Json, tmp_path: Path) -> Iterator[Snapshot]:
    """A copy of the certified packs and of the stores they were made from."""
    folder = tmp_path / "run"
    shutil.copytree(made.folder, folder)
    head = Store.open(str(folder / "packs")).head()
    assert head is not None and certificates.read(head) == first
    yield head


def child(code: str, packs: Snapshot) -> subprocess.CompletedProcess[str]:
    """Run planted code, then open a loader on `packs`, in a process of its own."""
    run = f"""
import sys
from manifests.errors import MillraceError
{code}
from packing.loader.loader import Loader
from stores.store import Store
try:
    with Loader(Store.open({packs.url!r}).head(), {MIXTURE.global_batch_packs}) as loader:
        print(loader.notes)
except MillraceError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
    return subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True)


# -------------------------------------------------------------------- content of a certificate


def test_a_certificate_holds_batch_hashes_and_all_components(made: Made, first: Json) -> None:
    assert first["replays"] == {"worlds": [1, 2, 3, 6], "threads": [1, 2, 4], "killed_after": [1, 2, 3]}
    assert len(first["batches"]) == len(set(first["batches"])) == 4
    assert set(first["components"]) == {
        "JPEG decoder", "WebP decoder", "AVIF decoder", "PNG decoder", "video decoder", "resize kernel", "tokenizer",
        "plan", "data path", "changes of pictures",
    }  # fmt: skip
    assert first["components"]["tokenizer"]["fingerprint"] == made.packs.meta["vocabulary"]
    assert certificates.read(made.packs) == first


def test_other_decoders_are_compared_and_the_worst_medium_is_named(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = other_decoders(made.packs, 1000)
    assert counts.pop("Pillow")["media"] > 10
    assert counts == {"decord": {"media": 1, "equal": 1, "refused": 0, "worst": None}}
    plain = video.DECODERS["decord"]
    monkeypatch.setitem(video.DECODERS, "decord", lambda *given: ((at, frame ^ 3) for at, frame in plain(*given)))
    decord = other_decoders(made.packs, 1000)["decord"]
    assert (decord["media"], decord["equal"], decord["worst"]["difference"]) == (1, 0, 3)
    name, ordinal = decord["worst"]["where"].rstrip("]").split("[")
    assert name == "packs"
    assert decord["worst"]["medium"] in {one.media.digest for one in made.packs.record(int(ordinal)).media}


def test_images_with_other_pixels_under_pillow_get_no_certificate(
    mine: Snapshot, first: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every faster image decoder is compared with Pillow."""
    pillow = first["decoders"]["Pillow"]
    assert pillow["equal"] == pillow["media"] > 1 and not pillow["refused"]
    plain = codecs.decode_into

    def decode_into(shown: Image.Image, payload: bytes, rgb: np.ndarray) -> bool:
        done = plain(shown, payload, rgb)
        rgb[-1, -1] ^= 4
        return done

    monkeypatch.setattr(codecs, "PNG_MIN_PIXELS", 1)
    monkeypatch.setattr(codecs, "decode_into", decode_into)
    with pytest.raises(StoreError, match=r"Pillow: the same pixels of 0 of \d+ media; up to 4 of 255 apart in medium"):
        certify(mine, batches=2, renew=True)
    assert certificates.read(mine) == first
    monkeypatch.undo()
    monkeypatch.setattr(codecs, "PNG_MIN_PIXELS", 1)
    monkeypatch.setattr(image, "_loaded", refuse)
    with pytest.raises(StoreError, match=r"Pillow: .* can't read \d+"):
        certify(mine, batches=2, renew=True)


def refuse(shown: Image.Image) -> Image.Image:
    raise RecordError("broken_image", "refused by Pillow")


def test_a_second_run_compares_and_leaves_the_certificate_unchanged(mine: Snapshot, first: Json) -> None:
    file = Path(mine.url, certificates.certificate_path(mine))
    before = file.read_bytes()
    again, notes = certify(mine, batches=2)
    assert again["batches"] == first["batches"][:2] and not notes and file.read_bytes() == before


def test_a_batch_with_other_bytes_is_refused_although_all_components_agree(mine: Snapshot, first: Json) -> None:
    certificates.publish(mine, first | {"batches": ["0" * 64, *first["batches"][1:]]}, renew=True)
    with pytest.raises(ResumeError, match="global batch 0 was certified as 0000") as refused:
        certify(mine, batches=1)
    assert refused.value.exit_code == 3


def test_a_loader_that_resumes_at_a_wrong_batch_after_a_kill_gets_no_certificate(
    mine: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the saved state of a killed process is off by one batch."""
    Path(mine.url, certificates.certificate_path(mine)).unlink()
    planted = "import packing.loader.loader as l, packing.loader.replay as r, sys\n"
    planted += "state = l.Loader.state.fget\n"
    planted += "l.Loader.state = property(lambda self: state(self) | {'stand_ins': '', 'next_batch': self._next + 1})\n"
    planted += "r.main(sys.argv[1:])"
    run = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen[str]:
        assert command[1:3] == ["-m", "packing.loader.replay"]
        return run([command[0], "-c", planted, *command[3:]], cwd=ROOT, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(StoreError):
        certify(mine, batches=4)
    assert certificates.read(mine) is None


def test_the_command_prints_the_replays_and_decoders(mine: Snapshot, capsys: pytest.CaptureFixture[str]) -> None:
    assert millrace.main(["store", "certify", mine.url, "--batches", "1"]) == 0
    printed = capsys.readouterr().out
    assert "snapshot 1: equal bytes of 1 global batches in every replay; ranks: 1, 2, 3, 6; threads: 1, 2, 4" in printed
    assert "decord: the same pixels" in printed or "decord" not in printed
    assert millrace.main(["store", "certify", mine.url.removesuffix("packs") + "samples"]) == 1


# -------------------------------------------------------------------- swapped components

JPEG = """
import simplejpeg
plain = simplejpeg.decode_jpeg
def other(payload, colors, buffer):
    plain(payload, colors, buffer=buffer)
    buffer[0, 0, 0] ^= 1
simplejpeg.decode_jpeg = other
"""
VIDEO = """
from stores.media import video
plain = video.DECODERS["av"]
video.DECODERS["av"] = lambda *given: ((time, frame ^ 1) for time, frame in plain(*given))
"""
RESIZE = """
from stores.media import image
from PIL import Image
import numpy as np
image.resize = lambda rgb, w, h: np.asarray(Image.fromarray(rgb).resize((w, h), Image.Resampling.BILINEAR))
"""
PNG = """
from stores.media import codecs
plain = codecs.decode_png
def other(payload, rgb):
    done = plain(payload, rgb)
    rgb[0, 0] ^= 1
    return done
codecs.decode_png = other
"""
DATA = "from packing.loader import certificate; certificate.DATA_PATH += 1"


@pytest.mark.parametrize(
    "planted, name",
    [
        (JPEG, "JPEG decoder"),
        (PNG, "PNG decoder"),
        (VIDEO, "video decoder"),
        (RESIZE, "resize kernel"),
        (DATA, "data path"),
    ],
)
def test_a_swapped_component_with_other_bytes_is_refused_and_named(planted: str, name: str, mine: Snapshot) -> None:
    done = child(planted, mine)
    assert done.returncode == 3, done.stderr
    assert f"the packs were certified with another {name} (certified" in done.stderr and ", here " in done.stderr
    assert done.stderr.count(" (certified ") == 1  # only this component is named
    Path(mine.url, certificates.certificate_path(mine)).unlink()
    assert child(planted, mine).returncode == 0  # without a certificate nothing is compared


def test_another_tokenizer_is_refused_and_named(mine: Snapshot) -> None:
    assert check(mine, vocabulary=mine.meta["vocabulary"]) == ()
    with pytest.raises(ResumeError, match=f"another tokenizer .certified {mine.meta['vocabulary'][:16]}, here ffff"):
        check(mine, vocabulary="f" * 64)


def test_another_version_with_the_same_bytes_is_a_note(
    mine: Snapshot, first: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = json.loads(json.dumps(first))
    certificate["components"]["PNG decoder"]["version"] = "Pillow 12.9.0, zlib 1.3"
    certificates.publish(mine, certificate, renew=True)
    with Loader(mine, MIXTURE.global_batch_packs) as loader:
        (note,) = loader.notes
    assert note.startswith("PNG decoder (certified Pillow 12.9.0, zlib 1.3, here Pillow") and "equal bytes" in note
    slow = child("import os; os.environ['JSIMD_FORCENONE'] = '1'", mine)  # libjpeg-turbo without vector instructions
    assert slow.returncode == 0 and slow.stdout.count("PNG decoder") == 1


def test_equal_versions_with_other_bytes_are_named_by_fingerprint(mine: Snapshot) -> None:
    error = child(JPEG, mine).stderr
    assert (
        "with fingerprint" in error
        and certificates.read(mine)["components"]["JPEG decoder"]["fingerprint"][:12] in error
    )


def test_the_augmentation_component_is_compared_only_if_images_are_augmented(
    mine: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "_augmentation_fingerprint", lambda: "other")
    assert check(mine) == ()
    with pytest.raises(ResumeError, match="another changes of pictures"):
        check(mine, augmented=True)


# -------------------------------------------------------------------- certificates in a store


def test_a_damaged_certificate_is_an_error(mine: Snapshot) -> None:
    file = Path(mine.url, certificates.certificate_path(mine))
    file.write_bytes(file.read_bytes().replace(b"data path", b"date path"))
    with pytest.raises(StoreError, match="this certificate is damaged"):
        Loader(mine, MIXTURE.global_batch_packs)


def test_a_certificate_is_copied_and_lives_as_long_as_its_snapshot(mine: Snapshot, first: Json, tmp_path: Path) -> None:
    copied = copy(mine, str(tmp_path / "copy"))
    assert certificates.read(copied) == first
    collect_garbage(Store.open(mine.url), keep_last=1)
    assert certificates.read(mine) == first
    stray = Path(mine.url, certificates.FOLDER, "0" * 64 + ".json")
    stray.write_text("{}")
    collect_garbage(Store.open(mine.url), keep_last=1)
    assert not stray.exists() and certificates.read(mine) == first


def test_forgetting_deletes_the_certificate_with_its_snapshot(mine: Snapshot) -> None:
    file = Path(mine.url, certificates.certificate_path(mine))
    assert file.exists()
    forget(str(Path(mine.url).parent), {"ids": frozenset({record_id("made", "caption 3")}), "sources": frozenset(),
                                        "places": frozenset(), "media": frozenset()})  # fmt: skip
    head = Store.open(mine.url).head()
    assert head is not None and head.content_root == mine.content_root
    assert certificates.read(head) is None and not file.exists()
    certify(head, batches=1)


# -------------------------------------------------------------------- version of the data path

GOLDEN = {1: ("ebe2cc2f6243409a", "79e22cb7fb844d83", "67d923e9e8e94af5")}
"""By `DATA_PATH`: hashes of the packs, of their first batch and of all batches."""


def test_other_bytes_of_the_data_path_need_another_version(tmp_path: Path) -> None:
    """If the last line fails, equal packs give other batches than before: raise DATA_PATH and record the new hashes.

    Images are stored as PPM, which no codec touches, in their planned size or resized by Pillow's kernel.
    """
    documents = []
    for i in range(30):
        width, height = 30 + 7 * i, 140 - 3 * i
        down, across, color = np.indices((height, width, 3))
        pixels = ((across * (color + 2) + down * (5 - color) + i * 11) % 256).astype(np.uint8)
        waves = medium(b"P6 %d %d 255\n" % (width, height) + pixels.tobytes())
        documents.append(document(f"caption {i}", "caption", waves, Text(f"waves, number {i}")))
    documents += [document(f"text {i}", "knowledge", Text("one two three " * (1 + i % 9))) for i in range(60)]
    packs = make(tmp_path, documents, MIXTURE).packs
    with Loader(packs, MIXTURE.global_batch_packs) as loader:
        hashes = [batch_hash(batch, 1) for batch in loader]
    together = hashlib.sha256("".join(hashes).encode()).hexdigest()
    assert packs.content_root[:16] == GOLDEN[DATA_PATH][0], "other packs: record new hashes, the version stays"
    assert (DATA_PATH, hashes[0][:16], together[:16]) == (DATA_PATH, *GOLDEN[DATA_PATH][1:])


def test_every_probe_decodes_and_has_a_fingerprint(made: Made) -> None:
    current = components(made.packs)
    refused = {"broken_image", "unknown_format", "truncated_image", "broken_video", "unsupported_video"}
    for file in fingerprints.FOLDER.iterdir():
        result = fingerprints._clip(file) if file.suffix in (".mp4", ".webm") else fingerprints._picture(file)
        assert result not in refused, file.name
    assert all(len(component.fingerprint) == 64 for component in current.values())
