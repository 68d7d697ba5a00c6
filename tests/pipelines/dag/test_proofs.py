"""A run recounts its packs, says so on its last screen, and stops where they break a promise of their plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from manifests.errors import StoreError
from packing.pack import packs_meta
from pipelines.dag import proofs
from pipelines.node import Product
from stores.store import Store
from stores.upkeep.verify import ContentCheck
from tests.packing.corpus import corpus, create, make, write
from tests.pipelines import small_data
from tests.pipelines.dag.test_run import start


def test_the_last_screen_says_that_packs_are_proved_and_how_to_prove_them_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    small_data.write(tmp_path / "data", texts=40)
    (tmp_path / "dag.yaml").write_text(small_data.DAG)
    for _ in range(2):
        process = start(tmp_path / "dag.yaml", tmp_path / "out", workers=0)
        screen, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        assert "packs: equal to the plan in 5 properties recounted from stored bytes; check again: " in screen
        assert f"store verify {tmp_path / 'out' / 'packs'}" in screen
    assert (tmp_path / "out" / "receipts" / "packs.proof.json").is_file()


def test_packs_are_recounted_once_and_broken_ones_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, corpus())
    product = Product("packs", "packs", made.packs.url, made.packs.content_root, made.packs.number)
    check = proofs.proved(tmp_path, product)
    assert len(check.proved) == 5

    def never(*_: object) -> ContentCheck:
        raise AssertionError("counted a second time")

    with monkeypatch.context() as patch:
        patch.setattr(proofs, "check_packs", never)
        assert proofs.proved(tmp_path, product) == check
        with pytest.raises(AssertionError, match="a second time"):
            proofs.proved(tmp_path, dataclasses.replace(product, digest="other"))
    monkeypatch.setattr(proofs, "RECOUNTED_PACKS", 3)
    assert "more than 3 packs" in proofs.proved(tmp_path / "elsewhere", product).skipped
    monkeypatch.undo()

    plan = Store.open(str(tmp_path / "plan")).head()
    assert plan is not None
    few = write(create(tmp_path / "few", "packs"), list(made.packs.records())[:-12], [plan], **packs_meta(plan.meta))
    broken = Product("packs", "packs", few.url, few.content_root, few.number)
    with pytest.raises(StoreError, match="not what their plan promises"):
        proofs.proved(tmp_path / "few", broken)
    assert not (tmp_path / "few" / "receipts").exists()
