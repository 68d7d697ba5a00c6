"""A corpus that teaches to see within seconds: pictures of one color beside its name, short sums, real stores."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from manifests import load
from manifests.load import Manifest
from manifests.records import Document, Fact, Media, Text, record_id
from manifests.schedule import VisionShare
from packing.mixture import Mixture, Source
from packing.pack import pack_unit, packs_meta
from packing.plan.planner import compile_plan
from stores.store import Snapshot, Store, StoreKind
from tokenization.encode import encode
from tokenization.vocabulary import Vocabulary
from train.stage import Stage

COLORS = {"red": (230, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "white": (245, 245, 245)}
ROW_TOKENS = 64

MODEL = """
vocab_size: 4352
hidden_size: 32
num_layers: 2
first_k_dense_replace: 1
ffn_hidden_size: 64
init_method_std: 0.1
num_attention_heads: 2
q_lora_rank: 16
kv_lora_rank: 16
qk_head_dim: 8
qk_pos_emb_head_dim: 8
v_head_dim: 8
num_moe_experts: 4
moe_router_topk: 2
moe_ffn_hidden_size: 16
moe_shared_expert_intermediate_size: 16
moe_router_topk_scaling_factor: 2.827
vision:
  {num_layers: 1, hidden_size: 16, num_attention_heads: 2, ffn_hidden_size: 32, pos_emb_height: 4, pos_emb_width: 4}
"""

STAGE = """
model: ./model.yaml
packs: ./packs
steps: 18
threads: 1
optimizer: {muon_lr: 0.02, adamw_lr: 0.01, newton_schulz: float32}
schedule: {warmup_steps: 2, decay_from: 0.5, decay: linear, floor: 0.1}
checkpoint_every_steps: 3
evaluation:
  held_out: [./held_out]
  tokens_per_domain: 400
  grounding: {store: ./held_out, scenes: 40, must_exceed: {all: 0, color: 0}, resamples: 200}
"""


def scene(split: str, i: int) -> Document:
    """A picture of one color, its size varying with `i`, and a sentence that names the color."""
    name = list(COLORS)[i % len(COLORS)]
    drawn, out = Image.new("RGB", (28 + i % 30, 28), COLORS[name]), io.BytesIO()
    drawn.putpixel((0, 0), (i % 256, i // 256, len(split)))  # no two files are equal
    drawn.save(out, "PNG")
    payload = out.getvalue()
    shown = Media(sha256(payload).hexdigest(), "image", "png", *drawn.size, payload=payload)
    words, at = f"a {name} thing", 2
    fact = Fact("color", 1, at, at + len(name))
    return Document(
        record_id("scenes", f"{split} {i}"), "scenes", f"{split} {i}", "caption", (shown, Text(words)), (fact,)
    )


def sums(split: str, i: int) -> Document:
    text = " and ".join(f"{a} plus {i % 7} is {a + i % 7}" for a in range(i % 5, i % 5 + 5))
    return Document(record_id("sums", f"{split} {i}"), "sums", f"{split} {i}", "math", (Text(text),))


def write(
    url: Path, kind: StoreKind, records: Iterable[object], parents: Sequence[Snapshot] = (), **meta: object
) -> Snapshot:
    store = Store.create(str(url), kind, url.name)
    writer = store.writer("all")
    for record in records:
        writer.add(record)
    above = [parent.as_parent for parent in parents]
    return store.commit([writer.finish()], node="test", units=["all"], parents=above, meta=meta)


@dataclass(frozen=True)
class Corpus:
    """Folder with `packs`, `held_out`, `model.yaml` and `stage.yaml`."""

    folder: Path

    def stage(self, *sets: str) -> Manifest[Stage]:
        return load.load(Stage, [self.folder / "stage.yaml"], sets)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    tiny = Vocabulary.load("tiny")
    samples = {}
    for split, count in (("train", 400), ("held_out", 60)):
        found = [make(split, i) for i in range(count) for make in (scene, sums)]
        documents = write(folder / f"{split}_documents", "documents", found)
        encoded = (encode(one, tiny) for one in documents.records())
        place = folder / ("samples" if split == "train" else split)
        samples[split] = write(place, "samples", encoded, [documents])
    mixture = Mixture(
        sources=(Source(name="all", input="samples", weight=1.0, max_epochs=2),),
        max_pack_tokens=ROW_TOKENS,
        global_batch_packs=4,
        vision_share=VisionShare(constant=0.05),
    )
    plan = compile_plan(mixture, {"all": samples["train"]}, tiny)
    packs = [pack for block in plan.blocks for pack in pack_unit(block, {"all": samples["train"]}, tiny)]
    write(folder / "packs", "packs", packs, [samples["train"]], **packs_meta(plan.meta), pad_id=tiny.pad_id)
    write(folder / "other", "packs", packs[::-1], [samples["train"]], **packs_meta(plan.meta), pad_id=tiny.pad_id)
    (folder / "model.yaml").write_text(MODEL)
    (folder / "stage.yaml").write_text(STAGE)
    return Corpus(folder)
