"""Whole published models, at full width, against what the published converters say of their names.

The references are written here from those converters and use nothing of the product: diffusers'
``loaders/lora_conversion_utils.py`` and its conversion scripts, OneTrainer's ``modules/util/convert/lora``, sd-scripts'
``networks`` and ComfyUI's ``comfy/lora.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from modelhub.identify.adapter_names import read_stem
from modelhub.merge.base import Target
from modelhub.merge.keymap import KeyMap, keymap_of_checkpoint, keymap_of_file, keymap_of_folder
from modelhub.samples.layouts import checkpoint
from tests.identify.keylists import modules

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Rows = tuple[int, int]
Part = tuple[str, Rows, int]
"""A base's tensor, its rows, and the row of the module that the first of them is."""

ROOT = "model.diffusion_model."
RESNET = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
          "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}  # fmt: skip
ENDS = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}  # fmt: skip


def diffusers_name(stem: str, deep: int = 2) -> str:
    """diffusers' name of the UNet's module *stem*, with *deep* layers in a block, as its LoRA converter reckons."""
    if stem in ENDS:
        return ENDS[stem]
    match = re.fullmatch(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(.+)", stem)
    assert match is not None
    kind, number, rest = match.groups()
    n = int(number)
    if kind == "middle_block":
        where = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")[n]
        return f"{where}.{RESNET.get(rest, rest)}"
    inner, _, rest = rest.partition(".")
    if kind == "input_blocks":
        block, layer = divmod(n - 1, deep + 1)
        if rest == "op":
            return f"down_blocks.{block}.downsamplers.0.conv"
        part = ("resnets", "attentions")[int(inner)]
        return f"down_blocks.{block}.{part}.{layer}.{RESNET.get(rest, rest)}"
    block, layer = divmod(n, deep + 1)
    if rest == "conv":
        return f"up_blocks.{block}.upsamplers.0.conv"
    part = ("resnets", "attentions")[int(inner)]
    return f"up_blocks.{block}.{part}.{layer}.{RESNET.get(rest, rest)}"


@pytest.mark.parametrize("architecture", ["sd-1", "sd-2", "sdxl", "sdxl-refiner"])
def test_a_unet_has_diffusers_names(architecture) -> None:
    """Every module of the UNet is found under diffusers' name as LoRA converters make it: kohya's and OneTrainer's for
    SD 1 and SD 2, diffusers' and OneTrainer's for SDXL."""
    shapes = {name: shape for name, (_, shape) in checkpoint(architecture).items()}
    keymap = keymap_of_checkpoint(shapes)
    seen = 0
    for name, shape in shapes.items():
        stem, _, kind = name.removeprefix(ROOT).rpartition(".")
        if not name.startswith(ROOT) or kind != "weight":
            continue
        theirs = diffusers_name(stem)
        for spelling in (f"lora_unet_{flat(theirs)}", f"unet.{theirs}", f"lora_unet_{flat(stem)}", f"unet.{stem}"):
            assert parts(find(keymap, spelling)) == [(name, (0, shape[0]), 0)], spelling
        seen += 1
    assert seen > 300


ENCODERS = {
    "sd-1": [("lora_te_", "cond_stage_model.transformer.", 768, 12, False)],
    "sd-2": [("lora_te_", "cond_stage_model.model.", 1024, 23, True)],
    "sdxl": [
        ("lora_te1_", "conditioner.embedders.0.transformer.", 768, 12, False),
        ("lora_te2_", "conditioner.embedders.1.model.", 1280, 32, True),
        ("clip_l.", "conditioner.embedders.0.transformer.", 768, 12, False),
        ("clip_g.", "conditioner.embedders.1.model.", 1280, 32, True),
        ("text_encoders.clip_g.transformer.", "conditioner.embedders.1.model.", 1280, 32, True),
    ],
}


@pytest.mark.parametrize(
    ("architecture", "begins", "root", "width", "layers", "open_clip"),
    [(name, *each) for name, rows in ENCODERS.items() for each in rows],
)
def test_text_encoders(architecture, begins, root, width, layers, open_clip) -> None:
    """Every matrix that is trained of the encoders: OpenCLIP's fused ones are thirds of ``in_proj``, and its projection
    stands the other way round."""
    keymap = keymap_of_checkpoint({name: shape for name, (_, shape) in checkpoint(architecture).items()})
    dotted = begins.endswith(".")
    for i in range(layers):
        layer = f"text_model.encoder.layers.{i}."
        block = f"{root}transformer.resblocks.{i}." if open_clip else f"{root}{layer}"
        for number, each in enumerate("qkv"):
            expected = [(f"{block}self_attn.{each}_proj.weight", (0, width), 0)]
            if open_clip:
                expected = [(f"{block}attn.in_proj_weight", (number * width, (number + 1) * width), 0)]
            name = f"{layer}self_attn.{each}_proj"
            assert parts(find(keymap, begins + (name if dotted else flat(name)))) == expected
        for theirs, ours, rows in (
            ("attn.out_proj", "self_attn.out_proj", width),
            ("mlp.c_fc", "mlp.fc1", 4 * width),
            ("mlp.c_proj", "mlp.fc2", width),
        ):
            name = layer + ours
            tensor = f"{block}{theirs if open_clip else ours}.weight"
            assert parts(find(keymap, begins + (name if dotted else flat(name)))) == [(tensor, (0, rows), 0)]
    if width == 1280:
        target = find(keymap, f"{begins}text_projection")
        assert (target.transposed, parts(target)) == (True, [(f"{root}text_projection", (0, 1280), 0)])


def flux(doubles: int, singles: int, hidden: int, mlp: int) -> Iterator[tuple[str, str, Rows | None]]:
    """diffusers' names of FLUX's modules and the native ones they are rows of, as its conversion cuts them."""
    yield from _doubles(doubles, hidden)
    for i in range(doubles):
        a, b = f"transformer_blocks.{i}", f"double_blocks.{i}"
        yield from ((f"{a}.ff{x}.net.{n}", f"{b}.{y}_mlp.{m}", None) for x, y in (("", "img"), ("_context", "txt"))
                    for n, m in (("0.proj", 0), ("2", 2)))  # fmt: skip
        yield f"{a}.norm1.linear", f"{b}.img_mod.lin", None
        yield f"{a}.norm1_context.linear", f"{b}.txt_mod.lin", None
    for i in range(singles):
        a, b = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        for number, each in enumerate("qkv"):
            yield f"{a}.attn.to_{each}", f"{b}.linear1", (number * hidden, (number + 1) * hidden)
        yield f"{a}.proj_mlp", f"{b}.linear1", (3 * hidden, 3 * hidden + mlp)
        yield f"{a}.proj_out", f"{b}.linear2", None
        yield f"{a}.norm.linear", f"{b}.modulation.lin", None
    yield from (("x_embedder", "img_in", None), ("context_embedder", "txt_in", None))
    yield "proj_out", "final_layer.linear", None
    for theirs, ours in (("timestep", "time"), ("text", "vector"), ("guidance", "guidance")):
        yield f"time_text_embed.{theirs}_embedder.linear_1", f"{ours}_in.in_layer", None
        yield f"time_text_embed.{theirs}_embedder.linear_2", f"{ours}_in.out_layer", None


def flux_2(doubles: int, singles: int, hidden: int, _: int) -> Iterator[tuple[str, str, Rows | None]]:
    """The same of FLUX.2, whose single blocks diffusers leaves fused, and whose modulation is shared."""
    yield from _doubles(doubles, hidden)
    for i in range(doubles):
        a, b = f"transformer_blocks.{i}", f"double_blocks.{i}"
        yield from ((f"{a}.ff{x}.linear_{n}", f"{b}.{y}_mlp.{m}", None) for x, y in (("", "img"), ("_context", "txt"))
                    for n, m in (("in", 0), ("out", 2)))  # fmt: skip
    for i in range(singles):
        yield f"single_transformer_blocks.{i}.attn.to_qkv_mlp_proj", f"single_blocks.{i}.linear1", None
        yield f"single_transformer_blocks.{i}.attn.to_out", f"single_blocks.{i}.linear2", None
    yield from (("x_embedder", "img_in", None), ("context_embedder", "txt_in", None))
    yield "proj_out", "final_layer.linear", None
    for each in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"):
        yield f"{each}.linear", f"{each}.lin", None
    for each in ("timestep", "guidance"):
        for number, layer in ((1, "in"), (2, "out")):
            ours = {"timestep": "time"}.get(each, each)
            yield f"time_guidance_embed.{each}_embedder.linear_{number}", f"{ours}_in.{layer}_layer", None


def chroma(doubles: int, singles: int, hidden: int, mlp: int) -> Iterator[tuple[str, str, Rows | None]]:
    """The same of Chroma: FLUX without modulation, which a network of its own computes."""
    lacking = re.compile(r".*(_mod\.|modulation|guidance_in|time_in|vector_in).*")
    yield from (each for each in flux(doubles, singles, hidden, mlp) if not lacking.fullmatch(each[1]))
    for i in range(5):
        layer = f"distilled_guidance_layer.layers.{i}"
        yield from ((f"{layer}.linear_1", f"{layer}.in_layer", None), (f"{layer}.linear_2", f"{layer}.out_layer", None))
    for end in ("in_proj", "out_proj"):
        yield f"distilled_guidance_layer.{end}", f"distilled_guidance_layer.{end}", None


def _doubles(count: int, hidden: int) -> Iterator[tuple[str, str, Rows | None]]:
    for i in range(count):
        a, b = f"transformer_blocks.{i}.attn", f"double_blocks.{i}"
        for number, each in enumerate("qkv"):
            rows = (number * hidden, (number + 1) * hidden)
            yield f"{a}.to_{each}", f"{b}.img_attn.qkv", rows
            yield f"{a}.add_{each}_proj", f"{b}.txt_attn.qkv", rows
        yield f"{a}.to_out.0", f"{b}.img_attn.proj", None
        yield f"{a}.to_add_out", f"{b}.txt_attn.proj", None


FLOWS = {
    "transformer-flux-dev": (flux, 19, 38),
    "transformer-flux-schnell": (flux, 19, 38),
    "transformer-flux-fill": (flux, 19, 38),
    "transformer-chroma": (chroma, 19, 38),
    "transformer-flux-2-klein-4b": (flux_2, 5, 20),
    "transformer-flux-2-dev": (flux_2, 8, 48),
}


@pytest.mark.parametrize("model", FLOWS)
def test_flows(model) -> None:
    """Every matrix of FLUX (dev, schnell, Fill), Chroma and FLUX.2 lies where the conversion puts it: diffusers' names
    in the original's tensors and the other way round, and the parts of fused ones under OneTrainer's numbers."""
    made, doubles, singles = FLOWS[model]
    theirs = matrices(modules()[model])
    hidden = theirs["x_embedder"][0]
    table = [each for each in made(doubles, singles, hidden, 4 * hidden) if each[0] in theirs]
    assert {name for name, *_ in table} == theirs.keys() - {"norm_out.linear"}
    native: Shapes = {}
    for name, ours, _rows in table:
        rows, *rest = theirs[name]
        native[ours] = (rows + native.get(ours, (0,))[0], *rest)
    if "norm_out.linear" in theirs:
        native["final_layer.adaLN_modulation.1"] = theirs["norm_out.linear"]
    for root in ("", ROOT):
        keymap = keymap_of_checkpoint({f"{root}{name}.weight": shape for name, shape in native.items()})
        for name, ours, rows in table:
            expected = [(f"{root}{ours}.weight", rows or (0, native[ours][0]), 0)]
            for spelling in (f"transformer.{name}", f"lora_transformer_{flat(name)}", f"lycoris_{flat(name)}"):
                assert parts(find(keymap, spelling)) == expected, spelling
        for name, shape in native.items():
            for spelling in (f"lora_unet_{flat(name)}", f"diffusion_model.{name}", f"base_model.model.{name}"):
                assert parts(find(keymap, spelling)) == [(f"{root}{name}.weight", (0, shape[0]), 0)], spelling
        for fused, number, part in numbered(table):
            assert find(keymap, f"transformer.{fused}.{number}") == find(keymap, f"transformer.{part}")
    folder = {"transformer": {f"{name}.weight": shape for name, shape in theirs.items()}}
    keymap = keymap_of_folder(folder, {("transformer", name): "file" for name in folder["transformer"]})
    for name, shape in native.items():
        found = find(keymap, f"lora_unet_{flat(name)}")
        assert found.shape == shape
        if name != "final_layer.adaLN_modulation.1":
            expected = [(f"{each}.weight", (0, theirs[each][0]), rows[0] if rows else 0)
                        for each, ours, rows in table if ours == name]  # fmt: skip
            assert sorted(parts(found)) == sorted(expected), name
    for fused, number, part in numbered(table):
        assert find(keymap, f"transformer.{fused}.{number}") == find(keymap, f"transformer.{part}")


def test_z_image() -> None:
    """ComfyUI's file has query, key and value in one, and calls the ends otherwise; everything else has one name."""
    theirs = matrices(modules()["transformer-z-image"])
    native: Shapes = {}
    wanted: dict[str, tuple[str, Rows]] = {}
    for name, (rows, *rest) in theirs.items():
        match = re.fullmatch(r"(.+\.attention)\.to_([qkv])", name)
        ours = f"{match[1]}.qkv" if match else name.replace(".to_out.0", ".out")
        ours = re.sub(r"^all_(x_embedder|final_layer)\.2-1", r"\1", ours)
        first = "qkv".index(match[2]) * rows if match else 0
        wanted[name] = (ours, (first, first + rows))
        native[ours] = (3 * rows if match else rows, *rest)
    assert native["layers.29.attention.qkv"] == (3 * 3840, 3840) and "final_layer.adaLN_modulation.1" in native
    for root in ("", ROOT):
        keymap = keymap_of_file({f"{root}{name}.weight": shape for name, shape in native.items()}, denoiser=True)
        for name, (ours, rows) in wanted.items():
            for spelling in (f"diffusion_model.{name}", f"transformer.{name}", f"lora_unet_{flat(name)}"):
                assert parts(find(keymap, spelling)) == [(f"{root}{ours}.weight", rows, 0)], spelling
        for name, shape in native.items():
            assert parts(find(keymap, f"lora_unet_{flat(name)}")) == [(f"{root}{name}.weight", (0, shape[0]), 0)]
    keymap = keymap_of_file({f"{name}.weight": shape for name, shape in theirs.items()}, denoiser=True)
    found = parts(find(keymap, "diffusion_model.layers.3.attention.qkv"))
    assert found == [(f"layers.3.attention.to_{each}.weight", (0, 3840), 3840 * n) for n, each in enumerate("qkv")]


@pytest.mark.parametrize(
    "model",
    ["unet-sd-1", "unet-sdxl", "transformer-flux-dev", "transformer-sd-3-medium", "transformer-qwen-image",
     "transformer-wan-t2v-1.3b", "transformer-z-image"],
)  # fmt: skip
def test_a_component_alone_is_a_base(model) -> None:
    """The file of a UNet or transformer out of a diffusers folder: its own names, and those of the original layout."""
    shapes = modules()[model]
    keymap = keymap_of_file(shapes, denoiser=True)
    begins = "unet." if model.startswith("unet") else "transformer."
    for name, shape in matrices(shapes).items():
        assert parts(find(keymap, begins + name)) == [(f"{name}.weight", (0, shape[0]), 0)]
    if model == "unet-sd-1":
        stem = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
        assert parts(find(keymap, f"lora_unet_{flat(stem)}")) == [(f"{diffusers_name(stem)}.weight", (0, 320), 0)]
    if model == "transformer-flux-dev":
        found = find(keymap, "lora_unet_single_blocks_0_linear1")
        assert [(rows, first) for _, rows, first in parts(found)][3] == ((0, 12288), 9216)


def numbered(table: list[tuple[str, str, Rows | None]]) -> Iterator[tuple[str, int, str]]:
    """Of each fused module its parts in their order, as OneTrainer numbers them."""
    fused: dict[str, list[tuple[Rows, str]]] = {}
    for name, ours, rows in table:
        if rows is not None:
            fused.setdefault(ours, []).append((rows, name))
    for ours, found in fused.items():
        yield from ((ours, number, name) for number, (_, name) in enumerate(sorted(found)))


def matrices(shapes: Shapes) -> Shapes:
    return {name.removesuffix(".weight"): shape for name, shape in shapes.items()
            if name.endswith(".weight") and len(shape) > 1}  # fmt: skip


def flat(name: str) -> str:
    return name.replace(".", "_")


def find(keymap: KeyMap, spelling: str) -> Target:
    prefix, path = read_stem(spelling)
    target = keymap.find(prefix.component if prefix else None, path, "weight")
    assert target is not None, spelling
    return target


def parts(target: Target) -> list[Part]:
    return [(part.address.tensor, part.rows, part.first) for part in target.parts]
