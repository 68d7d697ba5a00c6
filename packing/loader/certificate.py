"""Comparison of the environment with the certificate of packs: decoders, resize kernel, tokenizer, plan, data path.

`loader/certify.py` makes certificates; every loader calls `check` before it reads anything. Fingerprints
(`stores/media/fingerprints.py`) are compared, not version numbers: another library version that gives the same bytes is
a note, a component that gives other bytes is refused and named.
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
"""Version of the code between packs and batches. Raise it when equal packs give other rows, patches, labels or
positions, or give them to other ranks. `tests/packing/loader/test_certify.py` compares the bytes of a batch with it."""

AUGMENTATION = "changes of pictures"
"""Component that is compared only if the loader augments images."""
FAST_PIXELS = "fast pixels"
"""Component of plans with `pixels: fast` alone."""


def components(packs: Snapshot, vocabulary: str | None = None) -> dict[str, Component]:
    """Return the components of this environment that decide the bytes of a batch, by name.

    Args:
        vocabulary: digest of the tokenizer in use; by default that of the packs.
    """
    from importlib.metadata import version  # imports an e-mail parser of 3 MB

    from packing import augment
    from stores.media import fingerprints  # imports all decoders, which only packs with a certificate need
    from stores.media.fingerprints import Component

    tokenizer = vocabulary or packs.meta["vocabulary"]
    return {
        "data path": Component(f"version {DATA_PATH}", digest("data path", str(DATA_PATH))),
        **fingerprints.decoders(),
        **({FAST_PIXELS: fingerprints.reduced()} if packs.meta.get("pixels") == "fast" else {}),
        AUGMENTATION: Component(f"version {augment.VERSION}, Pillow {version('pillow')}", _augmentation_fingerprint()),
        "tokenizer": Component(tokenizer[:16], tokenizer),
        "plan": Component(packs.meta["plan"][:16], packs.meta["plan"]),
    }


def _augmentation_fingerprint() -> str:
    from packing.augment import ColorMatrix, Crop, ImageTransform
    from stores.media import fingerprints

    crop = Crop(40, 30, (28.0, 20.0), 7.0)
    transform = ImageTransform(crop, ColorMatrix(((60_000, 5_000, -3_000),) * 3, 40_000))
    return digest(transform.apply(fingerprints.pattern(), (23, 17)).tobytes())


def check(packs: Snapshot, *, vocabulary: str | None = None, augmented: bool = False) -> tuple[str, ...]:
    """Compare this environment with the certificate of `packs`, if there is one.

    Returns:
        a note for each component that has another version and gives the same bytes.
    Raises:
        ResumeError: components give other bytes than when the packs were certified; the message names them.
    """
    certificate = certificates.read(packs)
    if certificate is None:
        return ()
    current = components(packs, vocabulary)
    names = [name for name in current if augmented or name != AUGMENTATION]
    return compare(certificate["components"], {name: current[name] for name in names}, packs.name)


def compare(certified: Json, current: dict[str, Component], where: str) -> tuple[str, ...]:
    """Compare components as `check` does; `certified` are the components of a certificate as JSON."""
    from stores.media.fingerprints import Component

    different: list[str] = []
    notes: list[str] = []
    for name, component in current.items():
        before = Component(**certified[name]) if name in certified else Component("none", "none")
        if before == component:
            continue
        text = f"{name} (certified {_version(before, component)}, here {_version(component, before)})"
        (notes if before.fingerprint == component.fingerprint else different).append(text)
    if different:
        raise ResumeError(
            f"the packs were certified with another {', another '.join(different)}",
            where=where,
            fix="restore the certified component, or certify again with `millrace store certify STORE --renew`",
        )
    return tuple(f"{note}: equal bytes on all probes" for note in notes)


def _version(component: Component, other: Component) -> str:
    """Return the version, with the fingerprint if both have the same version."""
    if component.version != other.version:
        return component.version
    return f"{component.version} with fingerprint {component.fingerprint[:12]}"


def as_json(components: dict[str, Component]) -> dict[str, Json]:
    """Return components as a certificate stores them."""
    return {name: asdict(component) for name, component in components.items()}
