"""`millrace inspect` finds records by any of their names, and rejects wrong arguments with a message."""

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
def test_a_limit_below_one_is_a_usage_error(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_a_record_is_found_by_id_url_or_picture(
    looked_up: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.create(str(tmp_path / "docs"), "documents", "docs")
    writer = store.writer("a")
    for number in range(5):
        writer.add(page(number))
    snapshot = store.commit([writer.finish()], node="n", units=["a"])
    if looked_up:
        lookup.build(snapshot)
    expected = {record.id: i for i, record in enumerate(snapshot.records())}
    names = {page(3).id: 3, "https://a.example/1": 1, "p2": 2, page(4).id[:9]: 4, sha256(PICTURE).hexdigest(): 3}
    for name, number in names.items():
        assert command.main([store.url, "--record", name, "--json"]) == 0
        output, notes = capsys.readouterr()
        record = json.loads(output)
        ordinal = expected[page(number).id]
        ref = snapshot.shard_of(ordinal)
        assert (record["ordinal"], record["unit"], record["shard"]) == (ordinal, "a", ref.shard)
        assert record["row"] == ordinal - ref.first and record["parts"][0] == f"page {number}"
        assert record["columns"]["origin"] == f"https://a.example/{number}" and record["columns"]["keep"] is True
        assert ("were scanned" in notes) == (not looked_up)
    assert [other["ordinal"] for other in record["other_matches"]] == [expected[page(4).id]]
    assert command.main([store.url, "--record", "p2"]) == 0 and "page 2" in capsys.readouterr().out
    for wrong in ("p9", "f" * 32, "f" * 64, "99"):
        with pytest.raises(StoreError, match="there is no record"):
            command.main([store.url, "--record", wrong])


def test_kept_counts_of_a_view_exclude_the_drops_of_views_below(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
