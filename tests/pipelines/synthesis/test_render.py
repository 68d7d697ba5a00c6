"""The node `render`: code in texts, reproducible pictures, no network, limits on time and memory."""

from __future__ import annotations

import json
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manifests import extras
from manifests.errors import MillraceError, RecordError
from manifests.records import Document, Json, Text, record_id
from pipelines.dag import graph
from pipelines.dag.unit import Outcome, StoreTask, run_unit
from pipelines.inspect import explain
from pipelines.node import UnitTask
from pipelines.synthesis.browser import Browser, ScreenshotOptions
from pipelines.synthesis.chromium import VARIABLE, find_chromium
from pipelines.synthesis.code_blocks import find_page
from pipelines.synthesis.render import Render
from stores.store import Snapshot, Store
from tests.pipelines.build.test_materialize import product, stored
from tests.pipelines.dag.test_run import head, run, start
from tests.servers.chat import chat_server, last_text

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="120" height="80">'
SVG += '<circle cx="40" cy="40" r="30" fill="red"/></svg>\n'
RED, GREEN = "<body style='margin:0;background:#f00'>", "<body style='margin:0;background:#0f0'>"
FLAG = "--host-resolver-rules=MAP * ~NOTFOUND"
SMALL = ScreenshotOptions(width_px=200, height_px=100)


def can_render() -> bool:
    try:
        find_chromium()
    except MillraceError:
        return False
    return not extras.missing("render")


real = pytest.mark.skipif(not can_render(), reason="needs Playwright, and Chromium in PATH or in MILLRACE_BROWSER")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser(find_chromium(), page_s=20) as browser:
        yield browser


@pytest.fixture
def folder(quick_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=quick_folder))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


# -------------------------------------------------------------------- code in texts


@pytest.mark.parametrize(
    ("text", "language", "begins"),
    [
        ("<!DOCTYPE html>\n<p>Hi", "html", "<!DOCTYPE"),
        (f"\ufeff<?xml version='1.0'?>\n<!-- drawn -->{SVG}", "svg", "<?xml"),
        ("<svg width='9'><g/></svg>", "html", "<svg width"),
        (f"Here you are:\n```svg\n{SVG}```\nEnjoy.", "svg", "<svg"),
        ("~~~\n```python\nprint()\n```\nand\n````html\n<main>```</main>\n````", "html", "<main>"),
        ("```html\n<p>cut off", "html", "<p>cut"),
    ],
)
def test_a_page_is_found_in_files_and_in_answers(text: str, language: str, begins: str) -> None:
    page = find_page(text)
    assert page is not None and page.language == language and page.code.startswith(begins)


@pytest.mark.parametrize(
    "text", ["", "a < b", "<3 you", "# Title\n\n<p>", "```python\nx = '<p>'\n```", "body {color: red}"]
)
def test_other_text_has_no_page(text: str) -> None:
    assert find_page(text) is None


def test_styles_and_scripts_in_separate_blocks_are_inserted_into_the_page() -> None:
    answer = "```html\n<html><head></head><body><p></body></html>\n```\n```css\np{}\n```\n```js\nf()\n```"
    page = find_page(answer)
    assert page is not None
    assert page.code == "<html><head><style>\np{}\n</style>\n</head><body><p><script>\nf()\n</script>\n</body></html>\n"


@given(
    st.lists(st.sampled_from(["```", "```html", "````", "<p>", "<!--", "-->", "<?xml", "\n", "<svg ", "a"])).map(
        "".join
    )
)
def test_a_found_page_is_found_again_in_its_own_code(text: str) -> None:
    page = find_page(text)
    assert page is None or page == find_page(page.code) or "```" in page.code


def test_find_page_takes_linear_time_in_text_without_closing_marks() -> None:
    began = time.process_time()
    for mark in ("```a\n", "<!--", "<?xml ", "<!doctype svg ", "</head ", "<svg "):
        find_page(mark * 30_000)
        find_page(f"```html\n<p>{mark * 30_000}\n```\n```css\na\n```")
    assert time.process_time() - began < 5


# -------------------------------------------------------------------- pictures


ANIMATED = """<p id=p></p><p id=q>0</p><canvas id=c width=50 height=20></canvas>
<style>@keyframes a {from {margin-left: 0} to {margin-left: 90px}} div {width: 9px; height: 9px; background: red}
#end {animation: a 3s forwards} #round {animation: a 1s infinite} </style><div id=end></div><div id=round></div>
<script>p.textContent = new Date() + Math.random(); let n = 0, t = 0;
function f(now) {q.textContent = `${++n} ${now} ${t}`; requestAnimationFrame(f)} f();
setInterval(() => t = performance.now(), 7);
for (let x = 0; x < 50; x += 5) c.getContext('2d').fillRect(x, 0, 3, 20 * Math.random())</script>"""


@real
def test_ten_shots_of_an_animated_page_with_clock_and_random_numbers_are_equal_to_the_bit(chromium: Browser) -> None:
    shots = {chromium.screenshot(ANIMATED, "html", SMALL).png for _ in range(5)}
    with Browser(find_chromium()) as other:
        shots |= {other.screenshot(ANIMATED, "html", SMALL).png for _ in range(5)}
    assert len(shots) == 1
    picture = pixels(shots.pop())
    red = np.flatnonzero((picture == (255, 0, 0)).all(2).any(0))
    assert red.min() == 8 and red.max() == 8 + 90 + 8  # one box at its end, one at its beginning, none in between
    assert len(red) == 18


@real
def test_screenshots_have_the_size_in_the_options(chromium: Browser) -> None:
    def size(code: str, language: Any = "html", **options: Any) -> tuple[int, int]:
        return Image.open(BytesIO(chromium.screenshot(code, language, replace(SMALL, **options)).png)).size

    assert size("<p>") == (200, 100)
    assert size("<div style='height:300px'>") == (200, 316)
    assert size("<div style='height:99999px'>", most_height_px=500) == (200, 500)
    assert size("<p>", scale=2.0) == (400, 200)
    assert size(SVG, "svg") == size(SVG) == (120, 80)
    picture = pixels(chromium.screenshot(SVG, "svg", SMALL).png)
    assert picture[40, 40].tolist() == [255, 0, 0] and picture[2, 2].tolist() == [255, 255, 255]


@real
def test_scripts_run_only_if_the_options_allow_it(chromium: Browser) -> None:
    page = f"{RED}<script>document.body.style.background = '#0f0'</script>"
    assert pixels(chromium.screenshot(page, "html", SMALL).png)[50, 50].tolist() == [0, 255, 0]
    assert pixels(chromium.screenshot(page, "html", replace(SMALL, scripts=False)).png)[50, 50].tolist() == [255, 0, 0]


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port that listens on TCP and UDP, and the connections and packets that arrived."""
    received: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as tcp, closing(socket.socket(type=socket.SOCK_DGRAM)) as udp:
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))

        def listen(receive: Any) -> None:
            while True:
                try:
                    received.append(repr(receive()).encode())
                except OSError:
                    return

        for receive in (tcp.accept, lambda: udp.recvfrom(99)):
            threading.Thread(target=listen, args=(receive,), daemon=True).start()
        yield port, received


LOUD = """<link rel=preconnect href="{u}"><link rel=dns-prefetch href="{u}"><link rel=stylesheet href="{u}a.css">
<link rel=prefetch href="{u}"><link rel=icon href="{u}i.ico"><meta http-equiv=refresh content="0;url={u}m">
<img src="{u}x.png"><img srcset="{u}y.png 2x"><iframe src="{u}f"></iframe><iframe src="file:///etc/passwd"></iframe>
<object data="{u}o"></object><embed src="{u}e">
<video src="{u}v.mp4" poster="{u}p.png"></video><script src="{u}s.js"></script>
<style>@import "{u}i.css"; @font-face {{font-family: f; src: url({u}f.woff)}}
p {{font-family: f; background: url({u}b)}}</style>
<p>words</p><form id=g action="{u}g" method=post></form><a id=l href="{u}l" ping="{u}ping">l</a><script>
const go = [() => fetch('{u}1'), () => new WebSocket('ws://127.0.0.1:{p}/'), () => navigator.sendBeacon('{u}2'),
  () => open('{u}3'),
  () => new EventSource('{u}4'), () => new Worker('{u}5'), () => import('{u}6'), () => g.submit(), () => l.click(),
  () => {{ const r = new XMLHttpRequest(); r.open('GET', '{u}7'); r.send(); }}, () => alert(1), () => print(),
  () => speak(), () => {{ const f = document.createElement('iframe');
    f.srcdoc = `<script>${{speak}}; speak()<\\/script>`; document.body.append(f); }},
  () => {{ const f = document.createElement('iframe'); document.body.append(f);
    f.contentWindow.eval(`${{speak}}; speak()`); }}, () => {{ location = '{u}8'; }}];
function speak() {{
  const urls = ['stun:127.0.0.1:{p}', 'turn:127.0.0.1:{p}?transport=udp', 'turn:127.0.0.1:{p}?transport=tcp'];
  const c = new RTCPeerConnection({{iceServers: [{{urls, username: 'u', credential: 'c'}}]}});
  c.createDataChannel('d');
  c.createOffer().then(o => c.setLocalDescription(o));
}}
for (const one of go) {{ try {{ const made = one(); made?.catch?.(() => 0); }} catch {{}} }}
</script>"""


@real
def test_no_connection_leaves_the_browser_by_any_feature_of_a_page(chromium: Browser) -> None:
    with listener() as (port, received):
        page = f"{GREEN}{LOUD.format(u=f'http://127.0.0.1:{port}/', p=port)}"
        shot = chromium.screenshot(page, "html", SMALL)
        time.sleep(1.0)
        assert not received and shot.blocked > 10
        with closing(socket.create_connection(("127.0.0.1", port))):
            time.sleep(0.1)
        assert received  # the listener works
    assert (pixels(shot.png) == (0, 255, 0)).all(2).mean() > 0.2  # the page is shown, not an error


# -------------------------------------------------------------------- failures


@real
def test_a_bad_page_fails_alone_and_with_bounded_memory() -> None:
    space = "xmlns='http://www.w3.org/2000/svg'"
    bad: list[tuple[str, Any, set[str]]] = [
        (f"<svg {space}><g></svg>", "svg", {"malformed_svg"}),
        (f"<svg {space} width='0' height='0'/>", "svg", {"nothing_drawn"}),
        ("<script>for (;;) {}</script>", "html", {"page_hung"}),
        # On a busy machine the time limit may come before the memory limit.
        (
            "<script>let a = []; for (;;) a.push(new Array(1e6).fill(1.5))</script>",
            "html",
            {"page_crashed", "page_hung"},
        ),
    ]
    with Browser(find_chromium(), page_s=5, memory_bytes=512 << 20) as browser, memory_samples() as samples:
        for code, language, reasons in bad:
            with pytest.raises(RecordError) as error:
                browser.screenshot(code, language, SMALL)
            assert error.value.reason in reasons
        assert pixels(browser.screenshot(GREEN, "html", SMALL).png)[0, 0].tolist() == [0, 255, 0]
    assert max(samples) < 1 << 30


@contextmanager
def memory_samples() -> Iterator[list[int]]:
    """Memory of all child processes, sampled every 50 ms."""
    samples = [0]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.05):
            samples.append(sum(private_bytes(child) for child in psutil.Process().children(recursive=True)))

    watcher = threading.Thread(target=sample)
    watcher.start()
    yield samples
    over.set()
    watcher.join()


def private_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


@real
def test_a_killed_browser_is_replaced(chromium: Browser) -> None:
    chromium.screenshot(GREEN, "html", SMALL)
    for process in browsers(psutil.Process()):
        process.kill()
    assert pixels(chromium.screenshot(RED, "html", SMALL).png)[0, 0].tolist() == [255, 0, 0]


def test_a_missing_browser_is_reported_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, message in ({"PATH": "/nowhere"}, "none of chromium,"), ({VARIABLE: "/no/such"}, "'/no/such'"):
        with monkeypatch.context() as patched:
            for name, value in names.items():
                patched.setenv(name, value)
            find_chromium.cache_clear()
            with pytest.raises(MillraceError, match=message) as error:
                find_chromium()
            assert VARIABLE in error.value.fix
    find_chromium.cache_clear()


# -------------------------------------------------------------------- the node


def document(name: str, text: str, **more: Any) -> Document:
    return Document(record_id("raw", name), "raw", name, "code", (Text(text),), license="MIT", **more)


def node(over: Snapshot, **more: Any) -> Render:
    fields = {"kind": "render", "input": over.name, "look": {"width_px": 200, "height_px": 100}}
    return pydantic.TypeAdapter(Render).validate_json(json.dumps(fields | more))


def made(folder: Path, render: Render, over: Snapshot, place: str = "made") -> tuple[Snapshot, list[Outcome]]:
    inputs = {over.name: product(over)}
    wanted = graph.unit_names("made", render, render.survey("made", inputs))
    store = Store.create(str(folder / place), "documents", "made")
    tasks = [
        StoreTask(render, store.url, name, UnitTask("made", unit, inputs), 50, 0.5) for name, unit in wanted.items()
    ]
    outcomes = [run_unit(task, frozenset(), lambda ordinal: None) for task in tasks]
    receipts = [outcome.receipt for outcome in outcomes]
    return store.commit(receipts, node="n", units=list(wanted), parents=[over.as_parent]), outcomes


@real
def test_pairs_have_their_lineage_and_other_documents_a_reason(folder: Path) -> None:
    answer = document("answer", f"Here it is:\n```svg\n{SVG}```", notes={"synthetic": True, "model": "m"})
    drawn = [document("page.html", GREEN), answer, document("poor.html", "<img src='https://a.example/x.png'>")]
    other = [document("x.py", "print()"), document("long.html", f"<p>{'long ' * 200}"), document("bad.svg", SVG[:-9])]
    over = stored(folder, {"u": drawn + other})
    snapshot, outcomes = made(folder, node(over, most_characters=900, page_s=20), over)
    pairs = {pair.parents[0]: pair for pair in snapshot.documents(range(len(list(snapshot.records()))))}
    assert set(pairs) == {record_id("raw", "page.html"), answer.id}
    pair = pairs[answer.id]
    child = {"node": "made", "id": pair.id, "variant": ""}
    assert explain.derived_records("made", snapshot, {answer.id}) == [(answer.id, child)]
    assert (pair.source, pair.domain, pair.license, pair.notes["synthetic"]) == ("made", "code", "MIT", True)
    assert pair.text == SVG and [fact.name for fact in pair.facts] == ["code"]
    rendered: Json = pair.notes["rendered"]
    assert rendered["language"] == "svg" and rendered["browser"] == find_chromium().version
    assert rendered["look"]["width_px"] == 200
    assert pair.media[0].payload is not None and pixels(pair.media[0].payload)[40, 40].tolist() == [255, 0, 0]
    assert (pair.media[0].width_px, pair.media[0].height_px) == (120, 80)
    assert sum((outcome.counts.noted for outcome in outcomes), Counter()) == {"no_page": 2}
    reasons = {row["locator"]: row["reason"] for row in snapshot.quarantined().to_pylist()}
    assert reasons == {record_id("raw", "poor.html"): "needs_network", record_id("raw", "bad.svg"): "malformed_svg"}


@real
def test_identity_covers_browser_and_look_but_not_the_time_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = stored(folder, {"u": [document("a.html", GREEN)]})
    inputs = {over.name: product(over)}

    def identity(render: Render) -> str:
        return graph.identity("made", render, inputs, render.survey("made", inputs))

    render = node(over)
    before, survey = identity(render), render.survey("made", inputs)
    assert identity(node(over, page_s=7)) == before != identity(node(over, look={"width_px": 201}))
    newer = replace(find_chromium(), version="Chromium 999")
    monkeypatch.setattr("pipelines.synthesis.render.find_chromium", lambda: newer)
    assert identity(render) != before
    store = Store.create(str(folder / "elsewhere"), "documents", "made")
    task = StoreTask(render, store.url, "u", UnitTask("made", survey.units[0], inputs), 50, 0.5)
    with pytest.raises(MillraceError, match="this worker has Chromium 999"):
        run_unit(task, frozenset(), lambda ordinal: None)


DAG = """
name: drawn
nodes:
  documents: {{kind: ingest_folder, path: ./data}}
  code:
    kind: synthesize
    input: documents
    endpoint: {{url: "{url}"}}
    model: m
    task: {{kind: code}}
  pairs: {{kind: render, input: code, look: {{width_px: 200, height_px: 100}}}}
"""


def browsers(parent: psutil.Process) -> Sequence[psutil.Process]:
    """Browser processes below a process, by a flag that only the node `render` sets."""
    matching = []
    for process in parent.children(recursive=True):
        with suppress(psutil.Error):
            matching += [process] if FLAG in process.cmdline() else []
    return matching


@real
def test_a_killed_run_leaves_no_browser_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(4):
        (tmp_path / "data" / f"{i}.txt").write_text(f"Number {i} is described here, in a few words. " * 5)
    with chat_server() as chat:
        answers = {str(i): f"<h1>{i}</h1>" for i in range(3)} | {"3": SVG[:-9]}
        chat.reply = lambda request: f"Sure:\n```\n{answers[last_text(request).split('Number ')[1][:1]]}\n```"
        (tmp_path / "dag.yaml").write_text(DAG.format(url=chat.url))
        process = start(tmp_path / "dag.yaml", tmp_path / "out", workers=1)
        until = time.monotonic() + 60
        while not (started := browsers(psutil.Process(process.pid))) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert started
        _, alive = psutil.wait_procs(started, timeout=20)
        assert not alive
        run(tmp_path / "dag.yaml", tmp_path / "out", workers=0)
    pairs = head(tmp_path / "out", "pairs")
    assert sorted(pair.text for pair in pairs.records()) == [f"<h1>{i}</h1>\n" for i in range(3)]
    assert all(pair.notes["synthetic"] and pair.notes["model"] == "m" for pair in pairs.records())
    (rejected,) = pairs.quarantined().to_pylist()
    explained = explain.explain(tmp_path / "out", rejected["locator"])
    assert [row["reason"] for row in explained["quarantine"]] == ["malformed_svg"] and len(explained["records"]) == 1
    parent = explained["records"][0]
    assert parent["store"] == "code" and parent["facts"]["id"] == rejected["locator"]
    by_locator = explain.explain(tmp_path / "out", parent["facts"]["locator"])
    assert by_locator["quarantine"] == explained["quarantine"]
