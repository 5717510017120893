"""The layers of transformers under the names that their authors gave them, with outputs and inputs.

From the models' own code: black-forest-labs/flux, Stability-AI/sd3.5, Wan-Video/Wan2.1, Tencent/HunyuanVideo and
HunyuanDiT, cloneofsimo/minRF (AuraFlow), PixArt-alpha/PixArt-sigma, NVlabs/Sana, Alpha-VLLM/Lumina-Image-2.0,
nvidia-cosmos/cosmos-predict2, genmoai/mochi, Stability-AI/StableCascade, Lightricks/LTX-2, jd-opensource/JoyAI-Image,
MiniMax-AI/MiniMax-H3.
"""

from __future__ import annotations

Layers = dict[str, tuple[int, int]]


def _blocks(name: str, count: int, layers: dict[str, tuple[int, int]]) -> Layers:
    return {f"{name}.{index}.{layer}": size for index in range(count) for layer, size in layers.items()}


def _both(layers: dict[str, tuple[int, int]]) -> Layers:
    return {f"{side}_{layer}": size for side in ("img", "txt") for layer, size in layers.items()}


def flux(*, modulation: bool = True) -> Layers:
    d = 3072
    double = _both({"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.0": (4 * d, d), "mlp.2": (d, 4 * d)})
    single = {"linear1": (7 * d, d), "linear2": (d, 5 * d)}
    if modulation:
        double |= _both({"mod.lin": (6 * d, d)})
        single |= {"modulation.lin": (3 * d, d)}
    ends = {"img_in": (d, 64), "txt_in": (d, 4096), "final_layer.linear": (64, d)}
    if modulation:
        ends |= {f"{name}.out_layer": (d, d) for name in ("time_in", "vector_in", "guidance_in")}
        ends |= {"time_in.in_layer": (d, 256), "vector_in.in_layer": (d, 768), "guidance_in.in_layer": (d, 256)}
        ends |= {"final_layer.adaLN_modulation.1": (2 * d, d)}
    else:
        ends |= {
            f"distilled_guidance_layer.layers.{i}.{each}": (5120, 5120)
            for i in range(5)
            for each in ("in_layer", "out_layer")
        }
        ends |= {"distilled_guidance_layer.in_proj": (5120, 64), "distilled_guidance_layer.out_proj": (d, 5120)}
    return _blocks("double_blocks", 19, double) | _blocks("single_blocks", 38, single) | ends


def xlabs() -> Layers:
    """What XLabs' processors change of FLUX: image and text layers are numbered 1 and 2."""
    d = 3072
    double = {"qkv1": (3 * d, d), "qkv2": (3 * d, d), "proj1": (d, d), "proj2": (d, d)}
    return _blocks("double_blocks", 19, double) | _blocks("single_blocks", 38, {"qkv": (3 * d, d), "proj": (d, 5 * d)})


def nunchaku_flux() -> Layers:
    """What nunchaku (``lora/flux``) calls FLUX's layers, of which it fuses some and parts others."""
    double = {f"{name}{side}": size for side in ("", "_context") for name, size in _FUSED.items()}
    double |= {f"mlp{side}_{name}": size for side in ("", "_context") for name, size in _FEED_FORWARD.items()}
    return _blocks("transformer_blocks", 19, double) | _blocks(
        "single_transformer_blocks", 38, _FUSED | {f"mlp_{name}": size for name, size in _FEED_FORWARD.items()}
    )


_FUSED = {"qkv_proj": (3 * 3072, 3072), "out_proj": (3072, 3072)}
_FEED_FORWARD = {"fc1": (4 * 3072, 3072), "fc2": (3072, 4 * 3072)}


def nunchaku_qwen_image() -> Layers:
    """The matrices that nunchaku (``models/transformers``) makes of Qwen-Image's keys, queries and values."""
    return _blocks("transformer_blocks", 60, {f"attn.{name}": (3 * 3072, 3072) for name in ("to_qkv", "add_qkv_proj")})


def ltx_video(d: int) -> Layers:
    """What Lightricks/LTX-Video calls otherwise than diffusers does."""
    ends = {"patchify_proj": (d, 128), "adaln_single.linear": (6 * d, d)}
    return ends | {f"adaln_single.emb.timestep_embedder.linear_{n}": (d, size) for n, size in ((1, 256), (2, d))}


def flux_2(d: int, double: int, single: int, text: int) -> Layers:
    each = _both({"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.0": (6 * d, d), "mlp.2": (d, 3 * d)})
    return (
        _blocks("double_blocks", double, each)
        | _blocks("single_blocks", single, {"linear1": (9 * d, d), "linear2": (d, 4 * d)})
        | {f"double_stream_modulation_{side}.lin": (6 * d, d) for side in ("img", "txt")}
        | {"single_stream_modulation.lin": (3 * d, d), "img_in": (d, 128), "txt_in": (d, text)}
        | {"final_layer.linear": (128, d), "final_layer.adaLN_modulation.1": (2 * d, d)}
        | {"time_in.in_layer": (d, 256), "time_in.out_layer": (d, d)}
    )


def sd_3(d: int, depth: int, *, dual: int = 0) -> Layers:
    def block(modulations: int) -> dict[str, tuple[int, int]]:
        return {
            "attn.qkv": (3 * d, d),
            "attn.proj": (d, d),
            "mlp.fc1": (4 * d, d),
            "mlp.fc2": (d, 4 * d),
            "adaLN_modulation.1": (modulations * d, d),
        }

    layers: Layers = {}
    for index in range(depth):
        context = block(6) if index < depth - 1 else {"attn.qkv": (3 * d, d), "adaLN_modulation.1": (2 * d, d)}
        image = block(9 if index < dual else 6)
        if index < dual:
            image |= {"attn2.qkv": (3 * d, d), "attn2.proj": (d, d)}
        layers |= {f"joint_blocks.{index}.context_block.{name}": size for name, size in context.items()}
        layers |= {f"joint_blocks.{index}.x_block.{name}": size for name, size in image.items()}
    ends = {"context_embedder": (d, 4096), "final_layer.linear": (64, d), "final_layer.adaLN_modulation.1": (2 * d, d)}
    ends |= {
        "x_embedder.proj": (d, 16),
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "y_embedder.mlp.0": (d, 2048),
        "y_embedder.mlp.2": (d, d),
    }
    return layers | ends


def wan(d: int, depth: int, ffn: int, *, image: bool = False) -> Layers:
    layers = {f"{name}.{each}": (d, d) for name in ("self_attn", "cross_attn") for each in "qkvo"}
    layers |= {"ffn.0": (ffn, d), "ffn.2": (d, ffn)}
    if image:
        layers |= {"cross_attn.k_img": (d, d), "cross_attn.v_img": (d, d)}
    ends = {"text_embedding.0": (d, 4096), "text_embedding.2": (d, d), "time_embedding.0": (d, 256)}
    ends |= {"time_embedding.2": (d, d), "time_projection.1": (6 * d, d), "head.head": (64 if d != 3072 else 192, d)}
    if image:
        ends |= {"img_emb.proj.1": (1280, 1280), "img_emb.proj.3": (d, 1280)}
    return _blocks("blocks", depth, layers) | ends


def krea_2() -> Layers:
    """As ComfyUI and sd-scripts name them; 48 heads for queries and 12 for keys and values."""
    d, text = 6144, 2560

    def block(width: int, keys: int, ffn: int) -> dict[str, tuple[int, int]]:
        layers = {f"attn.{name}": (width, width) for name in ("wq", "wo", "gate")}
        layers |= {f"attn.{name}": (keys, width) for name in ("wk", "wv")}
        return layers | {"mlp.gate": (ffn, width), "mlp.up": (ffn, width), "mlp.down": (width, ffn)}

    ends = {"first": (d, 64), "last.linear": (64, d), "tmlp.0": (d, 256), "tmlp.2": (d, d), "tproj.1": (6 * d, d)}
    ends |= {"txtmlp.1": (d, text), "txtmlp.3": (d, d), "txtfusion.projector": (1, 12)}
    return (
        _blocks("blocks", 28, block(d, 1536, 16384))
        | _blocks("txtfusion.layerwise_blocks", 2, block(text, text, 6912))
        | _blocks("txtfusion.refiner_blocks", 2, block(text, text, 6912))
        | ends
    )


def hunyuan_video(d: int, double: int, single: int) -> Layers:
    each = _both(
        {
            "attn_qkv": (3 * d, d),
            "attn_proj": (d, d),
            "mlp.fc1": (4 * d, d),
            "mlp.fc2": (d, 4 * d),
            "mod.linear": (6 * d, d),
        }
    )
    refiner = {
        "self_attn_qkv": (3 * d, d),
        "self_attn_proj": (d, d),
        "mlp.fc1": (4 * d, d),
        "mlp.fc2": (d, 4 * d),
        "adaLN_modulation.1": (2 * d, d),
    }
    layers = _blocks("double_blocks", double, each)
    layers |= _blocks(
        "single_blocks", single, {"linear1": (7 * d, d), "linear2": (d, 5 * d), "modulation.linear": (3 * d, d)}
    )
    layers |= _blocks("txt_in.individual_token_refiner.blocks", 2, refiner)
    return layers


def auraflow() -> Layers:
    d = 3072
    double = {f"attn.{name}": (d, d) for name in ("w1q", "w1k", "w1v", "w1o", "w2q", "w2k", "w2v", "w2o")}
    mlp = {"c_fc1": (8192, d), "c_fc2": (8192, d), "c_proj": (d, 8192)}
    double |= {f"{side}.{name}": size for side in ("mlpC", "mlpX") for name, size in mlp.items()}
    double |= {"modC.1": (6 * d, d), "modX.1": (6 * d, d)}
    single = {f"attn.{name}": (d, d) for name in ("w1q", "w1k", "w1v", "w1o")}
    single |= {f"mlp.{name}": size for name, size in mlp.items()} | {"modCX.1": (6 * d, d)}
    return _blocks("double_layers", 4, double) | _blocks("single_layers", 32, single)


def pixart() -> Layers:
    d = 1152
    layers = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "cross_attn.q_linear": (d, d), "cross_attn.proj": (d, d)}
    layers |= {"cross_attn.kv_linear": (2 * d, d), "mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}
    return _blocks("blocks", 28, layers)


def sana(d: int, depth: int) -> Layers:
    layers = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "cross_attn.q_linear": (d, d), "cross_attn.proj": (d, d)}
    return _blocks("blocks", depth, layers | {"cross_attn.kv_linear": (2 * d, d)})


def hunyuan_dit() -> Layers:
    d = 1408
    layers = {
        "attn1.Wqkv": (3 * d, d),
        "attn1.out_proj": (d, d),
        "attn2.q_proj": (d, d),
        "attn2.kv_proj": (2 * d, 1024),
    }
    layers |= {"attn2.out_proj": (d, d), "mlp.fc1": (6144, d), "mlp.fc2": (d, 6144), "default_modulation.1": (d, d)}
    return (
        _blocks("blocks", 40, layers)
        | _blocks("blocks", 40, {})
        | {f"blocks.{index}.skip_linear": (d, 2 * d) for index in range(21, 40)}
    )


def lumina(d: int, depth: int, query: int, ffn: int, modulation: int, width: int) -> Layers:
    layers = {"attention.qkv": (query, d), "attention.out": (d, d)}
    layers |= {"feed_forward.w1": (ffn, d), "feed_forward.w2": (d, ffn), "feed_forward.w3": (ffn, d)}
    modulated = layers | {f"adaLN_modulation.{modulation}": (4 * d, width)}
    return (
        _blocks("layers", depth, modulated)
        | _blocks("noise_refiner", 2, modulated)
        | _blocks("context_refiner", 2, layers)
    )


def cosmos_2(d: int, depth: int) -> Layers:
    layers: dict[str, tuple[int, int]] = {}
    for name, text in (("self_attn", d), ("cross_attn", 1024)):
        layers |= {f"{name}.q_proj": (d, d), f"{name}.k_proj": (d, text), f"{name}.v_proj": (d, text)}
        layers |= {f"{name}.output_proj": (d, d)}
    layers |= {"mlp.layer1": (4 * d, d), "mlp.layer2": (d, 4 * d)}
    for name in ("self_attn", "cross_attn", "mlp"):
        layers |= {f"adaln_modulation_{name}.1": (256, d), f"adaln_modulation_{name}.2": (3 * d, 256)}
    return _blocks("blocks", depth, layers)


def anima_adapter() -> Layers:
    d = 1024
    layers = {
        f"{name}.{each}": (d, d)
        for name in ("self_attn", "cross_attn")
        for each in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    return _blocks("llm_adapter.blocks", 6, layers | {"mlp.0": (4 * d, d), "mlp.2": (d, 4 * d)})


def mochi() -> Layers:
    x, y = 3072, 1536
    layers = {"attn.qkv_x": (3 * x, x), "attn.qkv_y": (3 * x, y), "attn.proj_x": (x, x), "attn.proj_y": (y, x)}
    layers |= {"mod_x": (4 * x, x), "mod_y": (4 * y, x), "mlp_x.w1": (16384, x), "mlp_x.w2": (x, 8192)}
    return _blocks("blocks", 48, layers)


def cascade_c() -> Layers:
    d = 2048
    layers: Layers = {}
    for name, counts in (("down_blocks", (24, 72)), ("up_blocks", (72, 24))):
        for level, count in enumerate(counts):
            for index in range(2, count, 3):
                block = f"{name}.{level}.{index}"
                layers |= {f"{block}.attention.attn.in_proj": (3 * d, d), f"{block}.attention.attn.out_proj": (d, d)}
                layers |= {f"{block}.kv_mapper.1": (d, 2048)}
    return layers


def vace(d: int, depth: int, ffn: int) -> Layers:
    """The control blocks of Wan's VACE."""
    layers = {f"{name}.{each}": (d, d) for name in ("self_attn", "cross_attn") for each in "qkvo"}
    layers |= {"ffn.0": (ffn, d), "ffn.2": (d, ffn), "after_proj": (d, d)}
    return _blocks("vace_blocks", depth, layers) | {"vace_blocks.0.before_proj": (d, d)}


def omnigen_2() -> Layers:
    """As VectorSpaceLab/OmniGen2 names them; 21 heads for queries and 7 for keys and values, 120 wide."""
    d, ffn, time = 2520, 10240, 1024
    layers = {"attn.to_q": (d, d), "attn.to_k": (840, d), "attn.to_v": (840, d), "attn.to_out.0": (d, d)}
    layers |= {"feed_forward.linear_1": (ffn, d), "feed_forward.linear_2": (d, ffn), "feed_forward.linear_3": (ffn, d)}
    modulated = layers | {"norm1.linear": (4 * d, time)}
    ends = {"x_embedder": (d, 64), "ref_image_patch_embedder": (d, 64)}
    ends |= {"norm_out.linear_1": (d, time), "norm_out.linear_2": (64, d)}
    return (
        _blocks("layers", 32, modulated)
        | _blocks("noise_refiner", 2, modulated)
        | _blocks("ref_image_refiner", 2, modulated)
        | _blocks("context_refiner", 2, layers)
        | ends
    )


def ace_step() -> Layers:
    """As ace-step/ACE-Step names them, the convolutions apart."""
    d, lyric = 2560, 1024
    layers = {f"{name}.to_{each}": (d, d) for name in ("attn", "cross_attn") for each in ("q", "k", "v", "out.0")}
    layers |= {f"cross_attn.add_{each}_proj": (d, d) for each in "qkv"} | {"cross_attn.to_add_out": (d, d)}
    encoder = {f"self_attn.linear_{each}": (lyric, lyric) for each in ("q", "k", "v", "out", "pos")}
    ends = {"speaker_embedder": (d, 512), "genre_embedder": (d, 768), "lyric_proj": (d, lyric), "t_block.1": (6 * d, d)}
    return _blocks("transformer_blocks", 24, layers) | _blocks("lyric_encoder.encoders", 6, encoder) | ends


def ace_step_15() -> Layers:
    """The cross-attention of ACE-Step 1.5's decoder; its other layers are called as a language model's."""
    d = 2048
    layers = {"q_proj": (d, d), "k_proj": (d // 2, d), "v_proj": (d // 2, d), "o_proj": (d, d)}
    return _blocks("layers", 24, {f"cross_attn.{name}": size for name, size in layers.items()})


def easycontrol() -> Layers:
    """What Xiaojiu-Z/EasyControl's processors change of FLUX: projections called by their letters."""
    layers = {f"attn.{name}": (3072, 3072) for name in ("q", "k", "v", "proj")}
    return _blocks("transformer_blocks", 19, layers) | _blocks("single_transformer_blocks", 38, layers)


def joyimage() -> Layers:
    d = 4096
    layers = _both({"attn_qkv": (3 * d, d), "attn_proj": (d, d), "mlp.net.0.proj": (4 * d, d), "mlp.net.2": (d, 4 * d)})
    return _blocks("double_blocks", 40, layers)


def minimax_h3() -> Layers:
    """56 heads of 128 on a width of 5376; the modulation is that of 18 parts from half the width."""
    d, heads, ffn, time = 5376, 7168, 14336, 2688
    layers = {
        "attn.qkv_proj": (3 * heads, d),
        "attn.out_proj": (d, heads),
        "mlp.fc1": (2 * ffn, d),
        "mlp.fc2": (d, ffn),
    }
    ends = {"video_patch_proj": (d, 96), "audio_patch_proj": (d, 32), "condition_proj": (d, 5120)}
    ends |= {"time_embedder.proj_in": (d, 256), "time_embedder.proj_out": (time, d)}
    ends |= {"final_layer.adaln_proj.linear": (2 * d, time), "final_layer.video_out": (96, d)}
    return (
        _blocks("blocks", 50, layers | {"adaln_proj.linear": (18 * d, time)})
        | _blocks("token_refiner.blocks", 2, layers)
        | ends
        | {"final_layer.audio_out": (32, d)}
    )


def ltx_2() -> Layers:
    """LTX-2.3's and 2.5's, which have gates and a modulation of the prompt besides LTX-2's; 48 blocks."""
    v, a = 4096, 2048
    layers: Layers = {"ff.net.0.proj": (4 * v, v), "ff.net.2": (v, 4 * v)}
    layers |= {"audio_ff.net.0.proj": (4 * a, a), "audio_ff.net.2": (a, 4 * a)}
    widths = {
        "attn1": (v, v, v), "attn2": (v, v, v), "audio_attn1": (a, a, a), "audio_attn2": (a, a, a),
        "audio_to_video_attn": (v, a, a), "video_to_audio_attn": (a, v, a),
    }  # fmt: skip
    for name, (to, of, inner) in widths.items():
        layers |= {f"{name}.to_q": (inner, to), f"{name}.to_k": (inner, of), f"{name}.to_v": (inner, of)}
        layers |= {f"{name}.to_out.0": (to, inner), f"{name}.to_gate_logits": (32, to)}
    ends: Layers = {"patchify_proj": (v, 128), "proj_out": (128, v)}
    ends |= {"audio_patchify_proj": (a, 128), "audio_proj_out": (128, a)}
    modulations = {
        "adaln_single": (v, 9), "prompt_adaln_single": (v, 2),
        "audio_adaln_single": (a, 9), "audio_prompt_adaln_single": (a, 2),
        "av_ca_a2v_gate_adaln_single": (v, 1), "av_ca_v2a_gate_adaln_single": (a, 1),
        "av_ca_video_scale_shift_adaln_single": (v, 4), "av_ca_audio_scale_shift_adaln_single": (a, 4),
    }  # fmt: skip
    for name, (d, parts) in modulations.items():
        ends |= {f"{name}.linear": (parts * d, d), f"{name}.emb.timestep_embedder.linear_1": (d, 256)}
        ends |= {f"{name}.emb.timestep_embedder.linear_2": (d, d)}
    return _blocks("transformer_blocks", 48, layers) | ends
