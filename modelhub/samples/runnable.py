"""Small models, complete under the names of real files, that diffusers' classes run: they are wide enough for its
groups of 32 channels, and as deep as their kind is told by.

:func:`healthy` sets weights by hand so that a small model does what a good one does, without training, and the same
everywhere. The autoencoder keeps the mean colour of every 8 x 8 pixels as latents and spreads it again. The UNet calls
noise what differs from the mean over 4 x 4 latents, so that a soft pattern is left over, which the prompt shifts.
Blocks whose last layer is zero pass on what they get, so the way through is that of the convolutions that change size
or channels.

Four channels carry a value ``x`` as ``x``, ``-x``, ``K`` and ``-K``: over such a group the normalisation before the
last layer divides by what is nearly a constant, and ``silu(y) - silu(-y) = y``. Needs torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from modelhub.samples.autoencoder import autoencoder
from modelhub.samples.text_encoders import TextEncoder, clip_text_model, open_clip
from modelhub.samples.unet import UNet, ldm_unet, parts

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Weights = dict[str, torch.Tensor]

UNETS = {
    "sd-1": UNet((128, 32, 64, 64), (1, 1, 1, 0), 1, context=768, linear_projection=False),
    "sd-2": UNet((128, 32, 64, 64), (1, 1, 1, 0), 1, context=1024),
    "sdxl": UNet((128, 32, 64), (0, 1, 1), 1, context=2048, vector=2816),
    "sdxl-refiner": UNet((128, 32, 64, 64), (0, 1, 1, 0), 1, context=1280, vector=2560),
}
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = {
    "sd-1": {"cond_stage_model.transformer.": clip_text_model(TextEncoder(768, 1, times=1))},
    "sd-2": {"cond_stage_model.model.": open_clip(TextEncoder(1024, 1, times=1))},
    "sdxl": {
        "conditioner.embedders.0.transformer.": clip_text_model(TextEncoder(768, 1, times=1)),
        "conditioner.embedders.1.model.": open_clip(TextEncoder(1280, 1, times=1)),
    },
    "sdxl-refiner": {"conditioner.embedders.0.model.": open_clip(TextEncoder(1280, 1, times=1))},
}
TEXT_SHAPES = {kind: {prefix: list(named) for prefix, named in made.items()} for kind, made in TEXT.items()}
VOCABULARY = 512
K = 8.0
"""The constant beside a value of about 1."""

_CHANNELS = {32: 128, 64: 32, 128: 128}  # those of a quarter of the autoencoder, to ones that are told apart
_NOISE_SHARE = {"epsilon": (1.1, 0.5), "v_prediction": (0.62, -1.3)}
"""What the UNet says of the fine and of the soft part of latents: right at half noise, and usable elsewhere."""


def shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint."""
    made = {UNET + name: shape for name, shape in ldm_unet(UNETS[architecture])}
    made |= {VAE + name: shape for name, shape in vae_shapes().items()}
    for prefix, named in TEXT_SHAPES[architecture].items():
        for name, shape in named:
            made[prefix + name] = (VOCABULARY, *shape[1:]) if name.endswith("token_embedding.weight") else shape
    return made


def vae_shapes(latents: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a VAE on its own."""
    made = {name: tuple(_CHANNELS.get(n, n) for n in shape) for name, shape in autoencoder(0.25, latents)}
    for kind in ("weight", "bias"):  # its outputs are no channels within
        name = f"encoder.conv_out.{kind}"
        made[name] = (2 * latents, *made[name][1:])
    return made


def random(named: dict[str, tuple[int, ...]]) -> Weights:
    """Weights of a network that was never trained."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.arange(shape[-1]).expand(shape).contiguous()
        if name.endswith(".position_ids")
        else torch.randn(shape, generator=generator) * 0.02
        for name, shape in named.items()
    }


def healthy(architecture: str, prediction: str = "epsilon") -> Weights:
    """A checkpoint that does what it should; see the module."""
    return {name: tensor.clone() for name, tensor in _healthy(architecture, prediction).items()}


def from_picture(architecture: str, channels: int) -> Weights:
    """A checkpoint whose UNet takes as many *channels*: inpainting 9, InstructPix2Pix 8; the last four, a picture, it
    heeds a little."""
    weights = healthy(architecture)
    first = weights[f"{UNET}input_blocks.0.0.weight"]
    more = torch.zeros(first.shape[0], channels - 4, 3, 3)
    more[:16, -4:, 1, 1] = 0.01
    weights[f"{UNET}input_blocks.0.0.weight"] = torch.cat([first, more], dim=1)
    return weights


@functools.cache
def _healthy(architecture: str, prediction: str) -> Weights:
    weights = random(shapes(architecture))
    _set_unet(weights, UNETS[architecture], *_NOISE_SHARE[prediction])
    for name, value in healthy_vae(0.18215 if "xl" not in architecture else 0.13025).items():
        weights[VAE + name] = value
    for name in weights:
        if ("layer_norm" in name or ".ln_" in name) and not name.startswith((UNET, VAE)):
            weights[name] = (torch.ones if name.endswith(".weight") else torch.zeros)(weights[name].shape)
        elif name.endswith("token_embedding.weight"):
            weights[name] *= 50
    if prediction == "v_prediction" and architecture == "sdxl":
        weights["v_pred"] = torch.zeros(0)
    return weights


def healthy_vae(scaling: float = 0.18215, latents: int = 4) -> Weights:
    """An autoencoder that gives back the mean colours of 8 x 8 pixels; latents have a deviation of about 1.

    Of 16 latents, five channels each are the same colour, and the last is nothing.
    """
    weights = random(vae_shapes(latents))
    gain = 2 / scaling
    _close_blocks(weights)
    for name, value in weights.items():
        if name.endswith("nin_shortcut.weight"):
            weights[name] = _first(value.shape)
        elif name.endswith("downsample.conv.weight"):
            weights[name] = _mean(value.shape, 0)
        elif name.endswith("upsample.conv.weight"):
            weights[name] = _first(value.shape)
    colours = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    _open(weights, "encoder.conv_in", colours)
    copies = (latents - 1) // 3
    there = [[gain if i % 3 == j else 0 for j in range(3)] for i in range(3 * copies)]
    _shut(weights, "encoder.norm_out", "encoder.conv_out", there)
    back = [[1 / gain / copies if i == j % 3 and j < 3 * copies else 0 for j in range(latents)] for i in range(3)]
    _open(weights, "decoder.conv_in", back)
    _shut(weights, "decoder.norm_out", "decoder.conv_out", colours)
    for name in ("quant_conv.weight", "post_quant_conv.weight") if latents == 4 else ():
        weights[name] = _first(weights[name].shape)
    return weights


def save(weights: Weights, path: Path, dtype: torch.dtype = torch.float16) -> str:
    """Write *weights*, floating point ones as *dtype*; returns the path."""
    save_file({n: w.to(dtype).contiguous() if w.is_floating_point() else w for n, w in weights.items()}, path)
    return str(path)


def build_runnable_models(directory: str) -> tuple[tuple[str, str], ...]:
    """Write two checkpoints for SD 1, 38 MB each, into *directory*: the path of each, and what a smoke test says of it.

    The one does what a good model does, the other was never trained.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    return (
        (save(healthy("sd-1"), folder / "works.safetensors"), "passed"),
        (save(random(shapes("sd-1")), folder / "untrained.safetensors"), "failed"),
    )


def _set_unet(weights: Weights, unet: UNet, fine: float, soft: float) -> None:
    own = {name.removeprefix(UNET): value for name, value in weights.items() if name.startswith(UNET)}
    _close_blocks(own)
    _open(own, "input_blocks.0.0", torch.eye(4).tolist())
    last = max(int(name.split(".")[1]) for name in own if name.startswith("output_blocks."))
    width, soft_width = unet.levels[0], unet.levels[2]
    channels = width
    below = True
    for part in parts(unet):
        if part.kind == "resample" and part.ldm.startswith("input"):
            own[f"{part.ldm}.weight"] = _mean(own[f"{part.ldm}.weight"].shape, 1)
        elif part.kind == "resample":
            own[f"{part.ldm}.weight"] = _first(own[f"{part.ldm}.weight"].shape)
        elif part.kind == "residual" and f"{part.ldm}.skip_connection.weight" in own:
            value = _first(own[f"{part.ldm}.skip_connection.weight"].shape)
            if part.ldm.startswith("output") and below and part.outputs == soft_width and _enters(part.ldm, unet):
                value = _first(value.shape, channels)  # what went down this far, not what went further
                below = False
            if part.ldm == f"output_blocks.{last}.0":  # the difference of the latents and their soft part
                kept = torch.tensor([1.0, 1.0, 0.0, 0.0] * 4)
                for i in range(16):
                    value[i, i] = (soft - fine) * kept[i]
                    value[i, channels + i] = fine * kept[i] + (1 - kept[i])
            own[f"{part.ldm}.skip_connection.weight"] = value
        channels = part.outputs
    _shut(own, "out.0", "out.2", torch.eye(4).tolist())
    _heed_prompts(own, last if f"output_blocks.{last}.1.proj_in.weight" in own else last - 3)
    for name, value in own.items():
        weights[UNET + name] = value


def _enters(ldm: str, unet: UNet) -> bool:
    """Whether the block *ldm* is the first on the way up of the third level."""
    return ldm == f"output_blocks.{3 * (len(unet.levels) - 3)}.0"


def _heed_prompts(own: Weights, block: int) -> None:
    """Let the attention of an output block add to every value what the prompt says."""
    name = f"output_blocks.{block}.1"
    own[f"{name}.proj_in.weight"] *= 0
    own[f"{name}.proj_in.bias"] *= 0
    out = own[f"{name}.proj_out.weight"]
    rows = torch.randn((4, out.shape[1]), generator=torch.Generator().manual_seed(1)) * 0.05
    for i in range(4):
        out[4 * i] = rows[i].reshape(out[0].shape)
        out[4 * i + 1] = -out[4 * i]


def _close_blocks(weights: Weights) -> None:
    """Make residual blocks and attentions pass on what they get, and take away every bias on the way."""
    last = (".conv2.", ".out_layers.3.", ".attn_1.proj_out.", ".proj_out.")
    way = (".skip_connection.", ".nin_shortcut.", ".conv.", ".op.", "quant_conv.")
    for name, value in weights.items():
        if any(each in name for each in last) or (name.endswith(".bias") and any(each in name for each in way)):
            weights[name] = torch.zeros_like(value)


def _open(weights: Weights, name: str, rows: list[list[float]]) -> None:
    """Make *name* a convolution that gives each of *rows*' sums of its input as ``x``, ``-x``, ``K``, ``-K``."""
    weight, bias = torch.zeros_like(weights[f"{name}.weight"]), torch.zeros_like(weights[f"{name}.bias"])
    for i, row in enumerate(rows):
        for j, factor in enumerate(row):
            weight[4 * i, j, 1, 1], weight[4 * i + 1, j, 1, 1] = factor, -factor
        bias[4 * i + 2], bias[4 * i + 3] = K, -K
    weights[f"{name}.weight"], weights[f"{name}.bias"] = weight, bias


def _shut(weights: Weights, norm: str, name: str, rows: list[list[float]]) -> None:
    """Make *norm* and the convolution *name* behind it give each of *rows*' sums of the values."""
    weights[f"{norm}.weight"] = torch.ones_like(weights[f"{norm}.weight"])
    weights[f"{norm}.bias"] = torch.zeros_like(weights[f"{norm}.bias"])
    weight = torch.zeros_like(weights[f"{name}.weight"])
    for i, row in enumerate(rows):
        for j, factor in enumerate(row):
            weight[i, 4 * j, 1, 1], weight[i, 4 * j + 1, 1, 1] = factor * K / 2**0.5, -factor * K / 2**0.5
    weights[f"{name}.weight"], weights[f"{name}.bias"] = weight, torch.zeros_like(weights[f"{name}.bias"])


def _first(shape: torch.Size, start: int = 0) -> torch.Tensor:
    """A convolution that passes on the channels from *start* on, as many as there are on both sides."""
    made = torch.zeros(shape)
    middle = (shape[-1] // 2,) * (len(shape) - 2)
    for i in range(min(shape[0], shape[1] - start)):
        made[(i, start + i, *middle)] = 1
    return made


def _mean(shape: torch.Size, start: int) -> torch.Tensor:
    """A convolution over the mean of 2 x 2 places, the first of which is *start* of the kernel's three."""
    made = torch.zeros(shape)
    for i in range(min(shape[:2])):
        made[i, i, start : start + 2, start : start + 2] = 0.25
    return made
