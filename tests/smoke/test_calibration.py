"""Thresholds that are measured on good models: what they come to, the file they are kept in, and who is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modelhub.errors import Malformed, NotFound
from modelhub.smoke import Calibration, SmokeResult, Thresholds, calibrated, judge, read_calibrations, to_toml
from modelhub.smoke.run import Measured
from modelhub.smoke.spec import Check
from tests.smoke.course import outcomes
from tests.smoke.test_checks import MODEL, PROBE, spec_of

ASKED = {"steps": 4, "guidance": 7.0, "size": 64}
SD_1 = Calibration(0.06, (0.8, 1.25), 22.0, ("a.safetensors", 'odd "name"\x07.ckpt'), "2026-11-25", 4, 7.0, 64)


def result(probe: float | None, deviation: float, psnr: float, outcome: str = "passed", name: str = "a") -> SmokeResult:
    values = {"unet.probe": probe, "latents.deviation": deviation, "vae.psnr": psnr}
    checks = tuple(Check(check, "passed", value, "", "") for check, value in values.items())
    return SmokeResult(f"models/{name}.safetensors", outcome, "", "checkpoint", "sd-1", checks, asked=ASKED)  # type: ignore[arg-type]


def test_the_worst_of_good_models_decides() -> None:
    """Thrice the largest error, a quarter beyond the deviations on either side, 2 dB below the poorest VAE."""
    good = [result(0.02, 1.0, 24.0), result(0.01, 1.2, 30.0, "suspect", "b")]
    bad = [result(0.9, 7.0, 12.0, "failed"), result(None, 1.0, 24.0), replace(good[0], architecture=None)]
    assert calibrated([*good, *bad], "2026-11-25") == {
        "sd-1": Calibration(0.06, (0.8, 1.5), 22.0, ("a.safetensors", "b.safetensors"), "2026-11-25", 4, 7.0, 64)
    }
    assert calibrated(bad, "2026-11-25") == {}


def test_later_tests_are_judged_by_it_and_say_so() -> None:
    """The same measurements pass by our own thresholds and not by a calibration, which the result names."""
    values = MODEL | {"probe": PROBE | {"epsilon": 0.1}, "latents": [{"non_finite": 0.0, "deviation": 2}]}
    values |= {"vae": MODEL["vae"] | {"psnr": 21.0}}
    own = judge(spec_of("checkpoint"), Measured(values))
    assert (own.outcome, own.facts["thresholds"]) == ("passed", "modelhub's own")
    other = judge(spec_of("checkpoint"), Measured(values), SD_1.thresholds(own.asked))
    assert {name for name, outcome in outcomes(other).items() if outcome == "suspect"} == {
        "unet.probe",
        "latents.deviation",
        "vae.psnr",
    }
    assert other.facts["thresholds"] == "calibrated on 2 models, 2026-11-25"


def test_latents_of_other_steps_are_judged_by_our_own() -> None:
    """Their deviation depends on how they are sampled; what one step and the VAE do does not."""
    found = SD_1.thresholds(ASKED | {"steps": 20})
    assert (found.probe, found.psnr, found.deviation) == (0.06, 22.0, Thresholds().deviation)
    assert found.origin.endswith("of latents modelhub's own, since it was at 4 steps, 64 px and a guidance of 7")


def test_a_wrong_prediction_type_is_found_by_any_calibration() -> None:
    """A calibration says what a good model is, not what another prediction type is."""
    values = MODEL | {"probe": PROBE | {"epsilon": 0.9, "v_prediction": 0.1}}
    assert (
        outcomes(judge(spec_of("checkpoint"), Measured(values), SD_1.thresholds(ASKED)))["unet.prediction"] == "failed"
    )


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    """All of it, but for what is no text in names."""
    path = tmp_path / "thresholds.toml"
    path.write_text(to_toml({"sd-1": SD_1, "sdxl": SD_1}), encoding="utf-8")
    printable = replace(SD_1, models=("a.safetensors", 'odd "name"?.ckpt'))
    assert read_calibrations(str(path)) == {"sd-1": printable, "sdxl": printable}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("probe = 3", "'probe' is no table"),
        ("[sd-1]\nprobes = 3", "there is no 'probes'; the nearest is 'probe'"),
        ("[sd-1]\nprobe = 3", "[sd-1] has no deviation"),
        ("[sd-1", "not a file of thresholds"),
        (to_toml({"sd-1": SD_1}).replace("0.06", "-1"), "a threshold of [sd-1] is no number above 0"),
        (to_toml({"sd-1": SD_1}).replace("0.06", "1" + "0" * 400), "a threshold of [sd-1] is no number above 0"),
        (to_toml({"sd-1": SD_1}).replace("0.06", "nan"), "a threshold of [sd-1] is no number above 0"),
        (to_toml({"sd-1": SD_1}).replace("0.06", "true"), "a threshold of [sd-1] is no number above 0"),
        (to_toml({"sd-1": SD_1}).replace("[0.8, 1.25]", "[1]"), "deviation is no pair of numbers"),
        (to_toml({"sd-1": SD_1}).replace('"2026-11-25"', "3"), "date is no text"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """Nothing is judged by half of a calibration."""
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(Malformed) as caught:
        read_calibrations(str(path))
    assert told in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """It was named, so it is needed."""
    with pytest.raises(NotFound, match="no such file of thresholds"):
        read_calibrations(str(tmp_path / "none.toml"))
