"""`millrace store certify`: the first global batches again and again, under all that may change, and what they were.

    packs store -> one process, one rank -> hashes
                -> every world size, several numbers of threads -> the same hashes
                -> a process that is killed again and again     -> the same hashes
                -> Pillow alone, which has to give the same pixels of every picture
                -> every other decoder of videos                -> how many it gives other pixels of
                => certificates/DIGEST.json: hashes, and the components that decide bytes

From then on loaders refuse components that give other bytes (`loader/certificate.py`). Run again, this compares.
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
from stores.upkeep.log import find

BATCHES = 8
WORLDS = (1, 2, 3, 4, 6, 12)
THREADS = (1, 2, 4)
KILLS = 3
PILLOW = "Pillow"
"""Decodes pictures as well, alone and slowly; its pixels are the ones that count."""

Show = Callable[[str], None]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace store certify",
        description="Replay the first global batches of a packs store with other numbers of ranks and threads, through "
        "kills and with other decoders, and leave a certificate of their hashes and of all that decides bytes. Where "
        "there is one, compare with it; exit code 3 names what gives other bytes now.",
        epilog="example:\n  millrace store certify runs/quickstart/packs --batches 16",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", metavar="STORE", help="folder or URL of a packs store")
    parser.add_argument("snapshot", nargs="?", default="head", help="head, a number or a tag")
    parser.add_argument("--batches", type=int, default=BATCHES, metavar="N", help=f"global batches (default {BATCHES})")
    parser.add_argument("--renew", action="store_true", help="replace the certificate that is there")
    parser.add_argument("--json", action="store_true", help="the certificate as JSON on stdout")
    options = parser.parse_args(arguments)
    if options.batches < 1:
        raise ManifestError("at least one global batch is replayed", where="--batches", fix="leave it out")
    snapshot = find(Store.open(options.store), options.snapshot)
    made, notes = certify(
        snapshot, options.batches, renew=options.renew, show=lambda line: print(line, file=sys.stderr)
    )
    if options.json:
        print(json.dumps(made, ensure_ascii=False))
        return 0
    for note in notes:
        print(f"note: {note}")
    replays = made["replays"]
    print(
        f"{len(made['batches'])} global batches of snapshot {snapshot.number} are the same "
        f"on {_list(replays['worlds'])} ranks, with {_list(replays['threads'])} threads, "
        f"and killed after {_list(replays['killed_after'])} batches"
    )
    for name, told in made["decoders"].items():
        print(_about(name, told))
    return 0


def certify(
    packs: Snapshot, batches: int = BATCHES, *, renew: bool = False, show: Show = lambda line: None
) -> tuple[Json, tuple[str, ...]]:
    """The certificate, which is also left in the store, and notes on components with another version.

    Raises:
        StoreError: a replay gave other bytes than the first, or Pillow other pixels; no certificate is made then.
        ResumeError: a component or a batch is not what an earlier certificate says, unless `renew`.
    """
    if packs.kind != "packs":
        raise StoreError(f"a store of {packs.kind} gives no batches", where=packs.url, fix="certify a packs store")
    earlier = None if renew else certificates.read(packs)
    here = components(packs)
    notes = compare(earlier["components"], here, packs.name) if earlier else ()
    if amends := packs.meta.get("amends"):
        before = (
            f"a run reads them from global batch {amends['at_batch']} on, after those of plan {amends['plan'][:12]}"
        )
        notes = (*notes, f"batches are counted from the first of these packs; {before}: certify those as well")
    size = packs.meta["global_batch_packs"]
    batches = min(batches, packs.counts["records"] // size)
    if not batches:
        raise StoreError("there is not one whole global batch", where=packs.url, fix="plan more tokens")
    show(f"replaying {batches} global batches")
    expected = _replayed(packs, 1, 1, batches)
    if earlier:
        _hold(expected, earlier["batches"], packs)
    show("trying other decoders")
    others = other_decoders(packs, batches)
    _agree(others, packs)
    worlds = [world for world in WORLDS if size % world == 0]
    for world in worlds:
        _same(packs, expected, _replayed(packs, world, 2, batches), f"on {world} ranks")
    for threads in THREADS:
        _same(packs, expected, _replayed(packs, 1, threads, batches), f"with {threads} threads")
    kills = sorted({1 + (batches - 1) * k // KILLS for k in range(KILLS)}) if batches > 1 else []
    show(f"killing a loader after {_list(kills)} batches")
    _same(packs, expected, _killed(packs, worlds, kills, batches), f"killed after {_list(kills)} batches")
    made = {
        "content_root": packs.content_root,
        "global_batch_packs": size,
        "batches": expected,
        "replays": {"worlds": worlds, "threads": list(THREADS), "killed_after": kills},
        "decoders": others,
        "components": as_json(here),
    }
    if earlier is None:
        certificates.publish(packs, made, renew=renew)
    return made, notes


def _replayed(packs: Snapshot, world: int, threads: int, batches: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return [found for _, found in replay(packs, Path(folder), world, threads, batches)]


def _killed(packs: Snapshot, worlds: Sequence[int], kills: Sequence[int], batches: int) -> list[str]:
    """What processes give that are killed, each after some batches, and go on with other ranks and threads."""
    found: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for life, stop in enumerate([*kills, batches]):
            world, threads = worlds[life % len(worlds)], 1 + life % 3
            command = [sys.executable, "-m", "packing.loader.replay", packs.url, str(packs.number), folder]
            command += [str(world), str(threads), str(batches)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:  # also what it wrote before the kill reached it
                    number, told = line.split()
                    if found.setdefault(int(number), told) != told:
                        raise _differs(packs, int(number), "after a kill", found[int(number)], told)
                    if len(found) == stop < batches:
                        process.send_signal(signal.SIGKILL)
            if process.returncode not in (0, -signal.SIGKILL):
                fix = "run it by hand; what it says stands above"
                raise StoreError(f"a replay ended with exit code {process.returncode}", where=packs.url, fix=fix)
    return [found.get(number, "nothing") for number in range(batches)]


def _same(packs: Snapshot, expected: Sequence[str], found: Sequence[str], how: str) -> None:
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one != other:
            raise _differs(packs, number, how, one, other)


def _differs(packs: Snapshot, number: int, how: str, one: str, other: str) -> StoreError:
    return StoreError(
        f"global batch {number} has other bytes {how}: {other[:16]}, expected {one[:16]}",
        where=packs.url,
        fix="this is a defect of millrace or of a decoder: please report it; nothing was certified",
    )


def _hold(found: Sequence[str], certified: Sequence[str], packs: Snapshot) -> None:
    for number, (one, other) in enumerate(zip(certified, found, strict=False)):
        if one != other:
            raise ResumeError(
                f"global batch {number} was certified as {one[:16]}, here it is {other[:16]}, though all probes agree",
                where=packs.name,
                fix="put back what was swapped since, or certify anew with --renew",
            )


# -------------------------------------------------------------------- decoders


def other_decoders(packs: Snapshot, batches: int) -> dict[str, Json]:
    """By decoder that is not the default: how many media it reads, of how many it gives the same pixels, and which it
    gives the most different ones of."""
    found: dict[str, Json] = {}
    for packed, payload, where in _media(packs, batches):
        try:
            ours = _decoded(packed, payload)
        except RecordError:
            continue  # a stand-in shows it
        for name, frames in _others(packed, payload):
            told = found.setdefault(name, {"media": 0, "equal": 0, "refused": 0, "worst": None})
            told["media"] += 1
            if frames is None:
                told["refused"] += 1
                continue
            difference = max(_difference(one, other) for one, other in zip(ours, frames, strict=True))
            told["equal"] += difference == 0
            if difference and (told["worst"] is None or difference > told["worst"]["difference"]):
                told["worst"] = {"medium": packed.media.digest, "where": where, "difference": difference}
    return found


def _agree(found: Mapping[str, Json], packs: Snapshot) -> None:
    """Raises StoreError where Pillow gives other pixels than those who are quicker, or none."""
    told = found.get(PILLOW)
    if told and told["equal"] < told["media"]:
        raise StoreError(
            _about(PILLOW, told),
            where=packs.url,
            fix="a library that decodes was swapped, or this is a defect: please report it; nothing was certified",
        )


def _media(packs: Snapshot, batches: int) -> Iterator[tuple[PackedMedia, bytes, str]]:
    """Media of the first global batches, each once."""
    seen = set()
    with Loader(packs, packs.meta["global_batch_packs"], ranks=[], certified=False) as loader:
        for batch, _ in zip(loader, range(batches), strict=False):
            for row, pack in enumerate(batch.packs):
                for packed in pack.media:
                    if packed.media.digest not in seen and packed.media.location is not None:
                        seen.add(packed.media.digest)
                        payload = packs.read(packed.media.location)
                        ordinal = batch.number * len(batch.packs) + row
                        yield packed, payload, f"{packs.name}[{ordinal}]"


def _others(packed: PackedMedia, payload: bytes) -> Iterator[tuple[str, list[np.ndarray] | None]]:
    """What every other decoder makes of a medium, None where it can't read it."""
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
    return 255 if one.shape != other.shape else int(np.abs(one.astype(np.int16) - other).max())


def _about(name: str, told: Json) -> str:
    words = f"{name}: the same pixels of {told['equal']} of {told['media']} media"
    words += f", can't read {told['refused']}" if told["refused"] else ""
    if told["worst"]:
        worst = told["worst"]
        words += f"; up to {worst['difference']} of 255 apart in medium {worst['medium'][:16]} of {worst['where']}"
    return words


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "no"
