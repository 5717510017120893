"""Components on their own, and what steers, restores or enlarges."""

from __future__ import annotations

import pytest

from modelhub.samples.layouts import checkpoint, vae
from tests.identify.build import Shape, known

ATTENTION = "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
DIFFUSERS_ATTENTION = "down_blocks.{}.attentions.0.transformer_blocks.0.attn2.to_k.weight"

Shapes = dict[str, Shape]


def part_of(architecture: str, prefix: str, new: str) -> Shapes:
    """The shapes of one part of a checkpoint, its *prefix* replaced."""
    contents = checkpoint(architecture, width=1 / 16)  # type: ignore[arg-type]
    return {name.replace(prefix, new, 1): shape for name, (_, shape) in contents.items() if name.startswith(prefix)}


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_vae_of_four_channels(prefix: str) -> None:
    """SD 1, SD 2 and SDXL share one VAE structure: all three are candidates, none is chosen."""
    identity = known({prefix + name: value for name, value in vae(width=1 / 16).items()})
    assert (identity.kind, identity.architecture) == ("vae", None)
    assert identity.candidates == ("sd-1", "sd-2", "sdxl")
    assert identity.components == ("vae",)
    assert identity.precision == "fp32"


def diffusers_vae(channels: int) -> Shapes:
    return {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down_blocks.0.resnets.0.norm1.weight": (128,),
        "decoder.conv_in.weight": (512, channels, 3, 3),
        "decoder.mid_block.resnets.0.norm1.weight": (512,),
        "decoder.up_blocks.0.resnets.0.norm1.weight": (512,),
    }


@pytest.mark.parametrize(
    ("channels", "extra", "architecture", "candidates"),
    [
        (4, {}, None, ("sd-1", "sd-2", "sdxl")),
        (16, {}, None, ("sd-3", "flux")),
        (32, {"bn.running_mean": (128,)}, "flux-2", ()),
        (64, {}, "hunyuan-image", ()),
    ],
)
def test_vae_by_latent_channels(
    channels: int, extra: Shapes, architecture: str | None, candidates: tuple[str, ...]
) -> None:
    """A VAE under diffusers' names is told as far as its latent channels do."""
    identity = known({**diffusers_vae(channels), **extra})
    assert (identity.kind, identity.architecture, identity.candidates) == ("vae", architecture, candidates)


def test_vae_with_leftovers_of_training() -> None:
    """The discriminator that some VAE files still carry does not hide the VAE."""
    leftovers = {"loss.logvar": (), "loss.discriminator.main.0.weight": (64, 3, 4, 4)}
    shapes = {name: shape for name, (_, shape) in vae(width=1 / 16).items()}
    assert known({**shapes, **leftovers}).kind == "vae"


def test_codebooks_are_not_such_vaes() -> None:
    """A face restorer with the names of an autoencoder and a codebook is not one of the VAEs."""
    shapes = {name: shape for name, (_, shape) in vae(width=1 / 16).items()}
    restorer = {**shapes, "quantize.embedding.weight": (1024, 256), "decoder.mid.attn_1.norm1.weight": (512,)}
    assert known(restorer).kind == "face-restorer"
    quantised = known({**shapes, "quantize.embedding.weight": (8192, 4)})
    assert (quantised.kind, quantised.variant, quantised.candidates) == ("vae", "vq", ())


@pytest.mark.parametrize(
    ("shapes", "architecture", "candidates"),
    [
        ({"decoder.middle.0.residual.0.gamma": (384, 1, 1, 1)}, None, ("qwen-image", "wan", "anima")),
        (
            {
                "decoder.middle.0.residual.0.gamma": (1024, 1, 1, 1),
                "decoder.upsamples.0.upsamples.0.residual.2.weight": (1024, 1024, 3, 3, 3),
            },
            "wan",
            (),
        ),
        ({"decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)}, "hunyuan-video", ()),
        (
            {
                "decoder.conv_in.conv.weight": (512, 128, 3, 3, 3),
                "decoder.up_blocks.0.res_blocks.0.conv1.conv.bias": (1,),
            },
            None,
            ("ltx-video", "ltx-2"),
        ),
    ],
)
def test_video_vae(shapes: Shapes, architecture: str | None, candidates: tuple[str, ...]) -> None:
    """Video autoencoders are told by their causal convolutions."""
    identity = known(shapes)
    assert (identity.kind, identity.architecture, identity.candidates) == ("vae", architecture, candidates)


@pytest.mark.parametrize(
    ("architecture", "prefix", "variant", "known_as", "candidates"),
    [
        ("sd-1", "cond_stage_model.transformer.", "clip-l", None, ("sd-1", "sdxl", "sd-3", "flux")),
        ("sd-2", "cond_stage_model.model.", "clip-h", "sd-2", ()),
        ("sdxl", "conditioner.embedders.1.model.", "clip-g", None, ("sdxl", "sdxl-refiner")),
    ],
)
def test_text_encoder(
    architecture: str, prefix: str, variant: str, known_as: str | None, candidates: tuple[str, ...]
) -> None:
    """A text encoder alone is told as far as the models that use it."""
    identity = known(part_of(architecture, prefix, ""))
    assert (identity.kind, identity.variant) == ("text-encoder", variant)
    assert (identity.architecture, identity.candidates) == (known_as, candidates)
    assert identity.prediction_type is None


def test_a_language_model_with_its_head_is_no_image_models_alone() -> None:
    """What one image model has for a text encoder, whole, as a language model is published, is told as open."""
    model = {
        "model.embed_tokens.weight": (151936, 1024),
        "model.layers.0.self_attn.q_norm.weight": (128,),
        "model.layers.0.self_attn.q_proj.weight": (2048, 1024),
    }
    assert known(model).architecture == "anima"
    identity = known({**model, "lm_head.weight": (151936, 1024)})
    assert (identity.kind, identity.architecture, identity.candidates) == ("text-encoder", None, ("anima",))


def test_t5() -> None:
    """T5 and UMT5 differ by where they keep relative positions."""
    t5 = {"shared.weight": (32128, 4096), "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}
    assert known(t5).variant == "t5-xxl"
    assert {"sd-3", "flux"} <= set(known(t5).candidates)
    umt5 = {**t5, "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64)}
    assert (known(umt5).architecture, known(umt5).variant) == ("wan", "umt5-xxl")


@pytest.mark.parametrize(("width", "architecture"), [(768, "sd-1"), (1024, "sd-2")])
@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_controlnet(prefix: str, width: int, architecture: str) -> None:
    """A ControlNet is told by its hint input, its base by the width of cross-attention."""
    shapes = {
        "input_hint_block.0.weight": (16, 3, 3, 3),
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        ATTENTION.format(1): (320, width),
        "zero_convs.0.0.weight": (320, 320, 1, 1),
    }
    identity = known({prefix + name: shape for name, shape in shapes.items()})
    assert (identity.kind, identity.architecture) == ("controlnet", architecture)
    assert identity.components == ("controlnet",)


def test_controlnet_with_diffusers_names() -> None:
    """ControlNets under diffusers' names, of SDXL without any attention, and unions of several."""
    shapes = {
        "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
        "conv_in.weight": (320, 4, 3, 3),
        "controlnet_down_blocks.0.weight": (320, 320, 1, 1),
    }
    assert known({**shapes, DIFFUSERS_ATTENTION.format(0): (320, 768)}).architecture == "sd-1"
    small = {**shapes, "add_embedding.linear_1.weight": (1280, 2816)}
    assert (known(small).kind, known(small).architecture) == ("controlnet", "sdxl")
    union = known({**small, "control_add_embedding.linear_1.weight": (1280, 1536)})
    assert union.variant == "union"
    assert (known(shapes).kind, known(shapes).architecture) == ("controlnet", None)


def test_eight_channels_alone_leave_open_what_they_are_for() -> None:
    """A UNet of eight channels by itself edits pictures or lights them; with a VAE it is a published checkpoint."""
    names = {
        "conv_in.weight": (320, 8, 3, 3),
        "conv_out.weight": (4, 320, 3, 3),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    }
    assert known(names).variant == "pix2pix | ic-light"
    names["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"] = (320, 1024)
    assert known(names).variant == "marigold | pix2pix"


def test_controlnet_beside_a_checkpoint() -> None:
    """A file with a whole checkpoint beside the ControlNet is the ControlNet, and lists the rest."""
    control = part_of("sd-1", "model.diffusion_model.", "control_model.")
    control = {name: shape for name, shape in control.items() if ".output_blocks." not in name and ".out." not in name}
    whole = {name: shape for name, (_, shape) in checkpoint("sd-1", width=1 / 16).items()}
    identity = known({**whole, **control, "control_model.input_hint_block.0.weight": (16, 3, 3, 3)})
    assert (identity.kind, identity.architecture) == ("controlnet", "sd-1")
    assert identity.components == ("controlnet", "unet", "vae", "text_encoder")


@pytest.mark.parametrize(
    ("shapes", "kind", "architecture"),
    [
        ({"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)}, "ip-adapter", "sd-1"),
        ({"image_proj.proj.weight": (8192, 1280), "ip_adapter.1.to_k_ip.weight": (640, 2048)}, "ip-adapter", "sdxl"),
        (
            {"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": (3072, 4096)},
            "ip-adapter",
            "flux",
        ),
        ({"conv_in.weight": (320, 192, 3, 3), "body.0.block1.weight": (320, 320, 3, 3)}, "t2i-adapter", None),
        (
            {"adapter.conv_in.weight": (320, 768, 3, 3), "adapter.body.0.resnets.0.block1.weight": (320, 320, 3, 3)},
            "t2i-adapter",
            "sdxl",
        ),
        ({"redux_up.weight": (12288, 1152), "redux_down.weight": (4096, 12288)}, "style-model", "flux"),
        (
            {
                "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": (320, 320),
                "down_blocks.3.motion_modules.0.temporal_transformer.proj_in.weight": (1280, 1280),
            },
            "motion-module",
            "sd-1",
        ),
        (
            {
                "lora_controlnet": (),
                "input_blocks.4.1.transformer_blocks.0.attn2.to_k.down": (128, 2048),
                "input_blocks.4.1.transformer_blocks.0.attn2.to_k.up": (640, 128),
            },
            "controlnet",
            "sdxl",
        ),
        ({"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight": (32, 640)}, "controlnet", None),
    ],
)
def test_adapters_of_other_kinds(shapes: Shapes, kind: str, architecture: str | None) -> None:
    """IP-Adapters, T2I-Adapters, Redux, motion modules and the small ControlNets are kinds of their own."""
    identity = known(shapes)
    assert (identity.kind, identity.architecture) == (kind, architecture)


def test_faceid_is_an_ip_adapter_though_it_holds_lora_layers() -> None:
    """The LoRA layers inside IP-Adapter FaceID do not make it a LoRA."""
    shapes: Shapes = {"image_proj.proj.0.weight": (1024, 512), "ip_adapter.1.to_k_ip.weight": (320, 768)}
    for index in range(32):
        for part in ("to_q_lora", "to_k_lora", "to_v_lora", "to_out_lora"):
            shapes[f"ip_adapter.{index}.{part}.down.weight"] = (128, 320)
            shapes[f"ip_adapter.{index}.{part}.up.weight"] = (320, 128)
    identity = known(shapes)
    assert (identity.kind, identity.architecture, identity.variant) == ("ip-adapter", "sd-1", "faceid")


@pytest.mark.parametrize(
    ("shapes", "architecture"),
    [
        ({"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}, "esrgan"),
        ({"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)}, "esrgan"),
        (
            {"params_ema.conv_first.weight": (64, 3, 3, 3), "params_ema.body.0.rdb1.conv1.weight": (32, 64, 3, 3)},
            "esrgan",
        ),
        ({"body.0.weight": (64, 3, 3, 3), "body.1.weight": (64,)}, "compact"),
        (
            {
                "conv_first.weight": (180, 3, 3, 3),
                "layers.0.residual_group.blocks.0.norm1.weight": (180,),
                "layers.0.residual_group.blocks.0.mlp.fc1.bias": (360,),
            },
            "swinir",
        ),
        ({"feats.0.weight": (64, 3, 3, 3), "feats.1.lk.conv.weight": (16, 16, 17, 17)}, "plksr"),
    ],
)
def test_upscaler(shapes: Shapes, architecture: str) -> None:
    """Upscalers are told by the blocks that they are built of."""
    identity = known(shapes)
    assert (identity.kind, identity.architecture) == ("upscaler", architecture)


def test_parts_without_a_diffusion_model() -> None:
    """VAE and text encoder in one file are parts of a checkpoint; the text encoder decides what the VAE cannot."""
    contents = {n: v for n, v in checkpoint("sd-2", width=1 / 16).items() if not n.startswith("model.diffusion_model.")}
    identity = known(contents)
    assert identity.components == ("vae", "text_encoder")
    assert identity.architecture == "sd-2"


def test_names_of_no_model() -> None:
    """What no rule knows has no kind; its precision is still told."""
    identity = known({"fc.weight": (10, 10), "fc.bias": (10,)})
    assert (identity.kind, identity.architecture, identity.components) == (None, None, ())
    assert identity.precision == "fp16"
