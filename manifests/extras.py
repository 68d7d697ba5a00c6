"""Optional packages by feature: which extra of `millrace` installs them, and the error that names it.

Curating data needs the base install only. A feature that needs more calls `require` before it starts work.
"""

from __future__ import annotations

from importlib.util import find_spec

from manifests.errors import ManifestError

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "megatron.core", "psutil", "safetensors"),
    "scenes": ("font_lato",),
    "hub": ("datasets", "huggingface_hub"),
    "decord": ("decord",),
    "s3": ("s3fs", "aiohttp", "botocore"),
    "gcs": ("gcsfs", "aiohttp", "google.auth"),
    "render": ("playwright",),
    "ray": ("ray",),
    "dask": ("distributed",),
    "trafilatura": ("trafilatura",),
    "fasttext": ("fasttext",),
}
"""Extra -> modules that it brings, as pyproject.toml has them."""


def missing(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed. Imports none of them."""
    absent = []
    for module in EXTRAS[extra]:
        try:
            if find_spec(module) is None:
                absent.append(module)
        except ModuleNotFoundError:  # the parent package of a dotted name
            absent.append(module)
    return absent


def install(extra: str) -> str:
    """Return the command that installs an extra, for the `fix:` line of an error."""
    return f"pip install 'millrace[{extra}]'"


def require(extra: str, feature: str, where: str = "") -> None:
    """Check that an extra is installed.

    Args:
        feature: subject of the error, for example "training".
        where: place in the manifest that asks for it.
    Raises:
        ManifestError: a module of the extra is not installed; `fix` names the extra.
    """
    absent = missing(extra)
    if absent:
        raise ManifestError(f"{feature} needs {', '.join(absent)}, not installed here", where=where, fix=install(extra))
