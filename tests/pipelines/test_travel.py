"""Tasks and results of workers are references: they hold no pixels, whatever a unit reads and writes."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.dag import graph as dag
from pipelines.dag.products import parents, store_product
from pipelines.dag.unit import StoreTask, run_unit
from pipelines.node import UnitTask
from stores.store import Store

DAG = """
name: travel
nodes:
  documents: {kind: ingest_folder, path: ./data}
  sharp: {kind: filter, input: documents, ops: [{kind: blurred_image}, {kind: flat_image}]}
  hashed: {kind: image_hash, input: sharp}
  unique: {kind: dedup_images, input: hashed}
  moved: {kind: materialize, input: unique}
  turned: {kind: augment, input: moved, turn_degrees: 20}
  samples: {kind: tokenize, inputs: [moved, turned]}
  plan:
    kind: plan
    mixture:
      vision_share: {from_data: true}
      max_pack_tokens: 4096
      global_batch_packs: 1
      sources: [{name: all, input: samples, weight: 1}]
  packs: {kind: pack, input: plan}
"""
MOST_BYTES = 20_000


def test_units_and_receipts_are_small_although_pictures_are_large(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 255, (500, 500, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise).save(out, "png")
        (tmp_path / "data" / f"{i}.png").write_bytes(out.getvalue())
        (tmp_path / "data" / f"{i}.txt").write_text(f"Noise number {i}.")
    (tmp_path / "dag.yaml").write_text(DAG)
    graph = dag.read([tmp_path / "dag.yaml"])
    products = {}
    for name in graph.order:
        node = graph.node(name)
        inputs = {wanted: products[wanted] for wanted in node.reads()}
        store = Store.create(str(tmp_path / name), node.PRODUCT, name)  # type: ignore[arg-type]
        wanted = dag.unit_names(name, node, node.survey(name, inputs))
        outcomes = []
        for stored_as, unit in wanted.items():
            sent = StoreTask(node, store.url, stored_as, UnitTask(name, unit, inputs), 10, 0.5)  # type: ignore[arg-type]
            outcomes.append(run_unit(sent, frozenset(), lambda ordinal: None))
            for travels in (sent, outcomes[-1]):
                assert len(pickle.dumps(travels)) < MOST_BYTES, (name, type(travels))
        meta = {key: value for outcome in outcomes for key, value in outcome.meta.items()}
        receipts = [outcome.receipt for outcome in outcomes]
        snapshot = store.commit(receipts, node="n", units=list(wanted), parents=parents(node, inputs), meta=meta)
        products[name] = store_product(name, node, inputs, snapshot)[0]
    payload = sum(products[name].snapshot.counts["bytes"] for name in ("documents", "moved", "turned", "packs"))
    assert payload > 100 * MOST_BYTES
