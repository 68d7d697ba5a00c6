"""How much does it cost to make samples of text and write them, compared with the tokenizer alone?

    python -m benchmarks.tokenize

Ours: documents to samples (ids, loss runs, split points) in a committed store on disk, in one process. The peer is the
tokenizer alone, whose output is discarded: tiktoken with the released split pattern, one call per text, by
`encode_ordinary` and by `encode_to_numpy`, whichever is faster (tiktoken's batches only add threads). Ours gives the
engine the same pattern in a faster form, so the engine alone with that form is shown as well. All encode the same
texts, the language reference and the library of this Python interpreter, in turns, measured in CPU seconds. The
vocabularies are the shipped one and the rank files below MILLRACE_TEST_DATA; the worst ratio counts.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import tiktoken

from benchmarks.measure import Result, paired, save
from manifests.records import Document, Text, record_id
from stores.store import Store
from tokenization.encode import encode
from tokenization.learn_ranks import interpreter_text
from tokenization.vocabulary import Vocabulary

REPETITIONS = 7
PEERS = ("encode_ordinary", "encode_to_numpy")


def main() -> None:
    documents = text_documents()
    texts = [document.text for document in documents]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        stores = (f"{folder}/{number}" for number in itertools.count())
        for name in ("tiny", *rank_files()):
            vocabulary = Vocabulary.load(name)
            released = as_released(vocabulary)
            assert released.encode_ordinary(texts[0]) == vocabulary.encode(texts[0])
            tasks = {
                "ours": partial(tokenize_and_write, documents, vocabulary, stores),
                "encode_ordinary": partial(ordinary, texts, released),
                "encode_to_numpy": partial(to_numpy, texts, released),
                "engine alone": partial(to_numpy, texts, vocabulary._engine),
            }
            seconds = paired(tasks, REPETITIONS)
            rates[Path(name).name] = {task: megabytes / taken for task, taken in seconds.items()}
            more = seconds["ours"] / min(seconds[peer] for peer in PEERS) - 1
            figures = "  ".join(f"{task} {rate:.2f} MB/CPU-s" for task, rate in rates[Path(name).name].items())
            print(f"{Path(name).name:20} {figures}\n{'':20} {more:+.1%} CPU")
    worst = min(rates.values(), key=lambda rate: rate["ours"] / max(rate[peer] for peer in PEERS))
    result = Result(
        question="Tokenization with writing, over the tokenizer alone, on the same text:",
        unit="MB of text per CPU second",
        ours=worst["ours"],
        peers={f"tiktoken {peer}": worst[peer] for peer in PEERS},
        bar=1 / 1.1,
        libraries=("tiktoken", "numpy", "pyarrow"),
        details={"by_vocabulary": rates, "megabytes": megabytes, "documents": len(documents)},
    )
    save("tokenize", result)


def text_documents() -> list[Document]:
    """One document per text of this Python interpreter."""
    return [
        Document(record_id("text", str(number)), "text", str(number), "code", (Text(text),))
        for number, text in enumerate(interpreter_text())
    ]


def rank_files() -> list[str]:
    """Rank files of the test data; empty without MILLRACE_TEST_DATA."""
    folder = os.environ.get("MILLRACE_TEST_DATA")
    return sorted(map(str, Path(folder).rglob("*.tiktoken"))) if folder else []


def as_released(vocabulary: Vocabulary) -> tiktoken.Encoding:
    """Engine with the same ranks and special tokens, and the split pattern in its released form."""
    ranks = {token: rank for rank, token in enumerate(vocabulary.tokens) if token}
    special = dict(vocabulary.special)
    return tiktoken.Encoding("peer", pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens=special)


def ordinary(texts: Sequence[str], engine: tiktoken.Encoding) -> None:
    for text in texts:
        engine.encode_ordinary(text)


def to_numpy(texts: Sequence[str], engine: tiktoken.Encoding) -> None:
    for text in texts:
        engine.encode_to_numpy(text, allowed_special=set(), disallowed_special=())


def tokenize_and_write(documents: Sequence[Document], vocabulary: Vocabulary, folders: Iterator[str]) -> None:
    store = Store.create(next(folders), "samples", "samples")
    writer = store.writer("all")
    for document in documents:
        writer.add(encode(document, vocabulary))
    store.commit([writer.finish()], node="tokenize", units=["all"])


if __name__ == "__main__":
    main()
