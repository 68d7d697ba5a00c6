"""Foreign tars adopted in place: every layout, every sort of damage, the same records as plain `webdataset` gives."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import webdataset
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.conversation import conversation_in
from manifests.errors import ManifestError, StoreError
from manifests.records import FORGOTTEN, Document, Json, Text, record_id
from pipelines.dag import unit_names
from pipelines.ingest import tar_samples
from pipelines.ingest.tar_fields import Fields
from pipelines.ingest.tars import IngestTars
from pipelines.node import Task, units_below
from pipelines.unit import UnitTask, run_unit
from stores import command as store_verbs
from stores.collect import collect
from stores.copying import copy
from stores.filesystem import open_files
from stores.forget import forget
from stores.image import decode_rgb
from stores.repair import repair
from stores.store import Snapshot, Store
from stores.tombstones import What
from stores.upkeep import verify
from tests.pipelines import small_data
from tests.pipelines.test_run import head, run
from tests.servers.s3 import reached_at, s3_server

Sample = Mapping[str, bytes]


def write(path: Path, samples: Mapping[str, Sample]) -> Path:
    """A tar as `webdataset` users make them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def adopt(store: str, tars: str | Sequence[str], order: Any = sorted, **options: Any) -> Snapshot:
    """The store `own` of these tars, its units worked on in any order."""
    tars = tars if isinstance(tars, str) else tuple(tars)
    node = IngestTars(kind="ingest_tars", tars=tars, **options)
    units = unit_names("own", node, node.survey("own", {}))
    made = Store.open_or_create(store, "documents", "own")
    receipts = []
    for name in order(units):
        task = UnitTask(node, store, name, Task("own", units[name], {}), 10**9, 1.0)
        receipts.append(run_unit(task, frozenset(), lambda ordinal: None).receipt)
    return made.commit(receipts, node="node", units=list(units))


def found(snapshot: Snapshot) -> dict[str, Document]:
    """Documents by the key in their tar."""
    return {document.locator.partition("#")[2]: document for document in snapshot.records()}


def aside(snapshot: Snapshot) -> dict[str, str]:
    return {
        row["locator"].partition("#")[2] or row["locator"]: row["reason"] for row in snapshot.quarantined().to_pylist()
    }


def as_json(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def shape(document: Document) -> list[str]:
    return [part.text if isinstance(part, Text) else part.format for part in document.parts]


JPEG, PNG = small_data.image(1, "jpeg"), small_data.image(2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "store")


# ------------------------------------------------------------ layouts


def test_the_plain_layout_gives_media_and_their_text(data: Path, place: str) -> None:
    numbered = {f"{i}.png": small_data.image(i) for i in (0, 1, 10, 2)}
    write(
        data / "a.tar",
        {
            "0001": {"jpg": JPEG, "txt": b" A mill. \n"},
            "0002": {"jpg": JPEG, "caption": "Ein Mühlrad".encode()},
            "sub/dir.d/0003": {"png": PNG, "json": as_json({"caption": "A wheel.", "license": "CC0-1.0"})},
            "0004": {"jpg": JPEG, "cls": b"7"},
            "0005": {"jpg": JPEG, "cls": b"7", "txt": b"A bridge."},
            "0006": {**numbered, "txt": b"Four."},
            "0007": {
                "jpg": JPEG,
                "json": as_json(
                    {
                        "conversations": [
                            {"from": "human", "value": "<image>\nWhat?"},
                            {"from": "gpt", "value": "A mill."},
                        ]
                    }
                ),
            },
            "0008": {"JPG": JPEG, "TXT": b"Loud."},
        },
    )
    documents = found(snapshot := adopt(place, str(data / "a.tar"), licence="MIT"))
    assert {key: shape(document) for key, document in documents.items()} == {
        "0001": ["jpg", "A mill."],
        "0002": ["jpg", "Ein Mühlrad"],
        "sub/dir.d/0003": ["png", "A wheel."],
        "0004": ["jpg", "7"],
        "0005": ["jpg", "A bridge."],
        "0006": ["png", "png", "png", "png", "Four."],
        "0007": ["jpg", "What?", "A mill."],
        "0008": ["jpg", "Loud."],
    }
    assert [snapshot.read(medium.location) for medium in documents["0006"].media] == [
        small_data.image(i) for i in (0, 1, 2, 10)
    ]
    assert documents["0005"].notes == {"class": "7"} and documents["sub/dir.d/0003"].licence == "CC0-1.0"
    assert documents["0001"].licence == "MIT" and documents["0001"].id == record_id("own", "a.tar#0001")
    assert not aside(snapshot) and documents["0001"].domain == "caption"


def test_conversations_keep_who_says_what(data: Path, place: str) -> None:
    media = {"0.png": PNG, "1.jpg": JPEG}
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "wheel"}}}
    openai = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image", "image": "agent.1.jpg"}]},
        {"role": "assistant", "content": "<think>A wheel.</think>Yes.", "tool_calls": [call]},
        {"role": "tool", "content": "Wood."},
        {"role": "assistant", "content": "It is wood."},
    ]
    sharegpt = [{"from": "human", "value": "<image>\nAnd <image>?"}, {"from": "gpt", "value": "Both."}]
    write(
        data / "a.tar",
        {
            "llava": {**media, "json": as_json({"id": "7", "image": ["0.png", "1.jpg"], "conversations": sharegpt})},
            "bare": {**media, "json": as_json({"conversations": sharegpt})},
            "agent": {**media, "json": as_json({"messages": openai, "tools": [{"name": "look"}]})},
            "odd": {**media, "json": as_json({"messages": [{"role": "nobody", "content": "?"}]})},
        },
    )
    snapshot = adopt(place, str(data))
    documents = found(snapshot)
    assert shape(documents["llava"]) == shape(documents["bare"]) == ["png", "And ", "jpg", "?", "Both."]
    assert shape(documents["agent"]) == [
        "Be short.",
        "Look: ",
        "jpg",
        "A wheel.",
        "Yes.",
        '{"at": "wheel"}',
        "Wood.",
        "It is wood.",
    ]
    talk = conversation_in(documents["agent"])
    assert talk is not None and [message.role for message in talk.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert talk.messages[2].calls[0].name == "look" and documents["agent"].domain == "agent"
    assert documents["llava"].notes["id"] == "7" and snapshot.read(documents["agent"].media[0].location) == JPEG
    assert aside(snapshot) == {"odd": "unknown_role"}


def test_img2dataset_tells_the_origin_and_what_was_not_downloaded(data: Path, place: str) -> None:
    def told(status: str, **more: Json) -> bytes:
        return as_json(
            {
                "caption": "c",
                "url": "https://a.example/1.jpg",
                "key": "0",
                "status": status,
                "error_message": None,
                "sha256": "ab",
                "width": 40,
            }
            | more
        )

    write(
        data / "00000.tar",
        {
            "000000000": {"jpg": JPEG, "json": told("success"), "txt": b"A mill."},
            "000000001": {"jpg": JPEG, "json": told("success", caption="Only here.")},
            "000000002": {"json": told("failed_to_download", error_message="404"), "txt": b"Gone."},
            "000000003": {"jpg": JPEG, "json": told("success"), "txt": b"Third."},
        },
    )
    snapshot = adopt(place, str(data))
    documents = found(snapshot)
    assert {key: shape(document)[-1] for key, document in documents.items()} == {
        "000000000": "A mill.",
        "000000001": "Only here.",
        "000000003": "Third.",
    }
    assert documents["000000000"].origin == "https://a.example/1.jpg" and documents["000000000"].notes == {
        "original_sha256": "ab"
    }
    assert aside(snapshot) == {"000000002": "not_downloaded"}


def test_interleaved_lists_give_the_order_of_texts_and_images(data: Path, place: str) -> None:
    one, two = small_data.image(5), small_data.image(6, "jpeg")
    media = {"0.png": one, "1.jpg": two}
    write(
        data / "a.tar",
        {
            "obelics": {
                **media,
                "json": as_json(
                    {
                        "texts": ["First.", None, "Then.", None],
                        "images": [None, "https://a.example/x", None, "https://a.example/y"],
                        "url": "https://a.example",
                    }
                ),
            },
            "named": {
                **media,
                "json": as_json(
                    [
                        {"type": "text", "text": "A"},
                        {"type": "image", "image": "named.1.jpg"},
                        {"text": "B"},
                        {"image": "0.png"},
                        {"image": "1.jpg"},
                    ]
                ),
            },
            "mmc4": {
                **media,
                "json": as_json(
                    {
                        "text_list": ["a", "b"],
                        "image_info": [
                            {"image_name": "1.jpg", "matched_text_index": 1},
                            {"image_name": "0.png", "matched_text_index": 0},
                        ],
                    }
                ),
            },
            "absent": {**media, "json": as_json([{"text": "A"}, {"image": "gone.png"}])},
            "words": {"json": as_json(["only", "words"])},
        },
    )
    documents = found(snapshot := adopt(place, str(data / "*.tar")))
    assert {key: shape(document) for key, document in documents.items()} == {
        "obelics": ["First.", "png", "Then.", "jpg"],
        "named": ["A", "jpg", "B", "png", "jpg"],
        "mmc4": ["png", "a", "jpg", "b"],
        "words": ["only", "words"],
    }
    assert [snapshot.read(medium.location) for medium in documents["named"].media] == [two, one, two]
    assert documents["obelics"].domain == "interleaved" and documents["obelics"].origin == "https://a.example"
    assert aside(snapshot) == {"absent": "missing_media"}


def test_energon_gives_the_shards_of_a_split_and_the_fields(data: Path, place: str) -> None:
    for name in ("train-0.tar", "train-1.tar", "train-2.tar", "val-0.tar"):
        samples = {
            f"k{i}": {"jpg": JPEG, "json": as_json({"deep": {"words": [f"{name} {i}"]}}), "txt": b"not this"}
            for i in range(3)
        }
        write(data / "shards" / name, samples)
    meta = data / ".nv-meta"
    meta.mkdir()
    counts = {f"shards/{path.name}": 3 for path in sorted((data / "shards").glob("*.tar"))}
    (meta / ".info.json").write_text(json.dumps({"shard_counts": counts, "energon_version": "7.4.1"}))
    (meta / "split.yaml").write_text(
        yaml.safe_dump(
            {
                "split_parts": {"train": ["shards/train-{0..2}.tar"], "val": ["shards/val-0.tar"]},
                "exclude": ["shards/train-2.tar", "shards/train-0.tar/k1"],
            }
        )
    )
    (meta / "dataset.yaml").write_text(
        "sample_type:\n  __module__: megatron.energon\n  __class__: CaptioningSample\n"
        "field_map:\n  image: png,jpg\n  caption: json[deep][words][0]\n"
    )
    documents = list(adopt(place, str(data)).records())
    assert [document.locator for document in documents] == [
        f"shards/train-{t}.tar#k{i}" for t in (0, 1) for i in range(3) if (t, i) != (0, 1)
    ]
    assert documents[0].text == "train-0.tar 0" and documents[0].media[0].format == "jpg"
    with pytest.raises(ManifestError, match="no split 'test'"):
        adopt(place + "2", str(data), split="test")


def test_a_map_of_fields_reads_anything_else(data: Path, place: str) -> None:
    members = {
        "left.png": PNG,
        "right.png": JPEG,
        "meta": b"{}",
        "json": as_json({"q": "Where?", "a": ["Here.", "There."], "by": {"lic": "MIT"}}),
    }
    write(data / "a.tar", {"1": members, "2": {**members, "json": as_json({"q": "Where?"})}})
    fields = Fields(media=("left.png",), text=("json[q]", "json[a]"), licence="json[by][lic]")
    documents = found(snapshot := adopt(place, str(data / "a.tar"), fields=fields))
    assert shape(documents["1"]) == ["png", "Where?\nHere.\nThere."] and documents["1"].licence == "MIT"
    assert aside(snapshot) == {"2": "no_text_field"}
    write(data / "b.tar", {"3": {"photo": PNG, "words": b"Odd endings.", "rights": b"CC0-1.0"}})
    odd = Fields(media=("jpg, photo",), text=("words",), licence="json[l],rights")
    (document,) = adopt(place + "2", str(data / "b.tar"), fields=odd).records()
    assert shape(document) == ["png", "Odd endings."] and document.licence == "CC0-1.0"
    with pytest.raises(ManifestError, match="names nothing"):
        adopt(place + "3", str(data / "b.tar"), fields=Fields(text=("json[",)))


def test_text_alone_and_video(data: Path, place: str, tmp_path: Path) -> None:
    small_data.clip(tmp_path / "clip.mp4")
    write(data / "text.tar", {f"{i}": {"json": as_json({"prompt": f"{i}?", "answer": "Yes."})} for i in range(3)})
    write(data / "video.tar", {"v": {"mp4": (tmp_path / "clip.mp4").read_bytes(), "txt": b"It turns."}})
    snapshot = adopt(place, str(data))
    documents = found(snapshot)
    assert documents["0"].text == "0?\nYes." and documents["0"].domain == "knowledge"
    assert [documents["0"].text[fact.start : fact.stop] for fact in documents["0"].facts] == ["Yes."]
    (turning,) = documents["v"].media
    assert len(turning.frame_times_us) == 12 and documents["v"].domain == "video"
    assert turning.container_fps == 4.0


# ------------------------------------------------------------ the same as webdataset


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=12)
def test_samples_are_those_of_webdataset(seed: int, count: int) -> None:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tar"
        written = {}
        with webdataset.TarWriter(str(path)) as writer:
            for i in range(count):
                key = dice.choice(["", "in/", "in.d/deep/"]) + f"{i:05d}"
                written[key] = {"jpg": small_data.image(i, "jpeg"), "txt": small_data.text(i, 5)}
                if dice.random() < 0.5:
                    written[key]["json"] = {"url": f"https://a.example/{i}"}
                writer.write({"__key__": key} | written[key])
        snapshot = adopt(f"{folder}/store", str(path))
        documents = found(snapshot)
        plain = {sample["__key__"]: sample for sample in webdataset.WebDataset(str(path), shardshuffle=False)}
        assert documents.keys() == plain.keys() == written.keys()
        for key, document in documents.items():
            assert document.text == plain[key]["txt"].decode().strip()
            assert snapshot.read(document.media[0].location) == plain[key]["jpg"]
            assert document.origin == json.loads(plain[key].get("json", b'{"url": ""}'))["url"]


def test_published_tars_without_text_are_set_aside_record_by_record(test_data: Path, place: str) -> None:
    tars = test_data / "webdataset_tars"
    snapshot = adopt(place, [str(tars / "*.tar")])
    count = sum(1 for path in tars.glob("*.tar") for _ in webdataset.WebDataset(str(path), shardshuffle=False))
    assert not snapshot.counts.get("records") and len(snapshot.quarantined()) == count


# ------------------------------------------------------------ damage


def hostile(path: Path) -> None:
    good = {"jpg": JPEG, "txt": b"Good."}
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO(data))

        def sample(key: str, members: Sample) -> None:
            for ending, data in members.items():
                add(f"{key}.{ending}", data)

        sample("good0", good)
        sample("no_caption", {"jpg": JPEG})
        sample("blank", {"jpg": JPEG, "txt": b" \n"})
        sample("no_image", {"txt": b"Where is it?"})
        sample("cut", {"jpg": JPEG[:200], "txt": b"Half."})
        sample("latin", {"jpg": JPEG, "txt": "Müller".encode("latin-1")})
        sample("json", {"jpg": JPEG, "json": b'{"caption": NaN}'})
        sample("../up", good)
        sample("/abs", good)
        sample("n" * 300, good)
        add("link.jpg", kind=tarfile.SYMTYPE)
        add("link.txt", b"A link.")
        add("twice.txt", b"One.")
        add("twice.txt", b"Two.")
        add("twice.jpg", JPEG)
        add("README", b"no key")
        add("folder.d/", kind=tarfile.DIRTYPE)
        sample("good0", good)
        sample("huge", {"jpg": JPEG, "txt": b"x" * (tar_samples.MOST_TEXT_BYTES + 1)})
        sample("surrogate", {"jpg": JPEG, "json": b'{"caption": "\\ud800"}'})
        sample("good1", good)


HOSTILE = {
    "no_caption": "no_text",
    "blank": "no_text",
    "no_image": "no_media",
    "cut": "truncated_image",
    "latin": "bad_encoding",
    "json": "not_a_number",
    "../up": "bad_name",
    "/abs": "bad_name",
    "link": "link_in_tar",
    "twice": "duplicate_member",
    "good0": "duplicate_key",
    "huge": "too_large",
    "surrogate": "lone_surrogate",
}


def test_each_bad_sample_costs_itself_with_its_reason(data: Path, place: str) -> None:
    data.mkdir()
    hostile(data / "a.tar")
    snapshot = adopt(place, str(data))
    assert set(found(snapshot)) == {"good0", "good1", "n" * 300}
    assert aside(snapshot) == HOSTILE


def test_a_torn_tar_gives_its_whole_records_and_says_where_it_ends(data: Path, place: str) -> None:
    path = write(data / "a.tar", {f"{i}": {"jpg": JPEG, "txt": b"Good."} for i in range(4)})
    third = path.read_bytes().index(b"2.jpg")
    os.truncate(path, third + 512 + 100)
    snapshot = adopt(place, str(data))
    assert set(found(snapshot)) == {"0", "1"}
    (told,) = snapshot.quarantined().to_pylist()
    assert (
        told["reason"] == "torn_tar" and told["locator"] == f"a.tar@{third + 512}" and "inside 2.jpg" in told["message"]
    )
    assert not verify(snapshot)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty_tar"), (bytes(10_240), "empty_tar"), (b"no tar" * 999, "not_a_tar")]
)
def test_a_tar_without_records_is_one_line_of_quarantine(data: Path, place: str, content: bytes, reason: str) -> None:
    write(data / "good.tar", {"1": {"jpg": JPEG, "txt": b"Good."}})
    (data / "bad.tar").write_bytes(content)
    snapshot = adopt(place, str(data))
    assert set(found(snapshot)) == {"1"} and aside(snapshot) == {"bad.tar@0": reason}


def test_packed_tars_and_unclear_places_are_refused_before_any_work(data: Path, place: str) -> None:
    write(data / "a" / "x.tar", {"1": {"txt": b"a"}})
    write(data / "b" / "x.tar", {"1": {"txt": b"b"}})
    shutil.make_archive(str(data / "packed"), "gztar", data / "a")
    with pytest.raises(ManifestError, match="packed with gzip"):
        adopt(place, str(data / "packed.tar.gz"))
    with pytest.raises(ManifestError, match="known by the name"):
        adopt(place, [str(data / "a" / "x.tar"), str(data / "b" / "x.tar")])
    with pytest.raises(ManifestError, match="no tars"):
        adopt(place, str(data / "gone.tar"))
    with pytest.raises(ManifestError, match="no tars"):
        adopt(place, str(data / "gone-*.tar"))
    assert {document.locator for document in adopt(place, str(data / "{a,b}" / "x.tar")).records()} == {
        "a/x.tar#1",
        "b/x.tar#1",
    }


GOOD = {"jpg": JPEG, "0.png": PNG, "txt": b"Words.", "caption": b"More.", "cls": b"3", "npy": b"\x93NUMPY"}
ODD = {"jpg": JPEG[:99], "txt": b"\xff\xfe\xfd", "json": b"{", "webp": b"", "caption": b"", "mp4": b"no clip"}
JSONS = st.sampled_from(
    [{"caption": "Said."}, {"url": "https://a.example"}, [], 7, None, ["a", "0.png"], {"text": None}]
)
MEMBERS = st.dictionaries(st.sampled_from(sorted(GOOD)), st.just(True), min_size=1)


@given(st.lists(st.tuples(MEMBERS, st.none() | JSONS, st.sampled_from(["", "", *sorted(ODD)])), min_size=1, max_size=8))
@settings(max_examples=15)
def test_every_sample_is_a_record_or_one_line_of_quarantine(mixes: list[tuple[dict[str, bool], Json, str]]) -> None:
    written = {}
    for number, (names, told, odd) in enumerate(mixes):
        members = {name: GOOD[name] for name in names} | ({"json": as_json(told)} if told is not None else {})
        written[f"{number:03d}"] = members | ({odd: ODD[odd]} if odd else {})
    with tempfile.TemporaryDirectory() as folder:
        snapshot = adopt(f"{folder}/store", str(write(Path(folder) / "x.tar", written)))
        again = adopt(f"{folder}/again", f"{folder}/*.tar")
        kept, refused = found(snapshot), snapshot.quarantined().column("locator").to_pylist()
        assert sorted([*kept, *(locator.removeprefix("x.tar#") for locator in refused)]) == sorted(written)
        assert snapshot.content_root == again.content_root and not verify(snapshot)
        assert "unexpected_error" not in snapshot.quarantined().column("reason").to_pylist()
        for key, document in kept.items():
            media = [snapshot.read(medium.location) for medium in document.media]
            assert all(one in written[key].values() for one in media) and document.text.strip()


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_no_damage_stops_the_unit_or_is_read_as_data(seed: int) -> None:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        written = {f"{i}": {"png": small_data.image(i), "txt": small_data.text(i, 4).encode()} for i in range(6)}
        path = write(Path(folder) / "x.tar", written)
        raw = bytearray(path.read_bytes())
        for _ in range(dice.randint(0, 4)):
            raw[dice.randrange(len(raw))] ^= dice.randint(1, 255)
        if dice.random() < 0.5:
            del raw[dice.randrange(len(raw)) :]
        path.write_bytes(raw)
        snapshot = adopt(f"{folder}/store", str(path))
        for document in snapshot.records():
            media = [snapshot.read(medium.location) for medium in document.media]
            assert all(one in raw for one in media) and len(media) == 1
        assert "unexpected_error" not in snapshot.quarantined().column("reason").to_pylist()
        assert not verify(snapshot)


# ------------------------------------------------------------ what changes later


@pytest.fixture
def pair(data: Path, place: str) -> tuple[Path, Snapshot]:
    path = write(
        data / "a.tar",
        {f"{i}": {"jpg": small_data.image(i, "jpeg"), "txt": f"Caption {i}.".encode()} for i in range(4)},
    )
    return path, adopt(place, str(path))


def test_a_changed_byte_is_refused_and_named(pair: tuple[Path, Snapshot]) -> None:
    path, snapshot = pair
    documents = list(snapshot.records())
    at = documents[2].media[0].location
    assert at is not None
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"Caption 1.")] ^= 1
    raw[at.offset + 300] ^= 1
    path.write_bytes(raw)
    fresh = Store.open(snapshot.url).snapshot(snapshot.number)
    with pytest.raises(StoreError, match="not those that were adopted") as text:
        fresh.record(1)
    assert text.value.where == f"{path}[1]" and "put back the tar" in text.value.fix
    with pytest.raises(StoreError, match="changed") as picture:
        fresh.read(at)
    assert picture.value.where == f"{path}[2]"
    assert fresh.record(0) == documents[0] and fresh.record(2) == documents[2]
    assert [damage.where for damage in verify(fresh)] == [f"{path}[1]", f"{path}[2]"]
    assert repair(Store.open(snapshot.url)).outside == [str(path)], "it is said, and nothing is made of it"
    assert store_verbs.mend([snapshot.url]) == 1


def test_a_change_between_the_records_and_a_tar_that_went_are_found(pair: tuple[Path, Snapshot]) -> None:
    path, snapshot = pair
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + b"x")
    assert [damage.where for damage in verify(snapshot)] == [str(path)]
    path.unlink()
    fresh = Store.open(snapshot.url).snapshot(snapshot.number)
    with pytest.raises(StoreError, match="missing"):
        fresh.record(0)
    assert len(verify(fresh)) == 4


def test_units_say_how_much_they_read(data: Path, place: str) -> None:
    """`--dry-run`, `--estimate` and what is in flight at once go by it."""
    sizes = {write(data / f"{n}.tar", {"1": {"txt": b"word " * 10**n}}).stat().st_size for n in (1, 5)}
    units = IngestTars(kind="ingest_tars", tars=str(data)).survey("own", {}).units
    assert {unit.size_bytes for unit in units} == sizes and len(sizes) == 2
    snapshot = adopt(place, str(data))
    assert {unit.size_bytes for unit in units_below(snapshot)} == sizes


def test_a_tar_that_changes_between_survey_and_work_ends_the_run(data: Path, place: str) -> None:
    path = write(data / "a.tar", {"1": {"txt": b"one"}})
    node = IngestTars(kind="ingest_tars", tars=str(path))
    ((name, unit),) = unit_names("own", node, node.survey("own", {})).items()
    write(path, {"1": {"txt": b"two"}})
    Store.create(place, "documents", "own")
    with pytest.raises(StoreError, match="changed while"):
        run_unit(UnitTask(node, place, name, Task("own", unit, {}), 9, 1.0), frozenset(), lambda ordinal: None)


def test_upkeep_leaves_the_tar_alone_and_copies_refer_to_it(pair: tuple[Path, Snapshot], tmp_path: Path) -> None:
    path, snapshot = pair
    collect(Store.open(snapshot.url), keep_last=1, grace_s=0)
    copied = copy(snapshot, str(tmp_path / "elsewhere" / "copy"))
    assert copied.content_root == snapshot.content_root and list(copied.records()) == list(snapshot.records())
    assert not verify(copied)
    stored = [file for store in (snapshot.url, copied.url) for file in Path(store).rglob("*") if file.is_file()]
    assert not any(b"Caption" in file.read_bytes() for file in stored)
    assert not any(file.suffix == ".tar" for file in stored) and path.is_file()


def test_payloads_move_only_into_a_store_that_is_told_to_hold_them(pair: tuple[Path, Snapshot], tmp_path: Path) -> None:
    path, snapshot = pair
    whole = list(snapshot.documents(range(4)))
    assert whole == list(snapshot.records())
    store = Store.create(str(tmp_path / "held"), "documents", "own")
    writer = store.writer("unit")
    for document in whole:
        writer.add(document)
    held = store.commit([writer.finish()], node="node", units=["unit"])
    path.unlink()
    assert list(held.records()) == whole and not verify(held)
    assert [held.read(one.media[0].location) for one in held.records()] == [one.media[0].payload for one in whole]
    with pytest.raises(StoreError, match="missing"):
        list(Store.open(snapshot.url).snapshot(snapshot.number).documents(range(4)))


def test_content_depends_neither_on_the_place_nor_on_the_order_of_work(data: Path, tmp_path: Path) -> None:
    for t in range(3):
        write(
            data / f"{t}.tar",
            {f"{i}": {"jpg": small_data.image(i, "jpeg"), "txt": f"{t} {i}".encode()} for i in range(3)},
        )
    first = adopt(str(tmp_path / "first"), str(data / "*.tar"))
    shutil.copytree(data, tmp_path / "moved")
    other = adopt(
        str(tmp_path / "other"), str(tmp_path / "moved" / "{0..2}.tar"), order=lambda units: sorted(units, reverse=True)
    )
    assert first.content_root == other.content_root and list(first.records()) == list(other.records())


def test_equal_tars_under_two_names_are_two_shards(data: Path, place: str) -> None:
    path = write(data / "a.tar", {"1": {"jpg": JPEG, "txt": b"one"}})
    shutil.copy(path, data / "b.tar")
    snapshot = adopt(place, str(data))
    assert [document.locator for document in snapshot.records()] == ["a.tar#1", "b.tar#1"]
    assert all(snapshot.read(document.media[0].location) == JPEG for document in snapshot.records())


# ------------------------------------------------------------ the whole path


def dag_of(tars: str) -> str:
    dag = small_data.DAG.replace("kind: ingest_folder\n    path: ./data", f"kind: ingest_tars\n    tars: {tars}")
    return dag.replace("global_batch_packs: 2", "global_batch_packs: 1")


def pictures(data: Path) -> dict[str, bytes]:
    """Two tars of pictures whose captions name them; the pictures by caption."""
    shown = {f"Picture number {i}.": small_data.image(i, "jpeg", (80, 60)) for i in range(60)}
    for t in range(2):
        some = list(shown.items())[30 * t : 30 * t + 30]
        write(
            data / f"{t}.tar",
            {f"{i:04d}": {"jpg": jpeg, "txt": words.encode()} for i, (words, jpeg) in enumerate(some)},
        )
    return shown


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tars, `dag.yaml` and an undisturbed run of it in `out`."""
    folder = tmp_path_factory.mktemp("adopted")
    pictures(folder / "data")
    (folder / "dag.yaml").write_text(dag_of("./data/*.tar"))
    run(folder / "dag.yaml", folder / "out")
    return folder


def test_adopted_tars_go_through_the_whole_path_like_a_store_of_our_own(calm: Path, tmp_path: Path) -> None:
    out = calm / "out"
    shown = pictures(tmp_path / "data")
    packs, documents = head(out, "packs"), head(out, "documents")
    assert documents.counts["records"] == len(shown) and not list((out / "documents").rglob("*.tar"))
    seen = {packed.media.digest: packs.read(packed.media.location) for pack in packs.records() for packed in pack.media}
    assert len(seen) >= 0.6 * len(shown)
    for document in documents.records():
        jpeg = seen.get(document.media[0].digest, shown[document.text])
        assert jpeg == shown[document.text]
        assert (decode_rgb(documents.read(document.media[0].location)) == decode_rgb(jpeg)).all()


def test_a_tar_that_came_is_taken_up_without_reading_the_others(calm: Path, tmp_path: Path) -> None:
    shutil.copytree(calm, tmp_path, dirs_exist_ok=True)
    before = head(tmp_path / "out", "documents")
    write(tmp_path / "data" / "2.tar", {"0": {"jpg": JPEG, "txt": b"A new tar."}})
    for name in ("0", "1"):  # where a fingerprint does not look: whoever read it would set a picture aside
        raw = bytearray((tmp_path / "data" / f"{name}.tar").read_bytes())
        raw[20_000] ^= 1
        (tmp_path / "data" / f"{name}.tar").write_bytes(raw)
    run(tmp_path / "dag.yaml", tmp_path / "out", "--until", "documents")
    after = head(tmp_path / "out", "documents")
    assert set(before.units) < set(after.units) and after.counts["records"] == before.counts["records"] + 1


def test_what_is_forgotten_is_read_no_more_and_the_receipt_says_where_it_still_lies(calm: Path, tmp_path: Path) -> None:
    shown = pictures(tmp_path / "data")
    shutil.copytree(calm / "out", out := tmp_path / "out")
    before, samples = head(out, "documents"), head(out, "samples")
    gone = before.record(3)
    assert isinstance(gone, Document) and gone.media[0].location is not None
    names: dict[What, frozenset[str]] = {"ids": frozenset([gone.id]), "sources": frozenset()}
    receipt = forget(str(out), names | {"places": frozenset(), "media": frozenset()})
    assert receipt["outside"] == [str(calm / "data" / "0.tar")] and receipt["records"]["documents"] == 1
    after = head(out, "documents")
    assert after.record(3) == Document(gone.id, FORGOTTEN, "", "", ()) and after.content_root == before.content_root
    others = [ordinal for ordinal in range(len(shown)) if ordinal != 3]
    assert [after.record(ordinal) for ordinal in others] == [before.record(ordinal) for ordinal in others]
    with pytest.raises(StoreError, match="no medium"):
        after.read(gone.media[0].location)
    assert not verify(after) and head(out, "samples").content_root == samples.content_root
    stored = [file.read_bytes() for file in out.rglob("*") if file.is_file()]
    traces = (
        gone.locator.encode(),
        gone.media[0].digest.encode(),
        bytes.fromhex(gone.media[0].digest),
        shown[gone.text],
    )
    assert not any(trace in data for data in stored for trace in traces)
    assert "6 nodes already committed" in run(calm / "dag.yaml", out)


def test_tars_on_s3_are_adopted_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = pictures(tmp_path / "data")
    local = adopt(str(tmp_path / "local"), str(tmp_path / "data"))
    with s3_server() as port, reached_at(port):
        bucket = open_files("s3://mill/corpus")
        for path in (tmp_path / "data").glob("*.tar"):
            bucket.publish(Path(shutil.copy(path, tmp_path)), path.name)
        bucket.settle()
        for number, tars in enumerate(("s3://mill/corpus/{0,1}.tar", "s3://mill/corpus/*.tar", "s3://mill/corpus")):
            snapshot = adopt(str(tmp_path / str(number)), tars)
            assert snapshot.content_root == local.content_root
            assert list(snapshot.records()) == list(local.records())
            assert all(snapshot.read(one.media[0].location) == shown[one.text] for one in snapshot.records())
            assert not verify(snapshot)
        # A cache trusts names like those of our own shards; these are not ours.
        monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path / "cache"))
        name, words = f"{'ab' * 32}.tar", write(tmp_path / "w.tar", {"1": {"txt": b"First."}}).read_bytes()

        def put(data: bytes) -> None:
            (tmp_path / "put").write_bytes(data)
            bucket.delete(name)
            bucket.publish(tmp_path / "put", name)
            bucket.settle()

        put(words)
        named = adopt(str(tmp_path / "named"), f"s3://mill/corpus/{name}")
        assert named.record(0).text == "First."
        put(words.replace(b"First.", b"Later."))
        with pytest.raises(StoreError, match="not those that were adopted"):
            Store.open(named.url).snapshot(named.number).record(0)
        bucket.delete("1.tar")
        with pytest.raises(StoreError, match="missing"):
            Store.open(snapshot.url).snapshot(snapshot.number).record(31)
