"""Graphs of nodes: refused manifests, order of nodes, identities."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.errors import ManifestError
from pipelines.catalogue import NODES
from pipelines.dag import graph as dag
from pipelines.node import Product, Survey, Unit

CHAIN = """
name: chain
nodes:
  samples:
    kind: tokenize
    inputs: [kept]
  documents:
    kind: ingest_folder
    path: ./data
  kept:
    kind: filter
    input: documents
    ops:
      - {kind: text_length, min_characters: 5}
"""


def read(tmp_path: Path, text: str, *sets: str) -> dag.Graph:
    file = tmp_path / "dag.yaml"
    file.write_text(text)
    return dag.read([file], sets)


def test_nodes_run_after_all_they_read(tmp_path: Path) -> None:
    assert read(tmp_path, CHAIN).order == ("documents", "kept", "samples")


@pytest.mark.parametrize(
    ("change", "says", "line"),
    [
        (("kind: ingest_folder", "kind: ingest_fodler"), "(?s)'ingest_fodler'.*'ingest_folder'", 7),
        (("path: ./data", "path: ./data\n    paht: x"), "paht is not a known key", 10),
        (("input: documents", "input: document"), "reads 'document', which is no node", 12),
        (("input: documents", "input: samples"), "makes samples", 12),
        (("min_characters: 5", "min_characters: five"), 'min_characters is "five"', 14),
        (("kind: text_length", "kind: text_lenght"), "(?s)text_lenght.*'text_length'", 14),
        (("  documents:", "  Docs.v1:"), "'Docs.v1' can't be used", 7),
        (("  documents:", "  receipts:"), "'receipts' can't be used", 7),
    ],
)
def test_a_manifest_that_could_never_run_is_refused_with_file_and_line(
    tmp_path: Path, change: tuple[str, str], says: str, line: int
) -> None:
    with pytest.raises(ManifestError, match=says) as caught:
        read(tmp_path, CHAIN.replace(*change))
    assert caught.value.where == f"{tmp_path / 'dag.yaml'}:{line}"


def test_nodes_in_a_circle_are_refused(tmp_path: Path) -> None:
    circle = CHAIN.replace("input: documents", "input: again") + "  again: {kind: dedup_exact, input: kept}\n"
    with pytest.raises(ManifestError, match="circle: kept -> again -> kept"):
        read(tmp_path, circle)


def test_set_changes_one_value_and_keeps_the_rest(tmp_path: Path) -> None:
    graph = read(tmp_path, CHAIN, "nodes.documents.path=/elsewhere", "nodes.kept.ops.0.min_characters=7")
    assert graph.node("documents").path == "/elsewhere"  # type: ignore[union-attr]
    assert graph.node("kept").ops[0].min_characters == 7  # type: ignore[union-attr]


def identity(graph: dag.Graph, name: str, content: str = "c0", unit: str = "u0", facts: str = "f0") -> str:
    inputs = {"documents": Product("documents", "documents", "/somewhere", content, 1)}
    return dag.identity(name, graph.node(name), inputs, Survey((Unit("one", unit),), facts))


def test_identity_covers_all_that_decides_content_and_nothing_else(tmp_path: Path) -> None:
    graph = read(tmp_path, CHAIN)
    base = identity(graph, "kept")
    assert identity(graph, "kept") == base
    reordered = CHAIN.replace("{kind: text_length, min_characters: 5}", "{min_characters: 5, kind: text_length}")
    assert identity(read(tmp_path, reordered), "kept") == base
    others = [
        identity(graph, "kept", content="c1"),
        identity(graph, "kept", unit="u1"),
        identity(graph, "kept", facts="f1"),
        identity(read(tmp_path, CHAIN, "nodes.kept.ops.0.min_characters=6"), "kept"),
    ]
    assert len({base, *others}) == 5
    moved = read(tmp_path, CHAIN, "nodes.documents.path=/elsewhere")
    assert identity(moved, "documents") == identity(graph, "documents")


def test_the_name_of_a_unit_depends_on_its_own_input_only(tmp_path: Path) -> None:
    graph = read(tmp_path, CHAIN)
    node = graph.node("kept")
    one = dag.unit_names("kept", node, Survey((Unit("a", "1"), Unit("b", "2"))))
    two = dag.unit_names("kept", node, Survey((Unit("a", "1"), Unit("b", "3"), Unit("c", "4"))))
    assert [unit.name for unit in two.values()] == ["a", "b", "c"]
    assert one.keys() & two.keys() == {name for name, unit in one.items() if unit.name == "a"}
    changed = read(tmp_path, CHAIN, "nodes.kept.ops.0.min_characters=6").node("kept")
    assert not one.keys() & dag.unit_names("kept", changed, Survey((Unit("a", "1"), Unit("b", "2")))).keys()


@pytest.mark.parametrize("kind", NODES)
def test_every_kind_declares_its_product_and_its_inputs(kind: str) -> None:
    node = NODES[kind]
    assert node.PRODUCT in ("documents", "view", "samples", "plan", "packs", "folder")
    assert isinstance(node.READS, frozenset) and node.VERSION >= 1 and isinstance(node.PLACES, frozenset)
    assert node.__doc__ and hasattr(node, "make" if node.PRODUCT == "folder" else "work")
    if node.PRODUCT == "folder":
        assert isinstance(node.EXCLUSIVE, bool)


@pytest.mark.parametrize(
    "manifest", sorted(Path(__file__).parents[3].glob("manifests/data/*.yaml")), ids=lambda f: f.name
)
def test_every_shipped_manifest_loads(manifest: Path) -> None:
    assert dag.read([manifest]).order
