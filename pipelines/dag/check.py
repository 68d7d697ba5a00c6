"""What a manifest asks for that could never run, or would do nothing, beyond what a schema can tell.

`found` knows the nodes and how they read each other, and is asked by `dag.read`. `missing` looks at this machine, for
files, programs and keys that nodes name, and is asked before a run, a dry run or an estimate begins: a run should not
end at its last node after a day because a name was misspelt there.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from manifests.errors import MillraceError
from manifests.load import KeyPath
from manifests.records import DOMAINS, Json
from pipelines.build.samples import Tokenise
from pipelines.dedup.decontaminate import Decontaminate
from pipelines.dedup.images import DedupImages, ImageHash
from pipelines.dedup.minhash import DedupMinHash, MinHash
from pipelines.filters.cap import Cap
from pipelines.filters.filter import Filter
from pipelines.filters.op import Measured, column
from pipelines.filters.watermarks import DropWatermarks, WatermarkVotes
from pipelines.ingest.folder import FilesNode, IngestFolder
from pipelines.ingest.repository import IngestRepository
from pipelines.ingest.scenes import IngestScenes
from pipelines.node import Mistake, Node
from pipelines.scenes.generate import Scenes
from pipelines.scoring.models import ScoreFastText, ScoreFunction
from pipelines.scoring.scores import Scores
from pipelines.synthesis import browser_process
from pipelines.synthesis.render import Render

NUMBERS = ("characters", "images", "videos")
"""Columns of numbers that every documents store has."""
PASSES_COLUMNS_ON = frozenset({"materialise", "compact", "transform"})

Nodes = Mapping[str, Node]


def mistakes(nodes: Nodes) -> Iterator[Mistake]:
    for name, node in nodes.items():
        yield from _unknown_domains((name,), asdict(cast(Any, node)))
        yield from _inputs(name, node)
        match node:
            case Filter():
                yield from _shared_columns(name, node)
            case DedupMinHash():
                if not isinstance(nodes[node.input], MinHash):
                    what = f"{node.input} ({nodes[node.input].kind}) writes no keys to compare"
                    yield Mistake((name, "input"), what, f"name a node of kind minhash{_which(nodes, MinHash)}")
                yield from _no_column(name, node.prefer, node.input, nodes)
            case DedupImages():
                hashed = _hashed(nodes, node.input)
                if hashed is None:
                    what = f"{node.input} ({nodes[node.input].kind}) has no hashes to compare"
                    fix = f"name a node of kind image_hash, or decontaminate behind one{_which(nodes, ImageHash)}"
                    yield Mistake((name, "input"), what, fix)
                elif node.min_frames > hashed.key_frames:
                    what = f"min_frames is {node.min_frames}, and {hashed.key_frames} key frames of a video are hashed"
                    yield Mistake((name, "min_frames"), what, "lower it, or raise key_frames of the image_hash node")
                yield from _no_column(name, node.prefer, node.input, nodes)
            case DropWatermarks():
                if not isinstance(nodes[node.input], WatermarkVotes):
                    what = f"{node.input} ({nodes[node.input].kind}) writes no votes to compare"
                    fix = f"name a node of kind watermark_votes{_which(nodes, WatermarkVotes)}"
                    yield Mistake((name, "input"), what, fix)
            case Decontaminate():
                if node.input in node.against:
                    what = f"{node.input} is held against itself, so nothing of it would be left"
                    yield Mistake((name, "against"), what, "name nodes with evaluations")
            case Cap():
                if node.input in node.beside:
                    what = f"{node.input} stands beside itself"
                    yield Mistake((name, "beside"), what, "name nodes with what is not capped")
            case IngestScenes():
                if not isinstance(nodes[node.input], Scenes):
                    what = f"{node.input} ({nodes[node.input].kind}) makes no scenes"
                    yield Mistake((name, "input"), what, f"name a node of kind scenes{_which(nodes, Scenes)}")


def _which(nodes: Nodes, kind: type) -> str:
    names = [name for name, node in nodes.items() if isinstance(node, kind)]
    return f": {', '.join(names)}" if names else ""


def _unknown_domains(place: KeyPath, told: Json) -> Iterator[Mistake]:
    """At any depth: of nodes, of their ops, of sources of a mixture. A misspelt one would concern no document."""
    items: Any = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list | tuple) else ()
    for key, below in items:
        if key == "domains" and isinstance(below, list | tuple):
            for number, domain in enumerate(below):
                if domain not in DOMAINS:
                    what = f"{domain!r} is no domain, so no document would be meant"
                    yield Mistake((*place, key, number), what, f"some of {', '.join(DOMAINS)}")
        else:
            yield from _unknown_domains((*place, key), below)


def _inputs(name: str, node: Node) -> Iterator[Mistake]:
    for key in ("inputs", "against", "beside"):
        named = getattr(node, key, None)
        if named == ():
            yield Mistake((name, key), f"{key} names no node", "name one, or leave the node out")
        elif named is not None and len(set(named)) < len(named):
            yield Mistake((name, key), f"{key} names a node twice", "name each once; a mixture's weights say how often")


def _shared_columns(name: str, node: Filter) -> Iterator[Mistake]:
    """What one op measured, the other one of its kind would write over."""
    for number, op in enumerate(node.ops):
        for other in node.ops[:number]:
            alike = set(op.domains or DOMAINS) & set(other.domains or DOMAINS)
            if op.kind == other.kind and alike:
                what = f"two ops of kind {op.kind} look at the same documents ({', '.join(sorted(alike))})"
                fix = "give them different `domains`, or put one into a filter of its own"
                yield Mistake((name, "ops", number), what, fix)


def _hashed(nodes: Nodes, name: str) -> ImageHash | None:
    node = nodes.get(name)
    if isinstance(node, Decontaminate):
        return _hashed(nodes, node.input)
    return node if isinstance(node, ImageHash) else None


def _no_column(name: str, wanted: str, below: str, nodes: Nodes) -> Iterator[Mistake]:
    """Whether documents that come from `below` could have a column of numbers `wanted`."""
    if not wanted:
        return
    known = [*NUMBERS, *_numbers(below, nodes)]
    if wanted not in known:
        yield Mistake((name, "prefer"), f"{wanted!r} is no column of numbers here", f"one of {', '.join(known)}")


def _numbers(name: str, nodes: Nodes) -> Iterator[str]:
    """Columns of numbers that a node writes and that it has from those before it."""
    node = nodes.get(name)
    match node:
        case None:
            return
        case Filter():
            for op in node.ops:
                for limit in op.LIMITS if isinstance(op, Measured) else ():
                    yield column(name, op.kind, limit.score)
        case Scores():
            yield f"{name}.score"
        case DropWatermarks():
            yield f"{name}.watermark.overlay"
        case ImageHash():
            yield f"{name}.pixels"
        case DedupMinHash() | DedupImages():
            yield f"{name}.cluster_size"
        case _ if node.kind == "transform":
            ops = cast(Any, node).ops
            yield from (f"{name}.{op.kind}.{reason}" for op in ops for reason in op.REASONS)
    if node.PRODUCT == "view" or node.kind in PASSES_COLUMNS_ON:
        yield from _numbers(node.reads()[0], nodes)


def missing(nodes: Nodes, elsewhere: bool) -> Iterator[Mistake]:
    """What these nodes need of this machine and don't find.

    Args:
        elsewhere: work is done by a cluster, which may know keys that this machine doesn't.
    """
    for name, node in nodes.items():
        for place, path in _paths(node):
            if "://" not in path and not Path(path).expanduser().exists():
                yield Mistake((name, *place), f"there is no {path}", "check the path")
        endpoint = getattr(node, "endpoint", None)
        if endpoint is not None and endpoint.key_from and not elsewhere and not os.environ.get(endpoint.key_from):
            what = f"the endpoint's key is not set: {endpoint.key_from} is no variable of the environment"
            yield Mistake((name, "endpoint", "key_from"), what, f"export {endpoint.key_from}=...")
        if isinstance(node, FilesNode) and importlib.util.find_spec(node.html_extractor) is None:
            fix = f"pip install 'millrace[{node.html_extractor}]'"
            yield Mistake((name, "html_extractor"), f"{node.html_extractor} is not installed", fix)
        if isinstance(node, ScoreFastText) and importlib.util.find_spec("fasttext") is None:
            yield Mistake((name,), "fastText is not installed", "pip install 'millrace[fasttext]'")
        if isinstance(node, Render):
            try:
                browser_process.found()
            except MillraceError as error:
                yield Mistake((name,), error.message, error.fix)


def _paths(node: Node) -> Iterator[tuple[KeyPath, str]]:
    """Files and folders that a node names, and where it does."""
    match node:
        case IngestFolder() | IngestRepository():
            yield ("path",), node.path
        case Tokenise():
            if node.vocabulary != "tiny":
                yield ("vocabulary",), node.vocabulary
        case Filter():
            for number, op in enumerate(node.ops):
                for key in ("word_files", "site_files"):
                    yield from ((("ops", number, key), path) for path in getattr(op, key, ()))
        case ScoreFastText():
            yield ("model",), node.model
        case ScoreFunction():
            code = node.function.rpartition(":")[0]
            if code.endswith(".py"):
                yield ("function",), code
            yield from ((("files", what), path) for what, path in node.files.items())
