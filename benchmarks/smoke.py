"""Seconds from start to verdict of smoke tests: ``python -m benchmarks.smoke --device cuda --dir DIR``.

Full-size SD 1 and SDXL checkpoints of random weights, each under several names, so that every one of them is loaded
anew; the bytes come from the page cache. The first model of a run is the cold one, its worker being started for it;
those after it are warm. Beside it, a process per model, the script that a user of diffusers would write:
``from_single_file(...).to(device)``, one image of as many steps and pixels, and no check of anything. It is offline as
well, its configurations being written beside it.

Goals, of a GPU of the H200's class: a warm quick test takes at most 1.5 s for SD 1 and 4 s for SDXL beyond reading the
file, and in an hour three times as many models are tested as the script makes images of.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks import machine, report
from benchmarks.build import DEFAULT_DIR, build
from benchmarks.measure import read_through, usual
from modelhub.convert.layouts import to_diffusers
from modelhub.smoke import PROMPTS

RESULT, SHEET = "smoke.md", "smoke.png"
FASTER = 3
"""How many times as many models per hour as the plain script's."""

STAGES: Mapping[str, tuple[str, ...]] = {
    "import": ("starting",),
    "build": ("building",),
    "read": ("loading",),
    "encode": ("encoding prompts",),
    "denoise": ("sampling",),
    "decode": ("decoding the image",),
}
"""What the table calls the worker's stages; all others are checks, and what the parent does beside them."""

_SCRIPT = """
import sys, torch, diffusers
name, path, config, device, dtype, steps, size, prompt, image = sys.argv[1:]
pipeline = getattr(diffusers, name).from_single_file(path, config=config, torch_dtype=getattr(torch, dtype))
pipeline.set_progress_bar_config(disable=True)
pipeline.to(device)
generator = torch.Generator("cpu").manual_seed(0)
made = pipeline(prompt, num_inference_steps=int(steps), height=int(size), width=int(size), generator=generator)
made.images[0].save(image)
"""


class Model(NamedTuple):
    """What is tried: its name for people, its file in full size, and the goal in seconds beyond reading it."""

    title: str
    key: str
    pipeline: str
    goal: float


MODELS = {
    "sd-1": Model("SD 1", "sd1-safetensors", "StableDiffusionPipeline", 1.5),
    "sdxl": Model("SDXL", "sdxl-safetensors", "StableDiffusionXLPipeline", 4.0),
}


@dataclass(frozen=True, slots=True)
class Tested:
    """The models of one run: when each result came after the one before (the first: after the start), and it; and the
    first image, if there is one."""

    gaps: tuple[float, ...]
    results: tuple[Mapping[str, Any], ...]
    image: bytes | None

    @property
    def warm(self) -> float:
        """Seconds of a model that found a worker: the median; the only one's, where there is no other."""
        return statistics.median(self.gaps[1:] or self.gaps)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke", description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="*", help="sd-1, sdxl (default: both)")
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie, 9 GB (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--count", type=int, help="models of each run (default: 20; with --quick 3)")
    parser.add_argument("--scripts", type=int, default=3, help="runs of the plain script (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small models, and nothing is written")
    given = parser.parse_args(arguments)
    count = given.count or (3 if given.quick else 20)
    names = given.models or list(MODELS)
    lines, images = [], []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="smoke-", dir=_made(given.dir)) as folder:
            path = _small(name, folder) if given.quick else build(MODELS[name].key, given.dir)
            more, made = _measured(name, path, folder, given, count)
        lines += more
        images += made
    head = ["# Smoke tests", "", *(part.strip() for part in (__doc__ or "").split("\n\n")[1:]), ""]
    head += machine.description(given.dir, ("torch", "diffusers", "transformers", "safetensors"))
    if given.quick:
        print("\n".join([*head, *lines]))
        return
    report.write(RESULT, [*head, *lines])
    with open(os.path.join(report.RESULTS, SHEET), "wb") as file:
        file.write(_sheet(images))


def _made(folder: str) -> str:
    os.makedirs(folder, exist_ok=True)
    return folder


def _small(name: str, folder: str) -> str:
    from pathlib import Path

    from modelhub.samples.runnable import healthy, save

    return save(healthy(name), Path(folder, f"{name}.safetensors"))


def _measured(
    name: str, path: str, folder: str, given: argparse.Namespace, count: int
) -> tuple[list[str], list[tuple[str, bytes]]]:
    """The lines of the table on the model at *path*, and the images that were made, by what made them."""
    model = MODELS[name]
    links = [os.path.join(folder, f"model-{number:02}.safetensors") for number in range(count)]
    for link in links:
        os.link(path, link)
    size = 64 if given.quick else 256
    read_through(path)
    tested = _tested(links, folder, given.device, size)
    first = tested.results[0]
    scripted, image = _scripted(model, path, folder, given, size, str(first["facts"]["dtype"]))
    rows = [
        _row("cold", tested.gaps[0], first),
        _row("warm, the median", tested.warm, _median_result(tested.results[1:] or tested.results)),
    ]
    ours, theirs = 3600 * count / sum(tested.gaps), 3600 / scripted
    beyond = tested.warm - _stage_seconds(_median_result(tested.results[1:] or tested.results), "read")
    lines = [
        "",
        f"## {model.title}, {report.gigabytes(os.path.getsize(path))}, {count} models, on {first['facts']['device']}",
        "",
        f"`--preset quick`: {first['facts']['steps']} steps at {size} pixels in {first['facts']['dtype']}; "
        f"peak memory {_memory(tested.results)}.",
        "",
        *report.table(("modelhub smoke", "start to verdict", *STAGES, "checks, and the rest"), rows),
        "",
        *report.table(
            ("", "models per hour"),
            [
                ("modelhub smoke, one worker", f"{ours:,.0f}"),
                (f"a process of diffusers for each, {report.seconds(scripted)}", f"{theirs:,.0f}"),
            ],
        ),
        "",
    ]
    if given.device == "cuda" and not given.quick:
        lines += [
            f"* At most {model.goal:g} s beyond reading, warm: {report.judged(beyond <= model.goal)} "
            f"({report.seconds(beyond)}).",
            f"* {FASTER} times the models per hour: {report.judged(ours >= FASTER * theirs)} ({ours / theirs:.1f}).",
        ]
    else:
        lines.append("The goals are a GPU's, and not judged here.")
    made = ((f"{model.title}, modelhub smoke", tested.image), (f"{model.title}, diffusers", image))
    return lines, [(title, each) for title, each in made if each is not None]


def _tested(paths: Sequence[str], folder: str, device: str, size: int) -> Tested:
    """Run ``modelhub smoke`` on all of *paths* and watch its results come."""
    images = os.path.join(folder, "images")
    words = [sys.executable, "-m", "modelhub", "smoke", "--device", device, "--preset", "quick", "--timeout", "36000"]
    words += ["--size", str(size), "--format", "jsonl", "--images", images, *paths]
    gaps, results = [], []
    environment = usual() | {"XDG_DATA_HOME": folder}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        last = time.perf_counter()
        for line in process.stdout:
            result = json.loads(line)
            if "outcome" not in result:
                continue
            now = time.perf_counter()
            gaps.append(now - last)
            results.append(result)
            last = now
    if len(results) != len(paths) or any(not result["seconds"] for result in results):
        raise RuntimeError(f"modelhub smoke: {results[-1]['sentence'] if results else 'it said nothing'}")
    image = None
    if os.path.isdir(images):
        with open(os.path.join(images, min(os.listdir(images))), "rb") as file:
            image = file.read()
    return Tested(tuple(gaps), tuple(results), image)


def _scripted(
    model: Model, path: str, folder: str, given: argparse.Namespace, size: int, dtype: str
) -> tuple[float, bytes]:
    """The median seconds of the plain script, and its image."""
    config = os.path.join(folder, "config")
    _write_config(path, config)
    image = os.path.join(folder, "script.png")
    words = [sys.executable, "-c", _SCRIPT, model.pipeline, path, config, given.device, dtype]
    words += ["4", str(size), PROMPTS[0], image]
    seconds = []
    for _ in range(1 if given.quick else given.scripts):
        began = time.perf_counter()
        done = subprocess.run(words, env=usual() | {"HF_HUB_OFFLINE": "1"}, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the plain script failed: {done.stderr.decode(errors='replace')[-400:]}")
        seconds.append(time.perf_counter() - began)
    with open(image, "rb") as file:
        return statistics.median(seconds), file.read()


def _write_config(path: str, folder: str) -> None:
    """The configurations that the plain script would have from the Hub, for the model at *path*, and a vocabulary."""
    from modelhub.container import open_path

    with open_path(path) as container:
        shapes = {name: tensor.shape for name, tensor in (container.state_dict or {}).items()}
    configs = {name: dict(config) for name, config in to_diffusers(shapes).configs.items()}
    index = configs["model_index.json"]
    for name in [name for name in index if name.startswith("tokenizer")]:
        index[name] = ["transformers", "CLIPTokenizer"]
        encoder = configs[name.replace("tokenizer", "text_encoder") + "/config.json"]
        words = int(encoder["vocab_size"])  # type: ignore[call-overload]
        letters = [chr(code) + end for code in range(33, 127) for end in ("", "</w>")]
        names = [*letters, *(f"word{number}" for number in range(words - 2 - len(letters)))]
        vocabulary = [*names, "<|startoftext|>", "<|endoftext|>"]
        configs[f"{name}/vocab.json"] = {word: number for number, word in enumerate(vocabulary)}
        configs[f"{name}/tokenizer_config.json"] = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    for name, config in configs.items():
        _made(os.path.dirname(os.path.join(folder, name)))
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(config, file)
        if name.endswith("vocab.json"):
            with open(os.path.join(folder, os.path.dirname(name), "merges.txt"), "w", encoding="utf-8") as file:
                file.write("#version: 0.2\n")


def _row(name: str, wall: float, result: Mapping[str, Any]) -> tuple[str, ...]:
    stages = [_stage_seconds(result, stage) for stage in STAGES]
    return (name, *(report.seconds(value) for value in (wall, *stages, max(0.0, wall - sum(stages)))))


def _stage_seconds(result: Mapping[str, Any], stage: str) -> float:
    return sum(float(result["seconds"].get(name, 0.0)) for name in STAGES[stage])


def _median_result(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The seconds of each stage, the median of *results*."""
    names = {name for result in results for name in result["seconds"]}
    return {"seconds": {name: statistics.median(each["seconds"].get(name, 0.0) for each in results) for name in names}}


def _memory(results: Sequence[Mapping[str, Any]]) -> str:
    host = max(result["host_memory"] or 0 for result in results)
    device = max(result["device_memory"] or 0 for result in results)
    return report.gigabytes(host) + (f" of the host, {report.gigabytes(device)} of the device" if device else "")


def _sheet(images: Sequence[tuple[str, bytes]]) -> bytes:
    """The images beside one another, each under its name, as one PNG file."""
    from PIL import Image, ImageDraw

    side, margin = 256, 20
    sheet = Image.new("RGB", (side * len(images), side + margin), "white")
    for number, (name, data) in enumerate(images):
        sheet.paste(Image.open(io.BytesIO(data)).resize((side, side)), (side * number, margin))
        ImageDraw.Draw(sheet).text((side * number + 4, 4), name, fill="black")
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    main()
