"""How much do the published quality rules and language identification cost, compared with datatrove's same rules?

    python -m benchmarks.quality_rules [--quick]

Gopher's quality and repetition rules, C4's and FineWeb's, over prose of this Python interpreter (language reference and
docstrings) cut into pages. Of every ten pages one has repeated paragraphs, one is a list and one is a menu. Ours
computes every measure of every page, so that thresholds can change later without a second pass. datatrove is measured
twice: as it is normally used, where a page that one filter drops skips the later ones, and with every rule on every
page, which is the same work as ours. Its language models are downloads, so both sides use the model in py3langid: ours
through its own automaton, datatrove's through the package. Verdicts are compared per rule. They differ slightly:
datatrove counts spaCy's words, which include punctuation; ours are separated by white space.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from benchmarks.contest import Contestant, paired_ratio, rates, serve, spread, take_turns
from benchmarks.measure import Result, save
from benchmarks.peers import run_in, versions
from tokenization.learn_ranks import interpreter_text

PAGES = 400
PAGE_CHARACTERS = 3000
BAR = 2.0
RULES = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
Judge = Callable[[str], list[str | None]]
"""Text -> per rule the reason to drop it, None to keep it."""


def pages(count: int) -> list[str]:
    """Seeded pages; three of every ten are spoiled, see `_spoiled`."""
    return list(islice(map(_spoiled, _pages(), range(count)), count))


def _pages() -> Iterator[str]:
    """Pages of the interpreter's prose, without end: starts again after the last."""
    while True:
        for text in interpreter_text():
            prose = text if "def " not in text else "\n\n".join(_docstrings(text))
            blocks: list[str] = []
            for block in prose.split("\n\n"):
                blocks.append(" ".join(block.split()) if ">>>" not in block else block)
                if sum(map(len, blocks)) > PAGE_CHARACTERS:
                    yield "\n\n".join(blocks)
                    blocks = []


def _docstrings(code: str) -> Iterator[str]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


def _spoiled(page: str, number: int) -> str:
    """Repeat paragraphs of page 7 of ten, make a list of page 8 and a menu of page 9; keep the others."""
    blocks = page.split("\n\n")
    if number % 10 == 7:
        return "\n\n".join([*blocks, *blocks[: len(blocks) // 2 + 1]])
    if number % 10 == 8:
        return "\n".join(f"- {block}" for block in blocks)
    return "\n".join(page.split(" ")[:400]) if number % 10 == 9 else page


def ours(language: bool) -> Judge:
    """Our filters, with or without language identification."""

    from manifests.records import Document, Text
    from pipelines.filters.language import Language
    from pipelines.filters.quality import C4, FineWeb, GopherQuality, GopherRepetition

    ops = [
        GopherQuality(kind="gopher_quality"),
        GopherRepetition(kind="gopher_repetition"),
        C4(kind="c4"),
        FineWeb(kind="fineweb"),
        *([Language(kind="language")] if language else []),
    ]

    def judge(text: str) -> list[str | None]:
        document = Document("0" * 32, "text", "1", "web", (Text(text),))
        verdicts = [op.judge(op.measure(document)) for op in ops]
        return [None if verdict is None else verdict.reason for verdict in verdicts]

    return judge


def datatrove(language: bool, stops: bool) -> Judge:
    """datatrove's filters. `stops`: skip the later filters once one drops a text."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LambdaFilter,
    )

    filters = [GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter()]
    if language:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        filters.append(LambdaFilter(lambda document: model.classify(document.text)[1] >= 0.5))

    def judge(text: str) -> list[str | None]:
        verdicts: list[str | None] = []
        document = Document(text, "1")
        for filter_ in filters:
            if not stops:
                document = Document(text, "1")  # C4's filter removes lines from the document
            result = filter_.filter(document)
            passed, reason = result if isinstance(result, tuple) else (result, "language")
            verdicts.append(None if passed else reason)
            if stops and not passed:
                break
        return verdicts

    return judge


LIBRARIES: dict[str, tuple[str | None, Callable[[bool], Judge]]] = {
    "ours": (None, ours),
    "datatrove": ("dedup", lambda language: datatrove(language, stops=True)),
    "datatrove, every rule": ("dedup", lambda language: datatrove(language, stops=False)),
}


def compare(texts: Sequence[str], theirs: Sequence[list[str | None]]) -> dict[str, object]:
    """Per rule: how many pages both sides drop or keep, and how many only one side drops, by reason."""
    judge = ours(language=False)
    mine = [judge(text) for text in texts]
    agreement: dict[str, object] = {}
    for place, rule in enumerate(RULES):
        pairs = [(a[place], b[place]) for a, b in zip(mine, theirs, strict=True)]
        only_ours = [a for a, b in pairs if a and not b]
        only_theirs = [b for a, b in pairs if b and not a]
        agreement[rule] = {
            "both keep": sum(not a and not b for a, b in pairs),
            "both drop": sum(bool(a and b) for a, b in pairs),
            "only ours drops": {reason: only_ours.count(reason) for reason in sorted(set(only_ours))},
            "only theirs drops": {reason: only_theirs.count(reason) for reason in sorted(set(only_theirs))},
        }
    return agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: one repetition, no result")
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--verdicts", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        texts: list[str] = []
        judges: dict[bool, Judge] = {}

        def task(folder: str, count: int, language: bool) -> dict[str, float]:
            judge = judges[language] if language in judges else LIBRARIES[options.serve][1](language)
            judges[language] = judge
            texts.extend(pages(count) if not texts else [])
            return {"dropped": sum(any(judge(text)) for text in texts)}

        serve(task)
        return
    if options.verdicts:
        import json

        judge = datatrove(language=False, stops=False)
        print(json.dumps([judge(text) for text in pages(options.verdicts)]))
        return
    count, repetitions = (50, 1) if options.quick else (PAGES, 5)
    texts = pages(count)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    contestants = [
        Contestant("benchmarks.quality_rules", name, environment) for name, (environment, _) in LIBRARIES.items()
    ]
    tables = {}
    for label, language in (("rules", False), ("rules and language", True)):
        rounds = take_turns(contestants, repetitions, count=count, language=language)
        tables[label] = {
            "MB per CPU second": rates(rounds, megabytes, "cpu_s"),
            "slowest and fastest turn": spread(rounds, megabytes, "cpu_s"),
            "MB per second": rates(rounds, megabytes, "wall_s"),
            "paired ratio": round(paired_ratio(rounds, "ours", "cpu_s"), 2),
            "dropped": {name: int(taken[0]["dropped"]) for name, taken in rounds.items()},
        }
        print(label, tables[label])
    for contestant in contestants:
        contestant.close()
    verdicts = compare(texts, run_in("dedup", "benchmarks.quality_rules", "--verdicts", str(count)))
    for rule, row in verdicts.items():
        print(f"{rule:20}{row}")
    if options.quick:
        return
    rate = tables["rules and language"]["MB per CPU second"]
    result = Result(
        question="Gopher, C4 and FineWeb rules with language identification, over datatrove with the same rules:",
        unit="MB of text per CPU second",
        ours=rate["ours"],
        peers={name: value for name, value in rate.items() if name != "ours"},
        bar=BAR,
        libraries=("numba", "numpy", "py3langid"),
        details=tables | {"verdicts": verdicts, "pages": count, "megabytes": megabytes, "peers": versions("dedup")},
    )
    save("quality_rules", result)


if __name__ == "__main__":
    main()
