"""The peers' environments: one virtual environment each, made when first asked for and kept outside the project.

    python -m benchmarks.peers              makes all of them and prints what was installed

A peer's pins must not move ours, nor ours a peer's. What an environment does not install itself it finds in the
project's (torch above all, 0.7 GB): its own site-packages come first on the path, the project's after them. The folder
is `$XDG_CACHE_HOME/millrace/peers`; delete it to begin anew.
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
"""Name -> what it is made for, pinned: the newest releases that run beside this torch."""

STUBS = {
    "torchvision/__init__.py": "",
    "torchvision/datasets.py": "class VisionDataset:\n    pass\n",
    "torchvision/transforms/__init__.py": "",
    "torchvision/transforms/functional.py": "def to_tensor(picture):\n    raise NotImplementedError\n",
    "torchvision-0.28.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n",
    "torchvision-0.28.0.dist-info/RECORD": "",
    "torchvision-0.28.0.dist-info/INSTALLER": "millrace\n",
}
"""Streaming and LitData ask for torchvision, whose build for this torch does not load without CUDA. Nothing that is
measured calls it; a stand-in satisfies both pip and the import."""


def python_of(name: str) -> Path:
    """The interpreter of an environment of `ENVIRONMENTS`, which is made when it is not there."""
    requirements = ENVIRONMENTS[name]
    project = _project_packages()
    told = json.dumps([requirements, sys.version, str(project), STUBS, metadata.version("torch")])
    stamp = hashlib.sha256(told.encode()).hexdigest()
    folder = CACHE / name
    python = folder / "bin" / "python"
    if (folder / "stamp").exists() and (folder / "stamp").read_text() == stamp:
        return python
    print(f"making the environment of {', '.join(requirements)} in {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for path, text in STUBS.items():
        (own / path).parent.mkdir(parents=True, exist_ok=True)
        (own / path).write_text(text)
    (own / "project.pth").write_text(f"{project}\n")
    torch = f"torch=={metadata.version('torch').partition('+')[0]}"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", torch, *requirements]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"pip can't install {', '.join(requirements)}:\n{made.stderr[-3000:]}")
    (folder / "stamp").write_text(stamp)
    return python


def run_in(name: str | None, module: str, *arguments: str) -> Any:
    """Run `python -m MODULE ARGUMENTS` in a fresh process of an environment (None: ours).

    Returns the JSON in the last line that it prints. Raises RuntimeError with the end of what it says where it fails.
    """
    python = Path(sys.executable) if name is None else python_of(name)
    done = subprocess.run([python, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} in {name or 'ours'}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def versions(name: str) -> dict[str, str]:
    """Distribution -> version of what an environment was made for."""
    return dict(pin.split("==") for pin in ENVIRONMENTS[name])  # type: ignore[misc]


def _project_packages() -> Path:
    """Where the project's torch lies: in its site-packages."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise RuntimeError("torch is not installed: run `make setup` first")
    return Path(found.origin).parents[1]


if __name__ == "__main__":
    for environment in ENVIRONMENTS:
        made_python = python_of(environment)
        size_mb = sum(f.stat().st_size for f in made_python.parents[1].rglob("*") if f.is_file()) / 1e6
        print(f"{environment:12}{size_mb:>8.0f} MB  {', '.join(ENVIRONMENTS[environment])}")
