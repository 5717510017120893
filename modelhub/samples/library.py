"""A small library of model files such as a download folder holds: good ones, broken ones and malicious ones.

Names, shapes and file formats are those of real files, the weights are random and hidden widths are reduced. The
malicious files are harmless: all that their payload would do is create one empty file beside them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace

from modelhub.samples.layouts import checkpoint, embedding, hypernetwork, lora, vae
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import random_weight, random_weights
from modelhub.samples.wrappers import a1111_embedding, a1111_hypernetwork, lightning_checkpoint
from modelhub.tensors import DType

MARKER = "PAYLOAD-WAS-RUN"
"""Name of the file that a malicious sample would create, were it ever loaded by something that runs it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A file of the sample library and what is to be said of it.

    ``verdict`` is a verdict's label (``"safe"``); ``kind`` and ``architecture`` are those of its identity, ``None``
    where its content does not tell; ``what`` says in a line what it is.
    """

    path: str
    verdict: str
    kind: str | None
    architecture: str | None
    what: str


def build_sample_library(directory: str | os.PathLike[str]) -> tuple[Sample, ...]:
    """Write the sample library, some 35 MB, into *directory* (made if it is missing) and say what is in it.

    Files of the same names are replaced. Two runs give the same bytes, but for the directory's own path in the
    payloads of the malicious files.
    """
    folder = os.fspath(directory)
    os.makedirs(folder, exist_ok=True)
    samples = tuple(replace(sample, path=os.path.join(folder, sample.path)) for sample, _ in _LIBRARY)
    for sample, (_, write) in zip(samples, _LIBRARY, strict=True):
        write(sample.path)
    return samples


def _sd1_zip(path: str) -> None:
    weights = random_weights(checkpoint("sd-1", width=1 / 48), seed=1)
    write_torch_zip(path, lightning_checkpoint(weights))


def _sd1_legacy(path: str) -> None:
    weights = random_weights(checkpoint("sd-1", width=1 / 64, ema=True, dtype=DType.F32), seed=2)
    write_torch_legacy(path, lightning_checkpoint(weights, epoch=0, global_step=194_366))


def _sdxl(path: str) -> None:
    weights = random_weights(checkpoint("sdxl", width=1 / 128), seed=3)
    write_safetensors(path, weights, {"format": "pt", "modelspec.title": "Harbour XL"})


def _sd1_lora(path: str) -> None:
    write_torch_zip(path, random_weights(lora("sd-1", rank=4), seed=4))


def _sdxl_lora(path: str) -> None:
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "1",
        "ss_network_alpha": "0.5",
        "ss_base_model_version": "sdxl_base_v1-0",
    }
    write_safetensors(path, random_weights(lora("sdxl", rank=1, text_encoder=False), seed=5), metadata)


def _embedding(path: str) -> None:
    ((dtype, shape),) = embedding("sd-1", vectors=8).values()
    write_torch_zip(path, a1111_embedding("moss", random_weight("moss", dtype, shape, seed=6)))


def _hypernetwork(path: str) -> None:
    structure = (1, 1 / 16, 1)
    layout = hypernetwork(structure=structure)
    write_torch_zip(path, a1111_hypernetwork("sepia", layout, structure=structure, seed=7))


def _vae(path: str) -> None:
    weights = random_weights(vae(width=1 / 16), seed=8)
    write_torch_zip(path, {"state_dict": weights, "global_step": 840_000})


def _cut_off_zip(path: str) -> None:
    _sd1_zip(path)
    os.truncate(path, os.path.getsize(path) * 3 // 5)


def _cut_off_safetensors(path: str) -> None:
    write_safetensors(path, random_weights(lora("sd-1", rank=4), seed=9))
    os.truncate(path, os.path.getsize(path) // 2)


def _error_page(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\n")
        file.write(b"<body><h1>Not Found</h1><p>This model has been removed.</p></body></html>\n")


def _malicious_zip(path: str) -> None:
    """A whole LoRA whose pickle runs a shell command before it makes the first tensor."""
    command = f"touch {shlex.quote(_marker(path))}"
    weights = random_weights(lora("sd-1", rank=1), seed=10)
    write_torch_zip(path, weights, before=[Call(Import("os", "system"), (command,))])


def _malicious_pickle(path: str) -> None:
    """A bare pickle that runs Python source text."""
    program = f"open({_marker(path)!r}, 'w').close()"
    with open(path, "wb") as file:
        file.write(dumps({"state_dict": Call(Import("builtins", "exec"), (program,))}))


def _marker(path: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(path)), MARKER)


_LIBRARY: tuple[tuple[Sample, Callable[[str], None]], ...] = (
    (Sample("harbour-v1.ckpt", "safe", "checkpoint", "sd-1", "SD 1 checkpoint, torch zip"), _sd1_zip),
    (Sample("harbour-v0.ckpt", "safe", "checkpoint", "sd-1", "SD 1 with EMA weights, before torch 1.6"), _sd1_legacy),
    (Sample("harbour-xl.safetensors", "safe", "checkpoint", "sdxl", "SDXL checkpoint"), _sdxl),
    (Sample("woodcut.pt", "safe", "lora", "sd-1", "LoRA for SD 1, torch zip"), _sd1_lora),
    (Sample("woodcut-xl.safetensors", "safe", "lora", "sdxl", "LoRA for SDXL"), _sdxl_lora),
    (Sample("moss.pt", "safe", "embedding", "sd-1", "textual inversion of the A1111 web UI"), _embedding),
    (Sample("sepia.pt", "safe", "hypernetwork", "sd-1", "hypernetwork of the A1111 web UI"), _hypernetwork),
    (Sample("clear-colours.vae.pt", "safe", "vae", None, "VAE as SD 1, SD 2 and SDXL share it"), _vae),
    (Sample("harbour-v2.ckpt", "unknown", "checkpoint", "sd-1", "SD 1, a download that broke off"), _cut_off_zip),
    (Sample("etching.safetensors", "unknown", "lora", "sd-1", "LoRA, a download that broke off"), _cut_off_safetensors),
    (Sample("removed.safetensors", "unknown", None, None, "HTML error page under a model's name"), _error_page),
    (Sample("free-styles.pt", "unsafe", "lora", "sd-1", "LoRA whose pickle runs a shell command"), _malicious_zip),
    (Sample("speed-up.ckpt", "unsafe", None, None, "bare pickle that runs Python code"), _malicious_pickle),
)
