"""How fast do pages of a crawl's archive become text, with the same extractor?

    python -m benchmarks.warc_text [--quick]

2,000 pages of 5 to 60 kB in a `.warc.gz` of one record a gzip member, with a request and a metadata record for each, as
Common Crawl has them. Both sides give main text by `resiliparse.extract_plain_text(main_content=True)` and write
nothing. Ours is the reader of `ingest_folder` up to its documents, with the encoding found, the page's title taken and
the extractor in a sandbox process; datatrove's is `WarcReader` (warcio) and its own step for the encoding, with
the extractor in the same process and without a time limit; it needs the system's libmagic.
"""

from __future__ import annotations

import argparse
import gzip
import random
import tempfile
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import psutil

from benchmarks.contest import Contestant, paired_ratio, rates, serve, spread, take_turns
from benchmarks.measure import Result, save
from benchmarks.peers import versions

PAGES = 2000
BAR = 1.0
WORDS = "river stone wheel water mill grain flour barn bridge meadow lantern kettle window garden path über für".split()  # noqa: SIM905


def page(dice: random.Random) -> bytes:
    def words(count: int) -> str:
        return " ".join(dice.choices(WORDS, k=count))

    links = "".join(
        f"<li><a href='/{i}' class='item item-{i}'>{words(2)}</a></li>" for i in range(dice.randint(20, 200))
    )
    told = "".join(
        f"<h2 id='p{i}'>{words(4)}</h2><p class='text'>{words(60)} <a href='#p{i}'>{words(2)}</a> {words(30)}</p>"
        for i in range(dice.randint(3, 60))
    )
    script = f"<script>var data = [{','.join(map(str, range(dice.randint(50, 800))))}];</script>"
    head = f"<head><meta charset='utf-8'><title>{words(5)}</title><style>.a{{color:red}}</style>{script}</head>"
    body = f"<nav><ul>{links}</ul></nav><main>{told}</main><footer>{words(20)}</footer>"
    return f"<html>{head}<body>{body}</body></html>".encode()


def record(kind: str, content_type: str, block: bytes, number: int) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012}>\r\n"
        f"WARC-Target-URI: https://mill.example/{number}\r\nContent-Type: {content_type}\r\n"
        f"WARC-Identified-Payload-Type: text/html\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", 6)


def write_archive(path: Path, pages: int) -> float:
    """Megabytes of HTML in it."""
    dice = random.Random(7)
    total = 0
    with path.open("wb") as file:
        for number in range(pages):
            body = page(dice)
            total += len(body)
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(
                body
            )
            asked = b"GET /%d HTTP/1.1\r\nHost: mill.example\r\n\r\n" % number
            file.write(record("request", "application/http; msgtype=request", asked, number))
            file.write(record("response", "application/http; msgtype=response", http + body, number))
            file.write(record("metadata", "application/warc-fields", b"fetchTimeMs: 12\r\n", number))
    return total / 1e6


def ours(path: str) -> tuple[int, int]:
    """(pages, characters)."""
    from pipelines.ingest.formats import html, warc
    from pipelines.ingest.formats.file import FilePiece
    from pipelines.ingest.readers.crawl_files import PAGES_TOGETHER

    found = warc.read_records(Path(path), True, FilePiece(0, Path(path).stat().st_size, 1, ""))
    wanted = (record for _, record in found if isinstance(record, html.CrawlRecord))
    count = characters = 0
    while together := list(islice(wanted, PAGES_TOGETHER)):
        for one in html.extract_pages(together, "resiliparse"):
            assert isinstance(one, html.PageText)
            count, characters = count + 1, characters + len(one.words)
    return count, characters


def datatrove(path: str) -> tuple[int, int]:
    from datatrove.pipeline.readers import WarcReader
    from resiliparse.extract.html2text import extract_plain_text

    count = characters = 0
    for document in WarcReader(str(Path(path).parent), glob_pattern="*.warc.gz", compression="gzip")():
        text = extract_plain_text(document.text, main_content=True)
        count, characters = count + 1, characters + len(text)
    return count, characters


def cpu_s() -> float:
    """Of this process and of those below it that run: our extractor's, which was started in the round to warm up."""
    own = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))


SIDES: Mapping[str, tuple[str | None, Callable[[str], tuple[int, int]]]] = {
    "ours": (None, ours),
    "datatrove": ("warc", datatrove),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few pages, one repetition and no result: does it run?")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        side = SIDES[asked.serve][1]

        def turn(folder: str, path: str) -> dict[str, float]:
            start = cpu_s()
            pages, characters = side(path)
            return {"pages": pages, "characters": characters, "cpu_s": cpu_s() - start}

        serve(turn)
        return
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        path = Path(folder) / "crawl.warc.gz"
        megabytes = write_archive(path, 100 if asked.quick else PAGES)
        contestants = [Contestant("benchmarks.warc_text", name, where) for name, (where, _) in SIDES.items()]
        rounds = take_turns(contestants, 1 if asked.quick else 7, path=str(path))
        for one in contestants:
            one.close()
    assert len({(one["pages"], one["characters"]) for taken in rounds.values() for one in taken}) == 1, rounds
    details = {}
    for clock in ("cpu_s", "wall_s"):
        medians = rates(rounds, megabytes, clock)
        ratio = round(paired_ratio(rounds, "ours", clock), 2)
        details[clock] = {"median": medians, "spread": spread(rounds, megabytes, clock), "ratio": ratio}
        print(f"{clock:8}" + "".join(f"{name:>12} {rate:8.2f}" for name, rate in medians.items()) + f"   {ratio}")
    if asked.quick:
        return
    medians = dict(details["wall_s"]["median"])
    result = Result(
        question="Pages of a WARC to main text, MB of HTML, against datatrove with the same extractor:",
        unit="MB of HTML per second of wall clock",
        ours=medians.pop("ours"),
        peers=medians,
        bar=BAR,
        libraries=("fastwarc", "resiliparse"),
        details=details | {"pages": PAGES, "peer versions": versions("warc")},
    )
    save("warc_text", result)


if __name__ == "__main__":
    main()
