"""Run log: whole lines only, from any number of writers."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from manifests.runlog import RunLog, read


def write_many(file: Path, writer: int) -> None:
    log = RunLog(file)
    for number in range(200):
        log.write("step", writer=writer, number=number, text="x" * 100)


def test_events_are_read_in_order_and_by_name(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "deep" / "run.jsonl")
    log.write("save", step=1, note="schön\u2028und lang")
    log.write("step", step=2)
    assert [row["step"] for row in read(log.file)] == [1, 2]
    assert [row["note"] for row in read(log.file, "save")] == ["schön\u2028und lang"]
    assert all(row["time"] > 1.6e9 for row in read(log.file))


def test_several_processes_write_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(file, n)) for n in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    rows = read(file)
    assert len(rows) == 600
    for writer in range(3):
        assert [row["number"] for row in rows if row["writer"] == writer] == list(range(200))


def test_a_line_torn_by_a_kill_is_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.jsonl")
    log.write("step", step=1)
    log.write("step", step=2, note="schön")
    whole = log.file.read_bytes()
    for cut in (2, 5, 6, 9):  # 5 cuts a letter of two bytes
        log.file.write_bytes(whole[:-cut])
        assert [row["step"] for row in read(log.file)] == [1]
    assert read(tmp_path / "nothing.jsonl") == []
