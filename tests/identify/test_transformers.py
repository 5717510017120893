"""Diffusion transformers, by the few names that tell them apart."""

from __future__ import annotations

import pytest

from tests.identify.build import Shape, known

Shapes = dict[str, Shape]

SD_3: Shapes = {
    "joint_blocks.0.context_block.attn.qkv.weight": (4608, 1536),
    "joint_blocks.23.x_block.attn.qkv.weight": (4608, 1536),
    "x_embedder.proj.weight": (1536, 16, 2, 2),
}
FLUX: Shapes = {
    "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
    "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
    "single_blocks.0.linear1.weight": (21504, 3072),
    "img_in.weight": (3072, 64),
}
FLUX_OF_DIFFUSERS: Shapes = {
    "single_transformer_blocks.0.norm.linear.weight": (9216, 3072),
    "x_embedder.weight": (3072, 64),
    "context_embedder.weight": (3072, 4096),
}
LUMINA: Shapes = {
    "noise_refiner.0.attention_norm1.weight": (2304,),
    "context_refiner.0.attention_norm1.weight": (2304,),
}
WAN: Shapes = {"head.modulation": (1, 2, 5120), "patch_embedding.weight": (5120, 16, 1, 2, 2)}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."])
@pytest.mark.parametrize(
    ("shapes", "architecture", "variant"),
    [
        (SD_3, "sd-3", "3-medium"),
        ({**SD_3, "joint_blocks.37.x_block.attn.qkv.weight": (7296, 2432)}, "sd-3", "3.5-large"),
        ({**SD_3, "joint_blocks.0.x_block.attn2.qkv.weight": (4608, 1536)}, "sd-3", "3.5-medium"),
        (FLUX, "flux", "schnell"),
        ({**FLUX, "guidance_in.in_layer.weight": (3072, 256)}, "flux", "dev"),
        ({**FLUX, "img_in.weight": (3072, 384)}, "flux", "fill"),
        ({**FLUX, "img_in.weight": (3072, 128)}, "flux", "control"),
        (FLUX_OF_DIFFUSERS, "flux", "schnell"),
        ({**FLUX, "distilled_guidance_layer.in_proj.weight": (5120, 64)}, "chroma", None),
        (
            {
                "double_stream_modulation_img.lin.weight": (36864, 6144),
                "single_stream_modulation.lin.weight": (18432, 6144),
                "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
                "img_in.weight": (6144, 128),
            },
            "flux-2",
            "dev",
        ),
        (
            {"txt_norm.weight": (3584,), "transformer_blocks.0.img_mod.1.weight": (18432, 3072)},
            "qwen-image",
            None,
        ),
        ({**LUMINA, "layers.0.adaLN_modulation.1.weight": (9216, 1024)}, "lumina-2", None),
        ({**LUMINA, "layers.0.adaLN_modulation.0.weight": (15360, 256)}, "z-image", None),
        (WAN, "wan", "t2v-14b"),
        ({**WAN, "patch_embedding.weight": (1536, 16, 1, 2, 2)}, "wan", "t2v-1.3b"),
        ({**WAN, "patch_embedding.weight": (5120, 36, 1, 2, 2)}, "wan", "2.2-i2v-a14b"),
        (
            {**WAN, "patch_embedding.weight": (5120, 36, 1, 2, 2), "img_emb.proj.0.bias": (1280,)},
            "wan",
            "i2v-14b",
        ),
        ({**WAN, "vace_blocks.0.after_proj.weight": (5120, 5120)}, "wan", "vace"),
        ({"double_layers.0.attn.w1q.weight": (3072, 3072), "cond_seq_linear.weight": (3072, 2048)}, "auraflow", None),
        ({"t_block.1.weight": (6912, 1152), "y_embedder.y_embedding": (300, 4096)}, "pixart", "sigma"),
        ({"t_block.1.weight": (6912, 1152), "y_embedder.y_embedding": (120, 4096)}, "pixart", "alpha"),
        ({"t_block.1.weight": (6912, 1152), "y_embedder.y_proj.fc1.weight": (1152, 4096)}, "pixart", None),
        ({"txt_in.individual_token_refiner.blocks.0.norm1.weight": (3072,)}, "hunyuan-video", None),
        (
            {
                "adaln_single.emb.timestep_embedder.linear_1.bias": (2048,),
                "patchify_proj.weight": (2048, 128),
                "transformer_blocks.0.scale_shift_table": (6, 2048),
            },
            "ltx-video",
            None,
        ),
        ({"clf.1.weight": (64, 2048, 1, 1), "clip_txt_mapper.weight": (2048, 1280)}, "cascade", "stage-c"),
        ({"caption_projection.0.linear.weight": (2560, 4096)}, "hidream", None),
    ],
)
def test_transformer(shapes: Shapes, architecture: str, variant: str | None, prefix: str) -> None:
    """Each transformer is a diffusion model of its own architecture, whatever its names begin with."""
    identity = known({prefix + name: shape for name, shape in shapes.items()})
    assert (identity.kind, identity.architecture, identity.variant) == ("diffusion-model", architecture, variant)
    assert identity.components == ("transformer",)


def test_pixart_in_diffusers_is_not_ltx() -> None:
    """PixArt under diffusers' names shares its modulation with LTX-Video and is told by its image patches."""
    shapes = {
        "adaln_single.emb.timestep_embedder.linear_1.bias": (1152,),
        "pos_embed.proj.weight": (1152, 4, 2, 2),
        "caption_projection.linear_1.weight": (1152, 4096),
        "transformer_blocks.0.scale_shift_table": (6, 1152),
        "proj_in.weight": (1,),
    }
    assert known(shapes).architecture == "pixart"


def test_flow_models_say_so() -> None:
    """Rectified flow models predict the flow."""
    assert known(SD_3).prediction_type == "flow"
    assert known(FLUX, metadata={"modelspec.prediction_type": "epsilon"}).prediction_type == "flow"


def test_checkpoint_of_all_parts() -> None:
    """A transformer with its VAE and text encoders is a checkpoint; the parts are numbered as diffusers does."""
    shapes = {f"model.diffusion_model.{name}": shape for name, shape in SD_3.items()}
    shapes |= {
        "first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3),
        "first_stage_model.decoder.mid.block_1.norm1.weight": (512,),
    }
    for name, width in (("clip_g", 1280), ("clip_l", 768)):
        root = f"text_encoders.{name}.transformer.text_model."
        shapes[root + "embeddings.token_embedding.weight"] = (49408, width)
        shapes[root + "encoder.layers.0.self_attn.q_proj.weight"] = (width, width)
    shapes["text_encoders.t5xxl.transformer.shared.weight"] = (32128, 4096)
    shapes["text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"] = (4096, 4096)
    identity = known(shapes)
    assert (identity.kind, identity.architecture) == ("checkpoint", "sd-3")
    assert identity.components == ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    details = {each.value: each.detail for each in identity.evidence if each.fact == "components"}
    assert "clip_l" in details["text_encoder"]
    assert "clip_g" in details["text_encoder_2"]
