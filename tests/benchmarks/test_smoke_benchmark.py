"""The benchmark of smoke tests runs, and says what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import smoke


@pytest.mark.big
def test_a_quick_run_measures_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--quick tests small models, cold and warm, by stages, beside the plain script, and judges no goal of a GPU."""
    smoke.main(["sd-1", "--quick", "--count", "2", "--dir", str(tmp_path)])
    told = capsys.readouterr().out
    assert "## SD 1, 0.05 GB, 2 models, on cpu (" in told
    assert "| modelhub smoke | start to verdict | import | build | read | encode | denoise | decode |" in told
    assert "| cold | " in told
    assert "| modelhub smoke, one worker | " in told
    assert "The goals are a GPU's, and not judged here." in told
    assert not list(tmp_path.iterdir())
