"""Virtual environments of the peers, one each, built on first use and kept outside the project.

    python -m benchmarks.peers              builds all of them and prints the installed versions

Separate environments keep a peer's pins from moving ours, and ours from moving a peer's. An environment finds packages
that it does not install itself in the project's environment (above all torch, 0.7 GB): its own site-packages come first
on the path, the project's after them. The folder is `$XDG_CACHE_HOME/millrace/peers`; delete it to start again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millrace" / "peers"

ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "webdataset": ("webdataset==1.0.2",),
    "mds": ("mosaicml-streaming==0.13.0",),
    "lightning": ("litdata==0.2.76", "megatron-energon==7.4.1"),
    "datasets": ("datasets==5.2.0",),
    "imagehash": ("ImageHash==4.3.2",),
    "packers": ("grain==0.2.18", "binpacking==2.0.1"),
    "warc": ("datatrove==0.10.1", "warcio==1.8.1", "faust-cchardet==3.2.0", "python-magic==0.4.27", "orjson==3.11.9"),
    "dedup": (
        "datatrove==0.10.1",
        "spacy==3.8.18",
        "datasketch==2.0.0",
        "rensa==0.5.0",
        "daft==0.7.26",
        "scipy==1.17.1",
        "xxhash==3.6.0",
    ),
}
"""Name of an environment -> its pinned requirements: the newest releases that run with this torch."""

STUBS = {
    "torchvision/__init__.py": "",
    "torchvision/datasets.py": "class VisionDataset:\n    pass\n",
    "torchvision/transforms/__init__.py": "",
    "torchvision/transforms/functional.py": "def to_tensor(picture):\n    raise NotImplementedError\n",
    "torchvision-0.28.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n",
    "torchvision-0.28.0.dist-info/RECORD": "",
    "torchvision-0.28.0.dist-info/INSTALLER": "millrace\n",
}
"""Stub of torchvision, path in site-packages -> content. Streaming and LitData require it, and its build for this torch
does not load without CUDA. Nothing in the benchmarks calls it; the stub satisfies pip and the import."""


def python_of(name: str) -> Path:
    """Python interpreter of an environment. Builds the environment if it is missing or out of date."""
    requirements = ENVIRONMENTS[name]
    project = _project_packages()
    inputs = json.dumps([requirements, sys.version, str(project), STUBS, metadata.version("torch")])
    stamp = hashlib.sha256(inputs.encode()).hexdigest()
    folder = CACHE / name
    python = folder / "bin" / "python"
    if (folder / "stamp").exists() and (folder / "stamp").read_text() == stamp:
        return python
    print(f"building the environment of {', '.join(requirements)} in {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for path, text in STUBS.items():
        (own / path).parent.mkdir(parents=True, exist_ok=True)
        (own / path).write_text(text)
    (own / "project.pth").write_text(f"{project}\n")
    torch = f"torch=={metadata.version('torch').partition('+')[0]}"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", torch, *requirements]
    installed = subprocess.run(command, capture_output=True, text=True)
    if installed.returncode:
        raise RuntimeError(f"pip can't install {', '.join(requirements)}:\n{installed.stderr[-3000:]}")
    (folder / "stamp").write_text(stamp)
    return python


def run_in(name: str | None, module: str, *arguments: str) -> Any:
    """Run `python -m MODULE ARGUMENTS` in a new process of an environment (None: ours).

    Returns the JSON in the last line of its output. Raises RuntimeError with the end of its stderr if it fails.
    """
    python = Path(sys.executable) if name is None else python_of(name)
    done = subprocess.run([python, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} in {name or 'ours'}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def versions(name: str) -> dict[str, str]:
    """Distribution -> version of the pinned requirements of an environment."""
    return dict(pin.split("==") for pin in ENVIRONMENTS[name])  # type: ignore[misc]


def _project_packages() -> Path:
    """Site-packages folder of the project's environment."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError("torch is not installed\n  fix: make setup")
    return Path(spec.origin).parents[1]


if __name__ == "__main__":
    for environment in ENVIRONMENTS:
        interpreter = python_of(environment)
        size_mb = sum(f.stat().st_size for f in interpreter.parents[1].rglob("*") if f.is_file()) / 1e6
        print(f"{environment:12}{size_mb:>8.0f} MB  {', '.join(ENVIRONMENTS[environment])}")
