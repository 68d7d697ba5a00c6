"""What `write_rows` and `write_images` share: the turns of all writers, the table, the result."""

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
    """Ask every writer for every workload in turns, and save `results/NAME.json`: its headline is the worst case.

    Args:
        writers: name -> (environment or None, what the child makes of it); `ours` is compared with the best other.
        megabytes: that a workload holds.
        quick: one repetition, nothing saved.
    """
    contestants = [Contestant(f"benchmarks.{name}", writer, where) for writer, (where, _) in writers.items()]
    details: dict[str, object] = {}
    ratios = {}
    for workload in workloads:
        rounds = take_turns(contestants, 1 if quick else 9, workload=workload)
        for clock, said in CLOCKS.items():
            of = f"{workload}, MB {said}"
            medians = rates(rounds, megabytes[workload], clock)
            ratios[of] = round(paired_ratio(rounds, "ours", clock), 2)
            details[of] = {"median": medians, "spread": spread(rounds, megabytes[workload], clock), "ratio": ratios[of]}
            print(f"{of:32}" + "".join(f"{who:>18} {rate:6.0f}" for who, rate in medians.items()) + f"   {ratios[of]}")
    for one in contestants:
        one.close()
    worst = min(ratios, key=lambda of: ratios[of])
    medians = dict(details[worst]["median"])  # type: ignore[call-overload]
    result = Result(
        question=question,
        unit=worst,
        ours=medians["ours"],
        peers={who: rate for who, rate in medians.items() if not who.startswith("ours")},
        bar=BAR,
        libraries=("numpy", "pyarrow", "blake3"),
        details=details | {"peers": [pin for pins in ENVIRONMENTS.values() for pin in pins]},
    )
    if not quick:
        save(name, result)
