"""Tests of the sandbox process, with functions of the standard library that crash, hang or use up memory."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RecordError
from stores.media.sandbox import Sandbox, _decode

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def child() -> Iterator[Sandbox]:
    with Sandbox(memory_bytes=1 << 30, cpu_s=1, wall_s=2.0) as started:
        yield started


def reason(child: Sandbox, function: str, *arguments: object) -> str:
    """Reason for which a call is refused."""
    with pytest.raises(RecordError) as caught:
        child.call(function, *arguments)
    return caught.value.reason


def still_works(child: Sandbox) -> bool:
    return child.call("math:hypot", 3.0, 4.0) == 5.0


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("os:abort", (), "decoder_crashed"),
        ("ctypes:string_at", (0,), "decoder_crashed"),  # reads address 0
        ("os:_exit", (3,), "decoder_crashed"),
        ("builtins:bytearray", (4 << 30,), "decoder_out_of_memory"),
        ("time:sleep", (60,), "decoder_timeout"),
    ],
)
def test_a_call_that_kills_the_child_refuses_one_record(
    child: Sandbox, function: str, arguments: tuple[object, ...], expected: str
) -> None:
    started = time.monotonic()
    assert reason(child, function, *arguments) == expected
    assert time.monotonic() - started < 20
    assert still_works(child)


def test_the_cpu_time_limit_applies_to_each_call_alone() -> None:
    with Sandbox(cpu_s=1, wall_s=200.0) as patient:
        pid = patient.call("os:getpid")
        for _ in range(3):
            patient.call(
                "builtins:exec", "import time; t = time.process_time()\nwhile time.process_time() < t + 0.6: 0"
            )
        assert patient.call("os:getpid") == pid
        with pytest.raises(RecordError, match="more than 1 CPU seconds") as caught:
            patient.call("builtins:pow", 3, 10**9)  # busy in C; only a signal stops it
        assert caught.value.reason == "decoder_timeout"


def test_a_record_error_travels_with_its_reason(child: Sandbox) -> None:
    assert reason(child, "stores.media.image:check", b"not a picture") == "unknown_format"


def test_a_bug_is_no_record_error_and_has_a_traceback(child: Sandbox) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*JSONDecodeError"):
        child.call("json:loads", "{")
    with pytest.raises(RuntimeError, match="no_such_name"):
        child.call("stores.media.image:no_such_name")
    assert still_works(child)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=10,
)


@given(value=VALUES)
def test_values_arrive_as_they_were_sent(child: Sandbox, value: object) -> None:
    assert child.call("copy:copy", value) == value


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 3, 3), (700, 900, 3)])
def test_arrays_arrive_as_they_were_sent(child: Sandbox, shape: tuple[int, ...]) -> None:
    sent = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    got = child.call("copy:copy", [sent, sent.T])
    assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(got, [sent, sent.T], strict=True))


@pytest.mark.parametrize(
    "header",
    [
        {"bytes": 10**9},
        {"bytes": -1},
        {"array": "uint8", "shape": [10**6, 10**6]},
        {"array": "object", "shape": [1]},
        {"pickle": "cos\nsystem"},
        [{"bytes": 600}, {"bytes": 600}],
    ],
)
def test_a_message_with_a_false_header_is_refused_before_its_bytes_are_read(header: object) -> None:
    text = json.dumps(header).encode()
    message = io.BytesIO(len(text).to_bytes(4, "little") + text + bytes(600))
    with pytest.raises(ValueError, match=r"bytes in one message|unknown kind"):
        _decode(message.read, max_bytes=1000)


def test_calls_share_one_process_until_it_dies(child: Sandbox) -> None:
    first = child.call("os:getpid")
    assert child.call("os:getpid") == first
    assert reason(child, "os:abort") == "decoder_crashed"
    assert child.call("os:getpid") != first


def test_memory_that_earlier_calls_kept_refuses_no_later_call() -> None:
    """Each call leaks 300 MB. The fourth does not fit into the old process and gets a new one."""
    keep = "import sys; sys.kept = getattr(sys, 'kept', []) + [bytearray(300 << 20)]"
    with Sandbox(memory_bytes=1 << 30) as leaky:
        pids = set()
        for _ in range(7):
            leaky.call("builtins:exec", keep)
            pids.add(leaky.call("os:getpid"))
        assert 2 <= len(pids) < 7


def test_a_child_that_died_between_calls_is_replaced_without_an_error(child: Sandbox) -> None:
    os.kill(child.call("os:getpid"), signal.SIGKILL)
    time.sleep(0.1)
    assert still_works(child)


def test_no_open_file_and_no_secret_is_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET_KEY", "in the environment")
    with (tmp_path / "secret").open("w") as opened, Sandbox() as fresh:
        os.set_inheritable(opened.fileno(), True)
        pid = fresh.call("os:getpid")
        held = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert held and not [target for target in held if str(tmp_path) in target]
    assert b"PYTHONPATH" in environment and b"SOME_SECRET_KEY" not in environment


def test_no_file_can_be_written(child: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "written"
    with pytest.raises(RuntimeError, match="File too large"):
        child.call("builtins:exec", f"with open({str(file)!r}, 'w') as out: out.write('x')")
    assert file.stat().st_size == 0


def test_a_sandbox_refuses_a_call_from_another_thread(child: Sandbox) -> None:
    caught: list[BaseException] = []

    def use() -> None:
        try:
            child.call("os:getpid")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert "one per thread" in str(caught[0])


@pytest.mark.parametrize("busy", ["time:sleep(600)", "idle"])
def test_no_process_is_left_when_the_parent_is_killed(busy: str) -> None:
    script = """
        import sys
        from stores.media.sandbox import Sandbox
        child = Sandbox()
        print(child.call("os:getpid"), flush=True)
        if "sleep" in sys.argv[1]:
            child.call("time:sleep", 600)
        sys.stdin.read()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), busy],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.kill()
    parent.communicate()
    for _ in range(50):
        if not alive(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"process {pid} outlived its parent")


def alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_child_that_does_not_start_is_no_record_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="did not start: it exited with status 1"):
        Sandbox().call("os:getpid")
