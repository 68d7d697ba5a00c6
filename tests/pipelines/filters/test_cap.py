"""The node `cap`: the share of synthetic captions in samples and plan, chosen by hash."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from manifests.errors import ManifestError
from pipelines.dag import graph
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, run
from tests.servers.chat import chat_server

DAG = """
name: capped
nodes:
  pairs: {{kind: ingest_folder, path: ./data}}
  captions:
    kind: synthesize
    input: pairs
    endpoint: {{url: "{url}"}}
    model: m
    task: {{kind: caption}}
  few: {{kind: cap, input: captions, beside: [pairs], share: 0.2, domains: [caption]}}
  samples: {{kind: tokenize, inputs: [few, pairs]}}
  plan:
    kind: plan
    mixture:
      vision_share: {{from_data: true}}
      max_pack_tokens: 512
      global_batch_packs: 1
      media_limits: {{max_image_patches: 64}}
      sources: [{{name: all, input: samples, weight: 1}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capped")
    (folder / "data").mkdir()
    for i in range(17):
        (folder / "data" / f"{i:02d}.png").write_bytes(small_data.image(i))
        (folder / "data" / f"{i:02d}.txt").write_text(f"Picture {i} of a mill.")
    (folder / "data" / "text.txt").write_text(small_data.text(1))
    return folder


def test_synthetic_captions_stay_below_their_share_up_to_the_plan(folder: Path) -> None:
    kept: dict[str, set[str]] = {}
    with chat_server() as chat:
        (folder / "dag.yaml").write_text(DAG.format(url=chat.url))
        for share in ("0", "0.2", "0.4"):
            run(folder / "dag.yaml", folder / "out", "--set", f"nodes.few.share={share}")
            few = head(folder / "out", "few")
            kept[share] = {document.id for document in few.documents(few.kept().tolist())}
            sources = Counter(sample.source for sample in head(folder / "out", "samples").records())
            assert sources["pairs"] == 18 and sources["captions"] == len(kept[share])
            natural = 17  # the text file is in no pair
            assert Fraction(len(kept[share]), len(kept[share]) + natural) <= Fraction(share)
            assert Fraction(len(kept[share]) + 1, len(kept[share]) + 1 + natural) > Fraction(share)
            assert head(folder / "out", "plan").meta["tokens"] > 0
    assert kept["0"] == set() < kept["0.2"] < kept["0.4"]
    rows = head(folder / "out", "few").table(["keep", "reason"]).to_pylist()
    assert {row["reason"] for row in rows if not row["keep"]} == {"over_share"}


def test_a_new_uncapped_document_lets_another_capped_one_in(folder: Path) -> None:
    with chat_server() as chat:
        (folder / "dag.yaml").write_text(DAG.format(url=chat.url))
        run(folder / "dag.yaml", folder / "out", "--until", "few")
        before = len(head(folder / "out", "few").kept())
        for i in range(17, 21):
            (folder / "data" / f"{i:02d}.png").write_bytes(small_data.image(i))
            (folder / "data" / f"{i:02d}.txt").write_text(f"Picture {i} of a mill.")
        run(folder / "dag.yaml", folder / "out", "--until", "few")
    assert len(head(folder / "out", "few").kept()) == before + 1 == 5


@pytest.mark.parametrize("wrong", ["share=1", "share=-0.1", "beside=[]"])
def test_an_invalid_share_is_refused(folder: Path, wrong: str) -> None:
    (folder / "wrong.yaml").write_text(DAG.format(url="http://127.0.0.1:9"))
    with pytest.raises(ManifestError, match=r"share is|beside names no node"):
        graph.read([folder / "wrong.yaml"], [f"nodes.few.{wrong}"])
