"""The node `render`: HTML and SVG code with the picture that a browser draws of it.

documents or view -> render -> documents. A document whose text is HTML or SVG, from a file or from the task `code` of
`synthesize`, becomes a document of two parts: the picture, then the code. The fact `code` marks the code as true of the
picture. `synthesis/browser.py` draws, `synthesis/code_blocks.py` finds the code in a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version
from io import BytesIO
from typing import Literal

from PIL import Image

from manifests import extras
from manifests.errors import MillraceError, RecordError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Fact, Json, Media, Text, derived_id
from pipelines.filters.op import concerns
from pipelines.node import Attempt, DocumentsNode, Inputs, Mistake, Survey, UnitTask, units_below
from pipelines.synthesis.browser import Browser, ScreenshotOptions
from pipelines.synthesis.chromium import find_chromium
from pipelines.synthesis.code_blocks import PageCode, find_page
from stores.store import UnitWriter


@schema
class Render(DocumentsNode):
    """Write a document with picture and code for each document with code; the original document is its parent.

    The pictures depend on the versions of browser and Playwright, on the installed fonts and on `look`. All are part of
    the node's identity, and a worker with other versions or fonts stops.
    """

    PLACES = frozenset({"page_s"})

    kind: Literal["render"]
    input: str
    """Node with the documents."""
    domains: tuple[str, ...] = ()
    """Domains of the documents that are drawn; empty: all."""
    look: ScreenshotOptions = ScreenshotOptions()
    """Window and scale of the pictures."""
    most_characters: int = 200_000
    """Longer code is skipped, counted as `no_page`."""
    most_blocked: int | None = 0
    """Largest number of pictures, scripts, fonts and so on that a page may request in vain; pages with more are
    quarantined, because the picture is not what the code says. Null: any number."""
    page_s: float = 30.0
    """Time limit of one try to draw a page, in real time; there are two tries. The page's own time is virtual."""
    memory_mb: int = 2048
    """Memory of the process of one page."""

    def __post_init__(self) -> None:
        if self.most_characters < 1 or self.page_s <= 0 or self.memory_mb < 256:
            raise ValueError("most_characters is at least 1, page_s above 0, memory_mb at least 256")

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        if extras.missing("render"):
            yield Mistake((), "Playwright is not installed", extras.install("render"))
        try:
            find_chromium()
        except MillraceError as error:
            yield Mistake((), error.message, error.fix)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts = _versions()
        units = units_below(inputs[self.input].snapshot)
        return Survey(tuple(replace(unit, data=(unit.data, facts)) for unit in units), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        unit, wanted = task.unit.data
        chromium = find_chromium()
        if _versions() != wanted:
            raise MillraceError(
                f"this worker has {chromium.version}, the run {wanted['browser']}; fonts or Playwright may differ, too",
                where=task.node,
                fix="install the same browser, fonts and Playwright on every machine of the cluster",
            )
        snapshot = task.inputs[self.input].snapshot
        with Browser(chromium, page_s=self.page_s, memory_bytes=self.memory_mb << 20) as browser:
            for document in snapshot.documents(snapshot.kept(unit.start, unit.stop).tolist()):
                if document.source == FORGOTTEN or not concerns(self.domains, document):
                    continue
                page = find_page(document.text) if len(document.text) <= self.most_characters else None
                if page is None:
                    attempt.note("no_page")
                    continue
                made = attempt(document.id, self._rendered, document, page, browser, task.node)
                if made is not None:
                    attempt.store(document.id, made)
        return {"browser": chromium.version}

    def _rendered(self, document: Document, page: PageCode, browser: Browser, node: str) -> Document:
        """Return the document with picture and code.

        Raises:
            RecordError: the page can't be drawn, or requests more than `most_blocked` addresses.
        """
        shot = browser.screenshot(page.code, page.language, self.look)
        if self.most_blocked is not None and shot.blocked > self.most_blocked:
            raise RecordError("needs_network", f"requests {shot.blocked} addresses outside the page")
        width_px, height_px = Image.open(BytesIO(shot.png)).size
        picture = Media(sha256(shot.png).hexdigest(), "image", "png", width_px, height_px, payload=shot.png)
        rendered = {"language": page.language, "browser": browser.chromium.version, "blocked": shot.blocked}
        return replace(
            document,
            id=derived_id((document.id,), node, 0),
            source=node,
            locator=document.id,  # the parent's locator may have to be forgotten, and would not be found here
            domain="code",
            parts=(picture, Text(page.code)),
            facts=(Fact("code", 1, 0, len(page.code)),),
            notes={**document.notes, "rendered": rendered | {"look": asdict(self.look)}},
            parents=(document.id,),
        )


def _versions() -> dict[str, str]:
    """Return everything outside the manifest that decides a picture."""
    chromium = find_chromium()
    return {"browser": chromium.version, "fonts": chromium.fonts, "playwright": version("playwright")}
