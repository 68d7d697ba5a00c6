"""Runs with their stores on S3 or GCS servers on loopback: equal content, also after a kill, and one run at a time."""

from __future__ import annotations

import json
import shutil
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import ManifestError, StoreError
from manifests.records import canonical_json
from pipelines.dag.destination import Destination
from pipelines.inspect import queries
from stores.files.open import open_files
from stores.forget.forget import forget
from stores.store import Store
from stores.upkeep import run_lock as run_lock_module
from stores.upkeep.run_lock import run_lock
from tests.pipelines import small_data
from tests.pipelines.build import test_materialize
from tests.pipelines.build.test_materialize import NAMES
from tests.pipelines.dag.test_run import run, start
from tests.strategies import same

DAG = (
    test_materialize.DAG.replace("shard_bytes: 10000", "shard_bytes: 30000")
    + "  report:\n    kind: report\n    inputs: [packs]\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "data").mkdir()
    small_data.write(folder / "data", texts=20)
    (folder / "dag.yaml").write_text(DAG)
    run(folder / "dag.yaml", folder / "calm")
    return folder


@pytest.fixture
def url(s3: Any) -> str:
    return f"s3://mill/{uuid.uuid4().hex}"


@pytest.fixture(params=["s3", "gcs"])
def anywhere(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue(request.param)
    return f"{'s3' if request.param == 's3' else 'gs'}://mill/{uuid.uuid4().hex}"


def roots(place: str) -> dict[str, str]:
    heads = {name: Store.open(f"{place}/{name}").head() for name in NAMES}
    return {name: head.content_root for name, head in heads.items() if head is not None}


def test_a_killed_run_on_object_storage_ends_as_on_disk(folder: Path, tmp_path: Path, url: str) -> None:
    local = tmp_path / "beside"
    process = start(folder / "dag.yaml", url, "--local", str(local))
    while not open_files(f"{url}/filtered").exists("store.json"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run(folder / "dag.yaml", url, "--local", str(local))  # at once: the dead holder is known to be dead
    assert roots(url) == roots(str(folder / "calm"))
    assert {path.name for path in local.iterdir()} == {"lock", "log.jsonl", "receipts", "report.html", "stores.url"}
    assert "8 nodes already committed" in run(folder / "dag.yaml", url, "--local", str(local))
    assert list(queries.run_stores(local)[0]) == list(queries.run_stores(folder / "calm")[0])
    packs = [Store.open(f"{place}/packs").head() for place in (url, folder / "calm")]
    assert all(same(one, other) for one, other in zip(*(pack.records() for pack in packs if pack), strict=True))
    pages = [(run / "report.html").read_text() for run in (local, folder / "calm")]
    assert pages[0].count("data:image") == pages[1].count("data:image") > 0
    with pytest.raises(ManifestError, match="its stores at"), Destination.of(f"{url}-other", local).locked():
        pass
    with pytest.raises(ManifestError, match="its stores at"), Destination.of(str(local), local).locked():
        pass


def test_forgetting_also_removes_report_and_log_in_the_local_folder(
    folder: Path, tmp_path: Path, anywhere: str
) -> None:
    for name in ("documents", "filtered"):
        target, source = open_files(f"{anywhere}/{name}"), folder / "calm" / name
        for path in source.rglob("*.*"):
            aside = target.temporary_path()
            shutil.copyfile(path, aside)
            target.publish(aside, path.relative_to(source).as_posix())
        target.sync()
    with Destination.of(anywhere, tmp_path).locked():
        (tmp_path / "report.html").write_text("number 3.")
        (tmp_path / "log.jsonl").write_text(json.dumps({"event": "quarantine", "details": ["number 3."]}) + "\n")
    place, nothing = "books/3/0003.txt", frozenset[str]()
    receipt = forget(
        str(tmp_path), {"ids": nothing, "sources": nothing, "places": frozenset([place]), "media": nothing}
    )
    assert receipt["records"] == {"documents": 1} and receipt["free_text"]["logs_emptied"] == ["log.jsonl"]
    assert not (tmp_path / "report.html").exists() and "number 3" not in (tmp_path / "log.jsonl").read_text()
    head = Store.open(f"{anywhere}/documents").head()
    assert head is not None and place not in head.table(["locator"])["locator"].to_pylist()


def test_a_second_run_at_the_same_url_is_refused(tmp_path: Path, url: str) -> None:
    for place in (url, str(tmp_path)):
        first, second = run_lock(open_files(place)), run_lock(open_files(place))
        with first, pytest.raises(StoreError, match="another run is at work here"):
            second.__enter__()
        with run_lock(open_files(place)):
            pass
    names = sorted(info.path for info in open_files(url).listing("lock"))
    assert names == [f"lock/00000{number}.{what}" for number in (1, 2) for what in ("alive", "free", "json")]


def test_the_lock_of_a_dead_machine_is_taken_over_after_the_grace_period(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = open_files(url)
    other = {"host": "other", "kernel": "another", "process": 1, "born": "1"}
    assert files.swap("lock/000004.json", canonical_json(other).encode())
    with pytest.raises(StoreError, match=r"process 1 on other, last heartbeat \d+ s ago"), run_lock(files):
        pass
    monkeypatch.setattr(run_lock_module, "GRACE_S", 0.0)
    with run_lock(files):
        assert max(run_lock_module._claims(files)) == 5
