"""What a merge computes with: the processor, or a GPU that torch knows."""

from __future__ import annotations

import torch

from modelhub.errors import MergeError


def device_named(name: str) -> torch.device:
    """torch's device *name* (``cpu``, ``cuda``, ``cuda:1``, ``mps``); :class:`MergeError` where it is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MergeError(f"{name!r:.60} is no device", hint="--device cpu or cuda") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda":
        there = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
        why = "torch finds no such GPU" if torch.version.cuda else "this torch was built without CUDA"
    else:
        there, why = device.type == "mps" and torch.backends.mps.is_available(), "torch has no such device here"
    if not there:
        raise MergeError(f"the device {name!r:.60} cannot be used: {why}", hint="leave out --device")
    return device
