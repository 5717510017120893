"""The course of a test, run within this process, so that torch is imported once."""

from __future__ import annotations

import json
from pathlib import Path

from modelhub.smoke import SmokeResult, SmokeSpec
from modelhub.smoke.checks import judge
from modelhub.smoke.kept import Kept
from modelhub.smoke.loading import place_of
from modelhub.smoke.run import IMAGE, MEASURED, Measured
from modelhub.smoke.telling import Teller
from modelhub.smoke.testing import run_test


def carried_out(spec: SmokeSpec, folder: Path, kept: Kept | None = None) -> SmokeResult:
    """The result of *spec*, run here."""
    (folder / MEASURED).unlink(missing_ok=True)
    with Teller(str(folder / MEASURED)) as teller:
        run_test(spec, place_of(spec.device, spec.dtype, spec.pipeline), str(folder), teller, kept or Kept())
    values: dict = {}
    for row in (folder / MEASURED).read_text().splitlines():
        values |= json.loads(row)
    image = folder / IMAGE
    return judge(spec, Measured(values, image=image.read_bytes() if image.exists() else None))


def outcomes(result: SmokeResult) -> dict[str, str]:
    return {check.name: check.outcome for check in result.checks}


def unpassed(result: SmokeResult) -> dict[str, str]:
    return {name: outcome for name, outcome in outcomes(result).items() if outcome != "passed"}
