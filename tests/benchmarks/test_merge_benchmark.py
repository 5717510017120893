"""The benchmark of merging runs, and says what it measured."""

from __future__ import annotations

import pytest

from benchmarks import merge


def test_a_quick_run_measures_all_that_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    """--quick merges narrow files by every method that is installed, prints the table and its judgements."""
    merge.main(["sd1", "--quick"])
    told = capsys.readouterr().out
    assert "## sd-1, fp16, 1 of rank 32" in told
    for method in ("copy", "products", "modelhub", "known"):
        assert merge.METHODS[method] in told
    assert "At most the copy, the products and a tenth" in told
    assert "of anonymous memory: met" in told
