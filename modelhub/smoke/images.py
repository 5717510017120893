"""Pictures drawn for the round trip through a VAE, and what can be measured of a picture without another one.

Pictures are arrays of ``(height, width, 3)`` with values from 0 to 1.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

Picture = Any
"""``numpy.ndarray`` of ``float32``."""

_DARK, _BRIGHT = 0.02, 0.98
"""Luminance below which a pixel counts as black, and above which as white."""

_LAG = 8
"""Pixels: what an image shows is larger than that; noise is not."""


def drawn(size: int) -> list[Picture]:
    """Pictures of *size* x *size* with what photographs have: soft shading, areas of one colour, edges."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / max(1, size - 1)
    sky = np.stack([0.35 + 0.4 * y, 0.5 + 0.3 * y, 0.85 - 0.2 * y], axis=-1)
    sun = ((x - 0.7) ** 2 + (y - 0.3) ** 2 < 0.02)[..., None]
    ground = (y > 0.65 + 0.08 * np.sin(7 * x))[..., None]
    landscape = np.where(ground, np.stack([0.2 + 0.2 * x, 0.45 - 0.1 * y, 0.15 + 0 * x], axis=-1), sky)
    landscape = np.where(sun, np.array([1.0, 0.9, 0.5], np.float32), landscape)
    shades = [0.5 + 0.4 * np.sin(2 * np.pi * (x * a + y * b)) for a, b in ((1, 0.5), (0.5, -1), (1.5, 1))]
    return [landscape.astype(np.float32), np.stack(shades, axis=-1).astype(np.float32)]


def psnr(found: Picture, expected: Picture) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(1 / error))


def png(picture: Picture, text: dict[str, str] | None = None) -> bytes:
    """*picture* as a PNG file with *text* as its text chunks."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    out = io.BytesIO()
    Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def measure(picture: Picture, nbytes: int) -> dict[str, float]:
    """What *picture*, whose PNG file has *nbytes*, looks like in numbers.

    ``deviation`` of the luminance; ``black`` and ``white``, shares of pixels that are; ``saturated``, the share of
    values that are 0 or 1; ``autocorrelation`` of the luminance 8 pixels apart; ``patchiness``, how much the contrast
    of 16 x 16 patches varies (standard deviation over mean); ``bits`` of the PNG file per pixel.
    """
    light = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    patches = _patches(light, 16).std(axis=(-1, -2))
    height, width = light.shape
    return {
        "deviation": float(light.std()),
        "black": float((light < _DARK).mean()),
        "white": float((light > _BRIGHT).mean()),
        "saturated": float(((picture <= 0) | (picture >= 1)).mean()),
        "autocorrelation": autocorrelation(light, _LAG),
        "patchiness": float(patches.std() / max(1e-6, float(patches.mean()))),
        "bits": 8 * nbytes / (height * width),
    }


def autocorrelation(plane: Picture, lag: int) -> float:
    """Correlation of *plane* with itself *lag* places further, over both axes; 0 where nothing varies."""
    centred = plane - plane.mean()
    variance = float((centred**2).mean())
    if variance < 1e-12 or min(plane.shape) <= lag:
        return 0.0
    down, right = (centred[lag:] * centred[:-lag]).mean(), (centred[:, lag:] * centred[:, :-lag]).mean()
    return float((down + right) / 2 / variance)


def _patches(plane: Picture, side: int) -> Picture:
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    whole = plane[: rows * side, : columns * side]
    return whole.reshape(rows, side, columns, side).swapaxes(1, 2)
