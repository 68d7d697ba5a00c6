"""How full are the packs and how fast are they filled, compared with other packers?

    python -m benchmarks.sequence_packing [--quick]

Three corpora at 4,096, 32,768 and 262,144 tokens per pack, the same pieces for every packer:

    text    documents with the heavy tail of web pages and books, cut at the length of a pack
    chats   conversations, 20 tokens and more, never cut
    mixed   half text, half documents with 1 to 12 pictures or a clip. Packs have limits on tokens, patches and media;
            the corpus needs 90 % of the room for patches and 80 % of that for media when it fills all tokens

Other packers: Grain's best fit (all limits; 128 open packs), `binpacking` (tokens only), OLMo's best-fit decreasing
(Ding et al. 2024; tokens only), and Molmo 2's knapsack over a buffer of 48 (tokens in 512 steps, and media). The last
two are written here after their publications. Packs over a limit are counted. Grain copies tokens into batches while it
packs, the others only choose. Packers that cut every document at the end of a pack are left out: they fill everything.

Fill is the use of the scarcest resource over the room that all packs have for it.
"""

from __future__ import annotations

import argparse
import statistics
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np

from benchmarks.contest import Contestant, Round, serve
from benchmarks.measure import Result, save
from benchmarks.peers import versions
from manifests.geometry import MediaLimits, chunks, fit

LENGTHS = {4096: 1024, 32768: 512, 262144: 256}
"""Tokens of a pack -> approximate number of packs."""
CORPORA = ("text", "chats", "mixed")
BARS = {"text": 0.995, "chats": 0.995, "mixed": 0.98}
ONCE_S = 2.0
"""Turns that take longer, in CPU seconds, are not repeated."""
BLOCK_PACKS = 256
"""Packs that are filled together, as in `Mixture.block_packs`."""
FIT_4096 = MediaLimits(max_image_patches=4096, max_frame_patches=256, max_video_frames=96)

Packer = Callable[[np.ndarray, Sequence[int]], list[list[int]]]
"""(N, D) costs and (D,) limits -> packs, each a list of rows."""


@cache
def pieces(corpus: str, capacity: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Costs (N, D) of the seeded pieces of a corpus, and the limits (D,) of a pack."""
    random = np.random.default_rng(CORPORA.index(corpus))
    rows: list[tuple[int, ...]] = []
    left = LENGTHS[capacity] * capacity
    while left > 0:
        for row in _document(corpus, random, capacity):
            rows.append(row)
            left -= row[0]
    costs = np.array(rows, np.int64)
    if corpus != "mixed":
        return costs[:, :1].copy(), (capacity,)
    needed = costs.sum(0) * capacity / costs[:, 0].sum() / [1, 0.9, 0.8]
    return costs, (capacity, *(int(most) for most in np.maximum(needed, costs.max(0))[1:]))


def _document(corpus: str, random: np.random.Generator, capacity: int) -> Iterator[tuple[int, ...]]:
    """(tokens, patches, media) of each piece of a random document."""
    if corpus == "chats":
        tokens = int(random.lognormal(6.3, 1.1)) + 20
        if tokens <= capacity:
            yield tokens, 0, 0
    elif corpus == "text" or random.random() < 0.5:
        tokens = int(random.lognormal(6.3, 1.4)) + 8
        for start in range(0, tokens, capacity):
            yield min(capacity, tokens - start), 0, 0
    else:
        slots, patches, count = _media(random)
        tokens = int(random.lognormal(4.8, 1.0)) + 8 + 5 * count + slots
        if tokens <= capacity:
            yield tokens, patches, count


def _media(random: np.random.Generator) -> tuple[int, int, int]:
    """(slots, patches, media) of 1 to 12 pictures from thumbnails to scans, or of a clip of seconds to minutes."""
    if random.random() < 0.1:
        frames = min(96, 1 + int(2 * random.lognormal(2.5, 1.0)))
        place = fit(*_size_px(random), FIT_4096.max_frame_patches)
        return place.slots * len(chunks(tuple(range(frames)))), place.patches * frames, 1
    count = int(random.choice([1, 1, 1, 2, 3, 12]))
    places = [fit(*_size_px(random), FIT_4096.max_image_patches // count) for _ in range(count)]
    return sum(place.slots for place in places), sum(place.patches for place in places), count


def _size_px(random: np.random.Generator) -> tuple[int, int]:
    """(width, height) of a random picture."""
    side, aspect = random.lognormal(6.2, 0.6), random.lognormal(0, 0.3)
    return max(16, int(side * aspect)), max(16, int(side / aspect))


def ours(costs: np.ndarray, limits: Sequence[int]) -> list[list[int]]:
    """Our packer, in blocks of 256 packs as in a plan."""
    from packing.plan.fill import fill_limited

    ends = np.cumsum(costs[:, 0])
    room = BLOCK_PACKS * limits[0] - limits[0] // 4
    packs: list[list[int]] = []
    first = 0
    while first < len(costs):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + room, side="right")))
        packs += [[first + i for i in pack] for pack in fill_limited(costs[first:stop], limits)]
        first = stop
    return packs


def grain(costs: np.ndarray, limits: Sequence[int]) -> list[list[int]]:
    """Grain's best fit with 128 open packs."""
    from grain.experimental import BestFitPackIterDataset
    from grain.python import MapDataset

    names = ["tokens", "patches", "media"][: len(limits)]
    zeros = {name: np.zeros(most, np.int8) for name, most in zip(names, limits, strict=True)}
    rows = [
        {name: zeros[name][:cost] for name, cost in zip(names, row, strict=True)} | {"piece": np.array([number])}
        for number, row in enumerate(costs.tolist())
    ]
    length_struct = dict(zip(names, limits, strict=True)) | {"piece": limits[0]}
    packed = BestFitPackIterDataset(
        MapDataset.source(rows).to_iter_dataset(),
        length_struct=length_struct,
        num_packing_bins=128,
        shuffle_bins=False,
    )
    return [pack["piece"][: int(pack["piece_segment_ids"].max())].tolist() for pack in packed]


def binpacking(costs: np.ndarray, limits: Sequence[int]) -> list[list[int]]:
    """`binpacking.to_constant_volume`, by tokens only."""
    from binpacking import to_constant_volume

    packs = to_constant_volume(dict(enumerate(costs[:, 0].tolist())), limits[0])
    return [list(pack) for pack in packs]


def best_fit_decreasing(costs: np.ndarray, limits: Sequence[int]) -> list[list[int]]:
    """Put the longest piece first, each into the fullest pack that has room. The rooms are in a sorted list."""
    packs: list[list[int]] = []
    open_packs: list[tuple[int, int]] = []  # (room, pack), ascending
    for piece in np.argsort(-costs[:, 0], kind="stable").tolist():
        tokens = int(costs[piece, 0])
        at = bisect_left(open_packs, (tokens, -1))
        if at < len(open_packs):
            room, pack = open_packs.pop(at)
        else:
            room, pack = limits[0], len(packs)
            packs.append([])
        packs[pack].append(piece)
        if room > tokens:
            insort(open_packs, (room - tokens, pack))
    return packs


def knapsack(costs: np.ndarray, limits: Sequence[int], buffer: int = 48, steps: int = 512) -> list[list[int]]:
    """Fill a pack whenever the buffer is full, with the best subset of the buffer by dynamic programming."""
    step = max(1, limits[0] // steps)
    tokens = -(-costs[:, 0] // step)
    media = costs[:, 2] if costs.shape[1] > 2 else np.zeros(len(costs), np.int64)
    most_media = limits[2] if len(limits) > 2 else 0
    waiting: list[int] = []
    packs = []
    for piece in [*range(len(costs)), *[None] * len(costs)]:
        if piece is not None:
            waiting.append(piece)
        if waiting and (piece is None or len(waiting) == buffer):
            room = min(most_media, int(media[waiting].sum()))
            best = np.zeros((len(waiting) + 1, limits[0] // step + 1, room + 1), np.float32)
            for i, candidate in enumerate(waiting):
                best[i + 1] = best[i]
                t, m = int(tokens[candidate]), int(media[candidate])
                if t < best.shape[1] and m <= room:
                    value = costs[candidate, 0] / limits[0] + (m / most_media if most_media else 0)
                    taken = best[i, : best.shape[1] - t, : room + 1 - m] + value
                    np.maximum(best[i + 1, t:, m:], taken, out=best[i + 1, t:, m:])
            t, m = best.shape[1] - 1, room
            chosen = []
            for i in range(len(waiting), 0, -1):
                if best[i, t, m] != best[i - 1, t, m]:
                    chosen.append(waiting[i - 1])
                    t, m = t - int(tokens[waiting[i - 1]]), m - int(media[waiting[i - 1]])
            packs.append(chosen[::-1])
            waiting = [rest for rest in waiting if rest not in set(chosen)]
    return packs


PACKERS: Mapping[str, tuple[str | None, Packer]] = {
    "ours": (None, ours),
    "Grain best fit": ("packers", grain),
    "binpacking": ("packers", binpacking),
    "OLMo best-fit decreasing": (None, best_fit_decreasing),
    "Molmo 2 knapsack": (None, knapsack),
}


def packed(pack: Packer, corpus: str, capacity: int) -> dict[str, float]:
    """One turn of a packer: number of packs, fill, and share of packs over a limit, counted from its packs."""
    costs, limits = pieces(corpus, capacity)
    packs = pack(costs, limits)
    pack_of = np.full(len(costs), -1)
    for number, mine in enumerate(packs):
        pack_of[mine] = number
    if (pack_of < 0).any() or sum(map(len, packs)) != len(costs):
        raise RuntimeError(f"{(pack_of < 0).sum()} of {len(costs)} pieces are in no pack")
    held = np.stack([np.bincount(pack_of, costs[:, limit]) for limit in range(len(limits))], 1)
    return {
        "packs": len(packs),
        "fill": float(np.max(costs.sum(0) / np.array(limits)) / len(packs)),
        "broken": float((held > limits).any(1).mean()),
    }


def turns_of(contestants: Sequence[Contestant], repetitions: int, **request: object) -> dict[str, list[Round]]:
    """Rounds of all contestants, in turns. The warm-up round counts only for those too slow for a second turn."""
    rounds: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    for repetition in range(repetitions):
        for contestant in contestants:
            turns = rounds[contestant.name]
            if not repetition or turns[0]["cpu_s"] < ONCE_S:
                turns.append(contestant.ask(**request))
    return {name: turns[1:] or turns for name, turns in rounds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: one repetition, no result")
    parser.add_argument("--serve", choices=PACKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        pack = PACKERS[options.serve][1]
        serve(lambda corpus, capacity: packed(pack, corpus, capacity))
        return
    contestants = [Contestant(__spec__.name, name, environment) for name, (environment, _) in PACKERS.items()]
    table: dict[str, dict[str, dict[str, object]]] = {}
    print(f"{'fill, us a piece':>22}" + "".join(f"{name:>26}" for name in PACKERS))
    for corpus in CORPORA:
        for capacity in LENGTHS:
            count = len(pieces(corpus, capacity)[0])
            rounds = turns_of(contestants, 1 if options.quick else 4, corpus=corpus, capacity=capacity)
            row = {}
            for name, turns in rounds.items():
                seconds = statistics.median(turn["cpu_s"] for turn in turns)
                first = turns[0]
                row[name] = {"fill": round(first["fill"], 5), "broken packs": round(first["broken"], 3)} | {
                    "packs": int(first["packs"]),
                    "cpu_s": round(seconds, 4),
                    "us a piece": round(seconds / count * 1e6, 2),
                }
            table.setdefault(corpus, {})[str(capacity)] = row
            words = (
                f"{cell['fill']:.4f}{'*' if cell['broken packs'] else ' '} {cell['us a piece']:>8.1f}"
                for cell in row.values()
            )
            print(f"{corpus:>12} {capacity:>9,}" + "".join(f"{word:>26}" for word in words))
    for contestant in contestants:
        contestant.close()
    print("* some packs are over a limit")

    worst = {corpus: min(row["ours"]["fill"] for row in rows.values()) for corpus, rows in table.items()}
    for corpus, fill in worst.items():
        holds = "holds" if fill >= BARS[corpus] else "DOES NOT HOLD"
        print(f"{corpus}: at least {fill:.4f} full at every length (bar {BARS[corpus]}): {holds}")
    if options.quick:
        return
    lowest = {
        name: min(
            row[name]["fill"] * (1 - row[name]["broken packs"]) for rows in table.values() for row in rows.values()
        )
        for name in PACKERS
    }
    result = Result(
        question="Lowest fill of all corpora and lengths, without packs over a limit, over the best other packer:",
        unit="share of the room for the scarcest resource",
        ours=round(lowest.pop("ours"), 5),
        peers={name: round(fill, 5) for name, fill in lowest.items()},
        bar=1.0,
        libraries=("numpy", "numba"),
        details={"table": table, "bars": BARS, "peers": versions("packers")},
    )
    save("sequence_packing", result)


if __name__ == "__main__":
    main()
