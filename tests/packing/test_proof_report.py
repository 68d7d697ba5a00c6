"""`millrace store verify` over packs: the recount of `packing/proof.py` as a command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packing.mixture import PackLimits
from packing.pack import pack_unit, packs_meta
from packing.plan.planner import compile_plan
from stores.command import main
from stores.store import Store
from tests.packing.corpus import MIXTURE, Made, corpus, create, make, tiny, write


def verified(capsys: pytest.CaptureFixture[str], url: str) -> tuple[int, Any]:
    code = main(["verify", url, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_verify_proves_packs_and_prints_each_promise(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", made.packs.url]) == 0
    printed = capsys.readouterr().out
    assert "no damage" in printed and "DIFFERS" not in printed
    meta = made.plan.meta
    for sentence in (
        f"checked: {meta['packs']:,} packs of plan {meta['plan'][:12]}, in whole global batches of 12: "
        f"{meta['tokens']:,} tokens and {meta['slots']:,} vision slots",
        f"at most {meta['largest_error_slots']:,.1f} slots from the schedule",
        "more often than the max_epochs of its source: read 1 of 2, seen 3 of 3",
        "no pack over its limits: 256 tokens",
        "media cover the vision slots",
    ):
        assert sentence in printed
    code, found = verified(capsys, made.packs.url)
    assert code == 0 and found["damages"] == [] and found["content"]["failed"] == found["content"]["skipped"] == ""
    assert len(found["content"]["proved"]) == 5


def test_verify_names_the_first_promise_that_packs_break(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packs whose bytes are whole, from which one global batch is missing."""
    plan = Store.open(str(made.folder / "plan")).head()
    assert plan is not None
    few = list(made.packs.records())[:-12]
    short = write(create(tmp_path, "packs"), few, [plan], **packs_meta(plan.meta))
    code, found = verified(capsys, short.url)
    assert code == 1 and found["damages"] == [] and not found["content"]["proved"]
    assert f"packs: the plan claims {plan.meta['packs']}, its packs hold {len(few)}" in found["content"]["failed"]
    assert main(["verify", short.url]) == 1
    assert "DIFFERS from the plan: packs: packs: the plan claims" in capsys.readouterr().out


def test_packs_whose_plan_is_missing_are_whole_but_not_proved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Made
) -> None:
    shutil.copytree(made.folder / "packs", tmp_path / "packs")
    plan = compile_plan(MIXTURE, made.by_source, tiny)
    elsewhere = write(create(tmp_path / "gone", "plan"), plan.blocks, [made.samples], **plan.meta)
    packs = write(
        create(tmp_path / "made", "packs"), pack_unit(plan.blocks[0], made.by_source, tiny), [elsewhere],
        **packs_meta(plan.meta),
    )  # fmt: skip
    shutil.rmtree(tmp_path / "gone")
    code, found = verified(capsys, packs.url)
    assert code == 0 and "a proof needs the plan" in found["content"]["skipped"]
    assert main(["verify", packs.url]) == 0
    assert "not compared with the plan: " in capsys.readouterr().out


def test_limits_alignment_and_damage_are_part_of_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture = replace(MIXTURE, segment_align=16, max_media_exposures=9, pack_limits=PackLimits(media=5))
    made = make(tmp_path, corpus(), mixture)
    code, found = verified(capsys, made.packs.url)
    proved = " ".join(found["content"]["proved"])
    assert code == 0
    assert "256 tokens, 5 media" in proved and "multiple of 16 tokens" in proved and "more than 9 times" in proved
    shard = next((tmp_path / "packs" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    code, found = verified(capsys, made.packs.url)
    assert code == 1 and found["damages"] and found["content"] is None


def test_stores_of_other_kinds_have_no_content_check(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verified(capsys, made.samples.url)
    assert (code, found) == (0, {"damages": [], "content": None})
