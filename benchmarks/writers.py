"""Turns, table and result of the benchmarks of writers, `write_rows.py` and `write_images.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.contest import Contestant, paired_ratio, rates, spread, take_turns
from benchmarks.measure import Result, save
from benchmarks.peers import ENVIRONMENTS

BAR = 1.5
CLOCKS = {"cpu_s": "per CPU second", "wall_s": "per second"}


def compare_writers(
    name: str,
    question: str,
    writers: Mapping[str, tuple[str | None, object]],
    workloads: Sequence[str],
    megabytes: Mapping[str, float],
    quick: bool,
) -> None:
    """Run every writer on every workload in turns, and save the worst workload as `results/NAME.json`.

    Args:
        writers: name -> (environment or None, factory of the task); `ours` is compared with the best peer.
        megabytes: size of each workload.
        quick: one repetition, no result.
    """
    contestants = [
        Contestant(f"benchmarks.{name}", writer, environment) for writer, (environment, _) in writers.items()
    ]
    details: dict[str, object] = {}
    ratios = {}
    for workload in workloads:
        rounds = take_turns(contestants, 1 if quick else 9, workload=workload)
        for clock, rate_unit in CLOCKS.items():
            row = f"{workload}, MB {rate_unit}"
            medians = rates(rounds, megabytes[workload], clock)
            ratios[row] = round(paired_ratio(rounds, "ours", clock), 2)
            details[row] = {
                "median": medians,
                "spread": spread(rounds, megabytes[workload], clock),
                "ratio": ratios[row],
            }
            print(
                f"{row:32}"
                + "".join(f"{writer:>18} {rate:6.0f}" for writer, rate in medians.items())
                + f"   {ratios[row]}"
            )
    for contestant in contestants:
        contestant.close()
    worst = min(ratios, key=lambda row: ratios[row])
    medians = dict(details[worst]["median"])  # type: ignore[call-overload]
    result = Result(
        question=question,
        unit=worst,
        ours=medians["ours"],
        peers={writer: rate for writer, rate in medians.items() if not writer.startswith("ours")},
        bar=BAR,
        libraries=("numpy", "pyarrow", "blake3"),
        details=details | {"peers": [pin for pins in ENVIRONMENTS.values() for pin in pins]},
    )
    if not quick:
        save(name, result)
