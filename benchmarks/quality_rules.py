"""What do the published quality rules and language identification cost, beside datatrove with the same rules?

    python -m benchmarks.quality_rules [--quick]

Gopher's rules of quality and of repetition, C4's and FineWeb's, over prose of this interpreter (language reference and
docstrings) cut into pages; of ten pages one has paragraphs repeated, one is a list, one is a menu. Ours measures every
number of every page, so that limits can be moved afterwards. datatrove is timed as it is used, where a page that one
filter drops is not seen by the next ones, and with every rule on every page, which is the same work. Its language
models are downloads; both sides ask the model inside py3langid, ours through its own automaton and datatrove's through
the package. Verdicts are compared rule by rule: datatrove's words are spaCy's, which count punctuation, ours stand
between white space.
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
"""By rule why it drops a text, None where it keeps it."""


def pages(count: int) -> list[str]:
    return list(islice(map(_spoiled, _pages(), range(count)), count))


def _pages() -> Iterator[str]:
    """Round and round, until enough are taken."""
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
    blocks = page.split("\n\n")
    if number % 10 == 7:
        return "\n\n".join([*blocks, *blocks[: len(blocks) // 2 + 1]])
    if number % 10 == 8:
        return "\n".join(f"- {block}" for block in blocks)
    return "\n".join(page.split(" ")[:400]) if number % 10 == 9 else page


def ours(language: bool) -> Judge:
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
    """`stops`: a text is not looked at further once a rule drops it."""
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
        for one in filters:
            if not stops:
                document = Document(text, "1")  # C4's filter takes lines away
            result = one.filter(document)
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
    """By rule: how many pages both drop, only one of them, and the reasons of those."""
    judge = ours(language=False)
    mine = [judge(text) for text in texts]
    found: dict[str, object] = {}
    for place, rule in enumerate(RULES):
        pairs = [(a[place], b[place]) for a, b in zip(mine, theirs, strict=True)]
        only_ours = [a for a, b in pairs if a and not b]
        only_theirs = [b for a, b in pairs if b and not a]
        found[rule] = {
            "both keep": sum(not a and not b for a, b in pairs),
            "both drop": sum(bool(a and b) for a, b in pairs),
            "only ours drops": {reason: only_ours.count(reason) for reason in sorted(set(only_ours))},
            "only theirs drops": {reason: only_theirs.count(reason) for reason in sorted(set(only_theirs))},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one repetition and no result: does it run at all?")
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--verdicts", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        texts: list[str] = []
        judges: dict[bool, Judge] = {}

        def task(folder: str, count: int, language: bool) -> dict[str, float]:
            judge = judges[language] if language in judges else LIBRARIES[asked.serve][1](language)
            judges[language] = judge
            texts.extend(pages(count) if not texts else [])
            return {"dropped": sum(any(judge(text)) for text in texts)}

        serve(task)
        return
    if asked.verdicts:
        import json

        judge = datatrove(language=False, stops=False)
        print(json.dumps([judge(text) for text in pages(asked.verdicts)]))
        return
    count, repetitions = (50, 1) if asked.quick else (PAGES, 5)
    texts = pages(count)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    contestants = [Contestant("benchmarks.quality_rules", name, where) for name, (where, _) in LIBRARIES.items()]
    tables = {}
    for what, language in (("rules", False), ("rules and language", True)):
        rounds = take_turns(contestants, repetitions, count=count, language=language)
        tables[what] = {
            "MB per CPU second": rates(rounds, megabytes, "cpu_s"),
            "slowest and fastest turn": spread(rounds, megabytes, "cpu_s"),
            "MB per second": rates(rounds, megabytes, "wall_s"),
            "paired ratio": round(paired_ratio(rounds, "ours", "cpu_s"), 2),
            "dropped": {name: int(taken[0]["dropped"]) for name, taken in rounds.items()},
        }
        print(what, tables[what])
    for one in contestants:
        one.close()
    verdicts = compare(texts, run_in("dedup", "benchmarks.quality_rules", "--verdicts", str(count)))
    for rule, row in verdicts.items():
        print(f"{rule:20}{row}")
    if asked.quick:
        return
    rate = tables["rules and language"]["MB per CPU second"]
    result = Result(
        question="Gopher, C4 and FineWeb rules with language identification, against datatrove with the same rules:",
        unit="MB of text per CPU second",
        ours=rate["ours"],
        peers={name: one for name, one in rate.items() if name != "ours"},
        bar=BAR,
        libraries=("numba", "numpy", "py3langid"),
        details=tables | {"verdicts": verdicts, "pages": count, "megabytes": megabytes, "peers": versions("dedup")},
    )
    save("quality_rules", result)


if __name__ == "__main__":
    main()
