"""The course of one test inside the worker: what is run, in which order, and what is told of it.

Nothing is judged here. The first measurement that cannot be had (weights without values, pictures that are not
numbers) ends what depends on it.
"""

from __future__ import annotations

import platform
import sys

import diffusers
import torch
import transformers

from modelhub.smoke.adapter_test import try_adapter
from modelhub.smoke.course import Course
from modelhub.smoke.loading import Files, Place, account_dict, load, on_meta
from modelhub.smoke.model_test import try_model
from modelhub.smoke.spec import SmokeSpec
from modelhub.smoke.telling import Teller


@torch.inference_mode()
def run_test(spec: SmokeSpec, place: Place, folder: str, teller: Teller) -> None:
    """Carry out *spec* at *place*; measurements go to *teller*, the image into *folder*.

    Raises :class:`~modelhub.smoke.loading.CannotLoad`.
    """
    teller.tell(device=_device_name(place), dtype=str(place.dtype).removeprefix("torch."), versions=_versions())
    try:
        teller.stage("loading")
        files = Files(spec.files)
        modules, accounts = load(spec, files, place)
        account = account_dict(accounts)
        teller.tell(load=account)
        whole = not any(account[kind]["count"] for kind in ("missing", "non_finite"))
        if not whole or any(name for module in modules.values() for name in on_meta(module)):
            return
        course = Course(spec, place, files, modules, folder, teller)
        if spec.adapter is None:
            try_model(course)
        else:
            try_adapter(course, spec.adapter)
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


def _peak_memory(place: Place) -> dict[str, int]:
    """The most bytes that this process held in the machine's memory and in the device's."""
    told = {}
    try:
        import resource
    except ImportError:
        pass
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told["host_memory"] = most if sys.platform == "darwin" else most * 1024
    if place.device.type == "cuda":
        told["device_memory"] = torch.cuda.max_memory_allocated(place.device)
    return told
