"""Checkpoints written by torch itself, and the short way to convert one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from modelhub.container import open_path
from modelhub.convert import Conversion, execute, plan_conversion


@pytest.fixture(scope="session")
def checkpoint_bytes() -> bytes:
    torch.manual_seed(0)
    weights = {f"layer.{i}.weight": torch.randn(128, 1024).half() for i in range(24)}
    stream = io.BytesIO()
    torch.save({"state_dict": weights, "global_step": 3}, stream)
    return stream.getvalue()


@pytest.fixture
def checkpoint(tmp_path: Path, checkpoint_bytes: bytes) -> Path:
    """A trusted file: 24 random fp16 tensors under ``state_dict``, 6 MiB, larger than one block of the copy."""
    path = tmp_path / "model.ckpt"
    path.write_bytes(checkpoint_bytes)
    return path


def run(source: Path | str, target: Path | str, **options) -> Conversion:
    """Open, plan and execute, without asking a scan."""
    with open_path(source) as container:
        return execute(plan_conversion(container), target, **options)
