"""Write the full-size files that the benchmarks read: ``python -m benchmarks.build --dir DIR``.

Names, shapes and file formats are those of real models; the weights are random, so no file is of use to anyone.
A file that is there already is left alone.
"""

from __future__ import annotations

import argparse
import os
import pickle
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


def _safetensors(architecture: Architecture) -> Callable[[str], None]:
    return lambda path: write_safetensors(path, random_weights(checkpoint(architecture)), {"format": "pt"})


def _lora(path: str) -> None:
    write_torch_zip(path, random_weights(lora("sdxl", rank=32)), root="archive")


def lora_ranks(count: int, largest: int = 33) -> list[int]:
    """*count* ranks from 1 to *largest*, evenly spread on a logarithmic scale: most LoRAs are small."""
    return [round(largest ** (i / (count - 1))) for i in range(count)]


def _loras(folder: str, count: int = 200) -> None:
    """Half of them torch zips and half safetensors, 1 to 40 MB each."""
    os.makedirs(folder, exist_ok=True)
    for number, rank in enumerate(lora_ranks(count // 2)):
        layout = lora("sd-1", rank=rank)
        name = os.path.join(folder, f"lora-{number:03}-rank{rank}")
        write_torch_zip(f"{name}.pt", random_weights(layout, seed=2 * number), root="archive")
        write_safetensors(f"{name}.safetensors", random_weights(layout, seed=2 * number + 1), {"format": "pt"})


def _plain(path: str, records: int = 385_000) -> None:
    """A training log as somebody's script keeps it: a list of records that ``pickle.dump`` gives 13 opcodes each."""
    keys = ("step", "loss", "schedule", "caption")
    rows = ((step, 1 / (step + 1), "constant", f"image {step}") for step in range(records))
    with open(path, "wb") as file:
        pickle.dump([dict(zip(keys, row, strict=True)) for row in rows], file, protocol=2)


def _malicious(path: str) -> None:
    with open(path, "wb") as file:
        file.write(dumps(Call(Import("os", "system"), ("echo this would have been your machine",))))


FILES: dict[str, tuple[str, str, Callable[[str], None]]] = {
    "sd1-ckpt": ("sd1-fp16.ckpt", "SD 1 checkpoint, fp16, torch zip", _zip("sd-1")),
    "sd1-fp32-ckpt": ("sd1-fp32.ckpt", "SD 1 checkpoint, fp32, torch zip", _zip("sd-1", DType.F32)),
    "sd1-ema-ckpt": (
        "sd1-ema-fp32.ckpt",
        "SD 1 checkpoint with EMA, fp32, torch zip",
        _zip("sd-1", DType.F32, ema=True),
    ),
    "sd1-legacy": ("sd1-fp16-legacy.ckpt", "SD 1 checkpoint, fp16, torch before 1.6", _legacy),
    "sd1-safetensors": ("sd1-fp16.safetensors", "SD 1 checkpoint, fp16, safetensors", _safetensors("sd-1")),
    "sdxl-safetensors": ("sdxl-fp16.safetensors", "SDXL checkpoint, fp16, safetensors", _safetensors("sdxl")),
    "sdxl-ckpt": ("sdxl-fp16.ckpt", "SDXL checkpoint, fp16, torch zip", _zip("sdxl")),
    "sdxl-lora": ("sdxl-lora.pt", "SDXL LoRA of rank 32, fp16, torch zip", _lora),
    "loras": ("loras", "200 SD 1 LoRAs of 1 to 40 MB, half torch zip, half safetensors", _loras),
    "malicious": ("malicious.pkl", "tiny pickle that runs a command", _malicious),
    "plain": ("plain.pkl", "pickle of 5 million opcodes, plain data", _plain),
}
"""What can be built: key to file name, description and writer."""

NEEDED = ("sd1-ckpt", "sd1-legacy", "sdxl-ckpt", "sdxl-lora", "loras", "malicious", "plain")
"""What the benchmarks use unless told otherwise."""


def path_of(key: str, directory: str) -> str:
    """Where the file *key* lies."""
    return os.path.join(directory, FILES[key][0])


def build(key: str, directory: str) -> str:
    """Write the file or folder *key* into *directory* unless it is there, and return its path.

    It is written under another name first: what is there is whole.
    """
    path = path_of(key, directory)
    if not os.path.exists(path):
        os.makedirs(directory, exist_ok=True)
        FILES[key][2](path + ".part")
        os.replace(path + ".part", path)
    return path


def size_of(path: str) -> int:
    """Bytes of a file, or of all files in a folder."""
    if os.path.isdir(path):
        return sum(os.path.getsize(os.path.join(path, name)) for name in os.listdir(path))
    return os.path.getsize(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=FILES, default=NEEDED, metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where to (default: %(default)s)")
    options = parser.parse_args(arguments)
    for key in options.what:
        start = time.perf_counter()
        path = build(key, options.dir)
        print(f"{path}: {size_of(path):,} bytes, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
