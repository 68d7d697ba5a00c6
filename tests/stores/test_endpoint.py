"""Endpoint client: requests are answered once and cached, transient failures retried, forgotten answers deleted."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from manifests.errors import ManifestError, MillraceError, RecordError, StoreError
from manifests.records import Json, Media
from stores import endpoint, tombstones
from stores.endpoint import Endpoint, EndpointClient, image_part
from stores.files.open import open_files
from tests.servers.chat import Chat, Fault
from tests.servers.faulty import Faulty

ONE, OTHER = "1" * 32, "2" * 32


def request_of(text: str = "Say <<<\na b c\n>>>") -> Json:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "seed": 5, "temperature": 0.5}


def client(chat: Chat, stores: Path | str, deadline_s: float = 20.0, **more: str) -> EndpointClient:
    return EndpointClient(str(stores), Endpoint(url=chat.url, deadline_s=deadline_s, at_once=3, **more))


@pytest.mark.parametrize("remote", [False, True])
def test_equal_requests_of_several_clients_are_sent_once(chat: Chat, tmp_path: Path, s3: Faulty, remote: bool) -> None:
    stores = f"s3://mill/{tmp_path.name}" if remote else str(tmp_path)
    first = client(chat, stores).ask(ONE, request_of())
    assert first.text == "c b a (5)" and first.answer_tokens == 7
    chat.reply = lambda request: "something else"
    assert client(chat, stores).ask(ONE, request_of()) == first and len(chat.seen) == 1
    assert client(chat, stores).ask(ONE, request_of() | {"seed": 6}).text == "something else"


def test_the_first_of_two_concurrent_answers_stays(chat: Chat, tmp_path: Path) -> None:
    both = threading.Barrier(2)
    answers = iter("ab")

    def reply(request: Json) -> str:
        answer = next(answers)
        both.wait(60)
        return answer

    chat.reply = reply
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(client(chat, tmp_path).ask(ONE, request_of()).text)) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 2 and len(set(texts)) == 1


@pytest.mark.parametrize("fault", ["429", "500", "reset", "torn", "short"])
def test_transient_failures_are_retried(chat: Chat, tmp_path: Path, fault: Fault) -> None:
    chat.rule = lambda request, again: fault if again < 2 else None
    assert client(chat, tmp_path).ask(ONE, request_of()).text == "c b a (5)"
    assert sum(chat.seen.values()) == 3


@pytest.mark.parametrize(
    "fault, error, reason",
    [
        ("400", RecordError, "request_refused"),
        ("no_choices", RecordError, "wrong_schema"),
        ("surrogate", RecordError, "wrong_schema"),
        ("deep", RecordError, "wrong_schema"),
        ("401", ManifestError, ""),
        ("redirect", ManifestError, ""),
    ],
)
def test_permanent_failures_are_not_retried(
    chat: Chat, tmp_path: Path, fault: Fault, error: type[MillraceError], reason: str
) -> None:
    chat.rule = lambda request, again: fault
    with pytest.raises(error) as raised:
        client(chat, tmp_path).ask(ONE, request_of())
    assert getattr(raised.value, "reason", "") == reason and sum(chat.seen.values()) == 1
    assert not list(open_files(str(tmp_path)).listing("answers"))


@pytest.mark.parametrize("fault", ["stall", "trickle", "500"])
def test_an_endpoint_that_never_answers_costs_only_the_deadline(chat: Chat, tmp_path: Path, fault: Fault) -> None:
    chat.rule = lambda request, again: fault
    with pytest.raises(StoreError, match="no good answer after"):
        client(chat, tmp_path, deadline_s=0.6).ask(ONE, request_of())


def test_concurrent_requests_stay_within_at_once(chat: Chat, tmp_path: Path) -> None:
    chat.delay = lambda request: 0.03
    shared = client(chat, tmp_path)
    threads = [threading.Thread(target=shared.ask, args=(ONE, request_of(f"{i}"))) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(chat.answered.values()) == 9 and chat.max_concurrent == 3


def test_the_key_comes_from_the_environment_and_is_in_no_file(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ManifestError, match="MILL_KEY"):
        client(chat, tmp_path, key_from="MILL_KEY")
    monkeypatch.setenv("MILL_KEY", "s3cret-w0rd")
    shared = client(chat, tmp_path, key_from="MILL_KEY")
    shared.ask(ONE, request_of())
    chat.rule = lambda request, again: "401"
    with pytest.raises(ManifestError) as raised:
        shared.ask(OTHER, request_of())
    assert chat.authorization == {"Bearer s3cret-w0rd"} and "s3cret" not in str(raised.value)
    assert not any(b"s3cret" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_picture_is_sent_as_bytes_and_cached_as_its_digest(chat: Chat, tmp_path: Path) -> None:
    medium = Media("ab" * 32, "image", "jpg", 4, 4, payload=b"\xff\xd8bytes")
    request = request_of() | {"messages": [{"role": "user", "content": [image_part(medium)]}]}
    client(chat, tmp_path).ask(ONE, request, {medium.digest: medium})
    (sent,) = map(json.loads, chat.seen)
    assert sent["messages"][0]["content"][0]["image_url"]["url"] == "data:image/jpeg;base64,/9hieXRlcw=="
    (file,) = open_files(str(tmp_path)).listing("answers")
    assert file.path == f"answers/{ONE}/{endpoint.request_digest(request)}.json"
    assert json.loads((tmp_path / file.path).read_bytes())["request"] == request


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"request": {}, "answer": {"text": "", "finish": ""}}'])
def test_a_damaged_cached_answer_is_an_error_that_names_the_file(chat: Chat, tmp_path: Path, damage: bytes) -> None:
    client(chat, tmp_path).ask(ONE, request_of())
    (file,) = (tmp_path / "answers" / ONE).iterdir()
    file.write_bytes(damage)
    with pytest.raises(StoreError, match="damaged") as raised:
        client(chat, tmp_path).ask(ONE, request_of())
    assert raised.value.where == str(file)


def test_answers_about_forgotten_documents_are_deleted(chat: Chat, tmp_path: Path) -> None:
    shared = client(chat, tmp_path)
    for document in (ONE, OTHER):
        for seed in (1, 2):
            shared.ask(document, request_of() | {"seed": seed})
    (tmp_path / "answers" / "aside" / "left").write_text("half an answer")
    assert endpoint.delete_answers(str(tmp_path), tombstones.tombstones_of({"ids": [ONE]})) == 2
    left = [info.path for info in open_files(str(tmp_path)).listing("answers")]
    assert len(left) == 2 and all(path.startswith(f"answers/{OTHER}/") for path in left)
    assert endpoint.delete_answers(str(tmp_path / "other"), tombstones.tombstones_of({"ids": [ONE]})) == 0


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "http://me:word@host", "http://h/?key=1"])
def test_a_url_that_is_invalid_or_contains_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Endpoint(url=url)
