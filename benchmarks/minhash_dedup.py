"""How fast does MinHash find near duplicates, from raw text in memory to clusters, compared with other libraries?

    python -m benchmarks.minhash_dedup [--quick]

Documents have the lengths of web pages and Zipf-distributed words. A fifth of them are copies of others with 1 to 20 %
of the words replaced. Every library uses shingles of 5 words and 14 bands of 8 hashes. Ours calls the functions of the
nodes `minhash` and `dedup_minhash`. datatrove runs its four stages with files between them. datasketch, rensa and Daft
compute signatures of texts split at white space; the steps that they lack (bands for Daft and rensa, clusters for all
three) use numpy and SciPy. Then ours alone on a million documents: memory, and recall by similarity next to the recall
that exact Jaccard similarity predicts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from benchmarks.contest import Contestant, paired_ratio, peak_rss_mb, rates, serve, spread, take_turns
from benchmarks.measure import Result, save
from benchmarks.peers import run_in, versions

DOCUMENTS = 10_000
MANY = 1_000_000
WORDS, BANDS, ROWS = 5, 14, 8
QUESTION = "Near duplicates from raw text to clusters, documents per CPU second, over the fastest other library:"


@cache
def _vocabulary() -> np.ndarray:
    random = np.random.default_rng(3)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    return np.array(["".join(letters[random.integers(0, 26, size)]) for size in random.integers(2, 10, 50_000)], object)


def corpus(count: int, seed: int = 4) -> tuple[list[str], list[tuple[int, int]]]:
    """Seeded texts, and the pairs (original, copy) among them."""
    random = np.random.default_rng(seed)
    words = _vocabulary()
    ranks: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    for place in range(count):
        if place % 5 == 4:
            original = int(random.integers(0, place))
            copy = ranks[original].copy()
            hit = random.random(len(copy)) < random.uniform(0.01, 0.20)
            copy[hit] = random.integers(0, len(words), int(hit.sum()))
            pairs.append((original, place))
            ranks.append(copy)
        else:
            size = int(np.exp(random.normal(5.5, 0.8)).clip(30, 5000))
            ranks.append((random.zipf(1.3, size) - 1) % len(words))
    return [" ".join(words[text]) for text in ranks], pairs


def ours(texts: Sequence[str]) -> Callable[[str], int]:
    """Task of ours: folder -> number of clusters. The other libraries below have the same form."""
    from pipelines.dedup import minhash_loops

    def run(folder: str) -> int:
        keys = minhash_loops.keys_of(texts, WORDS, BANDS, ROWS)
        clusters = minhash_loops.clusters(([keys[:, band]] for band in range(BANDS)), len(texts), 1 << 30)
        return len(np.unique(clusters))

    return run


def datatrove(texts: Sequence[str]) -> Callable[[str], int]:
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    config = MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)

    def run(folder: str) -> int:
        kept = []

        def count(data, rank=0, world_size=1):  # type: ignore[no-untyped-def]
            for document in data:
                kept.append(document.id)
                yield document

        stages = [
            [documents, MinhashDedupSignature(f"{folder}/signatures", config)],
            [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)],
            [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)],
            [documents, MinhashDedupFilter(f"{folder}/remove"), count],
        ]
        for number, stage in enumerate(stages):
            tasks = BANDS if number == 1 else 1
            LocalPipelineExecutor(stage, tasks=tasks, workers=1, logging_dir=f"{folder}/log{number}").run()
        return len(kept)

    return run


def datasketch(texts: Sequence[str]) -> Callable[[str], int]:
    from datasketch import MinHash, MinHashLSH

    def run(folder: str) -> int:
        index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        edges = []
        signatures = MinHash.bulk([[s.encode() for s in _shingles(text)] for text in texts], num_perm=BANDS * ROWS)
        for place, signature in enumerate(signatures):
            edges += [(place, other) for other in index.query(signature)]
            index.insert(place, signature)
        return _components(len(texts), edges)

    return run


def rensa(texts: Sequence[str]) -> Callable[[str], int]:
    from rensa import RMinHash

    def run(folder: str) -> int:
        signatures = RMinHash.digests_from_token_sets(
            [_shingles(text) for text in texts], num_perm=BANDS * ROWS, seed=1
        )
        return _banded(np.array(signatures, np.uint32))

    return run


def daft(texts: Sequence[str]) -> Callable[[str], int]:
    import daft as library

    frame = library.from_pydict({"text": list(texts)}).collect()

    def run(folder: str) -> int:
        column = library.col("text").minhash(num_hashes=BANDS * ROWS, ngram_size=WORDS, seed=1)
        signatures = frame.select(column.alias("key")).to_arrow()["key"].combine_chunks()
        return _banded(signatures.flatten().to_numpy().reshape(len(texts), -1))

    return run


def _shingles(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))]


def _banded(signatures: np.ndarray) -> int:
    """Number of clusters of signatures (documents, bands * rows)."""
    edges = []
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        keys = part.view(np.dtype((np.void, part.dtype.itemsize * ROWS))).ravel()
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        edges.append(np.stack([order[same], order[same + 1]], 1))
    return _components(len(signatures), np.concatenate(edges))


def _components(count: int, edges: Sequence[tuple[int, int]] | np.ndarray) -> int:
    """Number of connected components of a graph with `count` nodes."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = np.array(edges, np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return int(connected_components(graph, directed=False)[0])


LIBRARIES = {
    "ours": (None, ours),
    "datatrove": ("dedup", datatrove),
    "datasketch": ("dedup", datasketch),
    "rensa": ("dedup", rensa),
    "daft": ("dedup", daft),
}
BARS = {"datatrove": 5.0, "the best other": 1.5}


def many(count: int) -> dict[str, object]:
    """Ours on many documents: recall of planted pairs by exact similarity, false pairs, seconds, memory."""
    import time

    from pipelines.dedup import minhash_loops, reference

    texts, pairs = corpus(count)
    before_mb = peak_rss_mb()
    start = time.process_time()
    keys = minhash_loops.keys_of(texts, WORDS, BANDS, ROWS)
    signed = time.process_time()
    clusters = minhash_loops.clusters(([keys[:, band]] for band in range(BANDS)), count, 64 << 20)
    ended = time.process_time()
    peak_mb = peak_rss_mb() - before_mb  # before the slow reference runs
    group = pairs[:: max(1, len(pairs) // 20_000)]
    sets = {place: reference.shingles(texts[place], WORDS) for pair in group for place in pair}
    similarity = np.array([reference.jaccard(sets[a], sets[b]) for a, b in group])
    shared = np.array([(keys[a] == keys[b]).any() for a, b in group])
    originals = np.arange(count)
    for original, copy in pairs:
        originals[copy] = originals[original]
    bins = [(low / 10, low / 10 + 0.1) for low in range(3, 10)]
    rows = []
    for low, high in bins:
        in_bin = (similarity >= low) & (similarity < high)
        if in_bin.any():
            expected = reference.shared(similarity[in_bin], BANDS, ROWS).mean()  # type: ignore[arg-type]
            rows.append([round(low, 1), int(in_bin.sum()), round(float(shared[in_bin].mean()), 4), round(expected, 4)])
    return {
        "documents": count,
        "CPU seconds, keys": round(signed - start, 2),
        "CPU seconds, clusters in 64 MiB": round(ended - signed, 2),
        "peak memory above the texts, MB": round(peak_mb),
        "similarity from, pairs, found, predicted": rows,
        "clusters that hold unrelated documents": int((originals[clusters] != originals).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: one repetition, no result")
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--many", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    count = 500 if options.quick else DOCUMENTS
    if options.serve:
        tasks: dict[int, Callable[[str], int]] = {}

        def task(folder: str, documents: int) -> dict[str, float]:
            if documents not in tasks:
                tasks[documents] = LIBRARIES[options.serve][1](corpus(documents)[0])
            return {"clusters": tasks[documents](folder)}

        serve(task)
        return
    if options.many:
        import json

        print(json.dumps(many(options.many)))
        return
    contestants = [
        Contestant("benchmarks.minhash_dedup", name, environment) for name, (environment, _) in LIBRARIES.items()
    ]
    rounds = take_turns(contestants, 1 if options.quick else 5, documents=count)
    for contestant in contestants:
        contestant.close()
    cpu, wall = (rates(rounds, count, clock) for clock in ("cpu_s", "wall_s"))
    against = {"datatrove": {name: rounds[name] for name in ("ours", "datatrove")}, "the best other": rounds}
    ratios = {name: round(paired_ratio(group, "ours", "cpu_s"), 2) for name, group in against.items()}
    for name in LIBRARIES:
        print(f"{name:12}{cpu[name]:>12,.0f} documents/CPU s {wall[name]:>12,.0f} documents/s")
    print(ratios)
    large = run_in(None, "benchmarks.minhash_dedup", "--many", str(2000 if options.quick else MANY))
    print(large)
    if options.quick:
        return
    result = Result(
        question=QUESTION,
        unit="documents per CPU second",
        ours=cpu["ours"],
        peers={name: rate for name, rate in cpu.items() if name != "ours"},
        bar=BARS["the best other"],
        libraries=("numba", "numpy"),
        details={
            "paired ratios": ratios,
            "bars": BARS,
            "documents": count,
            "documents per second": wall,
            "slowest and fastest turn": spread(rounds, count, "cpu_s"),
            "clusters": {name: int(taken[0]["clusters"]) for name, taken in rounds.items()},
            "a million": large,
            "peers": versions("dedup"),
        },
    )
    save("minhash_dedup", result)


if __name__ == "__main__":
    main()
