"""Names and shapes of SD 3's and FLUX.1's transformers and of T5's encoder, as their makers and ComfyUI write them.

Stability-AI/sd3.5 ``mmditx.py``, black-forest-labs/flux ``model.py``, transformers' ``T5EncoderModel``. The defaults
are those of SD 3 medium, FLUX.1 dev and T5 XXL.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelhub.samples.modules import Named, linear

_TIME = 256
"""Width of the encoding of a time or scale."""


@dataclass(frozen=True, slots=True)
class JointTransformer:
    """SD 3's: *heads* of 64 channels, *blocks*, the first *dual* of which have a second attention; *normed*: queries
    and keys are (SD 3.5); text is *context* wide, the pooled one *pooled*; *positions* are those of a side."""

    heads: int = 24
    blocks: int = 24
    dual: int = 0
    normed: bool = False
    context: int = 4096
    pooled: int = 2048
    positions: int = 192

    @property
    def width(self) -> int:
        return 64 * self.heads


@dataclass(frozen=True, slots=True)
class FluxTransformer:
    """FLUX.1's: *heads* of *head* channels, *double* and *single* blocks; *guided*: it takes a scale of guidance."""

    heads: int = 24
    head: int = 128
    double: int = 19
    single: int = 38
    guided: bool = True
    context: int = 4096
    pooled: int = 768

    @property
    def width(self) -> int:
        return self.head * self.heads


def joint_transformer(model: JointTransformer, latents: int = 16) -> Named:
    width, patch = model.width, 4 * latents
    yield "pos_embed", (1, model.positions**2, width)
    yield "x_embedder.proj.weight", (width, latents, 2, 2)
    yield "x_embedder.proj.bias", (width,)
    yield from linear("context_embedder", width, model.context)
    for name, inputs in (("t_embedder", _TIME), ("y_embedder", model.pooled)):
        yield from linear(f"{name}.mlp.0", width, inputs)
        yield from linear(f"{name}.mlp.2", width, width)
    for i in range(model.blocks):
        last = i == model.blocks - 1
        for side, parts in (("context_block", 2 if last else 6), ("x_block", 9 if i < model.dual else 6)):
            block = f"joint_blocks.{i}.{side}"
            whole = side == "x_block" or not last
            for attention in ("attn", "attn2") if side == "x_block" and i < model.dual else ("attn",):
                yield from linear(f"{block}.{attention}.qkv", 3 * width, width)
                if whole:
                    yield from linear(f"{block}.{attention}.proj", width, width)
                if model.normed:
                    yield f"{block}.{attention}.ln_q.weight", (64,)
                    yield f"{block}.{attention}.ln_k.weight", (64,)
            if whole:
                yield from linear(f"{block}.mlp.fc1", 4 * width, width)
                yield from linear(f"{block}.mlp.fc2", width, 4 * width)
            yield from linear(f"{block}.adaLN_modulation.1", parts * width, width)
    yield from linear("final_layer.linear", patch, width)
    yield from linear("final_layer.adaLN_modulation.1", 2 * width, width)


def flux_transformer(model: FluxTransformer, latents: int = 16) -> Named:
    width, patch = model.width, 4 * latents
    yield from linear("img_in", width, patch)
    yield from linear("txt_in", width, model.context)
    for name, inputs in (("time_in", _TIME), ("vector_in", model.pooled), ("guidance_in", _TIME)):
        if model.guided or name != "guidance_in":
            yield from linear(f"{name}.in_layer", width, inputs)
            yield from linear(f"{name}.out_layer", width, width)
    for i in range(model.double):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            yield from linear(f"{block}_mod.lin", 6 * width, width)
            yield from linear(f"{block}_attn.qkv", 3 * width, width)
            yield f"{block}_attn.norm.query_norm.scale", (model.head,)
            yield f"{block}_attn.norm.key_norm.scale", (model.head,)
            yield from linear(f"{block}_attn.proj", width, width)
            yield from linear(f"{block}_mlp.0", 4 * width, width)
            yield from linear(f"{block}_mlp.2", width, 4 * width)
    for i in range(model.single):
        block = f"single_blocks.{i}"
        yield from linear(f"{block}.linear1", 7 * width, width)
        yield from linear(f"{block}.linear2", width, 5 * width)
        yield f"{block}.norm.query_norm.scale", (model.head,)
        yield f"{block}.norm.key_norm.scale", (model.head,)
        yield from linear(f"{block}.modulation.lin", 3 * width, width)
    yield from linear("final_layer.linear", patch, width)
    yield from linear("final_layer.adaLN_modulation.1", 2 * width, width)


def t5_encoder(width: int = 4096, layers: int = 24, heads: int = 64, hidden: int = 10240, words: int = 32128) -> Named:
    """T5 1.1's encoder; a head has 64 channels."""
    yield "shared.weight", (words, width)
    for i in range(layers):
        block = f"encoder.block.{i}.layer"
        for matrix in "qkv":
            yield f"{block}.0.SelfAttention.{matrix}.weight", (64 * heads, width)
        yield f"{block}.0.SelfAttention.o.weight", (width, 64 * heads)
        if i == 0:
            yield f"{block}.0.SelfAttention.relative_attention_bias.weight", (32, heads)
        yield f"{block}.0.layer_norm.weight", (width,)
        for matrix in ("wi_0", "wi_1"):
            yield f"{block}.1.DenseReluDense.{matrix}.weight", (hidden, width)
        yield f"{block}.1.DenseReluDense.wo.weight", (width, hidden)
        yield f"{block}.1.layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)
