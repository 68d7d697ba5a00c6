"""A killable child process with limits, for decoders that run on bytes from strangers.

Video and image decoders are large native programs with a history of crashes, endless loops and memory bombs. Called
through a `LimitedChild`, the worst a file can do is cost one record:

    with LimitedChild(memory_bytes=2 << 30, cpu_s=60, wall_s=120) as child:
        times_us = child.call("stores.media.video:frame_times_us", payload)

The process is warm: it is started at the first call, serves one after the other, and is replaced when it dies. So that
the verdict on a file depends on that file alone and not on what the process did before it, a crash or a lack of memory
is believed only of a fresh process: a warm one that dies is replaced and the call repeated once.

Arguments and results are None, booleans, numbers, text, bytes, numpy arrays and sequences of these, which arrive as
tuples. They travel as JSON with raw bytes behind it: nothing that the child says is unpickled, and how much it says is
bounded.

Limits are Linux's: address space, CPU time per call, no files written, no core dumps, few file descriptors, none
inherited, an environment without the parent's secrets. The kernel kills the child when the thread that started it
ends, however it ends; therefore a LimitedChild belongs to that thread.
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


class LimitedChild:
    """Runs functions of ours, by name, in a process of their own under limits."""

    def __init__(self, *, memory_bytes: int = 3 << 30, cpu_s: int = 1200, wall_s: float = 3600.0) -> None:
        """
        Args:
            memory_bytes: address space of the child. Python, numpy and the decoders take 0.25 GB of it, the largest
                picture that `stores.media.image` accepts 0.8 GB.
            cpu_s: CPU seconds of one call, all threads together.
            wall_s: seconds until the answer has arrived.

        Both times are backstops for what hangs, far beyond the longest video that `stores.media.video` accepts: what a
        record may cost is limited in bytes, pixels and frames by the functions themselves, so that no verdict depends
        on how busy a machine is.
        """
        self.memory_bytes, self.cpu_s, self.wall_s = memory_bytes, cpu_s, wall_s
        self._worker: _Worker | None = None
        self._owner = (os.getpid(), threading.get_ident())

    def __enter__(self) -> LimitedChild:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if one runs. The next call would start another."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def call(self, function: str, *arguments: Any) -> Any:
        """`function` is `module:name`, imported in the child.

        Raises RecordError: its own, passed on, or `decoder_crashed`, `decoder_out_of_memory` or `decoder_timeout`.
        Any other exception in the child is a mistake of ours and becomes a RuntimeError with the child's traceback.
        """
        if self._owner != (os.getpid(), threading.get_ident()):
            raise RuntimeError("a LimitedChild is used by the thread that made it: make one per thread and process")
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
        except (OSError, ValueError):  # the pipe broke, or what came through it is no message
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
                self.close()  # what is left of its address space is anybody's guess
                gib = self.memory_bytes / 2**30
                raise RecordError("decoder_out_of_memory", f"{function}: needs more than {gib:.1f} GiB")
            case _:
                raise RuntimeError(f"{function} failed in the child process:\n{answer[-1]}")


class _Worker:
    """The parent's end: one started process and the pipes to it."""

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
            raise RuntimeError(f"the limited child process did not start: it {_how(self.kill())}") from error

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> int:
        """End the process and say how it ended: an exit status, or minus a signal."""
        if self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.stdout.close()
        try:
            return self._process.wait(timeout=0.2)  # it may be dying on its own, of a signal worth knowing
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
    """Blocks to write one after the other: length of the JSON, the JSON, then every byte string and array in it."""
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
    """The other end of `_encode`; `read(n)` gives exactly n bytes. Raises ValueError for what is no message."""
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
    """The child's end: confine yourself, then answer calls until the pipe closes."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # native code prints where it likes
    _confine(parent, memory_bytes)
    _write(sink, _encode("ready"))
    os.dup2(null, 2)  # until here, what goes wrong is told on the parent's stderr
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
        except Exception:  # not swallowed: `call` raises it again on the other side
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
    """Lower a limit; one that already is lower stays. `hard` ones can't be raised again."""
    ceiling = resource.getrlimit(which)[1]
    value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
    resource.setrlimit(which, (value, value if hard else ceiling))


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:4]))
