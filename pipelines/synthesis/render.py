"""The node `render`: code of pages and drawings beside the picture that a real browser makes of it.

documents or view -> render -> filter ... `tokenise`. A document of which the text is HTML or SVG, a file's or what a
model answered (`synthesise`, task `code`), becomes one of two parts: the picture, then the code, of which the fact
`code` says that it is true of the picture. The browser is `browser.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from io import BytesIO
from typing import Literal

from PIL import Image

from manifests.errors import MillraceError, RecordError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Fact, Json, Media, Text, derived_id
from pipelines.filters.op import concerns
from pipelines.node import Attempt, DocumentsNode, Inputs, Mistake, Survey, UnitTask, units_below
from pipelines.synthesis.browser import Browser, Look
from pipelines.synthesis.browser_process import found
from pipelines.synthesis.code_blocks import Page, page_in
from stores.store import UnitWriter


@schema
class Render(DocumentsNode):
    """A picture of each document's page or drawing, and its code; the document itself is the parent.

    What the browser's version, the fonts and the look change, changes the pictures: all are part of the node's
    identity, and a worker with another browser or other fonts refuses.
    """

    PLACES = frozenset({"page_s"})

    kind: Literal["render"]
    input: str
    domains: tuple[str, ...] = ()
    """None: all."""
    look: Look = Look()
    most_characters: int = 200_000
    """Longer code is not drawn."""
    most_blocked: int | None = 0
    """Pages that ask for more things than this which are not in them, pictures or scripts or fonts, are set aside: what
    is seen is not what their code says. Null lets all pass."""
    page_s: float = 30.0
    """For one page, by the clock, twice. Its own time is virtual, so this is for what hangs."""
    memory_mb: int = 2048
    """That the process of one page may have for itself."""

    def __post_init__(self) -> None:
        if self.most_characters < 1 or self.page_s <= 0 or self.memory_mb < 256:
            raise ValueError("most_characters is at least 1, page_s above 0, memory_mb at least 256")

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        try:
            found()
        except MillraceError as error:
            yield Mistake((), error.message, error.fix)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        here = found()
        units = units_below(inputs[self.input].snapshot)
        facts = {"browser": here.version, "fonts": here.fonts}
        return Survey(tuple(replace(unit, data=(unit.data, facts)) for unit in units), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        stretch, wanted = task.unit.data
        here = found()
        if {"browser": here.version, "fonts": here.fonts} != wanted:
            raise MillraceError(
                f"this worker has {here.version}, or other fonts, and the run {wanted['browser']}",
                where=task.node,
                fix="install the same browser and fonts on every machine of the cluster",
            )
        snapshot = task.inputs[self.input].snapshot
        with Browser(here, page_s=self.page_s, memory_bytes=self.memory_mb << 20) as browser:
            for document in snapshot.documents(snapshot.kept(stretch.start, stretch.stop).tolist()):
                if document.source == FORGOTTEN or not concerns(self.domains, document):
                    continue
                page = page_in(document.text) if len(document.text) <= self.most_characters else None
                if page is None:
                    attempt.note("no_page")
                    continue
                made = attempt(document.id, self._beside, document, page, browser, task.node)
                if made is not None:
                    attempt.store(document.id, made)
        return {"browser": here.version}

    def _beside(self, document: Document, page: Page, browser: Browser, node: str) -> Document:
        shot = browser.draw(page.code, page.language, self.look)
        if self.most_blocked is not None and shot.blocked > self.most_blocked:
            raise RecordError("needs_network", f"asks for {shot.blocked} things that are not in it")
        width_px, height_px = Image.open(BytesIO(shot.png)).size
        picture = Media(sha256(shot.png).hexdigest(), "image", "png", width_px, height_px, payload=shot.png)
        told = {"language": page.language, "browser": browser.chromium.version, "blocked": shot.blocked}
        return replace(
            document,
            id=derived_id((document.id,), node, 0),
            source=node,
            locator=document.id,  # its own may be a name that has to go, and nothing would find it here
            domain="code",
            parts=(picture, Text(page.code)),
            facts=(Fact("code", 1, 0, len(page.code)),),
            notes={**document.notes, "rendered": told | {"look": asdict(self.look)}},
            parents=(document.id,),
        )
