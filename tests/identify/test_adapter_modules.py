"""Adapters of published models, in every dialect, over the layers that trainers choose."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

import pytest

from modelhub.identify import Identity
from tests.identify.build import known, reasons
from tests.identify.keylists import Shapes, modules
from tests.identify.keylists import originals as o

Sizes = Mapping[str, tuple[int, ...]]
Write = Callable[[Sizes], Shapes]

MATRICES = {
    name: {
        key.removesuffix(".weight"): shape
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) in {2, 4, 5} and "token_embedding" not in key
    }
    for name, shapes in modules().items()
    if name.startswith(("unet", "transformer", "cascade"))
}
ATTENTION = re.compile(r"(blocks|layers|refiner).*(attn|attention)\d?\.(?!norm)")
SELF = re.compile(r"blocks.*(attn1|self_attn)\.to_[qkv]$|blocks.*\.attn1\.to_out")
BLOCKS = re.compile(r"blocks|layers|refiner")


def written(name: str, down: str, up: str, rank: int = 16) -> Write:
    """A writer of factors: *name* makes a module's name, with ``{}`` for it dotted or ``{_}`` underscored."""

    def write(sizes: Sizes) -> Shapes:
        shapes: Shapes = {}
        for module, (outputs, inputs, *kernel) in sizes.items():
            stem = name.replace("{_}", module.replace(".", "_")).replace("{}", module)
            shapes[f"{stem}.{down}"] = (rank, inputs, *kernel)
            shapes[f"{stem}.{up}"] = (outputs, rank, *(1 for _ in kernel))
        return shapes

    return write


DIALECTS: dict[str, Write] = {
    "kohya": written("lora_unet_{_}", "lora_down.weight", "lora_up.weight"),
    "lycoris": written("lycoris_{_}", "lora_down.weight", "lora_up.weight"),
    "onetrainer": written("lora_transformer_{_}", "lora_down.weight", "lora_up.weight"),
    "peft": written("transformer.{}", "lora_A.weight", "lora_B.weight"),
    "peft-unet": written("unet.{}", "lora_A.weight", "lora_B.weight"),
    "peft-named": written("base_model.model.{}", "lora_A.default.weight", "lora_B.default.weight"),
    "ai-toolkit": written("diffusion_model.{}", "lora_A.weight", "lora_B.weight"),
    "diffusers": written("transformer.{}", "lora.down.weight", "lora.up.weight"),
    "bare": written("{}", "lora_A.weight", "lora_B.weight"),
    "simpletuner": written("transformer.base_model.model.{}", "lora_A.weight", "lora_B.weight"),
    "diffsynth": written("pipe.dit.{}", "lora_A.default.weight", "lora_B.default.weight"),
    "videox-fun": written("lora_unet__{_}", "lora_down.weight", "lora_up.weight"),
}


def chosen(name: str, pattern: re.Pattern[str]) -> Sizes:
    return {module: size for module, size in MATRICES[name].items() if pattern.search(module)}


def loha(sizes: Sizes) -> Shapes:
    shapes: Shapes = {}
    for module, (outputs, inputs, *_) in sizes.items():
        stem = "lycoris_" + module.replace(".", "_")
        for number in "12":
            shapes[f"{stem}.hada_w{number}_a"] = (outputs, 4)
            shapes[f"{stem}.hada_w{number}_b"] = (4, inputs)
        shapes[f"{stem}.alpha"] = ()
    return shapes


def lokr(sizes: Sizes) -> Shapes:
    shapes: Shapes = {}
    for module, (outputs, inputs, *_) in sizes.items():
        stem = "lycoris_" + module.replace(".", "_")
        shapes[f"{stem}.lokr_w1"] = (4, 4)
        shapes[f"{stem}.lokr_w2_a"] = (outputs // 4, 8)
        shapes[f"{stem}.lokr_w2_b"] = (8, inputs // 4)
    return shapes


def full(sizes: Sizes) -> Shapes:
    shapes: Shapes = {}
    for module, shape in sizes.items():
        stem = "lora_unet_" + module.replace(".", "_")
        shapes |= {f"{stem}.diff": shape, f"{stem}.diff_b": (shape[0],)}
    return shapes


def dora(sizes: Sizes) -> Shapes:
    shapes = DIALECTS["kohya"](sizes)
    for module, (outputs, *_) in sizes.items():
        shapes[f"lora_unet_{module.replace('.', '_')}.dora_scale"] = (outputs, 1)
    return shapes


def ia3(sizes: Sizes) -> Shapes:
    shapes: Shapes = {}
    for module, (outputs, *_) in sizes.items():
        stem = "lycoris_" + module.replace(".", "_")
        shapes |= {f"{stem}.weight": (outputs,), f"{stem}.on_input": ()}
    return shapes


WIDE = {
    "flux", "chroma", "flux-2", "hunyuan-video", "qwen-image", "longcat-image", "ovis-image", "bria",
}  # fmt: skip
"""Architectures with joint attention 3072 wide, under diffusers' names."""

ALGORITHMS: dict[str, Write] = {"loha": loha, "lokr": lokr, "full": full, "dora": dora}

TOLD = {
    "unet-sd-1": "sd-1",
    "unet-sd-2": "sd-2",
    "unet-sdxl": "sdxl",
    "unet-sdxl-refiner": "sdxl-refiner",
    "unet-ssd-1b": "sdxl",
    "unet-svd": "svd",
    "transformer-sd-3-medium": "sd-3",
    "transformer-sd-3.5-medium": "sd-3",
    "transformer-sd-3.5-large": "sd-3",
    "transformer-flux-2-dev": "flux-2",
    "transformer-flux-2-klein-4b": "flux-2",
    "transformer-flux-2-klein-9b": "flux-2",
    "transformer-auraflow": "auraflow",
    "transformer-hunyuan-dit": "hunyuan-dit",
    "transformer-hunyuan-video": "hunyuan-video",
    "transformer-hunyuan-video-1.5": "hunyuan-video",
    "transformer-hunyuan-image": "hunyuan-image",
    "transformer-ltx-2b": "ltx-video",
    "transformer-ltx-2": "ltx-2",
    "transformer-wan-t2v-1.3b": "wan",
    "transformer-wan-t2v-14b": "wan",
    "transformer-wan-i2v-14b": "wan",
    "transformer-wan-2.2-ti2v-5b": "wan",
    "transformer-qwen-image": "qwen-image",
    "transformer-z-image": "z-image",
    "transformer-lumina-2": "lumina-2",
    "transformer-sana-1600m": "sana",
    "transformer-hidream": "hidream",
    "transformer-mochi": "mochi",
    "transformer-cogvideox-2b": "cogvideox",
    "transformer-cogvideox-5b": "cogvideox",
    "transformer-krea-2": "krea-2",
    "transformer-kandinsky-5": "kandinsky-5",
    "transformer-kandinsky-5-pro": "kandinsky-5",
    "transformer-bria": "bria",
    "transformer-bria-fibo-2": "bria",
    "transformer-glm-image": "glm-image",
    "transformer-joyimage": "joyimage",
    "transformer-motif-video": "motif-video",
    "transformer-nucleus-image": "nucleus-image",
    "transformer-kandinsky-6": "kandinsky-6",
    "transformer-kandinsky-6-lite": "kandinsky-6",
    "cascade-c": "cascade",
}
"""Models whose attention layers, all together, are those of one architecture."""


def test_longcat_has_fewer_blocks_than_flux() -> None:
    identity = known(DIALECTS["peft"](chosen("transformer-longcat-image", ATTENTION)))
    assert (identity.kind, identity.architecture) == ("lora", "longcat-image")


def test_a_rarer_model_is_told_beside() -> None:
    """Kolors has all attention layers of SDXL, which is the answer; that the other has them is told, not surely."""
    identity = known(DIALECTS["peft"](chosen("unet-kolors", ATTENTION)))
    assert identity.architecture == "sdxl"
    assert [each.confidence for each in reasons(identity, "architecture") if each.value == "kolors"] == ["low"]


@pytest.mark.parametrize(
    "metadata", [{"ss_base_model_version": "kolors"}, {"base_model": "Kwai-Kolors/Kolors-diffusers"}]
)
def test_a_rarer_model_that_is_claimed(metadata: dict[str, str]) -> None:
    """What has all of a LoRA's layers and is left out for its rarity alone is the answer when the file says so."""
    shapes = DIALECTS["peft"](chosen("unet-kolors", ATTENTION))
    assert known(shapes, metadata=metadata).architecture == "kolors"
    assert known(shapes, metadata={"ss_base_model_version": "flux1"}).architecture == "sdxl"


def test_few_layers_leave_rarer_models_open() -> None:
    """Modulations of a few blocks may be LongCat's, those of all blocks are not."""
    layers = chosen("transformer-flux-dev", re.compile(r"^transformer_blocks\.\d+\.norm1_context"))
    few = known(DIALECTS["peft"](dict(list(layers.items())[:3])))
    assert few.architecture is None and {"flux", "longcat-image"} <= set(few.candidates)
    every = known(DIALECTS["peft"](layers))
    assert "flux" in every.candidates and "longcat-image" not in every.candidates


def test_flex_and_fibo_have_the_same_blocks() -> None:
    """Both are FLUX with eight double blocks: a LoRA of all of them is left open between the two."""
    for name in ("transformer-flex-2", "transformer-bria-fibo"):
        identity = known(DIALECTS["peft"](chosen(name, ATTENTION)))
        assert (identity.architecture, identity.candidates) == (None, ("flux", "bria"))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", TOLD)
def test_attention_of_a_published_model(name: str, dialect: str) -> None:
    """A LoRA of all attention layers is its model's in every dialect."""
    identity = known(DIALECTS[dialect](chosen(name, ATTENTION)))
    assert (identity.kind, identity.architecture) == ("lora", TOLD[name])
    assert identity.adapter is not None
    assert identity.adapter.rank == 16


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", TOLD)
def test_algorithms(name: str, algorithm: str) -> None:
    """Every algorithm's factors tell the layers' sizes, and so the architecture."""
    identity = known(ALGORITHMS[algorithm](chosen(name, ATTENTION)))
    assert (identity.kind, identity.architecture) == ("lora", TOLD[name])


@pytest.mark.parametrize("name", sorted({*TOLD, "transformer-flux-dev", "transformer-chroma", "transformer-ltx-13b"}))
def test_two_keys(name: str) -> None:
    """One layer alone is never told wrongly: its architecture is among the candidates, or the answer."""
    expected = TOLD.get(name, {"flux-dev": "flux", "chroma": "chroma", "ltx-13b": "ltx-video"}.get(name[12:], ""))
    layers = list(chosen(name, ATTENTION).items())
    for module, size in random.Random(name).sample(layers, 12):
        for dialect in ("kohya", "peft"):
            identity = known(DIALECTS[dialect]({module: size}))
            assert identity.kind == "lora"
            if name not in {"unet-svd", "unet-ssd-1b"} or identity.architecture not in {"sd-1", "sd-2"}:
                left = (identity.architecture,) if identity.architecture else identity.candidates
                assert expected in left or not left or name == "unet-svd", (module, left)


@pytest.mark.parametrize(
    ("name", "keep", "left"),
    [
        ("unet-sd-1", r"attn1\.to_", {"sd-1", "sd-2"}),
        ("unet-sd-2", r"attn1\.to_", {"sd-1", "sd-2"}),
        ("unet-sd-1", r"down_blocks\.1\..*attn1", {"sd-1", "sd-2", "sdxl"}),
        ("unet-sdxl", r"down_blocks\.1\..*transformer_blocks\.0\.attn1", {"sd-1", "sd-2", "sdxl"}),
        ("unet-sdxl", r"down_blocks\.1\..*transformer_blocks\.1\.attn1", {"sdxl"}),
        ("unet-sdxl", r"down_blocks\.1\..*transformer_blocks\.0\.attn2", {"sdxl"}),
        ("unet-sdxl", r"mid_block.*attn1", {"sdxl"}),
        ("unet-sdxl", r"up_blocks\.1\..*attn1", {"sdxl"}),
        ("transformer-flux-dev", r"attn\.", {"flux", "chroma"}),
        ("transformer-flux-dev", r"blocks\.\d+\.(attn\.|norm1?\.linear)", {"flux"}),
        ("transformer-flux-dev", r"^transformer_blocks\.[0-4]\.attn\.to_q", WIDE),
        ("transformer-ltx-13b", r"attn1", {"ltx-video", "ltx-2"}),
        ("transformer-pixart-sigma", r"attn1", {"pixart", "sana"}),
    ],
)
def test_parts_of_a_model(name: str, keep: str, left: set[str]) -> None:
    """Sliders and LoRAs of a few blocks leave exactly the architectures that have such layers."""
    identity = known(DIALECTS["kohya"](chosen(name, re.compile(keep))))
    assert set((identity.architecture,) if identity.architecture else identity.candidates) == left
    if len(left) > 1:
        assert identity.architecture is None


ORIGINALS: dict[str, tuple[o.Layers, set[str]]] = {
    "flux": (o.flux(), {"flux"}),
    "sd-3": (o.sd_3(1536, 24), {"sd-3"}),
    "flux-2": (o.flux_2(3072, 5, 20, 7680), {"flux-2"}),
    "wan": (o.wan(5120, 40, 13824), {"wan"}),
    "hunyuan-video": (o.hunyuan_video(3072, 20, 40), {"hunyuan-video"}),
    "auraflow": (o.auraflow(), {"auraflow"}),
    "pixart": (o.pixart(), {"pixart"}),
    "hunyuan-dit": (o.hunyuan_dit(), {"hunyuan-dit"}),
    "lumina-2": (o.lumina(2304, 26, 3840, 9216, 1, 1024), {"lumina-2"}),
    "z-image": (o.lumina(3840, 30, 11520, 10240, 0, 256), {"z-image"}),
    "cosmos": (o.cosmos_2(2048, 28), {"cosmos", "anima"}),
    "mochi": (o.mochi(), {"mochi"}),
    "omnigen-2": (o.omnigen_2(), {"omnigen-2"}),
    "ace-step": (o.ace_step(), {"ace-step"}),
    "wan-vace": (o.vace(5120, 8, 13824), {"wan"}),
}


@pytest.mark.parametrize("dialect", ["kohya", "ai-toolkit", "peft"])
@pytest.mark.parametrize("name", ORIGINALS)
def test_original_names(name: str, dialect: str) -> None:
    """LoRAs under the names that a model's authors gave its layers."""
    layers, left = ORIGINALS[name]
    blocks = {module: size for module, size in layers.items() if BLOCKS.search(module)}
    identity = known(DIALECTS[dialect](blocks))
    assert set((identity.architecture,) if identity.architecture else identity.candidates) == left


def test_ia3_by_names_alone() -> None:
    """IA3 has no sizes of inputs: deep blocks tell SDXL all the same."""
    identity = known(ia3(chosen("unet-sdxl", re.compile(r"attn[12]\.to_[kv]$"))))
    assert (identity.kind, identity.architecture) == ("lora", "sdxl")


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("transformer-wan-t2v-14b", "14b"),
        ("transformer-wan-t2v-1.3b", "1.3b"),
        ("transformer-sd-3.5-large", "3.5-large"),
        ("transformer-flux-2-klein-9b", "klein-9b"),
        ("transformer-hunyuan-video-1.5", "1.5"),
    ],
)
def test_size_of_the_model(name: str, variant: str) -> None:
    """Where an architecture has several sizes, the one that a LoRA was made for is its variant."""
    identity: Identity = known(DIALECTS["peft"](chosen(name, ATTENTION)))
    assert identity.variant == variant


def test_majority_decides() -> None:
    """A stray module of another model does not change what all others say, and is told as evidence."""
    stray = {"lora_unet_up_blocks_3_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768)}
    shapes = written("{}", "lora_down.weight", "lora_up.weight")(stray)
    shapes |= DIALECTS["kohya"](chosen("unet-sdxl", ATTENTION))
    identity = known(shapes)
    assert identity.architecture == "sdxl"
    assert any(each.confidence == "low" for each in identity.evidence)


@pytest.mark.parametrize("stem", ["lora_unet_{}_", "lora_unet_blocks_{}", "transformer_2.{}"])
def test_odd_spellings(stem: str) -> None:
    """Underscores too many, dots behind the block's number, and the second of two transformers."""
    sizes = chosen("transformer-wan-t2v-14b", re.compile(r"^blocks\..*attn"))
    shapes: Shapes = {}
    for module, (outputs, inputs) in sizes.items():
        name = module if "." in stem else module.replace(".", "_")
        if stem == "lora_unet_blocks_{}":
            name = module.removeprefix("blocks.")
        shapes |= {f"{stem.format(name)}.lora_down.weight": (8, inputs)}
        shapes |= {f"{stem.format(name)}.lora_up.weight": (outputs, 8)}
    assert known(shapes).architecture == "wan"


def test_oft_of_split_layers() -> None:
    """sd-scripts' OFT has a prefix of its own, and numbered blocks where it splits a fused layer."""
    shapes: Shapes = {}
    for module, (outputs, _) in o.flux().items():
        if "blocks" in module:
            stem = "oft_unet_" + module.replace(".", "_")
            shapes |= {f"{stem}.oft_blocks.{part}": (4, outputs // 12, outputs // 12) for part in range(3)}
            shapes[f"{stem}.alpha"] = ()
    identity = known(shapes)
    assert identity.adapter is not None
    assert (identity.architecture, identity.adapter.dialect) == ("flux", "kohya")
    assert identity.adapter.algorithms == {"oft": identity.adapter.modules}


def test_prior_of_cascade() -> None:
    """OneTrainer's names for Stable Cascade's prior and its text encoder."""
    prior = {name: size for name, size in o.cascade_c().items() if "out_proj" in name}
    encoder = {f"text_model.encoder.layers.{each}.self_attn.q_proj": (1280, 1280) for each in range(32)}
    shapes = written("lora_prior_unet_{_}", "lora_down.weight", "lora_up.weight")(prior)
    shapes |= written("lora_prior_te_{_}", "lora_down.weight", "lora_up.weight")(encoder)
    assert known(shapes).architecture == "cascade"


def test_sizes_of_nothing_known() -> None:
    """Layers of known names and of sizes that none of them has are perhaps another model's: left open, and said so."""
    sizes = dict.fromkeys(chosen("transformer-lumina-2", re.compile(r"^layers.*attn\.to_q")), (2000, 2000))
    identity = known(DIALECTS["peft"](sizes))
    assert (identity.kind, identity.architecture) == ("lora", None)
    assert {each.confidence for each in identity.evidence if each.fact == "architecture"} == {"low"}


@pytest.mark.parametrize(
    "stem",
    [
        "base_model.model.model.layers.{}.self_attn.q_proj",
        "base_model.model.transformer.h.{}.attn.c_attn",
        "base_model.model.model.encoder.layers.{}.self_attn.q_proj",
        "base_model.model.vit.encoder.layer.{}.attention.attention.query",
    ],
)
def test_adapters_of_other_models(stem: str) -> None:
    """A LoRA of a language, speech or vision model is one, of no architecture here."""
    shapes: Shapes = {}
    for index in range(12):
        shapes |= {f"{stem.format(index)}.lora_A.weight": (8, 4096), f"{stem.format(index)}.lora_B.weight": (4096, 8)}
    identity = known(shapes)
    assert (identity.kind, identity.architecture, identity.candidates) == ("lora", None, ())


def test_numbered_layers() -> None:
    """The first LoRAs of all numbered their layers; for SD 1 or 2, which nothing decides."""
    shapes: Shapes = {}
    for number, (outputs, inputs) in enumerate([(320, 320), (320, 768), (640, 640), (1280, 768)]):
        shapes |= {f"unet:{number}:up": (outputs, 4), f"unet:{number}:down": (4, inputs)}
    identity = known(shapes)
    assert identity.adapter is not None
    assert (identity.kind, identity.candidates, identity.adapter.rank) == ("lora", ("sd-1", "sd-2"), 4)
    assert identity.adapter.dialect == "cloneofsimo"
