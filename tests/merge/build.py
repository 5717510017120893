"""Small bases with the names of real ones, adapters for them in the dialects, and what a merge must come to."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from modelhub.samples.layouts import Architecture, checkpoint
from modelhub.tensors import DType

Weights = dict[str, torch.Tensor]
SMALL = 0.02
LEAVES = {
    "lora": {"up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight"},
    "full": {"diff": "diff"},
    "set": {"set": "set_weight"},
    "glora": {role: f"{role}.weight" for role in ("a1", "a2", "b1", "b2")},
    "oft": {"blocks": "oft_blocks", "rescale": "rescale"},
}
PREFIXES = {"loha": "hada_", "lokr": "lokr_"}
TORCH = {DType.F16: torch.float16, DType.F32: torch.float32, DType.I64: torch.int64, DType.I32: torch.int32}


def base_weights(architecture: Architecture, dtype: DType = DType.F16) -> Weights:
    """Random weights under the names of a checkpoint of *architecture*, of the types that real files have."""
    return dict(_weights(architecture, dtype))


@functools.cache
def _weights(architecture: Architecture, dtype: DType) -> Weights:
    generator = torch.Generator().manual_seed(7)
    made: Weights = {}
    for name, (kind, shape) in checkpoint(architecture, width=SMALL, dtype=dtype).items():
        values = torch.randn(shape, generator=generator)
        made[name] = (values if TORCH[kind].is_floating_point else values * 9).to(TORCH[kind])
    return made


def random(*shape: int, seed: int = 0, size: float = 0.2) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape) * size


def leaf(algorithm: str, role: str) -> str:
    """The end of the name of a tensor, as kohya and LyCORIS write it."""
    if algorithm in PREFIXES:
        return PREFIXES[algorithm] + role
    return LEAVES.get(algorithm, {}).get(role, role)


def write_adapter(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """The file *path* with *tensors* in float32, which hold what the references compute with exactly."""
    save_file(
        {name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) for name, array in tensors.items()},
        path,
        dict(metadata or {}),
    )
    return path


def as_stored(array: np.ndarray) -> np.ndarray:
    """*array* as a file of float32 has it."""
    return array.astype(np.float32).astype(np.float64)


def assert_merged(found: torch.Tensor, exact: np.ndarray, before: torch.Tensor) -> None:
    """*found* is *exact* to half a unit of its last place, and what float32 adds to that."""
    got = found.to(torch.float64).numpy()
    values = torch.from_numpy(np.ascontiguousarray(exact))
    info = torch.finfo(found.dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=info.smallest_normal))
    unit = torch.ldexp(torch.full_like(values, info.eps), exponent - 1).numpy()
    slack = 2e-6 * (np.abs(exact).max() + before.abs().max().item())
    worst = (np.abs(got - exact) - 0.5 * unit).max()
    assert worst <= slack, worst


def assert_same(found: Weights, expected: Weights, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Every tensor but those is, bit for bit, what it was."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if name not in but:
            assert found[name].dtype is tensor.dtype and torch.equal(found[name], tensor), name


def load(path: Path) -> Weights:
    loaded: Weights = load_file(path)
    return loaded
