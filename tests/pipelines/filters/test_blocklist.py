"""The op `blocked`: matches of list entries in every file form, and the cost of large lists."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError, StoreError
from manifests.records import Document, Drop, Text, record_id
from pipelines.dag import graph
from pipelines.filters import word_lists
from pipelines.filters.blocklist import Blocked
from pipelines.filters.filter import Filter
from tests.pipelines.build.test_materialize import product, stored

LIST = """# a list
bad.example
0.0.0.0 hosts.example   # as in /etc/hosts
*.wild.example
HTTPS://Page.Example/one/two/
page.example/three?id=7
bücher.example
xn--mller-kva.example
"""


def document(origin: str = "", text: str = "text") -> Document:
    return Document(record_id("t", origin + text), "t", "1", "web", (Text(text),), origin=origin)


@pytest.fixture(params=["plain", "gzip", "windows", "url"])
def list_file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    data = LIST.encode()
    if request.param == "windows":
        data = data.replace(b"\n", b"\r\n")
    (tmp_path / "list").write_bytes(gzip.compress(data) if request.param == "gzip" else data)
    if request.param != "url":
        return str(tmp_path / "list")
    fsspec.filesystem("memory").pipe("/lists/one", data)
    return "memory://lists/one"


@pytest.mark.parametrize(
    ("origin", "blocked"),
    [
        ("https://bad.example", True),
        ("https://a.b.BAD.example./x", True),
        ("https://notbad.example", False),
        ("http://hosts.example:80/", True),
        ("http://etc.example/hosts", False),
        ("http://x.wild.example", True),
        ("http://page.example/one/two", True),
        ("http://www.page.example/One/Two/three?x=1", True),
        ("http://page.example/one", False),
        ("http://page.example/one/twofold", False),
        ("http://page.example/three?id=7", True),
        ("http://page.example/three?id=70", False),
        ("http://xn--bcher-kva.example/", True),
        ("http://BÜCHER.example/", True),
        ("http://müller.example/", True),
        ("http://" + "a." * 200 + "bad.example", False),
        ("a list", False),
    ],
)
def test_an_entry_matches_a_site_or_the_beginning_of_an_address(list_file: str, origin: str, blocked: bool) -> None:
    verdict = Blocked(kind="blocked", site_files=(list_file,)).apply(document(origin))
    assert (verdict == Drop("blocked_site", 1)) is blocked


def test_entries_of_the_manifest_and_of_files_are_merged(tmp_path: Path) -> None:
    (tmp_path / "sites").write_text("one.example\n")
    (tmp_path / "words").write_text("worst\n\n\U0001f595\ntwo bad  words\n敏感词")
    op = Blocked(
        kind="blocked",
        sites=("two.example/x",),
        site_files=(str(tmp_path / "sites"),),
        words=("own",),
        word_files=(str(tmp_path / "words"),),
    )
    text = "The WORST of two bad words is his own: 这是敏感词吗 \U0001f595"
    assert op.measure(document("http://one.example/", text)) == {"site": 1, "words": 4}
    assert op.measure(document("http://two.example/x/y", "words")) == {"site": 1, "words": 0}
    assert op.measure(document("http://two.example/", "bad words two")) == {"site": 0, "words": 0}
    (tmp_path / "sites").write_text("three.example, which is longer\n")
    assert op.measure(document("http://one.example/"))["site"] == 0


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.lists(st.integers(0, 2**64 - 1), max_size=10))
def test_contained_equals_membership_in_a_list(entries: list[int], others: list[int]) -> None:
    hashes = np.array(entries[:5] + others, np.uint64)
    result = word_lists.contained(np.unique(np.array(entries, np.uint64)), hashes)
    assert result.tolist() == [value in entries for value in hashes.tolist()]


def test_many_sites_take_eight_bytes_each_and_a_look_up_takes_microseconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_lists, "BLOCK_BYTES", 1 << 16)
    with open(tmp_path / "big", "w") as file:
        file.writelines(f"site{number}.example\n" for number in range(100_000))
    op = Blocked(kind="blocked", site_files=(str(tmp_path / "big"),))
    Blocked(kind="blocked", sites=("warm.example",)).measure(document("https://warm.example"))
    tracemalloc.start()
    assert op.measure(document("https://www.site99999.example/page")) == {"site": 1}
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.2e6 and peak < 5e6
    documents = [document(f"https://site{number}.elsewhere/a/b") for number in range(1000)]
    began = time.process_time()
    assert not any(op.measure(each)["site"] for each in documents)
    assert time.process_time() - began < 0.5


def test_identity_depends_on_the_contents_of_a_list_not_on_its_path(tmp_path: Path) -> None:
    over = stored(tmp_path, {"u": [document("http://one.example/")]})
    inputs = {over.name: product(over)}
    for name in ("first", "second"):
        (tmp_path / name).write_text("one.example")

    def identity(name: str) -> str:
        op = Blocked(kind="blocked", site_files=(str(tmp_path / name),))
        node = Filter(kind="filter", input=over.name, ops=(op,))
        return graph.identity("filtered", node, inputs, node.survey("filtered", inputs))

    first = identity("first")
    assert identity("second") == first
    (tmp_path / "second").write_text("other.example")
    assert identity("second") != first
    with pytest.raises(ManifestError, match="can't be read"):
        identity("missing")


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(gzip.compress(LIST.encode() * 100)[:-20])
    op = Blocked(kind="blocked", site_files=(str(tmp_path / "cut"),))
    with pytest.raises(StoreError, match="can't be read"):
        op.measure(document("http://one.example/"))
    (tmp_path / "line").write_bytes(b"x" * (20 << 20))
    with pytest.raises(ManifestError, match="64 KiB"):
        replace(op, site_files=(str(tmp_path / "line"),)).measure(document("http://one.example/"))
