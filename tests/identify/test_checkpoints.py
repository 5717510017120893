"""Whole checkpoints and bare UNets of the Stable Diffusion family."""

from __future__ import annotations

import random
import struct

import pytest

from modelhub.identify import identify_state_dict
from modelhub.identify.probe import Probe
from modelhub.samples.layouts import Architecture, Layout, checkpoint
from modelhub.tensors import DType
from tests.identify.build import holding, known, layout, reasons, state_dict

UNET = "model.diffusion_model."
WIDTHS = pytest.mark.parametrize("width", [1.0, 1 / 16])


def unet(architecture: Architecture, width: float = 1 / 16) -> Layout:
    return {name: value for name, value in checkpoint(architecture, width=width).items() if name.startswith(UNET)}


def with_input_channels(contents: Layout, channels: int) -> Layout:
    name = UNET + "input_blocks.0.0.weight"
    dtype, shape = contents[name]
    return {**contents, name: (dtype, (shape[0], channels, *shape[2:]))}


@WIDTHS
@pytest.mark.parametrize(
    ("architecture", "components"),
    [
        ("sd-1", ("unet", "vae", "text_encoder")),
        ("sd-2", ("unet", "vae", "text_encoder")),
        ("sdxl", ("unet", "vae", "text_encoder", "text_encoder_2")),
        ("sdxl-refiner", ("unet", "vae", "text_encoder")),
    ],
)
def test_checkpoint(architecture: Architecture, components: tuple[str, ...], width: float) -> None:
    """A checkpoint is known, with its components, by names and by the widths that every size of it has."""
    identity = known(checkpoint(architecture, width=width))
    assert (identity.kind, identity.architecture, identity.variant) == ("checkpoint", architecture, None)
    assert identity.components == components
    assert identity.candidates == ()
    assert identity.adapter is None


@pytest.mark.parametrize("architecture", ["sd-1", "sd-2", "sdxl", "sdxl-refiner"])
def test_every_fact_has_its_evidence(architecture: Architecture) -> None:
    """Each fact of an identity is backed by evidence of that value that says what was seen."""
    identity = known(checkpoint(architecture, width=1 / 16, v_prediction=architecture == "sdxl"))
    for fact in ("kind", "architecture", "prediction_type", "precision"):
        value = getattr(identity, fact)
        if value is not None:
            assert [each.value for each in reasons(identity, fact)] == [value]
    assert [each.value for each in reasons(identity, "components")] == list(identity.components)
    assert all(each.detail for each in identity.evidence)
    [why] = reasons(identity, "architecture")
    assert UNET in why.detail
    assert why.by == "shape"


def test_averaged_copy() -> None:
    """Averaged weights are a component of their own and change nothing else."""
    plain = known(checkpoint("sd-1", width=1 / 16))
    averaged = known(checkpoint("sd-1", width=1 / 16, ema=True))
    assert averaged.components == (*plain.components, "ema")
    assert (averaged.kind, averaged.architecture) == (plain.kind, plain.architecture)


def test_text_encoder_of_the_old_layout() -> None:
    """The text encoder is found where files leave out ``text_model`` (NovelAI's, and all of transformers 5)."""
    contents = {
        name.replace(".transformer.text_model.", ".transformer."): value
        for name, value in checkpoint("sd-1", width=1 / 16).items()
    }
    identity = known(contents)
    assert identity.components == ("unet", "vae", "text_encoder")
    assert identity.architecture == "sd-1"


@pytest.mark.parametrize("prefix", ["", "unet.", "diffusion_model.", UNET])
def test_bare_unet(prefix: str) -> None:
    """A UNet alone is a diffusion model whatever its names begin with."""
    contents = {name.replace(UNET, prefix, 1): value for name, value in unet("sdxl").items()}
    identity = known(contents)
    assert (identity.kind, identity.architecture) == ("diffusion-model", "sdxl")
    assert identity.components == ("unet",)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "state_dict.", "module._orig_mod."])
def test_wrappers(wrapper: str) -> None:
    """What DataParallel, ``torch.compile`` and trainers leave around the names does not matter."""
    identity = known({wrapper + name: value for name, value in checkpoint("sd-1", width=1 / 16).items()})
    assert (identity.kind, identity.architecture) == ("checkpoint", "sd-1")


@pytest.mark.parametrize("architecture", ["sd-1", "sdxl"])
def test_a_checkpoint_in_a_wrapper_called_as_a_part_is(architecture: Architecture) -> None:
    """``model.`` before all names of a checkpoint is a wrapper, though a VAE's names may begin so too."""
    whole = checkpoint(architecture)
    identity = known({f"model.{name}": tensor for name, tensor in whole.items()})
    assert (identity.kind, identity.architecture) == ("checkpoint", architecture)


@pytest.mark.parametrize("architecture", ["sd-1", "sdxl"])
@pytest.mark.parametrize("left_out", ["input_blocks.0.", "out."])
def test_a_checkpoint_whose_unet_lacks_an_end(architecture: Architecture, left_out: str) -> None:
    """The layers of a UNet that are there tell which it is, where its first or last is missing."""
    whole = checkpoint(architecture)
    rest = {name: each for name, each in whole.items() if not name.startswith(f"model.diffusion_model.{left_out}")}
    identity = known(rest)
    assert (identity.kind, identity.architecture) == ("checkpoint", architecture)
    assert reasons(identity, "kind")[0].confidence == "medium"


def test_checkpoint_without_vae() -> None:
    """A checkpoint without VAE is still one, and says so by its components."""
    contents = {n: v for n, v in checkpoint("sd-1", width=1 / 16).items() if not n.startswith("first_stage_model.")}
    identity = known(contents)
    assert identity.kind == "checkpoint"
    assert identity.components == ("unet", "text_encoder")


@pytest.mark.parametrize(
    ("context", "conditioning", "architecture"),
    [(768, None, "sd-1"), (1024, None, "sd-2"), (2048, 2816, "sdxl"), (1280, 2560, "sdxl-refiner")],
)
@pytest.mark.parametrize("prefix", ["", "unet."])
def test_unet_with_diffusers_names(context: int, conditioning: int | None, architecture: str, prefix: str) -> None:
    """A UNet is known under diffusers' names too."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv_in.weight": (320, 4, 3, 3),
        "conv_out.weight": (4, 320, 3, 3),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, context),
        "mid_block.attentions.0.proj_in.weight": (1280, 1280),
    }
    if conditioning:
        shapes["add_embedding.linear_1.weight"] = (1280, conditioning)
    else:
        shapes["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"] = (320, context)
    identity = known({prefix + name: shape for name, shape in shapes.items()})
    assert (identity.kind, identity.architecture) == ("diffusion-model", architecture)


def test_unet_of_unknown_width() -> None:
    """A UNet that no known model has is a diffusion model of no known architecture: nothing is guessed."""
    contents = unet("sd-1")
    for name, (dtype, shape) in contents.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            contents[name] = (dtype, (shape[0], 999))
    identity = known(contents)
    assert (identity.kind, identity.architecture, identity.candidates) == ("diffusion-model", None, ())


@pytest.mark.parametrize(
    ("architecture", "channels", "variant", "prediction"),
    [
        ("sd-1", 4, None, "epsilon"),
        ("sd-1", 9, "inpaint", "epsilon"),
        ("sd-1", 8, "pix2pix", "epsilon"),
        ("sd-2", 9, "inpaint", "epsilon"),
        ("sd-2", 5, "depth", "epsilon"),
        ("sd-2", 7, "upscaler", "v_prediction"),
        ("sdxl", 9, "inpaint", None),
        ("sdxl", 8, "pix2pix", None),
    ],
)
def test_variant_by_input_channels(
    architecture: Architecture, channels: int, variant: str | None, prediction: str
) -> None:
    """Inpainting, editing, depth and upscaling models are told by what their first convolution takes."""
    identity = known(with_input_channels(checkpoint(architecture, width=1 / 16), channels))
    assert (identity.architecture, identity.variant) == (architecture, variant)
    assert identity.prediction_type == prediction
    if variant:
        [why] = reasons(identity, "variant")
        assert str(channels) in why.detail


@pytest.mark.parametrize(("width", "variant"), [(1536, "unclip-l"), (2048, "unclip-h")])
def test_unclip(width: int, variant: str) -> None:
    """SD 2 unCLIP models predict v and are told by the width of their image conditioning."""
    contents = {**unet("sd-2"), UNET + "label_emb.0.0.weight": (DType.F16, (80, width))}
    identity = known(contents)
    assert (identity.architecture, identity.variant) == ("sd-2", variant)
    assert identity.prediction_type == "v_prediction"


def test_distilled_sdxl() -> None:
    """SSD-1B is SDXL without attention in the middle and with fewer transformer blocks."""
    contents = {
        name: value
        for name, value in unet("sdxl").items()
        if ".middle_block.1." not in name and not any(f".transformer_blocks.{deep}." in name for deep in range(4, 10))
    }
    identity = known(contents)
    assert (identity.architecture, identity.variant) == ("sdxl", "ssd-1b")


class TestPredictionType:
    """The ladder: marker keys, variant, metadata, probe, training step, convention."""

    PROBE = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"

    @pytest.mark.parametrize(("deviation", "expected"), [(0.02, "epsilon"), (0.3, "v_prediction")])
    @pytest.mark.parametrize("dtype", [DType.F16, DType.F32, DType.BF16])
    def test_probe(self, deviation: float, expected: str, dtype: DType) -> None:
        """SD 2's prediction type is read off the spread of one bias, in any element type."""
        tensors = state_dict(checkpoint("sd-2", dtype=dtype))
        rng = random.Random(0)
        values = [rng.gauss(0, deviation) for _ in range(320)]
        if dtype is DType.BF16:
            data = b"".join(struct.pack("<f", value)[2:] for value in values)
        else:
            data = struct.pack(f"<320{'e' if dtype is DType.F16 else 'f'}", *values)
        read, reads = holding(tensors, {self.PROBE: data})
        identity = identify_state_dict(tensors, Probe(read))
        assert identity.prediction_type == expected
        assert reads == [(tensors[self.PROBE].start, len(data))]
        [why] = reasons(identity, "prediction_type")
        assert (why.by, why.confidence) == ("byte", "medium")

    def test_unreadable_probe(self) -> None:
        """Without the bytes, SD 2's prediction type is not known."""
        assert known(checkpoint("sd-2", width=1 / 16)).prediction_type is None

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 6e4])
    def test_probe_of_no_numbers(self, value: float) -> None:
        """A bias of infinities tells nothing and breaks nothing."""
        tensors = state_dict(checkpoint("sd-2", width=1 / 16))
        count = tensors[self.PROBE].numel
        read, _ = holding(tensors, {self.PROBE: struct.pack(f"<{count}e", *[value, -value] * (count // 2))})
        identity = identify_state_dict(tensors, Probe(read))
        assert identity.prediction_type == ("v_prediction" if value == 6e4 else None)

    @pytest.mark.parametrize(("step", "expected"), [(220000, "epsilon"), (110000, "v_prediction"), (7, None)])
    def test_official_step(self, step: int, expected: str | None) -> None:
        """Where the probe cannot be read, the official SD 2 files are known by their training step."""
        tensors = state_dict(checkpoint("sd-2", width=1 / 16), scalars={"global_step": step})
        assert identify_state_dict(tensors).prediction_type == expected

    def test_metadata_above_probe(self) -> None:
        """What the header claims goes before the probe, which need not be read then."""
        tensors = state_dict(checkpoint("sd-2", width=1 / 16), {"modelspec.prediction_type": "v"})
        read, reads = holding(tensors, {})
        identity = identify_state_dict(tensors, Probe(read))
        assert identity.prediction_type == "v_prediction"
        assert reads == []

    def test_marker_above_metadata(self) -> None:
        """Marker keys go before what the header claims."""
        contents = checkpoint("sdxl", width=1 / 16, v_prediction=True)
        identity = known(contents, metadata={"modelspec.prediction_type": "epsilon"})
        assert identity.prediction_type == "v_prediction"
        [why] = reasons(identity, "prediction_type")
        assert (why.by, why.confidence) == ("key", "high")

    @pytest.mark.parametrize(
        ("keys", "variant", "prediction"),
        [
            ({"edm_mean": (4,), "edm_std": (4,)}, "playground-2.5", "edm"),
            ({"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()}, "cosxl", "v_prediction"),
        ],
    )
    def test_edm_markers(self, keys: dict[str, tuple[int, ...]], variant: str, prediction: str) -> None:
        """SDXL models of the EDM kind are known by their marker keys."""
        identity = known({**checkpoint("sdxl", width=1 / 16), **layout(keys)})
        assert (identity.architecture, identity.variant) == ("sdxl", variant)
        assert identity.prediction_type == prediction

    @pytest.mark.parametrize(
        ("architecture", "prediction", "stated", "confidence"),
        [("sd-1", "epsilon", "epsilon", "medium"), ("sdxl", None, "epsilon | v_prediction", "low")],
    )
    def test_convention(self, architecture: Architecture, prediction: str | None, stated: str, confidence: str) -> None:
        """Without any sign SD 1 predicts the noise, as all of it does; of SDXL it is not known, and said so."""
        identity = known(checkpoint(architecture, width=1 / 16))
        assert identity.prediction_type == prediction
        found = [(each.value, each.confidence) for each in reasons(identity, "prediction_type")]
        assert found == [(stated, confidence)]

    def test_nothing_is_read_of_sd_1(self) -> None:
        """No byte of a checkpoint that structure can tell is read."""
        tensors = state_dict(checkpoint("sd-1", width=1 / 16))
        read, reads = holding(tensors, {})
        identify_state_dict(tensors, Probe(read))
        assert reads == []
