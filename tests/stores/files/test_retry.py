"""Requests keep the limits of rate and concurrency, end at the deadline, and read no byte twice."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError, StoreError
from stores.files.ranges import ByteRange, cut, merge_ranges
from stores.files.retry import Limits, Requests


def test_requests_of_many_threads_keep_rate_and_concurrency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_REQUESTS_PER_S", "200")
    monkeypatch.setenv("MILLRACE_REQUESTS_AT_ONCE", "3")
    requests = Requests(Limits.from_environment())
    lock, running, most, starts = threading.Lock(), 0, 0, list[float]()

    def attempt(seconds: float) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            starts.append(time.monotonic())
        time.sleep(0.001)
        with lock:
            running -= 1

    started = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        for _ in range(80):
            pool.submit(requests.run, attempt, where="w", is_transient=lambda error: False)
    assert most == 3 and len(starts) == 80
    assert max(starts) - started > (80 - 21) / 200  # a tenth of a second's worth may start together


def test_a_failing_request_ends_at_the_deadline_of_all_its_tries() -> None:
    requests, tries = Requests(Limits(deadline_s=0.8)), 0

    def fail(seconds: float) -> None:
        nonlocal tries
        tries += 1
        assert 0 < seconds <= 0.2  # a quarter of the deadline
        raise ConnectionResetError("reset")

    began = time.monotonic()
    with pytest.raises(StoreError, match=r"no good answer after \d tries in \d s; the last: reset"):
        requests.run(fail, where="s3://b/x", is_transient=lambda error: True)
    assert tries > 1 and time.monotonic() - began < 0.8 + 0.5
    with pytest.raises(ConnectionResetError):
        requests.run(fail, where="s3://b/x", is_transient=lambda error: False)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_limit_that_is_not_a_positive_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_DEADLINE_S", text)
    with pytest.raises(ManifestError, match=r"MILLRACE_DEADLINE_S: expected a number above 0, got"):
        Limits.from_environment()


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 200)), max_size=12), st.integers(0, 60), st.integers(1, 300)
)
def test_ranges_take_few_requests_that_read_no_byte_twice(ranges: list[ByteRange], gap: int, most: int) -> None:
    data = bytes(range(250)) * 4
    requests = merge_ranges(ranges, gap, most)
    assert all(0 < length <= most for _, length in requests)
    ends = [(offset, offset + length) for offset, length in requests]
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ends))
    # A request ends at the longest length, or before a gap in which no byte is wanted.
    assert all(
        length == most or stop + gap < start
        for (_, length), (_, stop), (start, _) in zip(requests, ends, ends[1:], strict=False)
    )
    parts = [(offset, data[offset : offset + length]) for offset, length in requests]
    assert [cut(parts, offset, length) for offset, length in ranges] == [
        data[at : at + length] for at, length in ranges
    ]
    wanted = {at for offset, length in ranges for at in range(offset, offset + length)}
    bounds = sorted(wanted)
    waste = {at for start, stop in pairwise(bounds) if stop - start <= gap + 1 for at in range(start, stop)}
    assert {at for start, stop in ends for at in range(start, stop)} <= wanted | waste
