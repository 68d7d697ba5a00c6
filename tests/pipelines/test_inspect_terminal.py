"""`millrace inspect` answers wrong arguments in words."""

from __future__ import annotations

import pytest

from pipelines.inspect import terminal


@pytest.mark.parametrize("limit", ["-3", "0", "two"])
def test_a_limit_that_shows_nothing_is_a_usage_error(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        terminal.main(["anywhere", f"--limit={limit}"])
    assert ended.value.code == 2
    assert "expected a whole number from 1" in capsys.readouterr().err
