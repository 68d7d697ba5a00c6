"""`millrace store certify`: a certificate of packs, from replays of their first global batches.

    packs store -> one process, one rank -> hashes
                -> every world size, several numbers of threads -> the same hashes
                -> a process that is killed and started again   -> the same hashes
                -> Pillow without faster decoders, which has to give the same pixels of every image
                -> every other video decoder                    -> number of media with other pixels
                => certificates/DIGEST.json: hashes, and the components that decide bytes

From then on loaders refuse components that give other bytes (`loader/certificate.py`). If the packs have a certificate,
the command compares with it.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from manifests.errors import ManifestError, RecordError, ResumeError, StoreError
from manifests.records import Json, PackedMedia
from packing.loader.certificate import as_json, compare, components
from packing.loader.loader import Loader
from packing.loader.replay import replay
from stores.media import image, video
from stores.snapshot import Snapshot
from stores.store import Store
from stores.upkeep import certificates
from stores.upkeep.log import find_snapshot

BATCHES = 8
"""Global batches to replay by default."""
WORLDS = (1, 2, 3, 4, 6, 12)
"""World sizes to replay with, if they divide the global batch."""
THREADS = (1, 2, 4)
"""Numbers of decoder threads to replay with."""
KILLS = 3
PILLOW = "Pillow"
"""Reference decoder of images: slower than the ones in use, and right by definition."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="millrace store certify",
        description="Replay the first global batches of a packs store with other numbers of ranks and threads, through "
        "kills and with other decoders, and store a certificate of their hashes and of every component that decides "
        "bytes. If the packs have a certificate, compare with it; exit code 3 means that a component now gives other "
        "bytes.",
        epilog="example:\n  millrace store certify runs/quickstart/packs --batches 16",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", metavar="STORE", help="folder or URL of a packs store")
    parser.add_argument("snapshot", nargs="?", default="head", help="head, a number or a tag")
    parser.add_argument("--batches", type=int, default=BATCHES, metavar="N", help=f"global batches (default {BATCHES})")
    parser.add_argument("--renew", action="store_true", help="replace the existing certificate")
    parser.add_argument("--json", action="store_true", help="the certificate as JSON on stdout")
    options = parser.parse_args(arguments)
    if options.batches < 1:
        raise ManifestError(
            f"expected at least one global batch, got {options.batches}", where="--batches", fix="leave it out"
        )
    snapshot = find_snapshot(Store.open(options.store), options.snapshot)
    certificate, notes = certify(
        snapshot, options.batches, renew=options.renew, on_step=lambda step: print(step, file=sys.stderr)
    )
    if options.json:
        print(json.dumps(certificate, ensure_ascii=False))
        return 0
    for note in notes:
        print(f"note: {note}")
    replays = certificate["replays"]
    print(
        f"snapshot {snapshot.number}: equal bytes of {len(certificate['batches'])} global batches in every replay; "
        f"ranks: {_list(replays['worlds'])}; threads: {_list(replays['threads'])}; "
        f"killed after batch: {_list(replays['killed_after'])}"
    )
    for name, counts in certificate["decoders"].items():
        print(_decoder_line(name, counts))
    return 0


def certify(
    packs: Snapshot,
    batches: int = BATCHES,
    *,
    renew: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> tuple[Json, tuple[str, ...]]:
    """Replay `packs` and store a certificate, or compare with the existing one.

    Args:
        batches: global batches to replay, from the first one on.
        renew: replace an existing certificate.
        on_step: called with a line of text before each step.
    Returns:
        the certificate, and notes on components with another version and equal bytes.
    Raises:
        StoreError: a replay gave other bytes than the first one, or Pillow other pixels. Nothing is certified then.
        ResumeError: a component or a batch differs from the existing certificate.
    """
    if packs.kind != "packs":
        raise StoreError(f"expected a store of packs, got {packs.kind}", where=packs.url, fix="certify a packs store")
    existing = None if renew else certificates.read(packs)
    current = components(packs)
    notes = compare(existing["components"], current, packs.name) if existing else ()
    if amends := packs.meta.get("amends"):
        before = (
            f"a run reads them after those of plan {amends['plan'][:12]}, from global batch {amends['at_batch']} on"
        )
        notes = (*notes, f"batches are counted from the first of these packs; {before}: certify those as well")
    size = packs.meta["global_batch_packs"]
    batches = min(batches, packs.counts["records"] // size)
    if not batches:
        raise StoreError("the packs hold no whole global batch", where=packs.url, fix="plan more tokens")
    on_step(f"replaying global batches: {batches}")
    expected = _replayed(packs, 1, 1, batches)
    if existing:
        _check_certified(expected, existing["batches"], packs)
    on_step("comparing other decoders")
    others = other_decoders(packs, batches)
    _check_pillow(others, packs)
    worlds = [world for world in WORLDS if size % world == 0]
    for world in worlds:
        _check_equal(packs, expected, _replayed(packs, world, 2, batches), f"on {world} ranks")
    for threads in THREADS:
        _check_equal(packs, expected, _replayed(packs, 1, threads, batches), f"with {threads} threads")
    kills = sorted({1 + (batches - 1) * k // KILLS for k in range(KILLS)}) if batches > 1 else []
    on_step(f"killing a loader after {_list(kills)} batches")
    _check_equal(packs, expected, _killed(packs, worlds, kills, batches), f"killed after {_list(kills)} batches")
    certificate = {
        "content_root": packs.content_root,
        "global_batch_packs": size,
        "batches": expected,
        "replays": {"worlds": worlds, "threads": list(THREADS), "killed_after": kills},
        "decoders": others,
        "components": as_json(current),
    }
    if existing is None:
        certificates.publish(packs, certificate, renew=renew)
    return certificate, notes


def _replayed(packs: Snapshot, world: int, threads: int, batches: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return [batch_hash for _, batch_hash in replay(packs, Path(folder), world, threads, batches)]


def _killed(packs: Snapshot, worlds: Sequence[int], kills: Sequence[int], batches: int) -> list[str]:
    """Return the hashes from processes that are killed after `kills` batches, each continued with other ranks."""
    hashes: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for life, stop in enumerate([*kills, batches]):
            world, threads = worlds[life % len(worlds)], 1 + life % 3
            command = [sys.executable, "-m", "packing.loader.replay", packs.url, str(packs.number), folder]
            command += [str(world), str(threads), str(batches)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:  # includes lines written before the kill reached the process
                    number, batch_hash = line.split()
                    if hashes.setdefault(int(number), batch_hash) != batch_hash:
                        raise _other_bytes(packs, int(number), "after a kill", hashes[int(number)], batch_hash)
                    if len(hashes) == stop < batches:
                        process.send_signal(signal.SIGKILL)
            if process.returncode not in (0, -signal.SIGKILL):
                fix = "read the error of the replay above"
                raise StoreError(f"a replay ended with exit code {process.returncode}", where=packs.url, fix=fix)
    return [hashes.get(number, "nothing") for number in range(batches)]


def _check_equal(packs: Snapshot, expected: Sequence[str], hashes: Sequence[str], how: str) -> None:
    for number, (first, other) in enumerate(zip(expected, hashes, strict=True)):
        if first != other:
            raise _other_bytes(packs, number, how, first, other)


def _other_bytes(packs: Snapshot, number: int, how: str, expected: str, got: str) -> StoreError:
    return StoreError(
        f"global batch {number} has other bytes {how}: expected {expected[:16]}, got {got[:16]}",
        where=packs.url,
        fix="this is a defect of millrace or of a decoder: please report it; nothing was certified",
    )


def _check_certified(hashes: Sequence[str], certified: Sequence[str], packs: Snapshot) -> None:
    for number, (expected, got) in enumerate(zip(certified, hashes, strict=False)):
        if expected != got:
            raise ResumeError(
                f"global batch {number} was certified as {expected[:16]}, now it is {got[:16]}; all probes agree",
                where=packs.name,
                fix="restore the components in use when the packs were certified, or certify again with --renew",
            )


# -------------------------------------------------------------------- decoders


def other_decoders(packs: Snapshot, batches: int) -> dict[str, Json]:
    """Compare each decoder that is not the default with the default one, on the media of the first batches.

    Returns:
        by decoder: `media` it was tried on, `equal` ones (same pixels), `refused` ones (it can't read them), and the
        `worst`, the medium whose pixels differ most.
    """
    counts: dict[str, Json] = {}
    for packed, payload, where in _media(packs, batches):
        try:
            expected = _decoded(packed, payload)
        except RecordError:
            continue  # the loader shows a stand-in
        for name, frames in _other_frames(packed, payload):
            count = counts.setdefault(name, {"media": 0, "equal": 0, "refused": 0, "worst": None})
            count["media"] += 1
            if frames is None:
                count["refused"] += 1
                continue
            difference = max(_difference(one, other) for one, other in zip(expected, frames, strict=True))
            count["equal"] += difference == 0
            if difference and (count["worst"] is None or difference > count["worst"]["difference"]):
                count["worst"] = {"medium": packed.media.digest, "where": where, "difference": difference}
    return counts


def _check_pillow(counts: Mapping[str, Json], packs: Snapshot) -> None:
    """Raise StoreError if Pillow gives other pixels than the faster decoders, or can't read an image."""
    pillow = counts.get(PILLOW)
    if pillow and pillow["equal"] < pillow["media"]:
        raise StoreError(
            _decoder_line(PILLOW, pillow),
            where=packs.url,
            fix="a decoder library was swapped, or this is a defect: please report it; nothing was certified",
        )


def _media(packs: Snapshot, batches: int) -> Iterator[tuple[PackedMedia, bytes, str]]:
    """Yield (medium, encoded bytes, `STORE[PACK]`) for the media of the first global batches, each medium once."""
    seen = set()
    with Loader(packs, packs.meta["global_batch_packs"], ranks=[], verify_certificate=False) as loader:
        for batch, _ in zip(loader, range(batches), strict=False):
            for row, pack in enumerate(batch.packs):
                for packed in pack.media:
                    if packed.media.digest not in seen and packed.media.location is not None:
                        seen.add(packed.media.digest)
                        payload = packs.read(packed.media.location)
                        ordinal = batch.number * len(batch.packs) + row
                        yield packed, payload, f"{packs.name}[{ordinal}]"


def _other_frames(packed: PackedMedia, payload: bytes) -> Iterator[tuple[str, list[np.ndarray] | None]]:
    """Yield (decoder, frames) for every other decoder of a medium; None if it can't read the medium."""
    if packed.media.kind == "image":
        try:
            yield PILLOW, [image.decode_by_pillow(payload)]
        except RecordError:
            yield PILLOW, None
    else:
        for name in get_args(video.Decoder):
            if name != video.DEFAULT_DECODER:
                try:
                    yield name, video.frames_at(payload, _times_us(packed), decoder=name)
                except RecordError:
                    yield name, None


def _decoded(packed: PackedMedia, payload: bytes) -> list[np.ndarray]:
    if packed.media.kind == "image":
        return [image.decode_rgb(payload)]
    return video.frames_at(payload, _times_us(packed))


def _times_us(packed: PackedMedia) -> list[int]:
    return [packed.media.frame_times_us[frame] for item in packed.items for frame in item.frames]


def _difference(one: np.ndarray, other: np.ndarray) -> int:
    """Return the largest difference of two pixel values, 0 to 255."""
    return 255 if one.shape != other.shape else int(np.abs(one.astype(np.int16) - other).max())


def _decoder_line(name: str, counts: Json) -> str:
    line = f"{name}: the same pixels of {counts['equal']} of {counts['media']} media"
    line += f", can't read {counts['refused']}" if counts["refused"] else ""
    if counts["worst"]:
        worst = counts["worst"]
        line += f"; up to {worst['difference']} of 255 apart in medium {worst['medium'][:16]} of {worst['where']}"
    return line


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "no"
