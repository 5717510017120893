"""The course of one test inside the worker: what is run, in which order, and what is told of it.

Nothing is judged here. The first measurement that cannot be had (weights without values, pictures that are not
numbers) ends what depends on it.
"""

from __future__ import annotations

import platform
import sys
from contextlib import suppress

import diffusers
import torch
import transformers

from modelhub.smoke.adapter_test import try_adapter
from modelhub.smoke.course import Course
from modelhub.smoke.kept import Kept
from modelhub.smoke.loading import Files, Place, account_dict
from modelhub.smoke.model_test import try_model
from modelhub.smoke.spec import UPSCALER, SmokeSpec
from modelhub.smoke.telling import Teller
from modelhub.smoke.upscaling import try_upscaler


@torch.inference_mode()
def run_test(spec: SmokeSpec, place: Place, folder: str, teller: Teller, kept: Kept) -> None:
    """Carry out *spec* at *place*; measurements go to *teller*, the image into *folder*. *kept* is of the test before.

    Raises :class:`~modelhub.smoke.loading.CannotLoad`.
    """
    if place.device.type == "cuda" and place.device.index is not None:
        torch.cuda.set_device(place.device)  # or each worker would hold memory of the first one, too
    teller.tell(device=_device_name(place), dtype=str(place.dtype).removeprefix("torch."), versions=_versions())
    _forget_peaks(place)
    try:
        teller.stage("loading")
        files = Files(spec.files, place.device)
        if UPSCALER in spec.components:
            try_upscaler(Course(spec, place, files, {}, folder, teller, kept), spec.components[UPSCALER])
            return
        modules, accounts = kept.load(spec, files, place, teller)
        account = account_dict(accounts)
        teller.tell(load=account)
        if any(account[kind]["count"] for kind in ("missing", "non_finite")):
            return
        course = Course(spec, place, files, modules, folder, teller, kept)
        if spec.adapter is None:
            try_model(course)
        else:
            try_adapter(course, spec.adapter, kept.alone)
    finally:
        teller.tell(**_peak_memory(place))


def _device_name(place: Place) -> str:
    if place.device.type == "cuda":
        return f"{place.device.type} ({torch.cuda.get_device_name(place.device)})"
    return f"{place.device.type} ({torch.get_num_threads()} threads)"


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def _forget_peaks(place: Place) -> None:
    """From now on the peaks of memory are those of this test; the machine's only where the system can (Linux)."""
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place.device)
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_memory(place: Place) -> dict[str, int]:
    """The most bytes that this process held in the machine's memory and in the device's."""
    told = {}
    most = _high_water_mark()
    if most is not None:
        told["host_memory"] = most
    if place.device.type == "cuda":
        told["device_memory"] = torch.cuda.max_memory_allocated(place.device)
    return told


def _high_water_mark() -> int | None:
    with suppress(OSError), open("/proc/self/status") as file:
        return next(int(row.split()[1]) * 1024 for row in file if row.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
