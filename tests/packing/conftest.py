"""One small corpus, made once: documents, samples, plan and packs."""

from __future__ import annotations

import pytest

from tests.packing.corpus import Made, corpus, make


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("corpus"), corpus())
