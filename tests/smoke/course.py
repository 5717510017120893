"""The course of a test, run within this process, so that torch is imported once; and a worker that does just that."""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from modelhub.smoke import Limits, Measured, SmokeResult, SmokeSpec
from modelhub.smoke.checks import judge
from modelhub.smoke.kept import Kept
from modelhub.smoke.loading import place_of
from modelhub.smoke.run import GRID, IMAGE, MEASURED
from modelhub.smoke.telling import Teller
from modelhub.smoke.testing import run_test


def carried_out(spec: SmokeSpec, folder: Path, kept: Kept | None = None) -> SmokeResult:
    """The result of *spec*, run here."""
    return judge(spec, _measured(spec, folder, kept or Kept()))


def _measured(spec: SmokeSpec, folder: Path, kept: Kept) -> Measured:
    (folder / MEASURED).unlink(missing_ok=True)
    with Teller(str(folder / MEASURED)) as teller:
        run_test(spec, place_of(spec.device, spec.dtype, spec.pipeline), str(folder), teller, kept)
    values: dict = {}
    for row in (folder / MEASURED).read_text().splitlines():
        values |= json.loads(row)
    image, grid = (path.read_bytes() if path.exists() else None for path in (folder / IMAGE, folder / GRID))
    return Measured(values, image=image, grid=grid)


class Within:
    """Stands for :class:`modelhub.smoke.Worker` where what that is, a process of its own, is not tested."""

    def __init__(self, _limits: Limits | None = None, device: str | None = None) -> None:
        self._device = device
        self._kept = Kept()

    def __enter__(self) -> Within:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept = Kept()

    def stop(self) -> None:
        """Nothing goes on when a test comes to its end."""

    def run(self, spec: SmokeSpec) -> Measured:
        if self._device is not None:
            spec = replace(spec, device=self._device)
        with tempfile.TemporaryDirectory() as folder:
            return _measured(spec, Path(folder), self._kept)


def said_in(png: bytes | None) -> str:
    """How an image was made, as its file says."""
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        assert isinstance(image, PngImageFile)
        return str(image.text["parameters"])


def outcomes(result: SmokeResult) -> dict[str, str]:
    return {check.name: check.outcome for check in result.checks}


def unpassed(result: SmokeResult) -> dict[str, str]:
    return {name: outcome for name, outcome in outcomes(result).items() if outcome != "passed"}
