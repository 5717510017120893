"""Write ``modelhub/identify/signatures/layers.json``: the layers that each architecture has, for telling adapters.

Run ``python -m tests.identify.keylists.layers`` after ``make``; a test compares the file with what this gives.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from modelhub.samples.unet import UNETS, ldm_unet
from tests.identify.keylists import modules
from tests.identify.keylists import originals as o

TARGET = os.path.join(os.path.dirname(__file__), "..", "..", "..", "modelhub", "identify", "signatures", "layers.json")

Numbers = tuple[int, ...]
Layer = tuple[int, int, bool]  # outputs, inputs (0: a norm or embedding has none), whether a convolution

CLIP_L = ("sd-1", "sdxl", "sd-3", "flux", "chroma", "hidream", "hunyuan-video", "kandinsky-5")
CLIP_G = ("sdxl", "sdxl-refiner", "cascade", "sd-3", "hidream")
T5 = ("sd-3", "flux", "chroma", "pixart", "hunyuan-dit", "ltx-video", "mochi", "cogvideox", "cosmos", "hidream")


def _of(*architectures: str, variant: str | None = None, rare: bool = False, alike: bool = False) -> dict[str, Any]:
    return {"of": list(architectures), "variant": variant, "rare": rare, "alike": alike}


def sources() -> list[tuple[dict[str, Any], list[Mapping[str, tuple[int, ...]]]]]:
    """What each table is of, and the names of ``.weight`` tensors with shapes that make it up."""
    have = modules()

    def named(name: str) -> dict[str, tuple[int, ...]]:
        return have[name]

    def made(layers: o.Layers) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": size for name, size in layers.items()}

    def ldm(name: str) -> dict[str, tuple[int, ...]]:
        return dict(ldm_unet(UNETS[name]))

    return [
        (_of("sd-1"), [named("unet-sd-1"), ldm("sd-1")]),
        (_of("sd-2"), [named("unet-sd-2"), ldm("sd-2")]),
        (_of("sdxl"), [named("unet-sdxl"), ldm("sdxl")]),
        (_of("sdxl", variant="ssd-1b", rare=True), [named("unet-ssd-1b")]),
        (_of("sdxl", variant="koala", rare=True), [named("unet-koala-1b")]),
        (_of("sdxl-refiner"), [named("unet-sdxl-refiner"), ldm("sdxl-refiner")]),
        (_of("kolors", rare=True), [named("unet-kolors")]),
        (_of("svd", rare=True), [named("unet-svd")]),
        (_of("modelscope-t2v", rare=True), [named("unet-modelscope")]),
        (_of("sd-1"), [named("motion-sd-1-v2")]),
        (_of("sdxl"), [named("motion-sdxl")]),
        (_of("cascade", variant="stage-c"), [named("cascade-c"), made(o.cascade_c())]),
        (_of("cascade", variant="stage-b"), [named("cascade-b")]),
        (_of("sd-3", variant="3-medium"), [named("transformer-sd-3-medium"), made(o.sd_3(1536, 24))]),
        (
            _of("sd-3", variant="3.5-medium"),
            [named("transformer-sd-3.5-medium"), made(o.sd_3(1536, 24, dual=13))],
        ),
        (_of("sd-3", variant="3.5-large"), [named("transformer-sd-3.5-large"), made(o.sd_3(2432, 38))]),
        (_of("flux"), [named("transformer-flux-dev"), made(o.flux())]),
        (_of("flux"), [made(o.xlabs()), made(o.easycontrol()), made(o.nunchaku_flux())]),
        (_of("flux", variant="fill"), [_input(named("transformer-flux-fill"))]),
        (_of("flux", variant="control"), [_input(named("transformer-flux-control"))]),
        (_of("flux", rare=True), [named("transformer-flex-2")]),
        (_of("chroma"), [named("transformer-chroma"), made(o.flux(modulation=False))]),
        (_of("flux-2", variant="dev"), [named("transformer-flux-2-dev"), made(o.flux_2(6144, 8, 48, 15360))]),
        (
            _of("flux-2", variant="klein-4b"),
            [named("transformer-flux-2-klein-4b"), made(o.flux_2(3072, 5, 20, 7680))],
        ),
        (
            _of("flux-2", variant="klein-9b"),
            [named("transformer-flux-2-klein-9b"), made(o.flux_2(4096, 8, 24, 12288))],
        ),
        (_of("flux-3"), [named("transformer-flux-3")]),
        (_of("longcat-image", rare=True, alike=True), [named("transformer-longcat-image")]),
        (_of("ovis-image", rare=True, alike=True), [named("transformer-ovis-image")]),
        (_of("bria", rare=True, alike=True), [named("transformer-bria")]),
        (_of("bria", variant="fibo", rare=True, alike=True), [named("transformer-bria-fibo")]),
        (_of("bria", variant="fibo-2"), [named("transformer-bria-fibo-2")]),
        (_of("auraflow"), [named("transformer-auraflow"), made(o.auraflow())]),
        (_of("pixart"), [named("transformer-pixart-alpha"), made(o.pixart())]),
        (_of("hunyuan-dit"), [named("transformer-hunyuan-dit"), made(o.hunyuan_dit())]),
        (_of("hunyuan-image"), [named("transformer-hunyuan-image"), made(o.hunyuan_video(3584, 20, 40))]),
        (_of("hunyuan-video"), [named("transformer-framepack"), made(o.hunyuan_video(3072, 20, 40))]),
        (
            _of("hunyuan-video", variant="1.5"),
            [named("transformer-hunyuan-video-1.5"), made(o.hunyuan_video(2048, 54, 0))],
        ),
        (_of("ltx-video", variant="2b"), [named("transformer-ltx-2b") | made(o.ltx_video(2048))]),
        (_of("ltx-video", variant="13b"), [named("transformer-ltx-13b") | made(o.ltx_video(4096))]),
        (_of("ltx-2"), [named("transformer-ltx-2"), made(o.ltx_2())]),
        (
            _of("wan", variant="1.3b"),
            [named("transformer-wan-vace-1.3b"), made(o.wan(1536, 30, 8960, image=True))],
        ),
        (
            _of("wan", variant="14b"),
            [named("transformer-wan-i2v-14b"), made(o.wan(5120, 40, 13824, image=True))],
        ),
        (_of("wan", variant="5b"), [named("transformer-wan-2.2-ti2v-5b"), made(o.wan(3072, 30, 14336))]),
        (_of("wan", variant="1.3b"), [made(o.vace(1536, 15, 8960))]),
        (_of("wan", variant="14b"), [made(o.vace(5120, 8, 13824))]),
        (_of("qwen-image"), [named("transformer-qwen-image") | made(o.nunchaku_qwen_image())]),
        (_of("qwen-image-2.1"), [named("transformer-qwen-image-2.1")]),
        (
            _of("z-image"),
            [named("transformer-z-image"), made(o.lumina(3840, 30, 11520, 10240, 0, 256))],
        ),
        (
            _of("lumina-2"),
            [named("transformer-lumina-2"), made(o.lumina(2304, 26, 3840, 9216, 1, 1024))],
        ),
        (_of("sana", variant="1600m"), [named("transformer-sana-sprint"), made(o.sana(2240, 20))]),
        (_of("sana", variant="600m"), [named("transformer-sana-600m"), made(o.sana(1152, 28))]),
        (_of("cosmos", variant="predict1"), [named("transformer-cosmos-1-7b")]),
        (_of("cosmos", "anima", variant="predict2"), [named("transformer-cosmos-2-2b")]),
        (_of("cosmos", variant="predict2"), [made(o.cosmos_2(2048, 28))]),
        (_of("cosmos", variant="predict2"), [made(o.cosmos_2(5120, 36))]),
        (_of("anima"), [made(o.cosmos_2(2048, 28)), made(o.anima_adapter())]),
        (_of("hidream"), [named("transformer-hidream")]),
        (_of("mochi"), [named("transformer-mochi"), made(o.mochi())]),
        (_of("cogvideox", variant="2b"), [named("transformer-cogvideox-2b")]),
        (_of("cogvideox", variant="5b"), [named("transformer-cogvideox-5b")]),
        (_of("cogview"), [named("transformer-cogview-4")]),
        (_of("omnigen"), [named("transformer-omnigen")]),
        (_of("omnigen-2"), [made(o.omnigen_2())]),
        (_of("ace-step"), [made(o.ace_step())]),
        (_of("ace-step", variant="1.5"), [made(o.ace_step_15())]),
        (_of("kandinsky-5"), [named("transformer-kandinsky-5"), named("transformer-kandinsky-5-pro")]),
        (_of("krea-2"), [named("transformer-krea-2"), made(o.krea_2())]),
        (_of("ideogram-4"), [named("transformer-ideogram-4")]),
        (_of("ernie-image"), [named("transformer-ernie-image")]),
        (_of("kandinsky-6"), [named("transformer-kandinsky-6"), named("transformer-kandinsky-6-lite")]),
        (_of("glm-image"), [named("transformer-glm-image")]),
        (_of("joyimage"), [named("transformer-joyimage"), made(o.joyimage())]),
        (_of("motif-video"), [named("transformer-motif-video")]),
        (_of("nucleus-image"), [named("transformer-nucleus-image")]),
        (_of("minimax-h3"), [made(o.minimax_h3())]),
        (_of("allegro"), [named("transformer-allegro")]),
        (_of("stable-audio"), [named("transformer-stable-audio")]),
        (_of("prx"), [named("transformer-prx")]),
        (_of(*CLIP_L), [_text("text-clip-l")]),
        (_of("sd-2"), [_text("text-clip-h")]),
        (_of(*CLIP_G), [_text("text-clip-g")]),
        (_of(*T5), [named("text-t5-xxl")]),
        (_of("auraflow", "hunyuan-dit"), [named("text-t5-xl")]),
        (_of("wan"), [named("text-umt5-xxl")]),
    ]


def _input(model: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The layer that a FLUX model's input comes to, under both its names: all that its variants differ in."""
    return {f"{name}.weight": model["x_embedder.weight"] for name in ("x_embedder", "img_in")}


def _text(name: str) -> dict[str, tuple[int, ...]]:
    """A CLIP text encoder under the names of published files: transformers 5 leaves ``text_model`` out."""
    return {key if key.startswith("text_") else f"text_model.{key}": shape for key, shape in modules()[name].items()}


def layers(lists: Iterable[Mapping[str, tuple[int, ...]]]) -> dict[str, dict[Layer, set[Numbers]]]:
    """Every layer's pattern (``#`` for each number) with what sizes it has where."""
    found: dict[str, dict[Layer, set[Numbers]]] = {}
    for shapes in lists:
        for key, shape in shapes.items():
            if not key.endswith(".weight") or not 1 <= len(shape) <= 5:
                continue
            path = key.removesuffix(".weight").replace(".", "_")
            sizes = (shape[0], shape[1] if len(shape) > 1 else 0, len(shape) > 2)
            numbers = tuple(int(each) for each in re.findall(r"\d+", path))
            found.setdefault(re.sub(r"\d+", "#", path), {}).setdefault(sizes, set()).add(numbers)
    return found


def ranges(numbers: set[int]) -> str:
    """``{0, 1, 2, 5}`` as ``0-2,5``."""
    runs: list[list[int]] = []
    for each in sorted(numbers):
        if runs and runs[-1][1] == each - 1:
            runs[-1][1] = each
        else:
            runs.append([each, each])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def products(tuples: set[Numbers]) -> list[str]:
    """*tuples* as products of ranges, ``0-18;2``, one range for each place."""
    axes = [set(column) for column in zip(*tuples, strict=True)]
    size = 1
    for axis in axes:
        size *= len(axis)
    if size == len(tuples):
        return [";".join(map(ranges, axes))]
    axis = next(index for index, values in enumerate(axes) if len(values) > 1)
    split: dict[frozenset[Numbers], set[int]] = {}
    for value in axes[axis]:
        rest = frozenset((*each[:axis], *each[axis + 1 :]) for each in tuples if each[axis] == value)
        split.setdefault(rest, set()).add(value)
    if len(split) == 1:
        return [each for value in axes[axis] for each in products({t for t in tuples if t[axis] == value})]
    return [each for values in split.values() for each in products({t for t in tuples if t[axis] in values})]


def families(found: Mapping[str, Mapping[Layer, set[Numbers]]]) -> list[str]:
    """What stands before ``blocks`` in the paths of layers that there are four or more of."""
    heads = {
        pattern.replace("#", "").partition("blocks")[0]
        for pattern, by_size in found.items()
        if "blocks" in pattern and sum(map(len, by_size.values())) >= 4
    }
    return sorted(heads)


def table() -> list[dict[str, Any]]:
    tables = []
    for of, lists in sources():
        for shapes in lists:
            found = layers([shapes])
            rows = {
                pattern: [[*sizes[:2], int(sizes[2]), *products(numbers)] for sizes, numbers in by_size.items()]
                for pattern, by_size in found.items()
            }
            named = {key: value for key, value in of.items() if value}
            tables.append(named | {"families": families(found), "layers": rows})
    return tables


def main() -> None:
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in table())
    with open(TARGET, "w", encoding="utf-8", newline="\n") as file:
        file.write(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
