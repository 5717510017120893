"""Published models under the names that diffusers and transformers give their tensors."""

from __future__ import annotations

import pytest

from tests.identify.build import known
from tests.identify.keylists import modules

EXPECTED: dict[str, tuple[str | None, str | tuple[str, ...] | None, str | None]] = {
    "unet-sd-1": ("diffusion-model", "sd-1", None),
    "unet-sd-1-inpaint": ("diffusion-model", "sd-1", "inpaint"),
    "unet-sd-1-pix2pix": ("diffusion-model", "sd-1", "pix2pix | ic-light"),
    "unet-sd-2": ("diffusion-model", "sd-2", None),
    "unet-sd-2-inpaint": ("diffusion-model", "sd-2", "inpaint"),
    "unet-sd-2-depth": ("diffusion-model", "sd-2", "depth"),
    "unet-sd-2-unclip-h": ("diffusion-model", "sd-2", "unclip-h"),
    "unet-sd-2-unclip-l": ("diffusion-model", "sd-2", "unclip-l"),
    "unet-sd-2-upscaler": ("diffusion-model", "sd-2", "upscaler"),
    "unet-sdxl": ("diffusion-model", "sdxl", None),
    "unet-sdxl-inpaint": ("diffusion-model", "sdxl", "inpaint"),
    "unet-sdxl-pix2pix": ("diffusion-model", "sdxl", "pix2pix"),
    "unet-sdxl-refiner": ("diffusion-model", "sdxl-refiner", None),
    "unet-ssd-1b": ("diffusion-model", "sdxl", "ssd-1b"),
    "unet-vega": ("diffusion-model", "sdxl", "vega"),
    "unet-koala-700m": ("diffusion-model", "sdxl", "koala-700m"),
    "unet-koala-1b": ("diffusion-model", "sdxl", "koala-1b"),
    "unet-kolors": ("diffusion-model", "kolors", None),
    "unet-svd": ("diffusion-model", "svd", None),
    "unet-motion-sd-1": ("diffusion-model", "sd-1", "motion"),
    "transformer-sd-3-medium": ("diffusion-model", "sd-3", "3-medium"),
    "transformer-sd-3.5-medium": ("diffusion-model", "sd-3", "3.5-medium"),
    "transformer-sd-3.5-large": ("diffusion-model", "sd-3", "3.5-large"),
    "transformer-flux-dev": ("diffusion-model", "flux", "dev"),
    "transformer-flux-schnell": ("diffusion-model", "flux", "schnell"),
    "transformer-flux-fill": ("diffusion-model", "flux", "fill"),
    "transformer-flux-control": ("diffusion-model", "flux", "control"),
    "transformer-flex-2": ("diffusion-model", "flux", "flex-2"),
    "transformer-chroma": ("diffusion-model", "chroma", None),
    "transformer-flux-2-dev": ("diffusion-model", "flux-2", "dev"),
    "transformer-flux-2-klein-4b": ("diffusion-model", "flux-2", "klein-4b"),
    "transformer-flux-2-klein-9b": ("diffusion-model", "flux-2", "klein-9b"),
    "transformer-flux-3": ("diffusion-model", "flux-3", None),
    "transformer-auraflow": ("diffusion-model", "auraflow", None),
    "transformer-pixart-alpha": ("diffusion-model", "pixart", "alpha"),
    "transformer-pixart-alpha-512": ("diffusion-model", "pixart", None),
    "transformer-pixart-sigma": ("diffusion-model", "pixart", None),
    "transformer-hunyuan-dit": ("diffusion-model", "hunyuan-dit", "1.1"),
    "transformer-hunyuan-dit-1.2": ("diffusion-model", "hunyuan-dit", "1.2"),
    "transformer-hunyuan-image": ("diffusion-model", "hunyuan-image", None),
    "transformer-hunyuan-video": ("diffusion-model", "hunyuan-video", None),
    "transformer-hunyuan-video-i2v": ("diffusion-model", "hunyuan-video", "i2v"),
    "transformer-hunyuan-video-skyreels": ("diffusion-model", "hunyuan-video", "skyreels-i2v"),
    "transformer-hunyuan-video-1.5": ("diffusion-model", "hunyuan-video", "1.5"),
    "transformer-framepack": ("diffusion-model", "hunyuan-video", "framepack"),
    "transformer-ltx-2b": ("diffusion-model", "ltx-video", "2b"),
    "transformer-ltx-13b": ("diffusion-model", "ltx-video", "13b"),
    "transformer-ltx-2": ("diffusion-model", "ltx-2", None),
    "transformer-wan-t2v-1.3b": ("diffusion-model", "wan", "t2v-1.3b"),
    "transformer-wan-t2v-14b": ("diffusion-model", "wan", "t2v-14b"),
    "transformer-wan-i2v-14b": ("diffusion-model", "wan", "i2v-14b"),
    "transformer-wan-flf2v-14b": ("diffusion-model", "wan", "flf2v-14b"),
    "transformer-wan-2.2-i2v-a14b": ("diffusion-model", "wan", "2.2-i2v-a14b"),
    "transformer-wan-2.2-ti2v-5b": ("diffusion-model", "wan", "2.2-ti2v-5b"),
    "transformer-wan-vace-1.3b": ("diffusion-model", "wan", "vace"),
    "transformer-wan-animate": ("diffusion-model", "wan", "animate"),
    "transformer-skyreels-v2": ("diffusion-model", "wan", "t2v-14b"),
    "transformer-qwen-image": ("diffusion-model", "qwen-image", None),
    "transformer-qwen-image-layered": ("diffusion-model", "qwen-image", "layered"),
    "transformer-qwen-image-2.1": ("diffusion-model", "qwen-image-2.1", None),
    "transformer-z-image": ("diffusion-model", "z-image", None),
    "transformer-lumina-2": ("diffusion-model", "lumina-2", None),
    "transformer-sana-1600m": ("diffusion-model", "sana", None),
    "transformer-sana-600m": ("diffusion-model", "sana", None),
    "transformer-sana-sprint": ("diffusion-model", "sana", "sprint"),
    "transformer-sana-video": ("diffusion-model", "sana", "video"),
    "transformer-cosmos-1-7b": ("diffusion-model", "cosmos", "predict1"),
    "transformer-cosmos-2-2b": ("diffusion-model", "cosmos", "predict2"),
    "transformer-hidream": ("diffusion-model", "hidream", None),
    "transformer-mochi": ("diffusion-model", "mochi", None),
    "transformer-cogvideox-2b": ("diffusion-model", "cogvideox", "2b"),
    "transformer-cogvideox-5b": ("diffusion-model", "cogvideox", "5b"),
    "transformer-cogview-4": ("diffusion-model", "cogview", None),
    "transformer-omnigen": ("diffusion-model", "omnigen", None),
    "transformer-kandinsky-5": ("diffusion-model", "kandinsky-5", None),
    "transformer-kandinsky-5-pro": ("diffusion-model", "kandinsky-5", None),
    "transformer-krea-2": ("diffusion-model", "krea-2", None),
    "transformer-ideogram-4": ("diffusion-model", "ideogram-4", None),
    "transformer-ernie-image": ("diffusion-model", "ernie-image", None),
    "transformer-longcat-image": ("diffusion-model", "longcat-image", None),
    "transformer-ovis-image": ("diffusion-model", "ovis-image", None),
    "transformer-bria": ("diffusion-model", "bria", None),
    "transformer-bria-fibo": ("diffusion-model", "bria", "fibo"),
    "transformer-bria-fibo-2": ("diffusion-model", "bria", "fibo-2"),
    "transformer-glm-image": ("diffusion-model", "glm-image", None),
    "transformer-joyimage": ("diffusion-model", "joyimage", None),
    "transformer-kandinsky-6": ("diffusion-model", "kandinsky-6", None),
    "transformer-kandinsky-6-lite": ("diffusion-model", "kandinsky-6", None),
    "transformer-motif-video": ("diffusion-model", "motif-video", None),
    "transformer-nucleus-image": ("diffusion-model", "nucleus-image", None),
    "transformer-allegro": ("diffusion-model", "allegro", None),
    "transformer-stable-audio": ("diffusion-model", "stable-audio", None),
    "transformer-prx": ("diffusion-model", "prx", None),
    "cascade-c": ("diffusion-model", "cascade", "stage-c"),
    "cascade-b": ("diffusion-model", "cascade", "stage-b"),
    "vae-sd": ("vae", ("sd-1", "sd-2", "sdxl"), None),
    "vae-16": ("vae", ("sd-3", "flux"), None),
    "vae-flux-2": ("vae", "flux-2", None),
    "vae-asymmetric": ("vae", ("sd-1", "sd-2", "sdxl"), "asymmetric"),
    "vae-svd": ("vae", "svd", None),
    "vae-tiny-4": ("vae", ("sd-1", "sd-2", "sdxl"), "tiny"),
    "vae-tiny-16": ("vae", ("sd-3", "flux"), "tiny"),
    "vae-wan-2.1": ("vae", ("qwen-image", "wan", "anima"), None),
    "vae-wan-2.2": ("vae", "wan", "2.2"),
    "vae-qwen-image": ("vae", ("qwen-image", "wan", "anima"), None),
    "vae-hunyuan-video": ("vae", "hunyuan-video", None),
    "vae-hunyuan-image": ("vae", "hunyuan-image", None),
    "vae-hunyuan-video-1.5": ("vae", ("hunyuan-image", "hunyuan-video"), None),
    "vae-ltx": ("vae", ("ltx-video", "ltx-2"), None),
    "vae-ltx-0.9.1": ("vae", ("ltx-video", "ltx-2"), None),
    "vae-ltx-2": ("vae", ("ltx-video", "ltx-2"), None),
    "vae-mochi": ("vae", "mochi", None),
    "vae-cogvideox": ("vae", "cogvideox", None),
    "vae-cosmos": ("vae", "cosmos", None),
    "vae-allegro": ("vae", "allegro", None),
    "vae-sana": ("vae", "sana", None),
    "vae-consistency": ("vae", "sd-1", "consistency-decoder"),
    "controlnet-sd-1": ("controlnet", "sd-1", None),
    "controlnet-sd-2": ("controlnet", "sd-2", None),
    "controlnet-sdxl": ("controlnet", "sdxl", None),
    "controlnet-sdxl-mid": ("controlnet", "sdxl", None),
    "controlnet-sdxl-small": ("controlnet", "sdxl", None),
    "controlnet-sdxl-union": ("controlnet", "sdxl", "union"),
    "controlnet-flux": ("controlnet", "flux", "instantx"),
    "controlnet-flux-union": ("controlnet", "flux", "union"),
    "controlnet-sd-3": ("controlnet", "sd-3", None),
    "controlnet-sd-3.5-large": ("controlnet", "sd-3", None),
    "controlnet-qwen-image": ("controlnet", "qwen-image", None),
    "controlnet-sana": ("controlnet", "sana", None),
    "controlnet-hunyuan-dit": ("controlnet", "hunyuan-dit", None),
    "controlnet-z-image": ("controlnet", "z-image", None),
    "controlnet-sparse": ("controlnet", "sd-1", "sparse"),
    "t2i-adapter-sd": ("t2i-adapter", ("sd-1", "sd-2"), None),
    "t2i-adapter-sd-light": ("t2i-adapter", ("sd-1", "sd-2"), "light"),
    "t2i-adapter-sdxl": ("t2i-adapter", "sdxl", None),
    "motion-sd-1": ("motion-module", "sd-1", None),
    "motion-sd-1-v2": ("motion-module", "sd-1", None),
    "motion-sdxl": ("motion-module", "sdxl", None),
    "redux": ("style-model", "flux", None),
    "prior-kandinsky-2": (None, None, None),
    "unet-2d": ("diffusion-model", None, None),
    "unet-modelscope": ("diffusion-model", "modelscope-t2v", None),
    "dit": (None, None, None),
    "text-clip-l": ("text-encoder", ("sd-1", "sdxl", "sd-3", "flux"), "clip-l"),
    "text-clip-l-projection": ("text-encoder", ("sd-1", "sdxl", "sd-3", "flux"), "clip-l"),
    "text-clip-h": ("text-encoder", "sd-2", "clip-h"),
    "text-clip-g": ("text-encoder", ("sdxl", "sdxl-refiner", "sd-3"), "clip-g"),
    "text-t5-xxl": (
        "text-encoder",
        ("sd-3", "flux", "chroma", "pixart", "hunyuan-dit", "ltx-video", "mochi", "cogvideox", "cosmos", "hidream"),
        "t5-xxl",
    ),
    "text-t5-xl": ("text-encoder", ("auraflow", "hunyuan-dit"), "t5-xl"),
    "text-t5-base": ("text-encoder", "stable-audio", "t5-base"),
    "text-umt5-xxl": ("text-encoder", "wan", "umt5-xxl"),
    "text-gemma-2-2b": ("text-encoder", ("lumina-2", "sana", "prx", "pixeldit"), "gemma-2-2b"),
    "text-gemma-3-12b": ("text-encoder", "ltx-2", "gemma-3-12b"),
    "text-qwen-2.5-vl-7b": (
        "text-encoder",
        ("longcat-image", "hunyuan-image", "hunyuan-video", "qwen-image", "kandinsky-5"),
        "qwen2.5-vl-7b",
    ),
    "text-qwen-2.5-vl-3b": ("text-encoder", "omnigen-2", "qwen2.5-vl-3b"),
    "text-qwen-3-4b": ("text-encoder", ("flux-2", "z-image"), "qwen3-4b"),
    "text-qwen-3-8b": ("text-encoder", ("flux-2", "qwen-image-2.1", "ideogram-4"), "qwen3-8b"),
    "text-qwen-3-0.6b": ("text-encoder", "anima", "qwen3-0.6b"),
    "text-llama-3-8b": ("text-encoder", ("hunyuan-video", "hidream"), "llama-3-8b"),
    "vision-clip-l": ("image-encoder", None, "clip-l"),
    "vision-clip-h": ("image-encoder", None, "clip-h"),
    "vision-clip-g": ("image-encoder", None, "clip-g"),
    "vision-siglip": ("image-encoder", None, "siglip"),
    "other-bert": (None, None, None),
    "other-vit": (None, None, None),
    "other-gpt2": (None, None, None),
    "other-whisper": (None, None, None),
    "other-mistral-7b": (None, None, None),
    "other-resnet": (None, None, None),
}
"""Kind, architecture (or every candidate), variant."""

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "net.", "model.model.", "model.")


def test_every_list_is_expected() -> None:
    """No list is left out."""
    assert set(modules()) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_module(name: str) -> None:
    """Each published module is of its own kind, architecture and variant, and what is no such model is unknown."""
    kind, architecture, variant = EXPECTED[name]
    identity = known(modules()[name])
    assert (identity.kind, identity.architecture or identity.candidates or None, identity.variant) == (
        kind,
        architecture,
        variant,
    )


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected[0] == "diffusion-model"])
def test_prefixes(name: str) -> None:
    """A diffusion model is the same whatever its names begin with."""
    kind, architecture, variant = EXPECTED[name]
    for prefix in PREFIXES:
        identity = known({prefix + key: shape for key, shape in modules()[name].items()})
        assert (identity.kind, identity.architecture, identity.variant) == (kind, architecture or None, variant), prefix


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected[0] is not None])
def test_wrappers_and_rubbish(name: str) -> None:
    """Lightning's wrapper, an optimiser's leftovers and foreign keys change nothing."""
    kind, architecture, variant = EXPECTED[name]
    shapes = {f"module.{key}": shape for key, shape in modules()[name].items()}
    assert known(shapes).kind == kind
    shapes = {"optimizer.state.0.exp_avg": (4, 4), "loss.logvar": (), **modules()[name], "garbage": (1,)}
    identity = known(shapes)
    assert (identity.kind, identity.architecture or identity.candidates or None, identity.variant) == (
        kind,
        architecture,
        variant,
    )
