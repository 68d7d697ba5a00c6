"""`millrace inspect` finds single records by any of their names, and answers wrong arguments in words."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from manifests.errors import StoreError
from manifests.records import Document, Media, Text, record_id
from pipelines.inspect import command
from stores.store import Store
from stores.upkeep import lookup

PICTURE = b"a picture"


@pytest.mark.parametrize("limit", ["-3", "0", "two"])
def test_a_limit_that_shows_nothing_is_a_usage_error(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["anywhere", f"--limit={limit}"])
    assert ended.value.code == 2
    assert "expected a whole number from 1" in capsys.readouterr().err


def page(number: int) -> Document:
    shown = (Media(sha256(PICTURE).hexdigest(), "image", "png", 28, 28, payload=PICTURE),) if number > 2 else ()
    origin = f"https://a.example/{number}"
    return Document(
        record_id("s", f"p{number}"), "s", f"p{number}", "web", (Text(f"page {number}"), *shown), origin=origin
    )


@pytest.mark.parametrize("looked_up", [True, False])
def test_a_record_is_shown_by_id_url_or_picture_with_its_place(
    looked_up: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.create(str(tmp_path / "docs"), "documents", "docs")
    writer = store.writer("a")
    for number in range(5):
        writer.add(page(number))
    snapshot = store.commit([writer.finish()], node="n", units=["a"])
    if looked_up:
        lookup.build(snapshot)
    expected = {one.id: i for i, one in enumerate(snapshot.records())}
    names = {page(3).id: 3, "https://a.example/1": 1, "p2": 2, page(4).id[:9]: 4, sha256(PICTURE).hexdigest(): 3}
    for name, number in names.items():
        assert command.main([store.url, "--record", name, "--json"]) == 0
        told, talk = capsys.readouterr()
        found = json.loads(told)
        ordinal = expected[page(number).id]
        ref = snapshot.shard_of(ordinal)
        assert (found["ordinal"], found["unit"], found["shard"]) == (ordinal, "a", ref.shard)
        assert found["row"] == ordinal - ref.first and found["parts"][0] == f"page {number}"
        assert found["columns"]["origin"] == f"https://a.example/{number}" and found["columns"]["keep"] is True
        assert ("were scanned" in talk) == (not looked_up)
    assert [one["ordinal"] for one in found["the same name"]] == [expected[page(4).id]]
    assert command.main([store.url, "--record", "p2"]) == 0 and "page 2" in capsys.readouterr().out
    for wrong in ("p9", "f" * 32, "f" * 64, "99"):
        with pytest.raises(StoreError, match=r"no record|record 99 of 5"):
            command.main([store.url, "--record", wrong])


def test_what_a_view_below_dropped_is_not_counted_as_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.create(str(tmp_path / "docs"), "documents", "docs")
    writer = store.writer("a")
    for number in range(5):
        writer.add(page(number))
    over = store.commit([writer.finish()], node="n", units=["a"])
    for name, dropped in (("first", 1), ("second", 2)):
        view = Store.create(str(tmp_path / name), "view", name)
        columns = view.writer("all")
        for ref in over.shards:
            rows = range(ref.first, ref.first + ref.records)
            keep = [row != dropped for row in rows]
            columns.columns(ref.shard, {"keep": keep, "reason": [None if kept else "dull" for kept in keep]})
        over = view.commit([columns.finish()], node=name, units=["all"], parents=[over.as_parent])
        assert command.main([view.url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["counts"]["kept"] == 5 - dropped
