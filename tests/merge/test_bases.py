"""Every published transformer in every layout that users have, merged into with LoRAs in every trainer's spelling: each
module lies in the rows that diffusers' converters say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import pytest

from modelhub.container import open_path
from modelhub.merge.base import AdapterModule, Target
from modelhub.merge.keymap import KeyMap, keymap_of_file, keymap_of_folder
from modelhub.merge.modules import adapter_modules
from tests.merge.layouts import MODELS, Layouts, Run, Shapes, inverse, joined, layouts, renamed

KOHYA, PEFT = ("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight")
DIFFSYNTH = ("lora_B.default.weight", "lora_A.default.weight")
Spelling = tuple[Callable[[str], str], tuple[str, str]]
OF_AUTHORS: dict[str, Spelling] = {
    "sd-scripts and musubi-tuner": (lambda name: f"lora_unet_{flat(name)}", KOHYA),
    "VideoX-Fun": (lambda name: f"lora_unet__{flat(name)}", KOHYA),
    "ComfyUI": (lambda name: f"diffusion_model.{name}", KOHYA),
    "ai-toolkit": (lambda name: f"diffusion_model.{name}", PEFT),
    "DiffSynth-Studio": (lambda name: name, DIFFSYNTH),
    "DiffSynth-Studio's pipelines": (lambda name: f"pipe.dit.{name}", DIFFSYNTH),
    "PEFT": (lambda name: f"base_model.model.{name}", PEFT),
    "FastVideo": (lambda name: f"transformer.{name}", PEFT),
    "LyCORIS": (lambda name: f"lycoris_{flat(name)}", KOHYA),
}
OF_DIFFUSERS: dict[str, Spelling] = {
    "diffusers": (lambda name: f"transformer.{name}", PEFT),
    "PEFT": (lambda name: f"base_model.model.{name}", PEFT),
    "ai-toolkit": (lambda name: f"diffusion_model.{name}", PEFT),
    "OneTrainer": (lambda name: f"lora_transformer_{flat(name)}", KOHYA),
    "OneTrainer, dotted": (lambda name: f"transformer.{name}", KOHYA),
    "SimpleTuner": (lambda name: f"lycoris_{flat(name)}", KOHYA),
    "musubi-tuner": (lambda name: f"lora_unet_{flat(name)}", KOHYA),
    "without a prefix": (lambda name: name, PEFT),
}
"""Who writes names so, of the authors' layout and of diffusers'."""


def flat(name: str) -> str:
    return name.replace(".", "_")


@pytest.mark.parametrize("model", MODELS)
def test_every_module_lies_where_the_converter_puts_it(model: str, tmp_path: Path) -> None:
    """In files of the authors' layout, of ComfyUI's, and of diffusers', and in folders."""
    made = layouts(model)
    bases = list(based(model, made))
    back = inverse(made.rows)
    wrong: list[str] = []
    for authors, spellings in ((True, OF_AUTHORS), (False, OF_DIFFUSERS)):
        every = made.authors if authors else made.diffusers
        some = {name: every[name] for name in every if not re.search(r"\.([1-9]|\d\d+)\.(?!0\.)", name)}
        for number, (who, spelling) in enumerate(spellings.items()):
            names = some if number else every
            found = read(tmp_path / f"{authors}{number}.safetensors", names, spelling)
            for layout, keymap, call, in_diffusers in bases:
                for name, shape in names.items():
                    module = found.get(spelling[0](name))
                    target = module and keymap.first(module.component, module.paths, "weight")
                    whole = [(name if in_diffusers else call(name), 0, shape[0], 0)]
                    if authors == in_diffusers:
                        runs = back[name] if authors else made.rows[name]
                        whole = joined((call(each), first, end, at) for each, first, end, at in runs)
                    if not target or runs_of(target) != whole or target.shape != shape:
                        wrong.append(f"{layout}: {who}: {name}: {runs_of(target) if target else target} {whole}")
    assert not wrong, (len(wrong), wrong[:5])


def based(model: str, made: Layouts) -> Iterator[tuple[str, KeyMap, Callable[[str], str], bool]]:
    """The layouts of a base of *model*: how each calls the authors' layers or diffusers', and whether it has these."""

    def weights(shapes: Shapes, call: Callable[[str], str], root: str) -> Shapes:
        return {f"{root}{call(name)}.weight": shape for name, shape in shapes.items()}

    def same(name: str) -> str:
        return name

    def comfy(name: str) -> str:
        return renamed(model, name)

    for root in ("", "model.diffusion_model.", "net."):
        yield f"authors' {root}", keymap_of_file(weights(made.authors, same, root), denoiser=True), same, False
    if MODELS[model].renamed:
        shapes = weights(made.authors, comfy, "model.diffusion_model.")
        yield "ComfyUI's", keymap_of_file(shapes, denoiser=True), comfy, False
    theirs = weights(made.diffusers, same, "")
    yield "diffusers' file", keymap_of_file(theirs, denoiser=True), same, True
    files = {("transformer", name): "file" for name in theirs}
    yield "a folder", keymap_of_folder({"transformer": theirs}, files), same, True


def read(path: Path, names: Shapes, spelling: Spelling) -> dict[str, AdapterModule]:
    """The modules of a LoRA of rank 1 for layers of these *names* in this *spelling*, by their names in the file."""
    call, (up, down) = spelling
    shapes: Shapes = {}
    for name, (out, *inner) in names.items():
        shapes[f"{call(name)}.{up}"] = (out, 1, *(1 for _ in inner[1:]))
        shapes[f"{call(name)}.{down}"] = (1, *inner)
    with open_path(sparse(path, shapes)) as container:
        return {each.name: each for each in adapter_modules(container).modules}


def sparse(path: Path, shapes: Shapes) -> Path:
    """The file *path* with tensors of F16 of these *shapes*, all zeros, which take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def runs_of(target: Target) -> list[Run]:
    roots = r"^(model\.diffusion_model\.|net\.)?(.+)\.weight$"
    return joined((re.sub(roots, r"\2", part.address.tensor), *part.rows, part.first) for part in target.parts)
