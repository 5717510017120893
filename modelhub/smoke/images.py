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

_EDGE = 0.02
"""Change of the luminance over two pixels below which there is no edge, however few there are."""

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


def edges(picture: Picture) -> Picture:
    """Where the luminance of *picture* changes, 1 on 0: ``(height, width)``, as ControlNets for edges are shown."""
    light = np.pad(_light(picture), 1, mode="edge")
    slope = np.hypot(light[1:-1, 2:] - light[1:-1, :-2], light[2:, 1:-1] - light[:-2, 1:-1])
    return (slope > max(_EDGE, float(np.quantile(slope, 0.9)))).astype(np.float32)


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


def small(picture: Picture, side: int) -> Picture:
    """*picture*, a square, as one of *side* x *side*."""
    from PIL import Image

    image = Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), np.float32) / 255


def read_png(path: str) -> Picture:
    """The picture in the PNG file *path*. Raises ``OSError`` for what is none."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"), np.float32) / 255
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:  # Pillow's words for damage
        raise OSError(f"{path}: {error}") from error


def similarity(one: Picture, other: Picture) -> dict[str, float | None]:
    """How alike two pictures are.

    ``bits`` is in how many of 64 their difference hashes differ, ``ssim`` their structural similarity (``None`` for
    pictures of other sizes).
    """
    bits = int((_difference_hash(one) != _difference_hash(other)).sum())
    return {"bits": bits, "ssim": _ssim(_light(one), _light(other)) if one.shape == other.shape else None}


def _light(picture: Picture) -> Picture:
    return picture @ np.array([0.299, 0.587, 0.114], np.float32)


def _difference_hash(picture: Picture) -> Picture:
    """64 truth values: whether each of 8 x 9 areas is darker than the next in its row (N. Krawetz, 2013)."""
    light = _light(picture)
    rows = np.array_split(light, 8, axis=0)
    areas = np.array([[each.mean() for each in np.array_split(row, 9, axis=1)] for row in rows])
    return areas[:, 1:] > areas[:, :-1]


def _ssim(one: Picture, other: Picture, side: int = 7) -> float:
    """Wang et al. 2004 with uniform windows of *side* pixels, for values from 0 to 1."""
    mean_one, mean_other = _means(one, side), _means(other, side)
    variance_one = _means(one * one, side) - mean_one**2
    variance_other = _means(other * other, side) - mean_other**2
    covariance = _means(one * other, side) - mean_one * mean_other
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * mean_one * mean_other + c1) * (2 * covariance + c2)
    return float((structure / ((mean_one**2 + mean_other**2 + c1) * (variance_one + variance_other + c2))).mean())


def _means(plane: Picture, side: int) -> Picture:
    """The mean of every window of *side* x *side* in *plane*."""
    sums = np.pad(plane.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return (sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]) / side**2


def measure(picture: Picture, nbytes: int) -> dict[str, float]:
    """What *picture*, whose PNG file has *nbytes*, looks like in numbers.

    ``deviation`` of the luminance; ``black`` and ``white``, shares of pixels that are; ``saturated``, the share of
    values that are 0 or 1; ``autocorrelation`` of the luminance 8 pixels apart; ``patchiness``, how much the contrast
    of 16 x 16 patches varies (standard deviation over mean); ``bits`` of the PNG file per pixel.
    """
    light = _light(picture)
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
