"""The worked example of `pipelines/ingest/README.md`: a new format is one module and one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from pipelines.ingest.documents import BY_NAME, BY_SUFFIX, FormatReader
from tests.pipelines.ingest.ingested import documents, ingest, quarantined

README = Path(__file__).parents[3] / "pipelines" / "ingest" / "README.md"


def test_the_reader_of_the_readme_reads_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_text, line = map(dedent, re.findall(r" +```python\n(.*?)\n +```", README.read_text(), re.DOTALL))
    notebook_files = ModuleType("notebook_files")
    exec(module_text, notebook_files.__dict__)
    (reader,) = eval(f"({line.strip()})", {"FormatReader": FormatReader, "notebook_files": notebook_files})
    monkeypatch.setitem(BY_NAME, reader.name, reader)
    for suffix in reader.suffixes:
        monkeypatch.setitem(BY_SUFFIX, suffix, reader)

    data = tmp_path / "data"
    data.mkdir()
    (data / "good.ipynb").write_text(json.dumps({"cells": [{"source": ["x = 1\n", "y = 2"]}, {"source": "x + y"}]}))
    (data / "no_cells.ipynb").write_text("{}")
    (data / "no_json.ipynb").write_text("x = 1")
    snapshot = ingest(data, tmp_path / "store")
    assert {locator: (document.text, document.domain) for locator, document in documents(snapshot).items()} == {
        "good.ipynb": ("x = 1\ny = 2\n\nx + y", "code")
    }
    assert quarantined(snapshot) == {"no_cells.ipynb": "bad_notebook", "no_json.ipynb": "bad_json"}
