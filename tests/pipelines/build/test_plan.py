"""The node `plan`: its mixture, inline or from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.errors import ManifestError
from manifests.load import load
from packing.mixture import Mixture
from pipelines.build.plan import PlanNode

MIXTURES = Path(__file__).parents[3] / "manifests" / "mixtures"
BASE = "max_pack_tokens: 64\nglobal_batch_packs: 2\nsources: [{name: own, input: samples, weight: 1}]\n"


def test_a_mixture_is_written_here_or_read_from_one_or_several_files(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "small.yaml").write_text("global_batch_packs: 1\n")
    (tmp_path / "dag").mkdir()
    nodes = {
        "here": "mixture: {max_pack_tokens: 64, global_batch_packs: 1, sources: "
        "[{name: own, input: samples, weight: 1}]}",
        "several": "mixture: [../base.yaml, ../small.yaml]",
        "one": "mixture: ../base.yaml",
    }
    mixtures = {}
    for name, text in nodes.items():
        (tmp_path / "dag" / f"{name}.yaml").write_text(f"kind: plan\n{text}\n")
        mixtures[name] = load(PlanNode, [tmp_path / "dag" / f"{name}.yaml"]).value.loaded_mixture
    assert mixtures["here"] == mixtures["several"]
    assert mixtures["one"].global_batch_packs == 2


def test_a_mistake_in_a_mixture_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "over.yaml").write_text("# a comment\nglobal_batch_pax: 1\n")
    node = PlanNode(kind="plan", mixture=(str(tmp_path / "base.yaml"), str(tmp_path / "over.yaml")))
    with pytest.raises(ManifestError, match="global_batch_pax is not a known key") as refused:
        _ = node.loaded_mixture
    assert refused.value.where == f"{tmp_path / 'over.yaml'}:2"


def test_the_shipped_arms_are_overlays_of_their_base() -> None:
    node = PlanNode(kind="plan", mixture=(str(MIXTURES / "base.yaml"), str(MIXTURES / "late.yaml")))
    assert node.loaded_mixture == load(Mixture, [MIXTURES / "base.yaml", MIXTURES / "late.yaml"]).value


def test_the_former_key_of_the_vision_share_is_refused_with_its_new_place(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "node.yaml").write_text("kind: plan\nvision_share: of_the_data\nmixture: ./base.yaml\n")
    with pytest.raises(ManifestError, match="vision_share does not exist any more") as refused:
        load(PlanNode, [tmp_path / "node.yaml"])
    assert refused.value.where == f"{tmp_path / 'node.yaml'}:2" and "{from_data: true}" in refused.value.fix
