"""Foreign tars adopted in place: every layout, every kind of damage, and the samples that `webdataset` finds."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
import webdataset
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.conversation import conversation_in
from manifests.errors import ManifestError
from manifests.records import Json, record_id
from pipelines.ingest.tars import members as tar_samples
from pipelines.ingest.tars.field_map import FieldMap
from stores.upkeep.verify import verify
from tests.pipelines import small_data
from tests.pipelines.foreign_tars import JPEG, PNG, Sample, adopt, as_json, by_key, quarantine_reasons, shape, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "store")


# ------------------------------------------------------------ layouts


def test_the_webdataset_layout_gives_media_and_their_text(data: Path, place: str) -> None:
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
    documents = by_key(snapshot := adopt(place, str(data / "a.tar"), license="MIT"))
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
    assert documents["0005"].notes == {"class": "7"} and documents["sub/dir.d/0003"].license == "CC0-1.0"
    assert documents["0001"].license == "MIT" and documents["0001"].id == record_id("own", "a.tar#0001")
    assert not quarantine_reasons(snapshot) and documents["0001"].domain == "caption"


def test_conversations_keep_roles_calls_and_media(data: Path, place: str) -> None:
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
    documents = by_key(snapshot)
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
    conversation = conversation_in(documents["agent"])
    assert conversation is not None and [message.role for message in conversation.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert conversation.messages[2].calls[0].name == "look" and documents["agent"].domain == "agent"
    assert documents["llava"].notes["id"] == "7" and snapshot.read(documents["agent"].media[0].location) == JPEG
    assert quarantine_reasons(snapshot) == {"odd": "unknown_role"}


def test_the_img2dataset_layout_gives_origins_and_refuses_failed_downloads(data: Path, place: str) -> None:
    def metadata(status: str, **more: Json) -> bytes:
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
            "000000000": {"jpg": JPEG, "json": metadata("success"), "txt": b"A mill."},
            "000000001": {"jpg": JPEG, "json": metadata("success", caption="Only here.")},
            "000000002": {"json": metadata("failed_to_download", error_message="404"), "txt": b"Gone."},
            "000000003": {"jpg": JPEG, "json": metadata("success"), "txt": b"Third."},
        },
    )
    snapshot = adopt(place, str(data))
    documents = by_key(snapshot)
    assert {key: shape(document)[-1] for key, document in documents.items()} == {
        "000000000": "A mill.",
        "000000001": "Only here.",
        "000000003": "Third.",
    }
    assert documents["000000000"].origin == "https://a.example/1.jpg" and documents["000000000"].notes == {
        "original_sha256": "ab"
    }
    assert quarantine_reasons(snapshot) == {"000000002": "not_downloaded"}


def test_the_interleaved_layout_gives_the_order_of_texts_and_images(data: Path, place: str) -> None:
    png, jpg = small_data.image(5), small_data.image(6, "jpeg")
    media = {"0.png": png, "1.jpg": jpg}
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
    documents = by_key(snapshot := adopt(place, str(data / "*.tar")))
    assert {key: shape(document) for key, document in documents.items()} == {
        "obelics": ["First.", "png", "Then.", "jpg"],
        "named": ["A", "jpg", "B", "png", "jpg"],
        "mmc4": ["png", "a", "jpg", "b"],
        "words": ["only", "words"],
    }
    assert [snapshot.read(medium.location) for medium in documents["named"].media] == [jpg, png, jpg]
    assert documents["obelics"].domain == "interleaved" and documents["obelics"].origin == "https://a.example"
    assert quarantine_reasons(snapshot) == {"absent": "missing_media"}


def test_energon_metadata_gives_the_shards_of_a_split_and_the_field_map(data: Path, place: str) -> None:
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


def test_a_field_map_reads_other_layouts(data: Path, place: str) -> None:
    members = {
        "left.png": PNG,
        "right.png": JPEG,
        "meta": b"{}",
        "json": as_json({"q": "Where?", "a": ["Here.", "There."], "by": {"lic": "MIT"}}),
    }
    write(data / "a.tar", {"1": members, "2": {**members, "json": as_json({"q": "Where?"})}})
    fields = FieldMap(media=("left.png",), text=("json[q]", "json[a]"), license="json[by][lic]")
    documents = by_key(snapshot := adopt(place, str(data / "a.tar"), fields=fields))
    assert shape(documents["1"]) == ["png", "Where?\nHere.\nThere."] and documents["1"].license == "MIT"
    assert quarantine_reasons(snapshot) == {"2": "no_text_field"}
    write(data / "b.tar", {"3": {"photo": PNG, "words": b"Odd endings.", "rights": b"CC0-1.0"}})
    odd = FieldMap(media=("jpg, photo",), text=("words",), license="json[l],rights")
    (document,) = adopt(place + "2", str(data / "b.tar"), fields=odd).records()
    assert shape(document) == ["png", "Odd endings."] and document.license == "CC0-1.0"
    with pytest.raises(ManifestError, match="is no place in a sample"):
        adopt(place + "3", str(data / "b.tar"), fields=FieldMap(text=("json[",)))


def test_samples_without_media_and_with_video(data: Path, place: str, tmp_path: Path) -> None:
    small_data.clip(tmp_path / "clip.mp4")
    write(data / "text.tar", {f"{i}": {"json": as_json({"prompt": f"{i}?", "answer": "Yes."})} for i in range(3)})
    write(data / "video.tar", {"v": {"mp4": (tmp_path / "clip.mp4").read_bytes(), "txt": b"It turns."}})
    snapshot = adopt(place, str(data))
    documents = by_key(snapshot)
    assert documents["0"].text == "0?\nYes." and documents["0"].domain == "knowledge"
    assert [documents["0"].text[fact.start : fact.stop] for fact in documents["0"].facts] == ["Yes."]
    (turning,) = documents["v"].media
    assert len(turning.frame_times_us) == 12 and documents["v"].domain == "video"
    assert turning.container_fps == 4.0


# ------------------------------------------------------------ comparison with webdataset


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=12)
def test_samples_equal_those_of_webdataset(seed: int, count: int) -> None:
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
        documents = by_key(snapshot)
        plain = {sample["__key__"]: sample for sample in webdataset.WebDataset(str(path), shardshuffle=False)}
        assert documents.keys() == plain.keys() == written.keys()
        for key, document in documents.items():
            assert document.text == plain[key]["txt"].decode().strip()
            assert snapshot.read(document.media[0].location) == plain[key]["jpg"]
            assert document.origin == json.loads(plain[key].get("json", b'{"url": ""}'))["url"]


def test_published_tars_without_text_go_to_quarantine_record_by_record(test_data: Path, place: str) -> None:
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


def test_each_bad_sample_goes_to_quarantine_with_its_reason(data: Path, place: str) -> None:
    data.mkdir()
    hostile(data / "a.tar")
    snapshot = adopt(place, str(data))
    assert set(by_key(snapshot)) == {"good0", "good1", "n" * 300}
    assert quarantine_reasons(snapshot) == HOSTILE


def test_a_torn_tar_gives_its_whole_samples_and_one_damage(data: Path, place: str) -> None:
    path = write(data / "a.tar", {f"{i}": {"jpg": JPEG, "txt": b"Good."} for i in range(4)})
    third = path.read_bytes().index(b"2.jpg")
    os.truncate(path, third + 512 + 100)
    snapshot = adopt(place, str(data))
    assert set(by_key(snapshot)) == {"0", "1"}
    (damage,) = snapshot.quarantined().to_pylist()
    assert damage["reason"] == "torn_tar" and damage["locator"] == f"a.tar@{third + 512}"
    assert "inside 2.jpg" in damage["message"]
    assert not verify(snapshot)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty_tar"), (bytes(10_240), "empty_tar"), (b"no tar" * 999, "not_a_tar")]
)
def test_a_tar_without_records_is_one_line_of_quarantine(data: Path, place: str, content: bytes, reason: str) -> None:
    write(data / "good.tar", {"1": {"jpg": JPEG, "txt": b"Good."}})
    (data / "bad.tar").write_bytes(content)
    snapshot = adopt(place, str(data))
    assert set(by_key(snapshot)) == {"1"} and quarantine_reasons(snapshot) == {"bad.tar@0": reason}


def test_compressed_tars_and_ambiguous_names_are_refused_before_any_work(data: Path, place: str) -> None:
    write(data / "a" / "x.tar", {"1": {"txt": b"a"}})
    write(data / "b" / "x.tar", {"1": {"txt": b"b"}})
    shutil.make_archive(str(data / "packed"), "gztar", data / "a")
    with pytest.raises(ManifestError, match="compressed with gzip"):
        adopt(place, str(data / "packed.tar.gz"))
    with pytest.raises(ManifestError, match="have the same name"):
        adopt(place, [str(data / "a" / "x.tar"), str(data / "b" / "x.tar")])
    with pytest.raises(ManifestError, match="no tars found"):
        adopt(place, str(data / "gone.tar"))
    with pytest.raises(ManifestError, match="no tars found"):
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
    for number, (names, record, odd) in enumerate(mixes):
        members = {name: GOOD[name] for name in names} | ({"json": as_json(record)} if record is not None else {})
        written[f"{number:03d}"] = members | ({odd: ODD[odd]} if odd else {})
    with tempfile.TemporaryDirectory() as folder:
        snapshot = adopt(f"{folder}/store", str(write(Path(folder) / "x.tar", written)))
        again = adopt(f"{folder}/again", f"{folder}/*.tar")
        kept, refused = by_key(snapshot), snapshot.quarantined().column("locator").to_pylist()
        assert sorted([*kept, *(locator.removeprefix("x.tar#") for locator in refused)]) == sorted(written)
        assert snapshot.content_root == again.content_root and not verify(snapshot)
        assert "unexpected_error" not in snapshot.quarantined().column("reason").to_pylist()
        for key, document in kept.items():
            media = [snapshot.read(medium.location) for medium in document.media]
            assert all(payload in written[key].values() for payload in media) and document.text.strip()


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_damage_never_stops_a_unit_and_is_never_read_as_data(seed: int) -> None:
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
            assert all(payload in raw for payload in media) and len(media) == 1
        assert "unexpected_error" not in snapshot.quarantined().column("reason").to_pylist()
        assert not verify(snapshot)
