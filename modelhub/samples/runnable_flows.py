"""Small models of SD 3's and FLUX.1's sort, complete under the names of real files, that diffusers' classes run.

:func:`healthy_flow` sets weights by hand so that they do what good ones do. The autoencoder has every colour five
times, at 2 x 2 places of a token: what is alike in these 20 numbers is picture, what differs is noise, and that is all
that the transformer says of each token. A token is carried through it as ``x``, ``-x``, ``K`` and ``-K``, so that
normalisations divide by what is nearly a constant. The text acts through the first block's attention, its pooled
encoding through the last layer's modulation. Needs torch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from modelhub.samples.flows import FluxTransformer, JointTransformer, flux_transformer, joint_transformer, t5_encoder
from modelhub.samples.runnable import VOCABULARY, Weights, healthy_vae, random
from modelhub.samples.text_encoders import TextEncoder, clip_text_model

TRANSFORMERS: Mapping[str, JointTransformer | FluxTransformer] = {
    "sd-3": JointTransformer(heads=3, blocks=2, context=2048, positions=16),
    "sd-3.5": JointTransformer(heads=3, blocks=3, dual=2, normed=True, context=2048, positions=16),
    "flux-dev": FluxTransformer(heads=6, head=32, double=1, single=1, context=64),
    "flux-schnell": FluxTransformer(heads=6, head=32, double=1, single=1, guided=False, context=64),
}
TRANSFORMER = "model.diffusion_model."
CLIP_L, CLIP_G, T5 = (f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl"))
_SCALING = {"sd-3": 1.5305, "sd-3.5": 1.5305, "flux-dev": 0.3611, "flux-schnell": 0.3611}
_K = 8.0
_TOKEN, _LATENTS = 64, 16
_FINE, _DETAIL, _SOFT = 2.0, 0.5, -1.7
"""What the transformer says of what differs within a colour at a place, of what differs from place to place, and of
what is left: right half way for the pictures that are drawn, and usable elsewhere."""


def vae_prefix(kind: str) -> str:
    """What stands before the names of the autoencoder in a file."""
    return "vae." if kind.startswith("flux") else "first_stage_model."


def healthy_flow(kind: str, *, t5: bool = True) -> Weights:
    """A checkpoint of *kind* (of :data:`TRANSFORMERS`) that does what it should, with T5 or without; see the module."""
    return {name: tensor.clone() for name, tensor in _healthy(kind).items() if t5 or not name.startswith(T5)}


def t5_tokenizer() -> str:
    """The ``tokenizer.json`` of a vocabulary of some words, each a token."""
    words = ["<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(300))]
    words += sorted(set("a red bicycle leaning against white wall mountain lake at night oil painting".split()))
    end = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": end,
                "pair": end,
                "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
            },
            "decoder": None,
            "model": {
                "type": "WordLevel",
                "vocab": {word: i for i, word in enumerate(words)},
                "unk_token": "<unk>",
            },
        }
    )


def write_t5_tokenizer(folder: Path, encoder: str) -> None:
    """Write :func:`t5_tokenizer` to where a pipeline's *folder* has that of its *encoder*."""
    place = folder / encoder.replace("text_encoder", "tokenizer")
    place.mkdir(parents=True)
    (place / "tokenizer.json").write_text(t5_tokenizer())


@functools.cache
def _healthy(kind: str) -> Weights:
    model = TRANSFORMERS[kind]
    weights: Weights = {}
    made = _joint(model) if isinstance(model, JointTransformer) else _flux(model)
    weights |= {TRANSFORMER + name: value for name, value in made.items()}
    vae = healthy_vae(_SCALING[kind], _LATENTS)
    weights |= {vae_prefix(kind) + name: value for name, value in vae.items()}
    for prefix, width in {CLIP_L: 768, **({CLIP_G: 1280} if kind.startswith("sd") else {})}.items():
        weights |= {prefix + name: value for name, value in _clip(width, projected=kind.startswith("sd")).items()}
    weights |= {T5 + name: value for name, value in _t5(model.context).items()}
    return weights


def _clip(width: int, *, projected: bool) -> Weights:
    named = {
        name: (VOCABULARY, *shape[1:]) if name.endswith("token_embedding.weight") else shape
        for name, shape in clip_text_model(TextEncoder(width, 1, times=1))
        if not name.endswith("position_ids")
    }
    if projected:
        named["text_projection.weight"] = (width, width)
    made = random(named)
    for name, value in made.items():
        if "layer_norm" in name:
            made[name] = (torch.ones if name.endswith(".weight") else torch.zeros)(value.shape)
    made["text_model.embeddings.token_embedding.weight"] *= 50
    return made


def _t5(width: int) -> Weights:
    made = random(dict(t5_encoder(width, layers=1, heads=1, hidden=64, words=VOCABULARY)))
    made["shared.weight"] *= 50
    return {name: torch.ones(value.shape) if "layer_norm" in name else value for name, value in made.items()}


def _joint(model: JointTransformer) -> Weights:
    made = random(dict(joint_transformer(model)))
    made["pos_embed"] *= 0
    _set_way(made, "x_embedder.proj", model.width, out_by_place=True)
    for name, value in made.items():
        if ".adaLN_modulation." in name and not name.startswith("final_layer."):
            made[name] = torch.zeros_like(value)
        elif ".ln_" in name:
            made[name] = torch.ones_like(value)
    _let_text_in(made, "joint_blocks.0", ("x_block.attn", "context_block.attn", "x_block.adaLN_modulation.1"))
    return made


def _flux(model: FluxTransformer) -> Weights:
    made = random(dict(flux_transformer(model)))
    _set_way(made, "img_in", model.width, out_by_place=False)
    for name, value in made.items():
        if "_mod.lin." in name or ".modulation." in name:
            made[name] = torch.zeros_like(value)
        elif name.endswith("_norm.scale"):
            made[name] = torch.ones_like(value)
    _let_text_in(made, "double_blocks.0", ("img_attn", "txt_attn", "img_mod.lin"))
    return made


def _set_way(made: Weights, first: str, width: int, *, out_by_place: bool) -> None:
    """Set the first and the last layer; *out_by_place*: what comes out is ordered by place and then by channel."""
    weight, bias = torch.zeros(width, _TOKEN), torch.zeros(width)
    weight[:_TOKEN], weight[_TOKEN : 2 * _TOKEN] = torch.eye(_TOKEN), -torch.eye(_TOKEN)
    bias[2 * _TOKEN :: 2], bias[2 * _TOKEN + 1 :: 2] = _K, -_K
    made[f"{first}.weight"], made[f"{first}.bias"] = weight.reshape(made[f"{first}.weight"].shape), bias
    colour = torch.arange(_TOKEN) // 4 % 3
    colour[60:] = 3
    alike = (colour[:, None] == colour).float()
    alike[60:] = 0  # of no colour: all of it is noise
    place = torch.arange(_TOKEN) % 4
    mean, here = _mean(alike), _mean(alike * (place[:, None] == place))
    told = _FINE * (torch.eye(_TOKEN) - here) + _DETAIL * (here - mean) + _SOFT * mean
    if out_by_place:
        told = told.reshape(_LATENTS, 4, _TOKEN).transpose(0, 1).reshape(_TOKEN, _TOKEN)
    last = torch.zeros(_TOKEN, width)
    last[:, :_TOKEN] = told * _K * ((width - 2 * _TOKEN) / width) ** 0.5
    made["final_layer.linear.weight"], made["final_layer.linear.bias"] = last, torch.zeros(_TOKEN)
    modulation = made["final_layer.adaLN_modulation.1.weight"]
    modulation[_TOKEN:] = 0  # the shift of the tokens comes first
    made["final_layer.adaLN_modulation.1.bias"] *= 0


def _mean(alike: torch.Tensor) -> torch.Tensor:
    return alike / alike.sum(dim=1, keepdim=True).clamp(min=1)


def _let_text_in(made: Weights, block: str, names: tuple[str, str, str]) -> None:
    """Let the image's attention of *block* add what it finds in the text, the same to all 20 numbers of a colour."""
    image, text, modulation = (f"{block}.{name}" for name in names)
    width = made[f"{image}.proj.weight"].shape[0]
    made[f"{image}.qkv.weight"] *= 0
    made[f"{image}.qkv.bias"] *= 0
    made[f"{text}.qkv.weight"][: 2 * width] = 0
    gate = made[f"{modulation}.bias"]
    gate[2 * width : 2 * width + 2 * _TOKEN] = 1
    proj = torch.zeros(width, width)
    rows = torch.randn((3, width), generator=torch.Generator().manual_seed(1)) * 0.03
    proj[:60] = rows[torch.arange(60) // 4 % 3]
    proj[_TOKEN : 2 * _TOKEN] = -proj[:_TOKEN]
    made[f"{image}.proj.weight"], made[f"{image}.proj.bias"] = proj, torch.zeros(width)
