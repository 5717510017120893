"""Files as they are published, by the names and shapes that tell them: many of few modules, as small adapters have.

``keylists/telling.json`` has them. Their names and widths are facts of ComfyUI's model detection and model patches, of
InvokeAI's lists of published LoRAs, and of the models' own code. Where one has several architectures, no name or width
decides between them.
"""

from __future__ import annotations

import pytest

from modelhub.tensors import DType
from tests.identify.build import Shape, known
from tests.identify.keylists import telling

CASES = telling()


def lora(path: str, inputs: int, outputs: int, rank: int = 16) -> dict[str, Shape]:
    """A LoRA of one layer in the names of sd-scripts."""
    stem = f"lora_unet_{path}"
    return {f"{stem}.lora_down.weight": (rank, inputs), f"{stem}.lora_up.weight": (outputs, rank), f"{stem}.alpha": ()}


@pytest.mark.parametrize("name", CASES)
def test_published(name: str) -> None:
    """A published form is told by its telling names, and left open to exactly what its names and widths leave open."""
    kind, architectures, shapes = CASES[name]
    identity = known(shapes)
    assert identity.kind == kind
    assert ({identity.architecture} if identity.architecture else set(identity.candidates)) == architectures


@pytest.mark.parametrize("deep", ["down_blocks_2_attentions_1", "mid_block_attentions_0", "up_blocks_0_attentions_2"])
def test_one_layer_of_a_diffusers_named_sdxl_slider(deep: str) -> None:
    """The tenth transformer block of an attention is SDXL's, in a slider that changes self-attention alone."""
    path = f"{deep}_transformer_blocks_9_attn1_to_q"
    assert known(lora(path, 1280, 1280)).architecture == "sdxl"


def test_a_slider_of_shallow_blocks() -> None:
    """Self-attention 640 wide in the second block of an attention: SDXL's, for SD 1 and 2 have but one there."""
    path = "down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q"
    assert known(lora(path, 640, 640)).architecture == "sdxl"


def test_low_blocks_alone_leave_open_what_they_leave_open() -> None:
    """Self-attention of the first attention, 320 wide, is SD 1's and SD 2's; nothing decides between these."""
    path = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    identity = known(lora(path, 320, 320))
    assert identity.architecture is None and identity.candidates[:2] == ("sd-1", "sd-2")


def test_the_half_of_an_sdxl_embedding() -> None:
    """A vector for CLIP ViT-G alone is the half of an SDXL embedding, or SD 3's, and no SD 1 embedding."""
    assert "sdxl" in known({"clip_g": (4, 1280)}).candidates


def test_int8_with_scales_of_rows() -> None:
    """Weights of INT8 with a scale for each row and ComfyUI's marker are told as such, whatever model they are of."""
    layer = "double_blocks.0.img_attn.qkv"
    contents = {
        f"{layer}.weight": (DType.I8, (9216, 3072)),
        f"{layer}.weight_scale": (DType.F32, (9216, 1)),
        f"{layer}.comfy_quant": (DType.U8, (89,)),
        "double_blocks.0.img_attn.norm.key_norm.scale": (DType.BF16, (128,)),
        "img_in.weight": (DType.BF16, (3072, 64)),
        "txt_in.weight": (DType.BF16, (3072, 4096)),
        "vector_in.in_layer.weight": (DType.BF16, (3072, 768)),
        "single_blocks.0.linear1.weight": (DType.I8, (21504, 3072)),
    }
    identity = known(contents)
    assert (identity.kind, identity.architecture, identity.precision) == ("diffusion-model", "flux", "int8-scaled")


FOREIGN: dict[str, dict[str, Shape]] = {
    "YOLO": {
        "model.0.conv.weight": (16, 3, 3, 3),
        "model.1.conv.weight": (32, 16, 3, 3),
        "model.2.cv1.conv.weight": (32, 32, 1, 1),
        "model.22.dfl.conv.weight": (1, 16, 1, 1),
    },
    "RetinaFace": {"body.stage1.0.0.weight": (8, 3, 3, 3), "fpn.output1.0.weight": (64, 64, 1, 1)},
    "Segment Anything": {
        "image_encoder.patch_embed.proj.weight": (1280, 3, 16, 16),
        "image_encoder.blocks.0.attn.qkv.weight": (3840, 1280),
        "mask_decoder.iou_token.weight": (1, 256),
    },
    "Depth Anything": {
        "pretrained.blocks.0.attn.qkv.weight": (3072, 1024),
        "depth_head.projects.0.weight": (256, 1024, 1, 1),
    },
    "OpenPose": {"conv1_1.weight": (64, 3, 3, 3), "Mconv1_stage2_L1.weight": (128, 185, 7, 7)},
    "RIFE": {"block0.conv0.0.0.weight": (96, 7, 3, 3), "encode.0.weight": (16, 3, 3, 3)},
    "aesthetic predictor": {"layers.0.weight": (1024, 768), "layers.2.weight": (128, 1024)},
    "DINOv2": {
        "embeddings.cls_token": (1, 1, 1536),
        "embeddings.patch_embeddings.projection.weight": (1536, 3, 14, 14),
        "encoder.layer.0.attention.attention.query.weight": (1536, 1536),
    },
    "BLIP-2": {
        "vision_model.embeddings.class_embedding": (1, 1, 1408),
        "vision_model.encoder.layers.38.self_attn.qkv.weight": (4224, 1408),
        "query_tokens": (1, 32, 768),
    },
    "Llama 2": {
        "model.embed_tokens.weight": (32000, 4096),
        "model.layers.0.self_attn.q_proj.weight": (4096, 4096),
    },
}
"""What detectors, taggers and language models call their tensors: none of them is a model of ours."""


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_programs(name: str) -> None:
    """A file that only lies beside models is not told to be one."""
    identity = known(FOREIGN[name])
    assert (identity.kind, identity.architecture, identity.candidates) == (None, None, ())


def test_an_autoencoder_of_nobody() -> None:
    """KVAE is an autoencoder of no one architecture, and not Hunyuan's for its convolutions."""
    names = ("encoder.down.0.downsample.spatial_conv", "decoder.norm_out.conv_b.conv", "decoder.conv_in.conv")
    identity = known({f"{name}.weight": (1024, 16, 3, 3, 3) for name in names})
    assert (identity.kind, identity.architecture, identity.variant) == ("vae", None, "kvae")


def test_siglip_with_its_text_model() -> None:
    """SigLIP's text model is as wide as CLIP ViT-L's; its head tells that the file is SigLIP."""
    names = {
        "text_model.embeddings.token_embedding.weight": (32000, 768),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768),
        "text_model.head.weight": (768, 768),
        "vision_model.embeddings.patch_embedding.weight": (768, 3, 16, 16),
        "vision_model.head.probe": (1, 1, 768),
    }
    identity = known(names)
    assert (identity.kind, identity.variant) == ("image-encoder", "siglip")
