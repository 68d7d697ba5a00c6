"""What does it cost to make samples of text and write them, beside the tokenizer alone?

    python -m benchmarks.tokenise

Ours: documents to samples (ids, loss runs, places for cuts) in a committed store on the disk, in one process. The peer
is the tokenizer alone: `tiktoken.Encoding.encode_ordinary`, one call per text, which keeps nothing. Both see the same
texts, the language reference and the library of this interpreter, in turns, and CPU seconds are counted. With the
shipped vocabulary, and with the rank files under MILLRACE_TEST_DATA; the worst ratio counts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import Result, paired, save
from manifests.records import Document, Text, record_id
from stores.store import Store
from tokenization.encode import encode
from tokenization.learn import interpreter_text
from tokenization.vocabulary import Vocabulary

REPETITIONS = 7


def main() -> None:
    documents = text_documents()
    megabytes = sum(len(document.text.encode()) for document in documents) / 1e6
    rates: dict[str, dict[str, float]] = {}
    for name in ("tiny", *rank_files()):
        vocabulary = Vocabulary.load(name)
        tasks = {
            "ours": partial(tokenise_and_write, documents, vocabulary),
            "encode_ordinary": partial(tokenise, documents, vocabulary),
        }
        seconds = paired(tasks, REPETITIONS)
        rates[Path(name).name] = {task: megabytes / taken for task, taken in seconds.items()}
        more = seconds["ours"] / seconds["encode_ordinary"] - 1
        print(f"{Path(name).name:20} " + "  ".join(f"{t} {r:.2f} MB/CPU-s" for t, r in rates[Path(name).name].items()))
        print(f"{'':20} {more:+.1%} CPU")
    worst = min(rates.values(), key=lambda rate: rate["ours"] / rate["encode_ordinary"])
    result = Result(
        question="tokenise and write against the tokenizer alone, on the same text?",
        unit="MB of text per CPU second",
        ours=worst["ours"],
        peers={"tiktoken encode_ordinary": worst["encode_ordinary"]},
        bar=1 / 1.1,
        libraries=("tiktoken", "numpy", "pyarrow"),
        details={"by_vocabulary": rates, "megabytes": megabytes, "documents": len(documents)},
    )
    save("tokenise", result)


def text_documents() -> list[Document]:
    return [
        Document(record_id("text", str(number)), "text", str(number), "code", (Text(text),))
        for number, text in enumerate(interpreter_text())
    ]


def rank_files() -> list[str]:
    folder = os.environ.get("MILLRACE_TEST_DATA")
    return sorted(map(str, Path(folder).rglob("*.tiktoken"))) if folder else []


def tokenise(documents: Sequence[Document], vocabulary: Vocabulary) -> None:
    alone = vocabulary._engine.encode_ordinary
    for document in documents:
        for part in document.parts:
            assert isinstance(part, Text)
            alone(part.text)


def tokenise_and_write(documents: Sequence[Document], vocabulary: Vocabulary) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(f"{folder}/samples", "samples", "samples")
        writer = store.writer("all")
        for document in documents:
            writer.add(encode(document, vocabulary))
        store.commit([writer.finish()], node="tokenise", units=["all"])


if __name__ == "__main__":
    main()
