"""How many published models are told rightly, and how long a file takes: ``python -m benchmarks.identify``.

The files are lists of names and shapes: of modules as diffusers and transformers define them, and of single-file
layouts and adapters. diffusers' own ``infer_diffusers_model_type`` answers for the single-file layouts that it is made
for, in the same run. Right is an answer of the right kind and architecture; left open is one that names the right
architecture among several. ``--times``: of identification alone, from a header that is
parsed already.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks import machine, report
from modelhub.identify import Identity, identify_state_dict
from modelhub.identify.registry import in_order
from modelhub.samples.layouts import Layout, checkpoint
from tests.identify.build import layout, state_dict
from tests.identify.keylists import modules, telling, upscalers
from tests.identify.keylists import originals as o
from tests.identify.test_adapter_modules import ATTENTION, DIALECTS, TOLD, chosen
from tests.identify.test_modules import EXPECTED
from tests.identify.test_parts_and_upscalers import UPSCALERS

REPEATS = 3

_DIFFUSERS_NAMES = {
    "v1": "sd-1", "inpainting": "sd-1", "v2": "sd-2", "inpainting_v2": "sd-2", "xl": "sdxl", "sd3": "sd-3",
    "sd35": "sd-3", "flux": "flux", "flux-2": "flux-2", "ltx": "ltx-video", "ltx2": "ltx-2", "hidream": "hidream",
    "wan": "wan", "z-image": "z-image", "auraflow": "auraflow", "lumina2": "lumina-2", "cosmos": "cosmos",
    "chroma": "chroma", "krea2": "krea-2", "qwen-image-2.1": "qwen-image-2.1", "stable_cascade": "cascade",
    "mochi": "mochi", "hunyuan": "hunyuan-video", "upscale": "sd-2", "instruct-pix2pix": "sd-1",
    "playground": "sdxl", "xl_refiner": "sdxl-refiner", "sana": "sana",
}  # fmt: skip
"""Beginnings of diffusers' words for a model type, the longest that fits, and what we call it."""


class Case(NamedTuple):
    """One file: its group, the kind and architecture that it is (of several for a component), its contents."""

    group: str
    kind: str | None
    right: str | tuple[str, ...] | None
    contents: Layout
    single: bool = False


def cases() -> Iterator[Case]:
    groups = {"diffusion-model": "diffusers modules: diffusion models", "vae": "VAEs", "text-encoder": "text encoders"}
    for name, (kind, right, _) in EXPECTED.items():
        group = groups.get(kind or "", "ControlNets, adapters, image encoders" if kind else "no models of ours")
        yield Case(group, kind, right, layout(modules()[name]))
    for architecture in ("sd-1", "sd-2", "sdxl", "sdxl-refiner"):
        whole = checkpoint(architecture)  # type: ignore[arg-type]
        yield Case("single files", "checkpoint", architecture, whole, True)
    for name, right in (
        ("transformer-ltx-2b", "ltx-video"),
        ("transformer-hidream", "hidream"),
        ("cascade-c", "cascade"),
    ):
        yield Case("single files", "diffusion-model", right, layout(modules()[name]), True)
    for name, right in TOLD.items():
        for dialect, write in DIALECTS.items():
            yield Case(f"LoRAs, {dialect}", "lora", right, layout(write(chosen(name, ATTENTION))))
    for right, layers in (("flux", o.flux()), ("wan", o.wan(5120, 40, 13824)), ("sd-3", o.sd_3(1536, 24))):
        yield Case("LoRAs, original names", "lora", right, layout(DIALECTS["kohya"](layers)))
    names = {"lora": "LoRAs of a few layers, as published", "diffusion-model": "transformers, by telling names"}
    for kind, architectures, shapes in telling().values():
        ordered = in_order(architectures)
        group = names.get(kind or "", "adapters, ControlNets, embeddings, VAEs, by telling names")
        yield Case(group, kind, ordered[0] if len(ordered) == 1 else ordered or None, layout(shapes))
    yield from given()
    for name, right in UPSCALERS.items():
        yield Case("upscalers", "upscaler", right, layout(upscalers()[name]))


def given() -> Iterator[Case]:
    """Key lists of real checkpoints and LoRAs in the folder that ``MODELHUB_KEY_LISTS`` names, where there are any:
    gzipped JSON of ``{component: {name: {shape, dtype}}}``, each file's name beginning with the architecture."""
    for path in sorted(glob.glob(os.path.join(os.environ.get("MODELHUB_KEY_LISTS", ""), "*-*.json.gz"))):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            parts = json.load(file)
        words = os.path.basename(path).partition("-")
        right = {"sd1": "sd-1", "sd3": "sd-3"}.get(words[0], words[0])
        names = {name: tuple(each["shape"]) for part in parts.values() for name, each in part.items()}
        form = words[2].partition(".")[0]
        if form in _CHECKPOINTS:
            kind = "checkpoint" if len(parts) > 1 else "diffusion-model"
            yield Case("key lists of real files", kind, right, layout(names), len(parts) > 1)


_CHECKPOINTS = frozenset({"ldm", "sgm", "comfyui", "flux"})


def judged(case: Case, identity: Identity) -> str:
    """``right``, ``open`` or ``wrong``."""
    if identity.kind != case.kind:
        return "wrong"
    if not isinstance(case.right, str):
        return "right" if (identity.candidates or None) == case.right and not identity.architecture else "wrong"
    if identity.architecture:
        return "right" if identity.architecture == case.right else "wrong"
    return "open" if case.right in identity.candidates else "wrong"


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        answer = call()
        best = min(best, time.perf_counter() - start)
    return answer, best


def by_diffusers(contents: Layout) -> tuple[str | None, float]:
    """What diffusers takes a single file to be, in our words, and the seconds that took it."""
    import torch
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    tensors = {name: torch.empty(shape, device="meta") for name, (_, shape) in contents.items()}
    word, seconds = timed(lambda: infer_diffusers_model_type(tensors))
    fitting = [name for name in _DIFFUSERS_NAMES if word.startswith(name)]
    return (_DIFFUSERS_NAMES[max(fitting, key=len)] if fitting else None), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--times", action="store_true", help="also tell times: only on a machine that does nothing else"
    )
    with_times = parser.parse_args().times
    counts: dict[str, dict[str, int]] = {}
    times: dict[str, list[float]] = {}
    theirs = {"right": 0, "wrong": 0}
    their_times: list[float] = []
    for case in cases():
        tensors = state_dict(case.contents)
        identity, seconds = timed(lambda tensors=tensors: identify_state_dict(tensors))
        group = counts.setdefault(case.group, {"right": 0, "open": 0, "wrong": 0})
        group[judged(case, identity)] += 1
        times.setdefault(case.group, []).append(seconds)
        if case.single:
            word, seconds = by_diffusers(case.contents)
            theirs["right" if word == case.right else "wrong"] += 1
            their_times.append(seconds)
    rows = [
        [name, str(sum(group.values())), *map(str, group.values()), *([_median(times[name])] if with_times else [])]
        for name, group in counts.items()
    ]
    right, wrong = theirs["right"], theirs["wrong"]
    last = [_median(their_times)] if with_times else []
    rows.append(["single files, by diffusers", str(right + wrong), str(right), "", str(wrong), *last])
    lines = [
        *report.table(
            ["files", "count", "right", "left open", "wrong", *(["median time"] if with_times else [])], rows
        ),
        "",
        "The rules were written and mended with these lists: the table says that they hold, not how they do on lists",
        "unseen. A component or small adapter is right when it is left open to exactly the architectures that have it.",
        "",
        *machine.description(".", ["diffusers", "transformers"]),
    ]
    report.write("identify.md", lines)


def _median(values: list[float]) -> str:
    return f"{1000 * sorted(values)[len(values) // 2]:.3f} ms"


if __name__ == "__main__":
    main()
