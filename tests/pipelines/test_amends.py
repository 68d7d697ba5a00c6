"""A run that changes its mixture at a global batch: two plan nodes, two packs stores, one loader."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from manifests.errors import ManifestError
from manifests.schedule import Curve
from packing.loader.certify import certify
from packing.loader.loader import Loader
from packing.proof import prove, recount
from pipelines.inspect.explain import explain
from pipelines.inspect.plan_stats import plan_statistics
from pipelines.inspect.plan_view import PlanView
from pipelines.inspect.step_view import step_summary
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import head, run
from tokenization.vocabulary import Vocabulary

AMENDED = """
  plan_2:
    kind: plan
    amends: {plan: plan, at_batch: 4}
    mixture:
      vision_share: {from_data: true}
      max_pack_tokens: 128
      global_batch_packs: 2
      seed: 5
      media_limits: {max_image_patches: 64, max_frame_patches: 16, max_video_frames: 8}
      sources: [{name: own, input: samples, weight: 1, max_epochs: 2}]
  packs_2:
    kind: pack
    input: plan_2
"""


def test_one_loader_reads_a_plan_and_its_amendment(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    small_data.write(tmp_path / "data", texts=60)
    manifest = tmp_path / "dag.yaml"
    before = small_data.DAG.replace("weight: 1}", "weight: 1, max_epochs: 2}").replace("tokens: 512", "tokens: 128")
    manifest.write_text(before)
    run(manifest, tmp_path / "out", workers=0)
    first = head(tmp_path / "out", "packs")
    manifest.write_text(before + AMENDED)
    run(manifest, tmp_path / "out", workers=0)
    assert head(tmp_path / "out", "packs").content_root == first.content_root, "the prefix is untouched"
    second, plan = head(tmp_path / "out", "packs_2"), head(tmp_path / "out", "plan_2")
    assert plan.meta["amends"]["plan"] == first.meta["plan"] and second.meta["amends"]["at_batch"] == 4
    vocabulary = Vocabulary.load()
    ids = (vocabulary.media_pad_id, vocabulary.pad_id)
    seen = recount(first.records(0, 8), Curve.of(first.meta["schedule"]), *ids).after
    result = prove(second, plan.meta, vocabulary, seen)
    assert max(result.exposures["own"]) == 2
    seen_of = [earlier + here for _, earlier, here in result.after.ranges.by_sample()]
    times = Counter(len(stretches) for stretches in seen_of if len({*stretches}) == 1)
    assert set(times) <= {1, 2} and times[2] > times[1], "nearly all was seen in both epochs, nothing more often"
    with Loader([(0, first), (4, second)], 2) as loader:
        assert sum(batch.tokens for batch in loader) == seen.tokens + plan.meta["tokens"]
    chained = PlanView(plan)
    assert chained.steps.start == 4
    for step in (0, 3):
        assert step_summary(chained, step, 200) == step_summary(PlanView(head(tmp_path / "out", "plan")), step, 200)
    assert step_summary(chained, 4, 200) == step_summary(PlanView(second), 4, 200)
    sample = second.record(0).segments[0].sample
    assert {place.step for place in chained.segments_of(sample)} <= set(chained.steps)
    explained = explain(tmp_path / "out", sample)["records"][0]
    steps = {plan["node"]: [place["step"] for place in plan["segments"]] for plan in explained["plans"]}
    assert 4 in steps["plan_2"] and all(step < 4 for step in steps.get("plan", []))
    with pytest.raises(ManifestError, match=r"continue plan .* from global batch 4, not plan .* from 5"):
        Loader([(0, first), (5, second)], 2)
    with pytest.raises(ManifestError, match="the packs before them are missing"):
        Loader(second, 2)
    _, notes = certify(second, 1)
    assert len(notes) == 1 and "from global batch 4 on" in notes[0]
    row = plan_statistics(chained)["sources"][0]
    assert 1 < row["epochs"] <= row["max_epochs"] == 2


def test_a_batch_that_was_never_planned_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    small_data.write(tmp_path / "data", texts=20)
    manifest = tmp_path / "dag.yaml"
    amended = AMENDED.replace("batch: 4", "batch: 4000")
    manifest.write_text(small_data.DAG.replace("tokens: 512", "tokens: 128") + amended)
    stderr = run(manifest, tmp_path / "out", code=2)
    assert "global batch 4000 is none of this plan's" in stderr and "amend at 1 to 14" in stderr
