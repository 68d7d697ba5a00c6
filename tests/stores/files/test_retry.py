"""Requests: never faster and never more at once than is allowed, over in time, and no byte is asked for twice."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError, StoreError
from stores.files.ranges import Span, cut, spans
from stores.files.retry import Limits, Requests


def test_requests_of_many_threads_keep_the_pace_and_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_REQUESTS_PER_S", "200")
    monkeypatch.setenv("MILLRACE_REQUESTS_AT_ONCE", "3")
    requests = Requests(Limits.from_environment())
    lock, under_way, most, begun = threading.Lock(), 0, 0, list[float]()

    def ask(seconds: float) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            begun.append(time.monotonic())
        time.sleep(0.001)
        with lock:
            under_way -= 1

    started = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        for _ in range(80):
            pool.submit(requests.run, ask, where="w", passes=lambda error: False)
    assert most == 3 and len(begun) == 80
    assert max(begun) - started > (80 - 21) / 200  # but for a tenth of a second's worth at once


def test_what_fails_is_over_at_the_deadline_for_all_tries_together() -> None:
    requests, tries = Requests(Limits(deadline_s=0.8)), 0

    def fail(seconds: float) -> None:
        nonlocal tries
        tries += 1
        assert 0 < seconds <= 0.2  # a quarter of the deadline
        raise ConnectionResetError("reset")

    began = time.monotonic()
    with pytest.raises(StoreError, match=r"no good answer after \d tries in \d s; the last: reset"):
        requests.run(fail, where="s3://b/x", passes=lambda error: True)
    assert tries > 1 and time.monotonic() - began < 0.8 + 0.5
    with pytest.raises(ConnectionResetError):
        requests.run(fail, where="s3://b/x", passes=lambda error: False)


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan"])
def test_a_limit_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_DEADLINE_S", given)
    with pytest.raises(ManifestError, match=r"MILLRACE_DEADLINE_S: .* is no number above 0"):
        Limits.from_environment()


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 200)), max_size=12), st.integers(0, 60), st.integers(1, 300)
)
def test_ranges_are_read_in_few_requests_and_no_byte_twice(ranges: list[Span], gap: int, most: int) -> None:
    data = bytes(range(250)) * 4
    asked = spans(ranges, gap, most)
    assert all(0 < length <= most for _, length in asked)
    ends = [(offset, offset + length) for offset, length in asked]
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ends))
    # A request ends where it is long enough, or where nobody wants anything for longer than a gap.
    assert all(
        length == most or stop + gap < start
        for (_, length), (_, stop), (start, _) in zip(asked, ends, ends[1:], strict=False)
    )
    read = [(offset, data[offset : offset + length]) for offset, length in asked]
    assert [cut(read, offset, length) for offset, length in ranges] == [data[at : at + length] for at, length in ranges]
    wanted = {at for offset, length in ranges for at in range(offset, offset + length)}
    bounds = sorted(wanted)
    waste = {at for one, other in pairwise(bounds) if other - one <= gap + 1 for at in range(one, other)}
    assert {at for start, stop in ends for at in range(start, stop)} <= wanted | waste
