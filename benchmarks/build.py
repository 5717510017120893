"""Write the full-size files that the benchmarks read: ``python -m benchmarks.build --dir DIR``.

Names, shapes and file formats are those of real models; the weights are random, so no file is of use to anyone.
A file that is there already is left alone.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from modelhub.samples.layouts import Architecture, checkpoint, lora
from modelhub.samples.pickling import Call, Import, dumps
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import Weight, random_weights
from modelhub.tensors import DType

DEFAULT_DIR = os.path.join("build", "bench")


def _wrapped(weights: dict[str, Weight]) -> dict[str, Any]:
    return {"state_dict": weights, "epoch": 3, "global_step": 470_000}


def _zip(architecture: Architecture, dtype: DType = DType.F16, *, ema: bool = False) -> Callable[[str], None]:
    return lambda path: write_torch_zip(
        path, _wrapped(random_weights(checkpoint(architecture, ema=ema, dtype=dtype))), root="archive"
    )


def _legacy(path: str) -> None:
    write_torch_legacy(path, _wrapped(random_weights(checkpoint("sd-1"))))


def _safetensors(path: str) -> None:
    write_safetensors(path, random_weights(checkpoint("sd-1")), {"format": "pt"})


def _lora(path: str) -> None:
    write_torch_zip(path, random_weights(lora("sdxl", rank=32)), root="archive")


def _malicious(path: str) -> None:
    with open(path, "wb") as file:
        file.write(dumps(Call(Import("os", "system"), ("echo this would have been your machine",))))


FILES: dict[str, tuple[str, str, Callable[[str], None]]] = {
    "sd1-ckpt": ("sd1-fp16.ckpt", "SD 1 checkpoint, fp16, torch zip", _zip("sd-1")),
    "sd1-ema-ckpt": (
        "sd1-ema-fp32.ckpt",
        "SD 1 checkpoint with EMA, fp32, torch zip",
        _zip("sd-1", DType.F32, ema=True),
    ),
    "sd1-legacy": ("sd1-fp16-legacy.ckpt", "SD 1 checkpoint, fp16, torch before 1.6", _legacy),
    "sd1-safetensors": ("sd1-fp16.safetensors", "SD 1 checkpoint, fp16, safetensors", _safetensors),
    "sdxl-ckpt": ("sdxl-fp16.ckpt", "SDXL checkpoint, fp16, torch zip", _zip("sdxl")),
    "sdxl-lora": ("sdxl-lora.pt", "SDXL LoRA of rank 32, fp16, torch zip", _lora),
    "malicious": ("malicious.pkl", "tiny pickle that runs a command", _malicious),
}
"""What can be built: key to file name, description and writer."""

NEEDED = ("sd1-ckpt", "sd1-legacy", "sdxl-ckpt", "sdxl-lora", "malicious")
"""What the benchmarks use unless told otherwise."""


def path_of(key: str, directory: str) -> str:
    """Where the file *key* lies."""
    return os.path.join(directory, FILES[key][0])


def build(key: str, directory: str) -> str:
    """Write the file *key* into *directory* unless it is there, and return its path.

    It is written under another name first: a file that is there is whole.
    """
    path = path_of(key, directory)
    if not os.path.exists(path):
        os.makedirs(directory, exist_ok=True)
        FILES[key][2](path + ".part")
        os.replace(path + ".part", path)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=FILES, default=NEEDED, metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where to (default: %(default)s)")
    options = parser.parse_args(arguments)
    for key in options.what:
        start = time.perf_counter()
        path = build(key, options.dir)
        print(f"{path}: {os.path.getsize(path):,} bytes, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
