"""The layouts are those of real files."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest

from modelhub.samples.layouts import Architecture, Layout, checkpoint, ema_name, embedding, hypernetwork, lora, vae
from modelhub.tensors import DTYPE_BY_TORCH, DType

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

KEY_LISTS = os.environ.get("MODELHUB_KEY_LISTS")
"""A folder with the key lists of real files, gzip-compressed JSON as sd-mecha's model configurations hold them."""


def fingerprint(layout: Layout) -> str:
    """A digest of a layout's names, element types and shapes, whatever their order."""
    lines = sorted(f"{name} {dtype.label} {list(shape)}" for name, (dtype, shape) in layout.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("layout", "tensors", "digest"),
    [
        (checkpoint("sd-1", dtype=DType.F32), 1143, "6f340ac6b48f193d959d03f84f2b90890384413e9c4d9356648e54737fb35c7e"),
        (
            checkpoint("sd-1", dtype=DType.F32, ema=True),
            1831,
            "742e01cbbd0bbe3a35fbacc48743795ca62c4796a3ae55ce3e3ab99ec99751e2",
        ),
        (checkpoint("sdxl", dtype=DType.F32), 2515, "84752f9123dbad40027cfd8c29d1a4345ab46ce8381cc16c883b52fb985a1e96"),
    ],
    ids=["sd-1", "sd-1-ema", "sdxl"],
)
def test_full_width_is_the_real_thing(layout: Layout, tensors: int, digest: str) -> None:
    """At width 1 a checkpoint has the names, types and shapes of the real files (digests taken of their lists)."""
    assert len(layout) == tensors
    assert fingerprint(layout) == digest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", [1 / 8, 1 / 64, 1 / 300])
def test_a_narrow_checkpoint_keeps_every_name_and_type(architecture: Architecture, width: float) -> None:
    """Scaling changes neither names nor their order, types or numbers of dimensions, and enlarges nothing."""
    full, narrow = checkpoint(architecture), checkpoint(architecture, width=width)
    assert list(narrow) == list(full)
    for name, (dtype, shape) in narrow.items():
        full_dtype, full_shape = full[name]
        assert dtype is full_dtype
        assert len(shape) == len(full_shape)
        assert all(n <= m for n, m in zip(shape, full_shape, strict=True)), name


@pytest.mark.parametrize(
    ("architecture", "block", "context", "vector", "first", "dimensions"),
    [
        ("sd-1", "input_blocks.1.1", 768, None, 320, 4),
        ("sd-2", "input_blocks.1.1", 1024, None, 320, 2),
        ("sdxl", "input_blocks.4.1", 2048, 2816, 320, 2),
        ("sdxl-refiner", "input_blocks.4.1", 1280, 2560, 384, 2),
    ],
)
def test_what_architectures_are_told_apart_by_survives_scaling(
    architecture: Architecture, block: str, context: int, vector: int | None, first: int, dimensions: int
) -> None:
    """A narrow sample keeps the widths and dimensions that identify its architecture."""
    unet = "model.diffusion_model."
    layout = checkpoint(architecture, width=1 / 64)
    for matrix in ("to_k", "to_v"):
        assert layout[f"{unet}{block}.transformer_blocks.0.attn2.{matrix}.weight"][1][1] == context
    assert layout[f"{unet}input_blocks.0.0.weight"][1] == (first, 4, 3, 3)
    assert len(layout[f"{unet}{block}.proj_in.weight"][1]) == dimensions
    assert (layout[f"{unet}label_emb.0.0.weight"][1][1] if vector else None) == vector
    assert layout["first_stage_model.decoder.conv_in.weight"][1][1] == 4


def test_every_unet_weight_has_an_averaged_copy() -> None:
    """With EMA, each UNet weight's copy is there under its dotless name and with its shape."""
    layout = checkpoint("sd-1", width=1 / 32, ema=True)
    unet = [name for name in layout if name.startswith("model.diffusion_model.")]
    assert len(unet) == 686
    assert all(layout[ema_name(name)] == layout[name] for name in unet)
    assert ema_name("model.diffusion_model.out.0.bias") == "model_ema.diffusion_modelout0bias"


def test_v_prediction_markers_are_empty_tensors() -> None:
    """The markers of a v-prediction SDXL model are zero-size."""
    plain, marked = checkpoint("sdxl", width=1 / 64), checkpoint("sdxl", width=1 / 64, v_prediction=True)
    assert {k: v for k, v in marked.items() if k not in plain} == {
        "v_pred": (DType.I64, (0,)),
        "ztsnr": (DType.I64, (0,)),
    }


@pytest.mark.parametrize("width", [0, -1, 1.5])
def test_impossible_widths_are_refused(width: float) -> None:
    """A width that is not above 0 and at most 1 is a ValueError."""
    with pytest.raises(ValueError, match="width"):
        vae(width=width)


@pytest.mark.parametrize(("base", "unet", "text"), [("sd-1", 192, 72), ("sd-2", 192, 138), ("sdxl", 722, 264)])
def test_a_kohya_lora_covers_the_attention_blocks_and_the_text_encoders(base: Any, unet: int, text: int) -> None:
    """As many modules as sd-scripts trains by default, each with down, up and alpha."""
    layout = lora(base, 8)
    modules = {name.partition(".")[0] for name in layout}
    assert sum(m.startswith("lora_unet_") for m in modules) == unet
    assert sum(m.startswith("lora_te") for m in modules) == text
    assert len(layout) == 3 * (unet + text)
    assert len(lora(base, 8, text_encoder=False)) == 3 * unet
    for module in modules:
        down, up = layout[f"{module}.lora_down.weight"][1], layout[f"{module}.lora_up.weight"][1]
        assert down[0] == up[1] == 8
        assert layout[f"{module}.alpha"][1] == ()


def test_sd1_projections_are_convolutions_in_a_lora_too() -> None:
    """SD 1's proj_in is a 1x1 convolution, and so are the matrices of its LoRA; SD 2's are not."""
    name = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    assert lora("sd-1", 4)[name][1] == (4, 1280, 1, 1)
    assert lora("sd-2", 4)[name][1] == (4, 1280)


def test_lora_dialects_name_the_same_modules() -> None:
    """kohya, PEFT and diffusers files differ in names, not in what they change."""
    peft, diffusers, kohya = (lora("sd-1", 4, dialect=d) for d in ("peft", "diffusers", "kohya"))
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight" in peft
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora.down.weight" in diffusers
    assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight" in diffusers
    matrices = [entry for name, entry in kohya.items() if not name.endswith(".alpha")]
    assert list(peft.values()) == list(diffusers.values()) == matrices
    both = lora("sdxl", 4, dialect="peft")
    assert any(name.startswith("text_encoder_2.text_model.encoder.layers.31.") for name in both)
    assert any(name.startswith("text_encoder.text_model.encoder.layers.11.") for name in both)


def test_embeddings_have_the_width_of_their_text_encoders() -> None:
    """768 for SD 1, 1024 for SD 2, both of SDXL's for SDXL."""
    assert embedding("sd-1", 3) == {"emb_params": (DType.F32, (3, 768))}
    assert embedding("sd-2", 3) == {"emb_params": (DType.F32, (3, 1024))}
    assert {name: shape for name, (_, shape) in embedding("sdxl", 3).items()} == {
        "clip_l": (3, 768),
        "clip_g": (3, 1280),
    }


def test_a_hypernetwork_has_two_modules_for_each_width() -> None:
    """Keys and values get a module each, whose first layer reads and whose last writes the attention width."""
    layout = hypernetwork((320, 768), structure=(1, 2, 1))
    assert list(layout) == [320, 768]
    for width, modules in layout.items():
        assert len(modules) == 2
        for module in modules:
            assert module["linear.0.weight"][1] == (2 * width, width)
            assert module["linear.1.weight"][1] == (width, 2 * width)


def listed(name: str, *, without: tuple[str, ...] = ()) -> Layout:
    """The key list *name* as a layout."""
    assert KEY_LISTS is not None
    components = json.loads(gzip.decompress(Path(KEY_LISTS, f"{name}.json.gz").read_bytes()))
    return {
        key: (DTYPE_BY_TORCH[entry["dtype"]], tuple(entry["shape"]))
        for component, entries in components.items()
        if component not in without
        for key, entry in entries.items()
    }


if KEY_LISTS:  # a check against data that is not part of the project

    def test_checkpoints_equal_the_key_lists() -> None:
        """The layouts equal the lists; SDXL's also hold optional markers, which are left out of the comparison."""
        assert checkpoint("sd-1", dtype=DType.F32) == listed("sd1-ldm", without=("ema",))
        assert checkpoint("sd-1", dtype=DType.F32, ema=True) == listed("sd1-ldm")
        sdxl = checkpoint("sdxl", dtype=DType.F32, v_prediction=True)
        expected = listed("sdxl-sgm", without=("scheduler",))
        assert sdxl == {name: entry for name, entry in expected.items() if not name.startswith("edm_vpred.")}

    @pytest.mark.parametrize(("base", "name"), [("sd-1", "sd1-kohya"), ("sdxl", "sdxl-kohya")])
    def test_lora_modules_are_those_of_the_key_lists(base: Any, name: str) -> None:
        """Every matrix of attention blocks and text layers is changed, under its real name and with its shape."""
        matrices = {
            "lora_" + key.removesuffix(".weight").replace(".", "_"): shape
            for key, (_, shape) in listed(name, without=("vae",)).items()
            if key.endswith(".weight") and len(shape) > 1
        }
        inside = ("transformer_blocks", "_proj_in", "_proj_out", "_encoder_layers_")
        expected = {module: shape for module, shape in matrices.items() if any(part in module for part in inside)}
        layout = lora(base, 4)
        found = {
            key.removesuffix(".lora_down.weight"): (layout[key.replace("lora_down", "lora_up")][1][0], *shape[1:])
            for key, (_, shape) in layout.items()
            if key.endswith(".lora_down.weight")
        }
        assert found == expected
