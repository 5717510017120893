"""The page of smoke tests."""

from __future__ import annotations

from pathlib import Path

from modelhub.report.smoke_page import Page
from modelhub.smoke import Check, SmokeResult


def test_the_worst_are_counted_first_and_what_passed_is_folded(tmp_path: Path) -> None:
    """What is wrong is seen at once; the checks that were passed and the stages' seconds are to be unfolded."""
    fine = Check("vae.psnr", "passed", 21.0, ">= 20 dB", "the VAE gives pictures back")
    wrong = Check("unet.output", "failed", 0.0, ">= 0.01", "the UNet predicts nothing")
    path = tmp_path / "page.html"
    with Page(str(path)) as page:
        page.add(SmokeResult("good", "passed", "it generates", checks=(fine,), seconds={"loading": 0.4}))
        page.add(SmokeResult("cut", "not testable", "the file is cut off"))
        page.add(SmokeResult("bad", "failed", wrong.sentence, checks=(fine, wrong)))
    text = path.read_text()
    assert "<p class=tally>1 failed, 1 not testable, 1 passed</p>" in text
    good, cut, bad = text.split("<article")[1:]
    assert "<details><summary>passed checks: 1</summary>" in good
    assert "loading 0.4 s" in good
    assert "<table>" not in cut
    assert bad.index("unet.output") < bad.index("<details>") < bad.index("vae.psnr")
