"""LoRA and its relatives."""

from __future__ import annotations

import struct

import pytest

from modelhub.errors import SourceError
from modelhub.identify import Adapter, Identity, adapters, identify_state_dict
from modelhub.identify import modules as module_room
from modelhub.identify import names as names_room
from modelhub.identify.claims import claimed_architecture
from modelhub.identify.modules import Module
from modelhub.identify.names import Names
from modelhub.identify.probe import Probe
from modelhub.identify.side_file import PEFT_ALPHA
from modelhub.samples.layouts import lora
from modelhub.tensors import DType, Packing, StateDict, StorageRef, TensorInfo
from tests.identify.build import Shape, half, holding, known, layout, reasons, state_dict

Shapes = dict[str, Shape]


def changed(
    *modules: tuple[str, int, int], rank: int = 8, leaves: tuple[str, str] = ("lora_down", "lora_up")
) -> Shapes:
    """LoRA factors of *modules*, each a name with outputs and inputs."""
    shapes: Shapes = {}
    for name, outputs, inputs in modules:
        shapes[f"{name}.{leaves[0]}.weight"] = (rank, inputs)
        shapes[f"{name}.{leaves[1]}.weight"] = (outputs, rank)
    return shapes


def adapter_of(identity: Identity) -> Adapter:
    assert identity.kind == "lora"
    assert identity.adapter is not None
    return identity.adapter


@pytest.mark.parametrize("text_encoder", [True, False])
@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "peft"])
@pytest.mark.parametrize("architecture", ["sd-1", "sd-2", "sdxl"])
def test_whole_lora(architecture: str, dialect: str, text_encoder: bool) -> None:
    """A LoRA of all attention is known in every dialect, with its rank and what it changes."""
    contents = lora(architecture, 6, dialect=dialect, text_encoder=text_encoder)  # type: ignore[arg-type]
    identity = known(contents)
    adapter = adapter_of(identity)
    assert identity.architecture == architecture
    assert identity.candidates == ()
    assert adapter.dialect == dialect
    assert adapter.algorithms == {"lora": adapter.modules}
    assert (adapter.rank, adapter.ranks) == (6, {6: adapter.modules})
    encoders = {"sd-1": 1, "sd-2": 1, "sdxl": 2}[architecture] if text_encoder else 0
    assert adapter.targets == ("unet", "text_encoder", "text_encoder_2")[: 1 + encoders]
    assert identity.precision == "fp16"


def test_sdxl_under_diffusers_names_in_kohya_dialect() -> None:
    """SDXL LoRAs whose modules bear diffusers' names are SDXL's."""
    shapes = changed(
        ("lora_unet_down_blocks_2_attentions_0_transformer_blocks_7_attn1_to_q", 1280, 1280),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 1280, 2048),
    )
    identity = known(shapes)
    assert identity.architecture == "sdxl"
    assert adapter_of(identity).dialect == "kohya"


@pytest.mark.parametrize(
    ("module", "outputs", "inputs", "architecture", "candidates"),
    [
        ("mid_block_attentions_0_transformer_blocks_0_attn2_to_v", 1280, 768, "sd-1", ()),
        ("mid_block_attentions_0_transformer_blocks_0_attn2_to_v", 1280, 1024, "sd-2", ()),
        ("mid_block_attentions_0_transformer_blocks_0_attn2_to_v", 1536, 1280, "sdxl-refiner", ()),
        ("mid_block_attentions_0_transformer_blocks_9_attn1_to_q", 1280, 1280, "sdxl", ()),
        ("down_blocks_0_attentions_1_transformer_blocks_0_ff_net_0_proj", 2560, 320, None, ("sd-1", "sd-2")),
        ("up_blocks_3_attentions_0_transformer_blocks_0_attn1_to_q", 320, 320, None, ("sd-1", "sd-2")),
        ("input_blocks_1_1_transformer_blocks_0_attn1_to_q", 320, 320, None, ("sd-1", "sd-2")),
        ("down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", 640, 640, None, ("sd-1", "sd-2", "sdxl")),
        ("input_blocks_4_1_transformer_blocks_0_attn1_to_q", 640, 640, None, ("sd-1", "sd-2", "sdxl")),
        ("input_blocks_4_1_transformer_blocks_0_attn1_to_q", 768, 768, "sdxl-refiner", ()),
        ("up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", 640, 640, "sdxl", ()),
        ("up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", 1280, 1280, None, ("sd-1", "sd-2")),
        ("up_blocks_0_attentions_2_transformer_blocks_0_attn1_to_q", 1280, 1280, "sdxl", ()),
        ("output_blocks_2_1_transformer_blocks_0_attn1_to_q", 1280, 1280, "sdxl", ()),
        ("output_blocks_4_1_transformer_blocks_0_attn1_to_q", 640, 640, "sdxl", ()),
        ("output_blocks_10_1_transformer_blocks_0_attn1_to_q", 320, 320, None, ("sd-1", "sd-2")),
    ],
)
def test_tiny_lora(
    module: str, outputs: int, inputs: int, architecture: str | None, candidates: tuple[str, ...]
) -> None:
    """Even one module tells what it can: an architecture, or the set of those that have such a module."""
    identity = known(changed((f"lora_unet_{module}", outputs, inputs)))
    assert (identity.kind, identity.architecture, identity.candidates) == ("lora", architecture, candidates)


def test_slider_without_cross_attention() -> None:
    """A slider that changes self-attention only gives the set of architectures it fits, not a guess."""
    contents = {name: value for name, value in lora("sd-1", text_encoder=False).items() if "_attn1_" in name}
    identity = known(contents)
    assert (identity.architecture, identity.candidates) == (None, ("sd-1", "sd-2"))
    assert reasons(identity, "architecture")


def test_sdxl_slider_without_cross_attention() -> None:
    """SDXL's deeper blocks tell it without any cross-attention."""
    contents = {name: value for name, value in lora("sdxl", text_encoder=False).items() if "_attn1_" in name}
    assert known(contents).architecture == "sdxl"


@pytest.mark.parametrize(
    ("modules", "architecture", "candidates", "targets"),
    [
        ([("lora_te", 768)], "sd-1", (), ("text_encoder",)),
        ([("lora_te", 1024)], "sd-2", (), ("text_encoder",)),
        ([("lora_te1", 768), ("lora_te2", 1280)], "sdxl", (), ("text_encoder", "text_encoder_2")),
        (
            [("lora_te1", 768)],
            None,
            ("sdxl", "sd-3", "flux", "chroma", "hunyuan-video", "hidream"),
            ("text_encoder",),
        ),
    ],
)
def test_text_encoder_only(
    modules: list[tuple[str, int]], architecture: str | None, candidates: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    """A LoRA of text encoders is told by their number and widths; two of them are SDXL's."""
    name = "{}_text_model_encoder_layers_3_self_attn_q_proj"
    identity = known(changed(*((name.format(prefix), width, width) for prefix, width in modules)))
    assert (identity.architecture, identity.candidates) == (architecture, candidates)
    assert adapter_of(identity).targets == targets


def test_text_encoder_of_no_known_dialect() -> None:
    """Under diffusers' names a lone CLIP ViT-L may be that of several models."""
    identity = known(changed(("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 768, 768)))
    assert identity.architecture is None
    assert {"sd-1", "sdxl"} <= set(identity.candidates)


@pytest.mark.parametrize(
    ("names", "architecture", "candidates"),
    [
        (["lora_unet_joint_blocks_0_x_block_attn_qkv"], None, ("sd-3",)),
        (["lora_unet_double_blocks_0_img_mod_lin"], "flux", ()),
        (["lora_unet_double_blocks_0_img_attn_qkv"], None, ("flux", "flux-2", "chroma", "hunyuan-video")),
        (["transformer.transformer_blocks.0.img_mod.1"], "qwen-image", ()),
        (["transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj"], "flux-2", ()),
        (["diffusion_model.blocks.0.self_attn.q"], "wan", ()),
    ],
)
def test_transformer_lora(names: list[str], architecture: str | None, candidates: tuple[str, ...]) -> None:
    """LoRAs of transformers are narrowed by the names of their blocks, and not decided where no size agrees."""
    identity = known(changed(*((name, 3072, 3072) for name in names)))
    assert (identity.architecture, identity.candidates) == (architecture, candidates)
    assert adapter_of(identity).targets == ("transformer",)


MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("leaves", "algorithm", "rank"),
    [
        ({"lora_down.weight": (8, 768), "lora_up.weight": (1280, 8)}, "lora", 8),
        ({"lora_A.weight": (8, 768), "lora_B.weight": (1280, 8)}, "lora", 8),
        ({"lora_A.default.weight": (8, 768), "lora_B.default.weight": (1280, 8)}, "lora", 8),
        ({"lora.down.weight": (8, 768), "lora.up.weight": (1280, 8)}, "lora", 8),
        ({"lora_linear_layer.down.weight": (8, 768), "lora_linear_layer.up.weight": (1280, 8)}, "lora", 8),
        ({"lora_down.weight": (8, 768), "lora_up.weight": (1280, 8), "dora_scale": (1280, 1)}, "dora", 8),
        (
            {"lora_A.weight": (8, 768), "lora_B.weight": (1280, 8), "lora_magnitude_vector.weight": (1280,)},
            "dora",
            8,
        ),
        ({"lora_down.weight": (8, 640, 3, 3), "lora_up.weight": (640, 8, 1, 1)}, "locon", 8),
        ({"lora_down.weight": (8, 640, 1, 1), "lora_up.weight": (640, 8, 1, 1)}, "lora", 8),
        (
            {"hada_w1_a": (1280, 4), "hada_w1_b": (4, 768), "hada_w2_a": (1280, 4), "hada_w2_b": (4, 768)},
            "loha",
            4,
        ),
        ({"lokr_w1": (8, 8), "lokr_w2_a": (160, 4), "lokr_w2_b": (4, 96)}, "lokr", 4),
        ({"lokr_w1": (8, 8), "lokr_w2": (160, 96)}, "lokr", None),
        ({"diff": (1280, 768), "diff_b": (1280,)}, "full", None),
        ({"oft_blocks": (4, 320, 320)}, "oft", None),
        ({"oft_blocks": (4, 80, 4, 4), "rescale": (1280, 1)}, "boft", None),
        ({"weight": (768,), "on_input": ()}, "ia3", None),
        ({"a1.weight": (768, 4), "a2.weight": (4, 768), "b1.weight": (768, 4), "b2.weight": (4, 1280)}, "glora", 4),
        ({"w_norm": (1280,), "b_norm": (1280,)}, "norm", None),
    ],
)
def test_algorithm_by_leaf(leaves: Shapes, algorithm: str, rank: int | None) -> None:
    """The ends of the names say the algorithm, their shapes the rank."""
    adapter = adapter_of(known({f"{MODULE}.{leaf}": shape for leaf, shape in leaves.items()}))
    assert adapter.algorithms == {algorithm: 1}
    assert adapter.rank == rank
    assert adapter.ranks == ({rank: 1} if rank else {})


@pytest.mark.parametrize(
    ("leaves", "architecture"),
    [
        ({"hada_w1_a": (1280, 4), "hada_w1_b": (4, 2048), "hada_w2_a": (1280, 4), "hada_w2_b": (4, 2048)}, "sdxl"),
        ({"lokr_w1": (16, 16), "lokr_w2_a": (80, 4), "lokr_w2_b": (4, 48)}, "sd-1"),
        ({"lokr_w1_a": (16, 2), "lokr_w1_b": (2, 16), "lokr_w2": (80, 64)}, "sd-2"),
        ({"diff": (1280, 768)}, "sd-1"),
    ],
)
def test_widths_of_every_algorithm(leaves: Shapes, architecture: str) -> None:
    """The width of the text that cross-attention takes is found in the factors of every algorithm."""
    assert known({f"{MODULE}.{leaf}": shape for leaf, shape in leaves.items()}).architecture == architecture


def test_factors_as_nunchaku_packs_them() -> None:
    """nunchaku keeps the first factor as [inputs, rank], but for modulations; they are of an algorithm of their own."""
    identity = known(
        {
            "single_transformer_blocks.0.mlp_fc1.lora_down": (3072, 16),
            "single_transformer_blocks.0.mlp_fc1.lora_up": (12288, 16),
            "single_transformer_blocks.0.norm.linear.lora_down": (16, 3072),
            "single_transformer_blocks.0.norm.linear.lora_up": (9216, 16),
        }
    )
    assert identity.architecture == "flux"
    assert identity.adapter is not None
    assert (identity.adapter.algorithms, identity.adapter.ranks) == ({"svdquant": 2}, {16: 2})


def test_mixed_algorithms() -> None:
    """A file that mixes LoKr with LoRA of convolutions is described by the counts of each."""
    shapes: Shapes = {}
    for index in range(3):
        name = f"lora_unet_down_blocks_{index}_attentions_0_transformer_blocks_0_attn2_to_k"
        shapes |= {f"{name}.lokr_w1": (8, 8), f"{name}.lokr_w2_a": (160, 4), f"{name}.lokr_w2_b": (4, 96)}
    for index in range(2):
        name = f"lora_unet_down_blocks_{index}_resnets_0_conv1"
        shapes |= {f"{name}.lora_down.weight": (2, 320, 3, 3), f"{name}.lora_up.weight": (320, 2, 1, 1)}
    identity = known(shapes)
    adapter = adapter_of(identity)
    assert adapter.algorithms == {"lokr": 3, "locon": 2}
    assert (adapter.modules, adapter.rank, adapter.ranks) == (5, 4, {4: 3, 2: 2})
    assert identity.architecture == "sd-1"


@pytest.mark.parametrize(
    ("names", "dialect"),
    [
        (["unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.{}.weight"], "diffusers"),
        (["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora.{}.weight"], "diffusers"),
        (["lycoris_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_{}.weight"], "lycoris"),
        (["base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_{}.weight"], "peft"),
        (["lora_transformer_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_{}.weight"], "onetrainer"),
        (["diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.lora_{}.weight"], "generic"),
    ],
)
def test_dialect(names: list[str], dialect: str) -> None:
    """Whoever wrote it, the module behind the name is found; the dialect says who did."""
    down, up = ("A", "B") if dialect == "peft" else ("down", "up")
    shapes = {name.format(down): (8, 2048) for name in names} | {name.format(up): (1280, 8) for name in names}
    identity = known(shapes)
    assert adapter_of(identity).dialect == dialect
    assert identity.architecture == "sdxl"


def test_xlabs() -> None:
    """XLabs' FLUX LoRAs join number and leaf to the processor's layer."""
    shapes = {
        "double_blocks.0.processor.qkv_lora1.down.weight": (16, 3072),
        "double_blocks.0.processor.qkv_lora1.up.weight": (9216, 16),
    }
    identity = known(shapes)
    assert identity.architecture == "flux"
    assert adapter_of(identity).targets == ("transformer",)


class TestAlpha:
    """Alphas are single numbers, read from the file."""

    MODULES = tuple(f"lora_unet_down_blocks_{index}_attentions_0_transformer_blocks_0_attn2_to_k" for index in range(3))

    def contents(self, dtype: DType) -> dict[str, tuple[DType, Shape]]:
        contents = layout(changed(*((name, 320, 768) for name in self.MODULES)))
        return contents | {f"{name}.alpha": (dtype, ()) for name in self.MODULES}

    @pytest.mark.parametrize(
        ("dtype", "encoded"),
        [
            (DType.F16, half(4)),
            (DType.F32, struct.pack("<f", 4)),
            (DType.F64, struct.pack("<d", 4)),
            (DType.BF16, struct.pack("<f", 4)[2:]),
            (DType.I64, struct.pack("<q", 4)),
        ],
    )
    def test_is_read(self, dtype: DType, encoded: bytes) -> None:
        """An alpha is read in whatever type it is kept, and no other byte is."""
        tensors = state_dict(self.contents(dtype))
        read, reads = holding(tensors, {f"{name}.alpha": encoded for name in self.MODULES})
        adapter = adapter_of(identify_state_dict(tensors, Probe(read)))
        assert (adapter.alpha, adapter.alphas) == (4.0, {4.0: 3})
        assert sorted(reads) == sorted((tensors[f"{name}.alpha"].start, len(encoded)) for name in self.MODULES)

    def test_big_endian(self) -> None:
        """A file written on a big-endian machine is read in its order."""
        tensors = state_dict(self.contents(DType.F32), byteorder="big")
        read, _ = holding(tensors, {f"{name}.alpha": struct.pack(">f", 16) for name in self.MODULES})
        assert adapter_of(identify_state_dict(tensors, Probe(read))).alpha == 16.0

    def test_distribution(self) -> None:
        """Different alphas are counted; the commonest one is the adapter's."""
        tensors = state_dict(self.contents(DType.F16))
        values = dict(zip((f"{name}.alpha" for name in self.MODULES), (half(1), half(8), half(8)), strict=True))
        read, _ = holding(tensors, values)
        adapter = adapter_of(identify_state_dict(tensors, Probe(read)))
        assert (adapter.alpha, adapter.alphas) == (8.0, {8.0: 2, 1.0: 1})

    def test_absent(self) -> None:
        """Modules without an alpha are not counted."""
        adapter = adapter_of(known(changed((self.MODULES[0], 320, 768))))
        assert (adapter.alpha, adapter.alphas) == (None, {})

    def test_without_bytes(self) -> None:
        """Where no byte can be read, or reading fails, alphas stay unknown and the rest is told."""

        def failing(offset: int, length: int) -> bytes:
            raise SourceError("model: reading failed")

        tensors = state_dict(self.contents(DType.F16))
        for read in (None, failing, lambda offset, length: b""):
            identity = identify_state_dict(tensors, Probe(read))
            assert adapter_of(identity).alpha is None
            assert identity.architecture == "sd-1"

    def test_compressed(self) -> None:
        """Compressed storages are never read as they lie."""
        tensors = state_dict(self.contents(DType.F16), packing=Packing("deflate", 9))
        read, reads = holding(tensors, {})
        assert adapter_of(identify_state_dict(tensors, Probe(read))).alpha is None
        assert reads == []

    def test_no_number(self) -> None:
        """An alpha that is not a number is none."""
        tensors = state_dict(self.contents(DType.F16))
        read, _ = holding(tensors, {f"{name}.alpha": half(float("nan")) for name in self.MODULES})
        assert adapter_of(identify_state_dict(tensors, Probe(read))).alpha is None

    @pytest.mark.parametrize(("value", "expected"), [(4, 4.0), (0.5, 0.5), (10**400, None), ("4", None)])
    def test_plain_number(self, value: int | float | str, expected: float | None) -> None:
        """A pickle may keep alphas as plain numbers beside the tensors."""
        contents = layout(changed((self.MODULES[0], 320, 768)))
        tensors = state_dict(contents, scalars={f"{self.MODULES[0]}.alpha": value})
        assert adapter_of(identify_state_dict(tensors)).alpha == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("8", 8.0), ("abc", None), ("", None), ("nan", None), ("inf", None), ("1e400", None), ("-1e13", None)],
    )
    def test_claimed(self, text: str, expected: float | None) -> None:
        """What a file's own metadata call an alpha is one if it is a number; no word keeps a file from being known."""
        adapter = adapter_of(known(changed((self.MODULES[0], 320, 768)), metadata={PEFT_ALPHA: text}))
        assert (adapter.alpha, adapter.alphas) == (expected, {} if expected is None else {expected: 1})


class TestMetadata:
    """Metadata are claims: they decide among candidates and never against structure."""

    SLIDER = changed(("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", 640, 640))

    @pytest.mark.parametrize(
        ("key", "value", "architecture"),
        [
            ("ss_base_model_version", "sdxl_base_v1-0", "sdxl"),
            ("ss_base_model_version", "sd_v1", "sd-1"),
            ("ss_base_model_version", "sd_v2_v", "sd-2"),
            ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora", "sdxl"),
            ("modelspec.architecture", "stable-diffusion-v1/lora", "sd-1"),
            ("modelspec.architecture", "flux-1-dev/lora", None),
            ("modelspec.architecture", "something else", None),
        ],
    )
    def test_claim_among_candidates(self, key: str, value: str, architecture: str | None) -> None:
        """A claim decides when it is one of the candidates, with medium confidence; another one does not."""
        identity = known(self.SLIDER, metadata={key: value})
        assert identity.architecture == architecture
        if architecture:
            assert identity.candidates == ()
            assert reasons(identity, "architecture")[-1].confidence == "medium"
        else:
            assert identity.candidates == ("sd-1", "sd-2", "sdxl")

    @pytest.mark.parametrize(
        ("key", "value", "architecture"),
        [
            ("ss_v2", "True", "sd-2"),
            ("ss_v2", "False", "sd-1"),
            ("ss_v2", "perhaps", None),
            ("base_model", "somebody/stable-diffusion-v1-5", "sd-1"),
            ("ss_sd_model_name", "sd_xl_base_1.0.safetensors", None),
        ],
    )
    def test_loose_claim(self, key: str, value: str, architecture: str | None) -> None:
        """Names of files and repositories, and what says version 2 or not, decide among candidates alone."""
        module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
        identity = known(changed((module, 320, 320)), metadata={key: value})
        assert identity.architecture == architecture
        assert bool(identity.candidates) == (architecture is None)

    @pytest.mark.parametrize(
        ("claim", "architecture"),
        [
            ("anima-base", "anima"),
            ("animagine-xl-4.0", "sdxl"),
            ("hv_framepack", "hunyuan-video"),
            ("flux2_klein_4b", "flux-2"),
            ("FLUX.1-Krea-dev", "flux"),
            ("ltx-2.3", "ltx-2"),
        ],
    )
    def test_the_longest_known_name_decides(self, claim: str, architecture: str) -> None:
        """Where one model's name begins as another's does, the longer of the names that fit is meant."""
        assert claimed_architecture(claim) == architecture

    def test_claim_against_structure(self) -> None:
        """Structure wins over a claim that contradicts it; the claim is noted with low confidence."""
        identity = known(lora("sd-1"), metadata={"ss_base_model_version": "sdxl_base_v1-0"})
        assert identity.architecture == "sd-1"
        claim = reasons(identity, "architecture")[-1]
        assert (claim.value, claim.by, claim.confidence) == ("sdxl", "metadata", "low")

    def test_v_parameterization(self) -> None:
        """sd-scripts notes when a LoRA was trained to predict v."""
        assert known(self.SLIDER, metadata={"ss_v_parameterization": "True"}).prediction_type == "v_prediction"
        assert known(self.SLIDER).prediction_type is None

    def test_v_parameterization_of_flow_models(self) -> None:
        """What it notes beside LoRAs of flow models is the default of Stable Diffusion and says nothing."""
        shapes = changed(("lora_unet_double_blocks_0_img_attn_qkv", 9216, 3072))
        assert known(shapes, metadata={"ss_v_parameterization": "False"}).prediction_type is None


def test_contradicting_modules() -> None:
    """Modules of two architectures in one file: the first stands, the contradiction is told."""
    shapes = changed(
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 640, 768),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_q", 1280, 1280),
    )
    identity = known(shapes)
    assert identity.architecture == "sd-1"
    assert any(each.confidence == "low" for each in reasons(identity, "architecture"))


def test_bundled_embedding() -> None:
    """An embedding that comes along with a LoRA is named as a component."""
    shapes = {
        **changed((MODULE, 1280, 2048)),
        "bundle_emb.style.clip_l": (4, 768),
        "bundle_emb.style.clip_g": (4, 1280),
    }
    identity = known(shapes)
    assert (identity.kind, identity.components) == ("lora", ("embedding",))


@pytest.mark.parametrize(
    "shapes",
    [
        {"x.alpha": (), "y.alpha": ()},
        {"encoder.diff": (4, 4), "encoder.a1.weight": (4, 4)},
        {f"layer.{index}.weight": (4, 4) for index in range(20)} | changed(("layer.0", 4, 4)),
    ],
)
def test_names_that_only_resemble(shapes: Shapes) -> None:
    """Ends of names that other models have too, or few among many, make no LoRA."""
    assert known(shapes).kind is None


def test_files_of_the_same_names() -> None:
    """What is remembered of a file's names never stands in for another's alphas, ranks or metadata."""
    names = {f"{MODULE}.lora_down.weight": (8, 768), f"{MODULE}.lora_up.weight": (1280, 8), f"{MODULE}.alpha": ()}
    for value in (4.0, 8.0):
        tensors = state_dict(layout(names))
        read, _ = holding(tensors, {f"{MODULE}.alpha": half(value)})
        assert adapter_of(identify_state_dict(tensors, Probe(read))).alphas == {value: 1}
    assert adapter_of(known(names)).alpha is None
    wider = {**names, f"{MODULE}.lora_down.weight": (16, 768), f"{MODULE}.lora_up.weight": (1280, 16)}
    assert adapter_of(known(wider)).rank == 16
    assert known(names, metadata={"ss_v_parameterization": "True"}).prediction_type == "v_prediction"
    assert known(names).prediction_type is None


def test_no_long_shape_is_remembered() -> None:
    """What a process remembers of modules is short, whatever a header says: a shape may have a million dimensions."""
    storage, hits = StorageRef("a", 0, 4), []
    for length in (1000, 1001):
        tensor = TensorInfo("a", DType.F32, (1,) * length, storage)
        assert Module("a", "a", None, {("lora", "down"): tensor}).rank == 1
        hits.append(module_room._form.cache_info().hits)
    assert hits[1] == hits[0] + 1


def test_no_long_list_is_remembered() -> None:
    """A library's lists of tensors are told again at once; a header of a hundred megabytes is not kept for that."""
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    shapes: Shapes = {f"{module}.lora_up.weight": (320, 4), f"{module}.lora_down.weight": (4, 320)}
    for more, length, is_kept in (("few", 10, True), ("many", 1 << 20, False)):
        before = adapters._known_outline.cache_info().misses
        assert adapter_of(known({**shapes, more: (1,) * length})).rank == 4
        assert (adapters._known_outline.cache_info().misses > before) is is_kept


@pytest.mark.parametrize(("name", "is_kept"), [("unet.down.0.attn.to_q.weight", True), ("a." * 100 + "weight", False)])
def test_parts_of_names_of_nothing_but_dots_are_not_remembered(name: str, is_kept: bool) -> None:
    """A hostile library has no room in memory: each such name would take as much as hundreds of a model's."""
    names_room._known_dotted.clear()
    tensors = {name: TensorInfo(name, DType.F16, (2,), StorageRef(name, 0, 4))}
    assert name[: name.rfind(".") + 1] in Names(StateDict(tensors)).prefixes
    assert bool(names_room._known_dotted) is is_kept
