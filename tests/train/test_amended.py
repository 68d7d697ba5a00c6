"""A run that changes its mixture at a step: packs of both plans are trained as one, and it may be amended late."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from manifests.errors import ManifestError, ResumeError
from manifests.schedule import VisionShare
from packing.mixture import Mixture, Source
from packing.pack import pack_unit, packs_meta
from packing.plan.planner import compile_plan
from stores.store import Store
from tests.train.conftest import Corpus, write
from tests.train.test_loop import curve
from tokenization.vocabulary import Vocabulary
from train.loop import train

AT = 4


@pytest.fixture(scope="module")
def amended(corpus: Corpus) -> tuple[Path, Path]:
    """Folders of packs: of a plan, and of one that goes on from its global batch AT."""
    tiny, folder = Vocabulary.load("tiny"), corpus.folder
    samples = Store.open(str(folder / "samples")).head()
    assert samples is not None
    whole = Store.open(str(folder / "packs")).head()
    assert whole is not None
    mixture = Mixture(
        sources=(Source(name="all", input="samples", weight=1.0, max_epochs=2),),
        max_pack_tokens=whole.meta["max_pack_tokens"],
        global_batch_packs=4,
        vision_share=VisionShare(constant=0.05),
    )
    first = compile_plan(mixture, {"all": samples}, tiny)
    plan = write(folder / "plan_1", "plan", first.blocks, [samples], **first.meta, stores={"all": samples.name})
    second = compile_plan(dataclasses.replace(mixture, seed=9), {"all": samples}, tiny, amends=(plan, AT))
    packs = [pack for block in second.blocks for pack in pack_unit(block, {"all": samples}, tiny)]
    write(folder / "packs_2", "packs", packs, [samples], **packs_meta(second.meta), pad_id=tiny.pad_id)
    return folder / "packs", folder / "packs_2"


def sets(*packs: Path) -> list[str]:
    listed = ", ".join(f'"{place}"' for place in packs)
    return [f"packs=[{listed}]", "steps=7", "evaluation={}", "checkpoint_every_steps=2", "keep_checkpoints=9"]


def test_a_run_continues_in_the_packs_of_an_amendment(
    corpus: Corpus, amended: tuple[Path, Path], tmp_path: Path
) -> None:
    alone, both = corpus.stage(*sets(amended[0])), corpus.stage(*sets(*amended))
    straight = train(both, tmp_path / "straight")
    train(alone, tmp_path / "other")
    steps = curve(tmp_path / "straight"), curve(tmp_path / "other")
    assert steps[0][:AT] == steps[1][:AT] and steps[0][AT] != steps[1][AT]

    late = shutil.copytree(tmp_path / "other", tmp_path / "late")  # as it was after two steps
    for left in (late / "done.json", late / "evaluation.json"):
        left.unlink()
    for step in (4, 6, 7):
        shutil.rmtree(late / "checkpoints" / f"{step:06d}")
    assert train(both, late) == straight, "amended after the run began, before that step"
    with pytest.raises(ResumeError, match=f"packs from step {AT}"):
        train(both, tmp_path / "other")
    (tmp_path / "other" / "done.json").unlink()
    with pytest.raises(ResumeError, match="not amended there"):
        train(both, tmp_path / "other")


def test_second_packs_that_amend_nothing_are_refused(
    corpus: Corpus, amended: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match="amend no other packs"):
        train(corpus.stage(*sets(amended[0], amended[0])), tmp_path)
    with pytest.raises(ManifestError, match="packs is empty"):
        corpus.stage("packs=[]")


def test_packs_of_an_amendment_are_not_trained_alone(
    corpus: Corpus, amended: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=f"amend others at global batch {AT}"):
        train(corpus.stage(*sets(amended[1])), tmp_path / "alone")
