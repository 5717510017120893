"""Names and shapes of the KL autoencoder that SD 1, SD 2 and SDXL share, under its LDM names.

The structure is that of ``AutoencoderKL`` in CompVis/latent-diffusion (``model.py``) with ``ch=128``,
``ch_mult=[1, 2, 4, 4]``, ``num_res_blocks=2`` and ``z_channels=4``.
"""

from __future__ import annotations

from modelhub.samples.modules import Named, Scale, conv, norm, scaler

_LEVELS = (128, 256, 512, 512)
_LATENT = 4


def autoencoder(width: float = 1.0, latents: int = _LATENT) -> Named:
    """Names and shapes; *width* scales hidden channels, not those of pixels and *latents*.

    With 16 latents it is that of SD 3 and FLUX.1, which lacks the two 1x1 convolutions.
    """
    scale = scaler(width)
    yield from _encoder(scale, latents)
    yield from _decoder(scale, latents)
    if latents == _LATENT:
        yield from conv("quant_conv", 2 * latents, 2 * latents, 1)
        yield from conv("post_quant_conv", latents, latents, 1)


def _encoder(scale: Scale, latents: int) -> Named:
    inputs = _LEVELS[0]
    yield from conv("encoder.conv_in", scale(inputs), 3, 3)
    for level, outputs in enumerate(_LEVELS):
        for j in range(2):
            yield from _residual(f"encoder.down.{level}.block.{j}", inputs, outputs, scale)
            inputs = outputs
        if level < len(_LEVELS) - 1:
            yield from conv(f"encoder.down.{level}.downsample.conv", scale(outputs), scale(outputs), 3)
    yield from _middle("encoder.mid", scale)
    yield from norm("encoder.norm_out", scale(_LEVELS[-1]))
    yield from conv("encoder.conv_out", 2 * latents, scale(_LEVELS[-1]), 3)


def _decoder(scale: Scale, latents: int) -> Named:
    yield from conv("decoder.conv_in", scale(_LEVELS[-1]), latents, 3)
    yield from _middle("decoder.mid", scale)
    for level, outputs in enumerate(_LEVELS):  # stored from the finest level on, run from the coarsest
        inputs = _LEVELS[min(level + 1, len(_LEVELS) - 1)]
        for j in range(3):
            yield from _residual(f"decoder.up.{level}.block.{j}", inputs, outputs, scale)
            inputs = outputs
        if level:
            yield from conv(f"decoder.up.{level}.upsample.conv", scale(outputs), scale(outputs), 3)
    yield from norm("decoder.norm_out", scale(_LEVELS[0]))
    yield from conv("decoder.conv_out", 3, scale(_LEVELS[0]), 3)


def _middle(name: str, scale: Scale) -> Named:
    channels = _LEVELS[-1]
    yield from _residual(f"{name}.block_1", channels, channels, scale)
    yield from norm(f"{name}.attn_1.norm", scale(channels))
    for matrix in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.attn_1.{matrix}", scale(channels), scale(channels), 1)
    yield from _residual(f"{name}.block_2", channels, channels, scale)


def _residual(name: str, inputs: int, outputs: int, scale: Scale) -> Named:
    yield from norm(f"{name}.norm1", scale(inputs))
    yield from conv(f"{name}.conv1", scale(outputs), scale(inputs), 3)
    yield from norm(f"{name}.norm2", scale(outputs))
    yield from conv(f"{name}.conv2", scale(outputs), scale(outputs), 3)
    if inputs != outputs:
        yield from conv(f"{name}.nin_shortcut", scale(outputs), scale(inputs), 1)
