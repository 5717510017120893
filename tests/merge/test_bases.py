"""Every published transformer in every layout that users have, merged into with LoRAs in every trainer's spelling: each
module lies in the rows that diffusers' converters say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelhub.container import open_path
from modelhub.errors import IncompatibleArchitecture, UnmatchedKeys
from modelhub.merge import merge, plan_merge
from modelhub.merge.base import AdapterModule, Target
from modelhub.merge.keymap import KeyMap, keymap_of_file, keymap_of_folder
from modelhub.merge.modules import adapter_modules
from tests.identify.keylists import modules
from tests.identify.keylists import originals as o
from tests.merge.build import assert_merged
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
        some = first_blocks(every)
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


def first_blocks(names: Shapes) -> Shapes:
    return {name: shape for name, shape in names.items() if not re.search(r"\.([1-9]|\d\d+)\.(?!0\.)", name)}


def based(model: str, made: Layouts) -> Iterator[tuple[str, KeyMap, Callable[[str], str], bool]]:
    """The layouts of a base of *model*: how each calls the authors' layers or diffusers', and whether it has these."""

    def weights(shapes: Shapes, call: Callable[[str], str], root: str) -> Shapes:
        return {f"{root}{call(name)}.weight": shape for name, shape in shapes.items()}

    def same(name: str) -> str:
        return name

    def comfy(name: str) -> str:
        return renamed(model, name)

    for root in ("", "model.diffusion_model.", "diffusion_model.", "net."):
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
    with open_path(sparse(path, lora(names, spelling))) as container:
        return {each.name: each for each in adapter_modules(container).modules}


def lora(names: Shapes, spelling: Spelling) -> Shapes:
    """The tensors of a LoRA of rank 1 for layers of these *names* in this *spelling*."""
    call, (up, down) = spelling
    shapes: Shapes = {}
    for name, (out, *inner) in names.items():
        shapes[f"{call(name)}.{up}"] = (out, 1, *(1 for _ in inner[1:]))
        shapes[f"{call(name)}.{down}"] = (1, *inner)
    return shapes


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
    roots = r"^((model\.)?diffusion_model\.|net\.)?(.+)\.weight$"
    return joined((re.sub(roots, r"\3", part.address.tensor), *part.rows, part.first) for part in target.parts)


ONE_LAYOUT = (
    "transformer-qwen-image", "transformer-qwen-image-layered", "transformer-hidream", "transformer-cogvideox-5b",
    "transformer-omnigen", "transformer-framepack", "unet-kolors", "unet-svd",
    "unet-motion-sd-1", "cascade-c",
)  # fmt: skip
"""What everybody calls as diffusers does, or has no other file of."""


@pytest.mark.parametrize("model", ONE_LAYOUT)
def test_names_that_are_the_same_everywhere(model: str, tmp_path: Path) -> None:
    """Each module lies in the tensor of its name, whoever wrote it, and the file is no other architecture's."""
    shapes = modules()[model]
    base = sparse(tmp_path / "base.safetensors", shapes)
    names = {name.removesuffix(".weight"): shape for name, shape in shapes.items()
             if name.endswith(".weight") and len(shape) > 1 and "motion_modules.0.proj" not in name}  # fmt: skip
    unet: Spelling = (lambda name: f"unet.{name}", PEFT)
    for who in ("diffusers", "musubi-tuner", "SimpleTuner", "ai-toolkit", "without a prefix"):
        names = names if who == "diffusers" else first_blocks(names)
        spelling = unet if who == "diffusers" and model.startswith("unet") else OF_DIFFUSERS[who]
        adapter = sparse(tmp_path / "adapter.safetensors", lora(names, spelling))
        with plan_merge(base, [str(adapter)]) as plan:
            found = {spelled.module.name: where.tensor for where, made in plan.changes.items() for spelled in made}
        assert found == {spelling[0](name): f"{name}.weight" for name in names}, who


FOREIGN = [
    ("wan-2.1-1.3b", "wan-2.2-14b", "it is for a weight of 1536 by 1536, and the base's has the shape"),
    ("wan-2.2-14b", "wan-2.2-5b", "it is for a weight of 5120 by 5120, and the base's has the shape"),
    ("wan-2.1-i2v", "wan-2.2-14b", "cross_attn_k_img: the base has no such module"),
    ("wan-vace", "wan-2.1-1.3b", "vace_blocks_0_self_attn_q: the base has no such module"),
    ("flux-dev", "flux-2-dev", "it is an adapter for flux or chroma or hunyuan-video, and the base is flux-2"),
    ("flux-2-klein", "flux-2-dev", "it is for a weight of 9216 by 3072"),
    ("flux-2-dev", "flux-dev", "it is an adapter for flux-2, and the base is flux"),
    ("hunyuan-video", "flux-dev", "it is an adapter for hunyuan-video, and the base is flux"),
    ("z-image", "lumina-2", "it is for a weight of 11520 by 3840"),
    ("ltx-video", "ltx-2", "it is an adapter for ltx-video, and the base is ltx-2"),
    ("cosmos-predict-2", "wan-2.1-1.3b", "it is an adapter for cosmos or anima, and the base is wan"),
    ("sana", "mochi", "it is an adapter for sana, and the base is mochi"),
]


@pytest.mark.parametrize(("adapter", "base", "reason"), FOREIGN)
def test_the_attention_of_another_model_is_refused(adapter: str, base: str, reason: str, tmp_path: Path) -> None:
    """A LoRA of the attention alone, under sd-scripts' names, which many models share."""
    names = {name: shape for name, shape in layouts(adapter).authors.items() if "attn" in name or "attention" in name}
    with pytest.raises((UnmatchedKeys, IncompatibleArchitecture), match=reason):
        planned(tmp_path, names, OF_AUTHORS["sd-scripts and musubi-tuner"], base)


def test_what_fits_and_is_told_to_be_anothers_is_refused(tmp_path: Path) -> None:
    """FLUX.1's attention has its places in HunyuanVideo, which has one block more of each: it is FLUX.1's all the same,
    as its modules are all of that model's. One of as many blocks as HunyuanVideo has is HunyuanVideo's."""
    for model in ("flux-dev", "hunyuan-video"):
        names = {name: shape for name, shape in layouts(model).diffusers.items() if name.partition("attn")[1]}
        names = {name: shape for name, shape in names.items() if not name.startswith("context_embedder")}
        if model == "flux-dev":
            with pytest.raises(IncompatibleArchitecture, match="it is an adapter for flux or chroma, and the base is"):
                planned(tmp_path, names, OF_DIFFUSERS["diffusers"], "hunyuan-video")
        else:
            assert planned(tmp_path, names, OF_DIFFUSERS["diffusers"], "hunyuan-video") == len(names)


def planned(folder: Path, names: Shapes, spelling: Spelling, base: str) -> int:
    """How many modules of a LoRA for layers of these *names* are merged into the *base* in its authors' layout."""
    shapes = {f"model.diffusion_model.{name}.weight": shape for name, shape in layouts(base).authors.items()}
    adapter = sparse(folder / "adapter.safetensors", lora(names, spelling))
    with plan_merge(sparse(folder / "base.safetensors", shapes), [str(adapter)]) as plan:
        return plan.adapters[0].matched


D, INNER = 24, 40
VALUES: list[tuple[Shapes, str, str, list[tuple[str, slice]]]] = [
    ({"time_projection.1": (8, 4), "blocks.0.self_attn.q": (D, D)}, "transformer.blocks.0.attn1.to_q", "Wan",
     [("blocks.0.self_attn.q", slice(0, D))]),
    ({"condition_embedder.time_proj": (8, 4), "blocks.0.ffn.net.2": (D, INNER)}, "lora_unet_blocks_0_ffn_2", "Wan",
     [("blocks.0.ffn.net.2", slice(0, D))]),
    ({"noise_refiner.0.adaLN_modulation.1": (8, 4), "layers.0.attention.qkv": (INNER, D)},
     "transformer.layers.0.attn.to_v", "Lumina 2", [("layers.0.attention.qkv", slice(32, INNER))]),
    ({"time_caption_embed.caption_embedder.1": (8, 4), "layers.0.attn.to_q": (D, D), "layers.0.attn.to_k": (8, D),
      "layers.0.attn.to_v": (8, D)}, "diffusion_model.layers.0.attention.qkv", "Lumina 2",
     [("layers.0.attn.to_q", slice(0, D)), ("layers.0.attn.to_k", slice(0, 8)), ("layers.0.attn.to_v", slice(0, 8))]),
    ({"blocks.0.attn.qkv_x": (3 * D, D), "blocks.0.mlp_x.w1": (INNER, D)},
     "transformer.transformer_blocks.0.ff.net.0.proj", "Mochi",
     [("blocks.0.mlp_x.w1", slice(INNER // 2, INNER)), ("blocks.0.mlp_x.w1", slice(0, INNER // 2))]),
    ({"double_layers.0.attn.w1q": (D, D), "modF.1": (2 * D, D)}, "transformer.norm_out.linear", "AuraFlow",
     [("modF.1", slice(D, 2 * D)), ("modF.1", slice(0, D))]),
    ({"blocks.0.cross_attn.kv_linear": (2 * D, D)}, "transformer.transformer_blocks.0.attn2.to_v", "PixArt",
     [("blocks.0.cross_attn.kv_linear", slice(D, 2 * D))]),
    ({"context_embedder.token_refiner.refiner_blocks.0.norm_out.linear": (2 * D, D),
      **{f"single_transformer_blocks.0.attn.to_{each}": (D, D) for each in "qkv"},
      "single_transformer_blocks.0.proj_mlp": (INNER, D)}, "lora_unet_single_blocks_0_linear1", "HunyuanVideo",
     [*((f"single_transformer_blocks.0.attn.to_{each}", slice(0, D)) for each in "qkv"),
      ("single_transformer_blocks.0.proj_mlp", slice(0, INNER))]),
]  # fmt: skip
"""Tensors of a small base, a module, whose it is, and the rows that it is, one run after the other."""


@pytest.mark.parametrize(("shapes", "module", "model", "rows"), VALUES, ids=[each[2] for each in VALUES])
def test_numbers(shapes: Shapes, module: str, model: str, rows: list[tuple[str, slice]], tmp_path: Path) -> None:
    """In numbers: alpha is half the rank, the strength 0.8, and what is not the module's stays bit for bit."""
    generator = torch.Generator().manual_seed(3)
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    out = sum(run.stop - run.start for _, run in rows)
    inner = shapes[rows[0][0]][1]
    up, down = torch.randn(out, 4, generator=generator), torch.randn(4, inner, generator=generator)
    save_file(weights, tmp_path / "base.safetensors")
    adapter = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down, f"{module}.alpha": torch.tensor(2.0)}
    save_file(adapter, tmp_path / "a.safetensors")
    merge(tmp_path / "base.safetensors", [f"{tmp_path / 'a.safetensors'}:0.8"], target=tmp_path / "out.safetensors")
    change = 0.4 * (up.double() @ down.double())
    expected = {name: tensor.double() for name, tensor in weights.items()}
    first = 0
    for name, run in rows:
        expected[f"{name}.weight"][run] += change[first : first + run.stop - run.start]
        first += run.stop - run.start
    for name, tensor in load_file(tmp_path / "out.safetensors").items():
        assert_merged(tensor, expected[name].numpy(), weights[name])
        assert (name.removesuffix(".weight") in dict(rows)) or torch.equal(tensor, weights[name]), name


def test_differences_of_norms_and_biases_of_wan(tmp_path: Path) -> None:
    """Distilled LoRAs have whole differences of norms and biases; Wan's third norm is diffusers' second."""
    names = {"condition_embedder.time_proj": "weight", "blocks.0.norm2": "weight", "blocks.0.attn1.to_q": "bias",
             "blocks.0.attn1.norm_q": "weight", "patch_embedding": "bias"}  # fmt: skip
    weights = {f"{name}.weight": torch.randn(6) for name in names}
    weights |= {f"{name}.bias": torch.randn(6) for name in names}
    changes = {f"diffusion_model.{name}": torch.randn(6) for name in (
        "blocks.0.norm3.diff", "blocks.0.norm3.diff_b", "blocks.0.self_attn.q.diff_b", "blocks.0.self_attn.norm_q.diff",
        "patch_embedding.diff_b", "time_projection.1.diff_b")}  # fmt: skip
    save_file(weights, tmp_path / "base.safetensors")
    save_file(changes, tmp_path / "a.safetensors")
    merge(tmp_path / "base.safetensors", [str(tmp_path / "a.safetensors")], target=tmp_path / "out.safetensors")
    lying = ("blocks.0.norm2.weight", "blocks.0.norm2.bias", "blocks.0.attn1.to_q.bias", "blocks.0.attn1.norm_q.weight",
             "patch_embedding.bias", "condition_embedder.time_proj.bias")  # fmt: skip
    expected = weights | {name: weights[name] + change for name, change in zip(lying, changes.values(), strict=True)}
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def test_rows_in_an_order_that_the_file_does_not_tell(tmp_path: Path) -> None:
    """MiniMax-H3's fused attention, whose rows DiffSynth-Studio has in the order of other files, is not merged."""
    shapes = o.minimax_h3()
    base = sparse(tmp_path / "base.safetensors", {f"{name}.weight": shape for name, shape in shapes.items()})
    names = {name: shape for name, shape in shapes.items() if name.startswith("blocks.0.")}
    for who, left in (("DiffSynth-Studio", 1), ("ai-toolkit", 0)):
        adapter = sparse(tmp_path / "adapter.safetensors", lora(names, OF_AUTHORS[who]))
        with plan_merge(base, [str(adapter)], allow_unmatched=True) as plan:
            assert [each.name for each in plan.unmatched] == ["blocks.0.attn.qkv_proj"][:left]


def test_a_motion_lora(tmp_path: Path) -> None:
    """AnimateDiff's own, named by the processors of the attention that they change."""
    stem = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
    authors = layouts("animatediff").authors
    base = sparse(tmp_path / "base.safetensors", {f"{name}.weight": shape for name, shape in authors.items()})
    names = {name: shape for name, shape in authors.items() if re.search(r"to_(q|k|v|out\.0)$", name)}
    shapes: Shapes = {}
    for name, (out, inner) in names.items():
        parent, _, last = name.removesuffix(".0").rpartition(".")
        shapes[f"{parent}.processor.{last}_lora.up.weight"] = (out, 2)
        shapes[f"{parent}.processor.{last}_lora.down.weight"] = (2, inner)
    with plan_merge(base, [str(sparse(tmp_path / "adapter.safetensors", shapes))]) as plan:
        assert {address.tensor for address in plan.changes} == {f"{name}.weight" for name in names}
        (change,) = (made[0] for where, made in plan.changes.items() if where.tensor == f"{stem}.to_q.weight")
        assert change.module.name == f"{stem}.processor.to_q"


def test_the_second_of_two_transformers(tmp_path: Path) -> None:
    """Wan 2.2 has one for much noise and one for little: a LoRA may be for both, and each has its own alpha and names,
    while the weight of the transformer is that of both. That one of them stays as it is is told."""
    torch.manual_seed(5)
    weights = {
        "condition_embedder.time_proj.weight": torch.randn(8, 4),
        "blocks.0.attn1.to_q.weight": torch.randn(D, D),
    }
    folder = tmp_path / "wan"
    folder.mkdir()
    names = ("transformer", "transformer_2")
    (folder / "model_index.json").write_text(
        json.dumps({name: ["diffusers", "WanTransformer3DModel"] for name in names})
    )
    for name in names:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        save_file(weights, folder / name / "diffusion_pytorch_model.safetensors")
    pairs = {name: (torch.randn(D, 2), torch.randn(2, D)) for name in names}
    alphas = {"transformer.lora_alpha": 2, "transformer_2.lora_alpha": 1}
    adapter = {f"{name}.blocks.0.attn1.to_q.lora_B.weight": up for name, (up, _) in pairs.items()}
    adapter |= {f"{name}.blocks.0.attn1.to_q.lora_A.weight": down for name, (_, down) in pairs.items()}
    path = tmp_path / "a.safetensors"
    save_file(adapter, path, {"lora_adapter_metadata": json.dumps(alphas)})
    merge(folder, [f"{path}:transformer=0.5"], target=tmp_path / "out")
    for name, scale in zip(names, (0.5, 0.25), strict=True):
        found = load_file(tmp_path / "out" / name / "diffusion_pytorch_model.safetensors")
        (up, down), before = pairs[name], weights["blocks.0.attn1.to_q.weight"]
        exact = before.double() + scale * (up.double() @ down.double())
        assert_merged(found["blocks.0.attn1.to_q.weight"], exact.numpy(), before)
    save_file(
        {name.replace("blocks.0.attn1.to_q", "blocks.0.self_attn.q"): each for name, each in adapter.items()}, path
    )
    with plan_merge(folder, [str(path)]) as plan:
        assert {address.file.partition("/")[0] for address in plan.changes} == set(names)
    save_file({name: each for name, each in adapter.items() if name.startswith("transformer.")}, path)
    with plan_merge(folder, [str(path)]) as plan:
        assert any("second transformer" in note for note in plan.notes)
