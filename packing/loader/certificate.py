"""What decides the bytes of a batch, and whether it is here what it was when the packs were certified.

`loader/certify.py` makes certificates; every loader compares, if there is one, before it reads anything. Compared are
fingerprints (`stores/media/fingerprints.py`), not version numbers: another library that gives the same bytes is a note,
one that gives others is refused and named.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from manifests.errors import ResumeError
from manifests.records import Json, digest
from stores.snapshot import Snapshot
from stores.upkeep import certificates

if TYPE_CHECKING:
    from stores.media.fingerprints import Component

DATA_PATH = 1
"""Raised when equal packs would give other rows, patches, labels or positions than before, or others to a rank's media.
`tests/packing/loader/test_certify.py` holds the bytes of a batch against it."""

AUGMENTATION = "changes of pictures"
"""Compared only where pictures are changed."""
FAST_PIXELS = "fast pixels"
"""There only where the plan wants them."""


def components(packs: Snapshot, vocabulary: str | None = None) -> dict[str, Component]:
    """By name. `vocabulary`: digest of the tokenizer in use, where there is one; else that of the packs is taken."""
    from importlib.metadata import version  # with a parser of mail, 3 MB

    from packing import augment
    from stores.media import fingerprints  # all decoders, which only packs with a certificate need
    from stores.media.fingerprints import Component

    tokenizer = vocabulary or packs.meta["vocabulary"]
    return {
        "data path": Component(f"version {DATA_PATH}", digest("data path", str(DATA_PATH))),
        **fingerprints.decoders(),
        **({FAST_PIXELS: fingerprints.reduced()} if packs.meta.get("pixels") == "fast" else {}),
        AUGMENTATION: Component(f"version {augment.VERSION}, Pillow {version('pillow')}", _changed()),
        "tokenizer": Component(tokenizer[:16], tokenizer),
        "plan": Component(packs.meta["plan"][:16], packs.meta["plan"]),
    }


def _changed() -> str:
    from packing.augment import ColorMatrix, Crop, ImageTransform
    from stores.media import fingerprints

    change = ImageTransform(Crop(40, 30, (28.0, 20.0), 7.0), ColorMatrix(((60_000, 5_000, -3_000),) * 3, 40_000))
    return digest(change.apply(fingerprints.pattern(), (23, 17)).tobytes())


def check(packs: Snapshot, *, vocabulary: str | None = None, augmented: bool = False) -> tuple[str, ...]:
    """Notes on what has another version and the same bytes; none where the packs have no certificate.

    Raises ResumeError that names what gives other bytes here than where the packs were certified.
    """
    told = certificates.read(packs)
    if told is None:
        return ()
    here = components(packs, vocabulary)
    names = [name for name in here if augmented or name != AUGMENTATION]
    return compare(told["components"], {name: here[name] for name in names}, packs.name)


def compare(certified: Json, here: dict[str, Component], where: str) -> tuple[str, ...]:
    """As `check`; `certified` are the components that a certificate lists."""
    from stores.media.fingerprints import Component

    swapped: list[str] = []
    notes: list[str] = []
    for name, component in here.items():
        before = Component(**certified[name]) if name in certified else Component("none", "none")
        if before == component:
            continue
        told = f"{name} (certified {_words(before, component)}, here {_words(component, before)})"
        (notes if before.fingerprint == component.fingerprint else swapped).append(told)
    if swapped:
        raise ResumeError(
            f"the packs were certified with another {', another '.join(swapped)}",
            where=where,
            fix="put back what was swapped, or certify anew with `millrace store certify STORE --renew`",
        )
    return tuple(f"{note}: equal bytes on all probes" for note in notes)


def _words(one: Component, other: Component) -> str:
    """The version, and the fingerprint where the version does not tell the two apart."""
    return one.version if one.version != other.version else f"{one.version} with fingerprint {one.fingerprint[:12]}"


def as_json(found: dict[str, Component]) -> dict[str, Json]:
    return {name: asdict(component) for name, component in found.items()}
