"""Parts of models, upscalers by the full lists of their names, and files that are no model at all."""

from __future__ import annotations

import random

import pytest

from tests.identify.build import known
from tests.identify.keylists import modules, upscalers

UPSCALERS = {
    "ATD": "atd", "CRAFT": "craft", "SRVGGNetCompact": "compact", "DAT": "dat", "DCTLSA": "dctlsa", "DITN_Real": "ditn",
    "DRCT": "drct", "RRDBNet": "esrgan", "FDAT": "fdat", "GRL": "grl", "HAT": "hat", "IPT": "ipt", "MoESR": "moesr",
    "MoSR": "mosr", "OmniSR": "omnisr", "PLKSR": "plksr", "RealPLKSR": "plksr", "RCAN": "rcan", "RGT": "rgt",
    "UpCunet2x": "realcugan", "UpCunet3x": "realcugan", "UpCunet4x": "realcugan", "UpCunet2x_fast": "realcugan",
    "SCUNet": "scunet", "SeemoRe": "seemore",
}  # fmt: skip
OTHERS = {
    "DRUNet": "restorer", "FBCNN": "restorer", "FFTformer": "restorer", "CIDNet": "restorer", "KBNet_s": "restorer",
    "MixDehazeNet": "restorer", "NAFNet": "restorer", "RetinexFormer": "restorer", "Uformer": "restorer",
    "GFPGANv1Clean": "face-restorer", "RestoreFormer": "face-restorer", "LaMa": "inpainter",
}  # fmt: skip


def test_every_list_is_expected() -> None:
    """No list is left out."""
    assert set(upscalers()) == {*UPSCALERS, *OTHERS}


@pytest.mark.parametrize("name", UPSCALERS)
def test_upscaler(name: str) -> None:
    """Each upscaler is of its own architecture."""
    identity = known(upscalers()[name])
    assert (identity.kind, identity.architecture) == ("upscaler", UPSCALERS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_restorer(name: str) -> None:
    """What restores and does not enlarge is of a kind of its own."""
    assert known(upscalers()[name]).kind == OTHERS[name]


@pytest.mark.parametrize(
    ("name", "scale"),
    [("RRDBNet", "4x"), ("SRVGGNetCompact", "4x"), ("DAT", "2x"), ("RealPLKSR", "4x"), ("OmniSR", "4x")],
)
def test_scale(name: str, scale: str) -> None:
    """The convolutions that make the larger image tell by how much."""
    assert known(upscalers()[name]).variant == scale


@pytest.mark.parametrize(
    ("last", "inputs", "scale"), [(4, 3, "1x"), (7, 3, "2x"), (10, 3, "4x"), (13, 3, "8x"), (10, 12, "2x")]
)
def test_scale_of_old_esrgan(last: int, inputs: int, scale: str) -> None:
    """ESRGAN's old names count its doublings; an input of folded pixels takes one off."""
    shapes = {"model.0.weight": (64, inputs, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}
    shapes |= {f"model.{index}.weight": (64, 64, 3, 3) for index in range(3, last, 3)}
    shapes[f"model.{last}.weight"] = (3, 64, 3, 3)
    assert known(shapes).variant == scale


PARTS = {
    "unet-sd-1": "sd-1",
    "unet-sd-2": "sd-2",
    "unet-sdxl": "sdxl",
    "transformer-sd-3.5-large": "sd-3",
    "transformer-wan-t2v-14b": "wan",
    "transformer-qwen-image": "qwen-image",
    "transformer-z-image": "z-image",
}


@pytest.mark.parametrize("name", PARTS)
def test_part_of_a_model(name: str) -> None:
    """One shard of several, or a model without its ends, is known by its layers."""
    items = list(modules()[name].items())
    third = len(items) // 3
    for part in (items[:third], items[third : 2 * third], items[2 * third :]):
        identity = known(dict(part))
        assert (identity.kind, identity.architecture) == ("diffusion-model", PARTS[name])
    blocks = {f"model.diffusion_model.{key}": shape for key, shape in items if "block" in key or "layers" in key}
    assert known(blocks).architecture == PARTS[name]


def test_part_that_two_models_share() -> None:
    """FLUX's last blocks without modulation may be Chroma's: both are named."""
    shapes = {key: shape for key, shape in modules()["transformer-flux-dev"].items() if ".attn." in key}
    identity = known(shapes)
    assert identity.kind == "diffusion-model"
    assert {"flux", "chroma"} <= set(identity.candidates)


@pytest.mark.parametrize("seed", range(30))
def test_no_model(seed: int) -> None:
    """Tensors of random names and of usual shapes are nothing, and are not guessed at."""
    rng = random.Random(seed)
    words = "layer block conv attn norm mlp head fc weight proj encoder decoder embed out in stage features net".split()
    shapes = {}
    for _ in range(rng.choice([1, 2, 5, 40, 400])):
        name = ".".join(
            rng.choice(words) if rng.random() < 0.7 else str(rng.randrange(12)) for _ in range(rng.randint(1, 5))
        )
        shapes[f"{name}.{rng.choice(['weight', 'bias'])}"] = tuple(
            rng.choice([3, 64, 256, 320, 768, 1024]) for _ in range(rng.randint(1, 4))
        )
    identity = known(shapes)
    assert (identity.kind, identity.architecture, identity.candidates) == (None, None, ())


@pytest.mark.parametrize("wrapper", ["net_g.", "dit.", "pipe.dit.", "generator_ema.model.", "_fsdp_wrapped_module."])
def test_what_all_names_begin_with(wrapper: str) -> None:
    """What training code leaves before all names is left out where nobody knows the names with it."""
    for name, right in (("transformer-wan-t2v-1.3b", "wan"), ("unet-sdxl", "sdxl")):
        assert known({wrapper + key: shape for key, shape in modules()[name].items()}).architecture == right
    assert known({wrapper + key: shape for key, shape in upscalers()["RRDBNet"].items()}).architecture == "esrgan"
    assert known({f"{wrapper}layers.{index}.weight": (8, 8) for index in range(40)}).kind is None
