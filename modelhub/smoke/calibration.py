"""Thresholds measured on models that are known to be good, by architecture, and the TOML file that they are kept in.

    [sd-1]
    probe = 0.06                 # a UNet is suspect from here on
    deviation = [0.55, 1.6]      # finished latents are suspect outside of it
    psnr = 21.5                  # dB, a VAE is suspect below
    models = ["base.safetensors"]
    date = "2026-11-25"
    steps = 20
    guidance = 7.0
    size = 512

Of good models' measurements the worst is taken, with room for another good one that is a little worse.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from modelhub.errors import Malformed
from modelhub.smoke.checks.base import Thresholds
from modelhub.smoke.spec import SmokeResult
from modelhub.user_files import read_user_file

PROBE_ROOM = 3.0
"""How many times the worst error of good models: with 10 % of noise on its weights a small trained network's grows
fourfold."""

DEVIATION_ROOM = 1.25
"""How many times beyond that of good models: 10 % of noise on the weights made it 1.5 times as large and more."""

PSNR_ROOM = 2.0
"""dB below that of good models: half of how far published autoencoders differ from one picture to the next."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What good models of an architecture came to, and how they were sampled (see the module)."""

    probe: float
    deviation: tuple[float, float]
    psnr: float
    models: tuple[str, ...]
    date: str
    steps: int
    guidance: float
    size: int

    def thresholds(self, asked: Mapping[str, object]) -> Thresholds:
        """The thresholds for a test that was *asked* for; latents that are sampled otherwise are judged by our
        own."""
        count = len(self.models)
        origin = f"calibrated on {count} model{'s' * (count != 1)}, {self.date}"
        found = Thresholds(probe=self.probe, psnr=self.psnr, origin=origin)
        alike = all(asked.get(name) == getattr(self, name) for name in ("steps", "guidance", "size"))
        if alike:
            return replace(found, deviation=self.deviation)
        sampled = f"{self.steps} steps, {self.size} px and a guidance of {self.guidance:g}"
        return replace(found, origin=f"{origin}; of latents modelhub's own, since it was at {sampled}")


def calibrated(results: Iterable[SmokeResult], date: str) -> dict[str, Calibration]:
    """What the *results* of good models come to, by architecture; of those that failed or lack a measurement,
    nothing."""
    by_architecture: dict[str, list[SmokeResult]] = {}
    for result in results:
        if result.architecture and result.outcome in ("passed", "suspect") and _measured(result) is not None:
            by_architecture.setdefault(result.architecture, []).append(result)
    made = {}
    for architecture, good in by_architecture.items():
        probes, deviations, psnrs = zip(*filter(None, map(_measured, good)), strict=True)
        asked = good[0].asked
        made[architecture] = Calibration(
            probe=_rounded(max(probes) * PROBE_ROOM),
            deviation=(_rounded(min(deviations) / DEVIATION_ROOM), _rounded(max(deviations) * DEVIATION_ROOM)),
            psnr=_rounded(min(psnrs) - PSNR_ROOM),
            models=tuple(result.path.replace("\\", "/").rstrip("/").rpartition("/")[2] for result in good),
            date=date,
            steps=int(asked["steps"]),  # type: ignore[call-overload]
            guidance=float(asked["guidance"]),  # type: ignore[arg-type]
            size=int(asked["size"]),  # type: ignore[call-overload]
        )
    return made


def _measured(result: SmokeResult) -> tuple[float, float, float] | None:
    """The error of the probe, the deviation of the latents and the VAE's PSNR, if all of them are numbers."""
    values = {check.name: check.value for check in result.checks}
    probe = "unet.probe" if "unet.probe" in values else "transformer.probe"
    found = tuple(values.get(name) for name in (probe, "latents.deviation", "vae.psnr"))
    return None if None in found else found  # type: ignore[return-value]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def to_toml(calibrations: Mapping[str, Calibration]) -> str:
    """*calibrations* as the text of a file that :func:`read_calibrations` reads."""
    lines = ["# Thresholds of smoke tests, measured by 'modelhub smoke --calibrate'; see docs/smoke.md."]
    for architecture, each in sorted(calibrations.items()):
        lines += ["", f"[{json.dumps(architecture)}]"]
        lines += [f"{part.name} = {_toml(getattr(each, part.name))}" for part in fields(Calibration)]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        plain = "".join(each if each.isprintable() else "?" for each in value)
        return json.dumps(plain, ensure_ascii=False)
    return repr(value)


def read_calibrations(path: str) -> dict[str, Calibration]:
    """The calibrations in the file *path*.

    Raises :class:`~modelhub.errors.NotFound`, :class:`~modelhub.errors.AccessDenied` or
    :class:`~modelhub.errors.SourceError` when it cannot be read, and :class:`~modelhub.errors.Malformed` for anything
    else than the module shows.
    """
    try:
        said = tomllib.loads(read_user_file(path, "file of thresholds").decode("utf-8"))
        return {architecture: _calibration(architecture, table) for architecture, table in said.items()}
    except (ValueError, TypeError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError, too
        raise Malformed(f"{path}: not a file of thresholds: {error}", hint=_HINT) from error


def _calibration(architecture: str, table: Any) -> Calibration:
    names = [part.name for part in fields(Calibration)]
    if not isinstance(table, dict):
        raise TypeError(f"{architecture!r:.60} is no table")
    for name in table:
        if name not in names:
            near = get_close_matches(name, names, n=1, cutoff=0)
            raise ValueError(f"there is no {name!r:.60}; the nearest is {near[0]!r}")
    lost = [name for name in names if name not in table]
    if lost:
        raise ValueError(f"[{architecture:.60}] has no {lost[0]}")
    numbers = [table[name] for name in ("probe", "psnr", "steps", "guidance", "size")]
    deviation, models = table["deviation"], table["models"]
    if not isinstance(deviation, list) or len(deviation) != 2:
        raise ValueError("deviation is no pair of numbers")
    if not all(type(each) in (int, float) and 0 < each <= sys.float_info.max for each in [*numbers, *deviation]):
        raise ValueError(f"a threshold of [{architecture:.60}] is no number above 0")
    if not isinstance(models, list) or not models or not all(isinstance(each, str) for each in models):
        raise ValueError("models is no list of names")
    if not isinstance(table["date"], str):
        raise TypeError("date is no text")
    return Calibration(**(table | {"deviation": tuple(deviation), "models": tuple(models)}))


_HINT = "'modelhub smoke --calibrate' writes one; see docs/smoke.md"
