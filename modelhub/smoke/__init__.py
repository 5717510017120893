"""Does a model generate? Each is loaded and run in a process of its own, and judged by what was measured there.

:func:`smoke` is the story of one model: :mod:`~modelhub.smoke.prepare` says, without torch, what is to be loaded;
:mod:`~modelhub.smoke.run` has a worker do it within limits; :mod:`~modelhub.smoke.checks` judges what it measured.
Nothing but :mod:`modelhub.smoke.worker`, which only ever runs as ``python -m modelhub.smoke.worker``, and what that
imports knows torch, diffusers or numpy.
"""

from __future__ import annotations

import os

from modelhub.smoke.ahead import Ahead
from modelhub.smoke.calibration import Calibration, calibrated, read_calibrations, to_toml
from modelhub.smoke.checks import asked as asked_of
from modelhub.smoke.checks import judge
from modelhub.smoke.checks.base import Thresholds
from modelhub.smoke.clip import clip_of
from modelhub.smoke.crew import Crew
from modelhub.smoke.flow_parts import FLOWS, VARIANTS
from modelhub.smoke.parts import NotTestable
from modelhub.smoke.prepare import missing_library, prepare
from modelhub.smoke.run import Limits, Measured, Worker
from modelhub.smoke.spec import (
    PROMPTS,
    Check,
    ClipSpec,
    Outcome,
    Pair,
    Preset,
    Settings,
    SmokeResult,
    SmokeSpec,
    TensorFile,
)
from modelhub.smoke.whole_parts import FindBase

__all__ = [
    "FLOWS",
    "PROMPTS",
    "VARIANTS",
    "Ahead",
    "Calibration",
    "Check",
    "ClipSpec",
    "Crew",
    "FindBase",
    "Limits",
    "Measured",
    "NotTestable",
    "Outcome",
    "Pair",
    "Preset",
    "Settings",
    "SmokeResult",
    "SmokeSpec",
    "TensorFile",
    "Thresholds",
    "Worker",
    "asked_of",
    "calibrated",
    "clip_of",
    "judge",
    "missing_library",
    "prepare",
    "read_calibrations",
    "smoke",
    "to_toml",
]


def smoke(
    path: str | os.PathLike[str],
    settings: Settings | None = None,
    limits: Limits | None = None,
    *,
    base: str | os.PathLike[str] | FindBase | None = None,
) -> SmokeResult:
    """Test the safetensors file, or the diffusers folder of them, at *path*.

    An adapter is put on *base*: the path of a checkpoint or folder, or what names one for an architecture; without it,
    on random weights. A model that lacks parts, as a transformer alone, has them from there.

    What cannot be tested is a result that says why, and so is a worker that crashes, hangs or needs too much memory.
    Raises :class:`~modelhub.errors.SourceError` when *path* cannot be had and :class:`~modelhub.errors.MissingExtra`
    where torch, diffusers or transformers is not installed.
    """
    settings = settings or Settings()
    find_base: FindBase = base if callable(base) else lambda _: None if base is None else os.fspath(base)
    prepared = prepare(os.fspath(path), settings, find_base)
    if isinstance(prepared, SmokeResult):
        return prepared
    with Worker(limits) as worker:
        return judge(prepared, worker.run(prepared))
