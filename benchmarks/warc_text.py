"""How fast do the pages of a WARC file become text, with the same extractor?

    python -m benchmarks.warc_text [--quick]

2,000 pages of 5 to 60 kB in a `.warc.gz` with one record per gzip member, and a request and a metadata record for each
page, as in Common Crawl. Both sides extract main text by `resiliparse.extract_plain_text(main_content=True)` and write
nothing. Ours is the reader of `ingest_folder` up to its documents: it detects the encoding, takes the page's title, and
runs the extractor in a sandbox process. datatrove's is `WarcReader` (warcio) with its own detection of the encoding; it
runs the extractor in the same process without a time limit, and needs the system's libmagic.
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


def page(rng: random.Random) -> bytes:
    """A seeded HTML page with navigation, script, headings and paragraphs."""

    def words(count: int) -> str:
        return " ".join(rng.choices(WORDS, k=count))

    links = "".join(
        f"<li><a href='/{i}' class='item item-{i}'>{words(2)}</a></li>" for i in range(rng.randint(20, 200))
    )
    content = "".join(
        f"<h2 id='p{i}'>{words(4)}</h2><p class='text'>{words(60)} <a href='#p{i}'>{words(2)}</a> {words(30)}</p>"
        for i in range(rng.randint(3, 60))
    )
    script = f"<script>var data = [{','.join(map(str, range(rng.randint(50, 800))))}];</script>"
    head = f"<head><meta charset='utf-8'><title>{words(5)}</title><style>.a{{color:red}}</style>{script}</head>"
    body = f"<nav><ul>{links}</ul></nav><main>{content}</main><footer>{words(20)}</footer>"
    return f"<html>{head}<body>{body}</body></html>".encode()


def record(kind: str, content_type: str, block: bytes, number: int) -> bytes:
    """A WARC record as one gzip member."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012}>\r\n"
        f"WARC-Target-URI: https://mill.example/{number}\r\nContent-Type: {content_type}\r\n"
        f"WARC-Identified-Payload-Type: text/html\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", 6)


def write_archive(path: Path, pages: int) -> float:
    """Write the archive. Returns the megabytes of HTML in it."""
    rng = random.Random(7)
    total = 0
    with path.open("wb") as file:
        for number in range(pages):
            body = page(rng)
            total += len(body)
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(
                body
            )
            request = b"GET /%d HTTP/1.1\r\nHost: mill.example\r\n\r\n" % number
            file.write(record("request", "application/http; msgtype=request", request, number))
            file.write(record("response", "application/http; msgtype=response", http + body, number))
            file.write(record("metadata", "application/warc-fields", b"fetchTimeMs: 12\r\n", number))
    return total / 1e6


def ours(path: str) -> tuple[int, int]:
    """Extract text with our reader. Returns (pages, characters), as does `datatrove`."""
    from pipelines.ingest.formats import html, warc
    from pipelines.ingest.formats.file import FilePiece
    from pipelines.ingest.readers.crawl_files import PAGES_TOGETHER

    records = warc.read_records(Path(path), True, FilePiece(0, Path(path).stat().st_size, 1, ""))
    responses = (record for _, record in records if isinstance(record, html.CrawlRecord))
    count = characters = 0
    while batch := list(islice(responses, PAGES_TOGETHER)):
        for page_text in html.extract_pages(batch, "resiliparse"):
            assert isinstance(page_text, html.PageText)
            count, characters = count + 1, characters + len(page_text.words)
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
    """CPU seconds of this process and its running children: our sandbox, which the warm-up round started."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


SIDES: Mapping[str, tuple[str | None, Callable[[str], tuple[int, int]]]] = {
    "ours": (None, ours),
    "datatrove": ("warc", datatrove),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: few pages, one repetition, no result")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        side = SIDES[options.serve][1]

        def turn(folder: str, path: str) -> dict[str, float]:
            start = cpu_s()
            pages, characters = side(path)
            return {"pages": pages, "characters": characters, "cpu_s": cpu_s() - start}

        serve(turn)
        return
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        path = Path(folder) / "crawl.warc.gz"
        megabytes = write_archive(path, 100 if options.quick else PAGES)
        contestants = [
            Contestant("benchmarks.warc_text", name, environment) for name, (environment, _) in SIDES.items()
        ]
        rounds = take_turns(contestants, 1 if options.quick else 7, path=str(path))
        for contestant in contestants:
            contestant.close()
    assert len({(turn["pages"], turn["characters"]) for turns in rounds.values() for turn in turns}) == 1, rounds
    details = {}
    for clock in ("cpu_s", "wall_s"):
        medians = rates(rounds, megabytes, clock)
        ratio = round(paired_ratio(rounds, "ours", clock), 2)
        details[clock] = {"median": medians, "spread": spread(rounds, megabytes, clock), "ratio": ratio}
        print(f"{clock:8}" + "".join(f"{name:>12} {rate:8.2f}" for name, rate in medians.items()) + f"   {ratio}")
    if options.quick:
        return
    medians = dict(details["wall_s"]["median"])
    result = Result(
        question="Pages of a WARC file to main text, MB of HTML, over datatrove with the same extractor:",
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
