"""Sandbox: a killable child process with limits, for decoders of untrusted bytes.

Video and image decoders are large native programs with a history of crashes, endless loops and memory bombs. Called
through a `Sandbox`, a hostile file costs one record at most:

    with Sandbox(memory_bytes=2 << 30, cpu_s=60, wall_s=120) as child:
        times_us = child.call("stores.media.video:frame_times_us", payload)

The process starts at the first call, serves calls one after the other, and is replaced when it dies. The verdict on a
file must not depend on earlier files, so a crash or a lack of memory counts only in a fresh process: if a process that
served calls before dies, it is replaced and the call is repeated once.

Arguments and results are None, booleans, numbers, text, bytes, numpy arrays and sequences of these, which arrive as
tuples. They are sent as JSON followed by raw bytes. Nothing from the child is unpickled, and the size of its messages
is limited.

Linux enforces the limits: address space, CPU time per call, no written files, no core dumps, few file descriptors, none
inherited; the environment is without the parent's secrets. The kernel kills the child when the thread that started it
ends, so a Sandbox belongs to that thread.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from manifests.errors import RecordError
from manifests.records import Json

_HEADER = struct.Struct("<I")
_MAX_JSON_BYTES = 64 * 2**20
_DTYPES = ("uint8", "int64", "float32")
_START_S = 60.0
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
_PR_SET_PDEATHSIG = 1


class Sandbox:
    """Child process that runs functions of this project by name, under limits."""

    def __init__(self, *, memory_bytes: int = 3 << 30, cpu_s: int = 1200, wall_s: float = 3600.0) -> None:
        """
        Args:
            memory_bytes: address space of the child. Python, numpy and the decoders take 0.25 GB of it, the largest
                image that `stores.media.image` accepts 0.8 GB.
            cpu_s: CPU seconds of one call, all threads together.
            wall_s: seconds until the answer has arrived.

        Both times stop hanging calls only; they are far beyond the longest video that `stores.media.video` accepts. The
        functions themselves limit bytes, pixels and frames, so that no verdict depends on the load of a machine.
        """
        self.memory_bytes, self.cpu_s, self.wall_s = memory_bytes, cpu_s, wall_s
        self._worker: _Worker | None = None
        self._owner = (os.getpid(), threading.get_ident())

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if one runs. The next call starts another."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function in the child and return its result.

        Args:
            function: "module:name", imported in the child.
        Raises:
            RecordError: raised by the function, or `decoder_crashed`, `decoder_out_of_memory`, `decoder_timeout`.
            RuntimeError: any other exception in the child, which is a bug; with the child's traceback.
        """
        if self._owner != (os.getpid(), threading.get_ident()):
            raise RuntimeError("a Sandbox may be used by the thread that made it only: make one per thread and process")
        warm = self._worker is not None and self._worker.alive()
        try:
            return self._call(function, arguments)
        except RecordError as error:
            if not warm or error.reason not in ("decoder_crashed", "decoder_out_of_memory"):
                raise
        return self._call(function, arguments)

    def _call(self, function: str, arguments: Sequence[Any]) -> Any:
        if self._worker is None or not self._worker.alive():
            self.close()
            self._worker = _Worker(self.memory_bytes, self.cpu_s)
        deadline = time.monotonic() + self.wall_s
        try:
            self._worker.send([function, *arguments], deadline)
            answer = self._worker.receive(deadline, self.memory_bytes)
        except TimeoutError:
            self.close()
            raise RecordError("decoder_timeout", f"{function}: no answer after {self.wall_s:g} s") from None
        except (OSError, ValueError):  # a broken pipe, or a malformed message
            status = self._worker.kill()
            self._worker = None
            if status == -signal.SIGXCPU:
                raise RecordError("decoder_timeout", f"{function}: more than {self.cpu_s} CPU seconds") from None
            raise RecordError("decoder_crashed", f"{function}: its process {_how(status)}") from None
        match answer:
            case ("result", value):
                return value
            case ("record_error", (str(reason), str(message))):
                raise RecordError(reason, message)
            case ("no_memory", _):
                self.close()  # its address space may be in any state
                gib = self.memory_bytes / 2**30
                raise RecordError("decoder_out_of_memory", f"{function}: needs more than {gib:.1f} GiB")
            case _:
                raise RuntimeError(f"{function} failed in the child process:\n{answer[-1]}")


class _Worker:
    """Parent side: one started process and the pipes to it."""

    def __init__(self, memory_bytes: int, cpu_s: int) -> None:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",  # every arena reserves 64 MiB of the address space
        }
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-m", "stores.media.sandbox", str(os.getpid()), str(memory_bytes), str(cpu_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd="/",
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends the child
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        try:
            self.receive(time.monotonic() + _START_S, memory_bytes)
        except (OSError, ValueError) as error:
            raise RuntimeError(f"the sandbox process did not start: it {_how(self.kill())}") from error

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> int:
        """End the process; return its exit status, or minus the signal that ended it."""
        if self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.stdout.close()
        try:
            return self._process.wait(timeout=0.2)  # it may be ending by a signal, which the error names
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def send(self, message: Any, deadline: float) -> None:
        for block in _encode(message):
            left = memoryview(block)
            while left:
                self._wait(self._in, select.POLLOUT, deadline)
                left = left[os.write(self._in, left) :]

    def receive(self, deadline: float, max_bytes: int) -> Any:
        def read(count: int) -> bytearray:
            data = bytearray(count)
            left = memoryview(data)
            while left:
                self._wait(self._out, select.POLLIN, deadline)
                got = os.readv(self._out, [left])
                if not got:
                    raise BrokenPipeError
                left = left[got:]
            return data

        return _decode(read, max_bytes)

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(fd, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError


def _how(status: int) -> str:
    return f"exited with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"


def _encode(message: Any) -> list[bytes | memoryview]:
    """Encode a message as blocks: length of the JSON, the JSON, then every byte string and array in it."""
    raw: list[bytes | memoryview] = []

    def plain(value: Any) -> Json:
        match value:
            case None | bool() | int() | float() | str():
                return value
            case bytes() | bytearray():
                raw.append(memoryview(value))
                return {"bytes": len(value)}
            case np.ndarray():
                raw.append(np.ascontiguousarray(value).data.cast("B") if value.size else b"")
                return {"array": str(value.dtype), "shape": value.shape}
            case list() | tuple():
                return [plain(item) for item in value]
        raise TypeError(f"a {type(value).__name__} can't travel to or from the child process")

    text = json.dumps(plain(message)).encode()
    return [_HEADER.pack(len(text)), text, *raw]


def _decode(read: Callable[[int], bytes | bytearray], max_bytes: int) -> Any:
    """Decode a message of `_encode`; `read(n)` returns exactly n bytes. Raises ValueError for a malformed message."""
    (length,) = _HEADER.unpack(read(_HEADER.size))
    if length > _MAX_JSON_BYTES:
        raise ValueError(f"a message of {length:,} bytes")
    left = max_bytes

    def blob(count: int) -> bytes | bytearray:
        nonlocal left
        left -= count
        if count < 0 or left < 0:
            raise ValueError(f"{count:,} bytes in one message of at most {max_bytes:,}")
        return read(count)

    def restored(value: Json) -> Any:
        match value:
            case list():
                return tuple(restored(item) for item in value)
            case {"bytes": int(count)}:
                return bytes(blob(count))
            case {"array": str(dtype), "shape": [*shape]} if dtype in _DTYPES:
                return np.frombuffer(blob(math.prod(shape) * np.dtype(dtype).itemsize), dtype).reshape(shape)
            case dict():
                raise ValueError(f"unknown kind of value: {value}")
        return value

    return restored(json.loads(read(length)))


def _serve(parent: int, memory_bytes: int, cpu_s: int) -> None:
    """Child side: apply the limits, then answer calls until the pipe closes."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # native code may print anywhere
    _confine(parent, memory_bytes)
    _write(sink, _encode("ready"))
    os.dup2(null, 2)  # errors before this line reach the parent's stderr
    while True:
        try:
            function, *arguments = _decode(lambda count: _read(source, count), memory_bytes)
        except EOFError:
            return
        used_s = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(used_s.ru_utime + used_s.ru_stime) + cpu_s, hard=False)
        try:
            module, _, name = function.partition(":")
            answer = _encode(("result", getattr(importlib.import_module(module), name)(*arguments)))
        except RecordError as error:
            answer = _encode(("record_error", (error.reason, error.message)))
        except MemoryError:
            answer = _encode(("no_memory", None))
        except Exception:  # not swallowed: `call` raises it again in the parent
            answer = _encode(("mistake", traceback.format_exc()))
        _write(sink, answer)


def _write(sink: BinaryIO, blocks: list[bytes | memoryview]) -> None:
    for block in blocks:
        sink.write(block)
    sink.flush()


def _read(source: BinaryIO, count: int) -> bytes:
    data = source.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _confine(parent: int, memory_bytes: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the parent process ended before its child was ready")
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)


def _limit(which: int, value: int, *, hard: bool = True) -> None:
    """Lower a resource limit; a lower one stays. `hard` limits can't be raised again."""
    ceiling = resource.getrlimit(which)[1]
    value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
    resource.setrlimit(which, (value, value if hard else ceiling))


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:4]))
