"""The last screen of a run, its costs, and progress inside a unit."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from manifests.quantities import duration_text
from pipelines.dag import summary
from pipelines.dag.progress import RunConsole
from pipelines.dag.results import NodeResult, NodeWork, RecordCounts
from pipelines.dag.usage import PROCESS, Usage, UsageMeter
from pipelines.engines.choose import open_engine
from pipelines.engines.engine import EngineKind, EngineSettings, Submission


def result(node: str, scale: int = 1, skipped: bool = False) -> NodeResult:
    dropped = Counter({f"reason_number_{i}": 1000 * i * scale for i in range(1, 9)})
    counts = RecordCounts(123_456 * scale, dropped, Counter({"truncated_image": 3 * scale}))
    work = NodeWork(counts.seen, {}, Usage(12345.6 * min(scale, 10_000), 3_200_000_000))
    size = (512_000_000 * scale, 87_654_321 * scale)
    return NodeResult(node, "filter", "", "0123456789abcdef", "view", counts, 4567.8, skipped, *size, work)


@pytest.mark.parametrize("scale", [1, 1000, 10_000_000])
@pytest.mark.parametrize("name", ["a", "scene_documents", "a_node_with_quite_a_long_name_that_nobody_should_give"])
def test_the_table_fits_a_terminal_of_100_columns(name: str, scale: int) -> None:
    lines = summary.table([result(name, scale), result("text", 1, skipped=True)])
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith(name[:11]) and "committed" in "".join(lines)
    assert any(line.strip().startswith("dropped: reason_number_8") for line in lines)


def test_the_total_names_time_cpu_and_the_largest_process() -> None:
    line = summary.total_line([result("text"), result("scenes")])
    assert line == "took 2:32:16, 6:51:31 of CPU time, at most 3.2 GB of memory in one process (text)"


def test_durations_are_read_like_a_clock() -> None:
    assert [duration_text(s) for s in (0.04, 4.25, 59.96, 267, 3867, 1e6)] == [
        "0.0 s",
        "4.2 s",
        "1:00",
        "4:27",
        "1:04:27",
        "12 d",
    ]


def test_cpu_time_and_peak_memory_are_measured_from_the_beginning_of_the_work() -> None:
    np.ones(16 << 20)  # 128 MiB that the next measurement must not count
    meter = UsageMeter()
    held = np.ones(8 << 20)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        held += 1
    usage = meter.own()
    assert 0.2 <= usage.cpu_s < 5 and usage.peak_bytes >= 64 << 20 and usage.process == PROCESS
    del held


def test_cpu_time_of_units_in_this_process_is_counted_once() -> None:
    work = NodeWork()
    work.add(1, {}, Usage(2.0, 100, PROCESS))
    work.add(1, {}, Usage(3.0, 50, "a worker"))
    assert work.usage == Usage(3.0, 100)


def slow(task: int, lethal: frozenset[int], mark: Callable[[int], None]) -> int:
    for ordinal in range(20):
        mark(ordinal)
        time.sleep(0.15)
    return task


@pytest.mark.parametrize(("kind", "workers"), [("local", 0), ("local", 1), ("dask", 1)])
def test_progress_moves_inside_a_large_unit(kind: EngineKind, workers: int) -> None:
    seen: list[tuple[float, int]] = []
    with open_engine(EngineSettings(kind=kind), workers, print) as engine:
        submission = Submission("n, unit 1", 7, records=20)
        assert list(engine.run("n", slow, [submission], lambda *state: seen.append(state))) == [(7, 7)]
    while_waiting = [state for state in seen if state != (0.0, 0)]
    if kind == "local":
        assert len(while_waiting) >= 2 and while_waiting == sorted(while_waiting)
        assert all(0 < units <= 1 and units == records / 20 for units, records in while_waiting)
    else:
        assert len(seen) >= 2


def test_the_progress_line_keeps_bar_count_rate_and_time_left_at_80_columns() -> None:
    console = RunConsole()
    console.console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    dropped = Counter({f"a_long_reason_for_drops_{i}": 10_000 for i in range(6)})
    with console.progress("scene_documents", 12, 3) as progress:
        progress.finished(2, RecordCounts(123_456, dropped))
        progress.under_way(0.5, 1000)
        time.sleep(0.3)
    assert isinstance(console.console.file, io.StringIO)
    shown = console.console.file.getvalue()
    lines = [line for line in shown.replace("\r", "\n").split("\n") if "records/s" in line]
    assert lines and all("5/12 units" in line and "━" in line for line in lines[-1:])
    assert all(len(line) < 120 for line in lines)
