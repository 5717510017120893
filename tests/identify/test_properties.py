"""What holds for every file, however odd."""

from __future__ import annotations

import subprocess
import sys
import time

from hypothesis import given
from hypothesis import strategies as st

from modelhub.errors import SourceError
from modelhub.identify import Identity, identify_state_dict
from modelhub.identify.adapter_names import _tables
from modelhub.identify.layers import layers
from modelhub.identify.probe import LARGEST_READ, Probe
from modelhub.identify.registry import FAMILIES, family
from modelhub.samples.layouts import checkpoint
from modelhub.tensors import DType, StateDict, StorageRef, TensorInfo
from tests.identify.build import state_dict

ENTRIES = sorted(
    {
        entry.strip("/*")
        for name in FAMILIES
        for each in (*family(name).signatures, *family(name).variants)
        for alternatives in (*each.has, *(rule.names for rule in each.shape))
        for entry in alternatives
    }
)
BEGINNINGS = ["", "model.diffusion_model.", "module.", *(prefix.begins for prefix in _tables().prefixes)]
HEADS = sorted(layers()._rows)[::50]

adapter_names = st.builds(
    lambda begin, head, number, tail, leaf: f"{begin}{head}_{number}{tail}.{leaf}",
    st.sampled_from(BEGINNINGS),
    st.sampled_from(HEADS),
    st.integers(0, 40),
    st.sampled_from(["", "_attn2_to_k", "_attn1_to_q", "_proj_in", "_1_transformer_blocks_5_attn1_to_q", "_mlp_0"]),
    st.sampled_from(sorted(_tables().leaves)),
)
model_names = st.builds(lambda begin, entry: begin + entry, st.sampled_from(BEGINNINGS), st.sampled_from(ENTRIES))
small_names = st.sampled_from(
    [
        "emb_params",
        "string_to_param.*",
        "clip_l",
        "clip_g",
        "<token>",
        "768.0.linear.0.weight",
        "v_pred",
        "1024.1.linear1.bias",
    ]
)
names = st.one_of(st.text(max_size=30), model_names, adapter_names, small_names)
sizes = st.one_of(
    st.sampled_from([0, 1, 3, 4, 8, 9, 16, 320, 640, 768, 1024, 1280, 2048, 2816, 4096]), st.integers(0, 1 << 62)
)
tensors = st.builds(
    lambda dtype, shape, start, offset, byteorder, compressed, conj, strided: TensorInfo(
        "",
        dtype,
        tuple(shape),
        StorageRef("0", start, 1 << 20, byteorder, compressed),
        offset,
        tuple(reversed(shape)) if strided else None,
        conj,
    ),
    st.sampled_from(DType),
    st.lists(sizes, max_size=5),
    st.integers(0, 1 << 63),
    st.integers(0, 1 << 40),
    st.sampled_from(["little", "big"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10))
claims = st.dictionaries(
    st.sampled_from(
        ["modelspec.architecture", "modelspec.prediction_type", "ss_base_model_version", "ss_v_parameterization"]
    ),
    st.one_of(
        st.text(max_size=20), st.sampled_from(["sdxl", "sd_v1", "v", "True", "stable-diffusion-xl-v1-base/lora"])
    ),
)


def check(identity: Identity) -> None:
    """An identity that contradicts itself would be worse than none."""
    assert identity.architecture is None or identity.candidates == ()
    assert len(identity.candidates) != 1
    assert len(set(identity.components)) == len(identity.components)
    assert (identity.kind == "lora") == (identity.adapter is not None)
    for fact in ("kind", "architecture", "variant", "prediction_type", "precision"):
        value = getattr(identity, fact)
        stated = [each.value for each in identity.evidence if each.fact == fact]
        assert value is None or any(value in each.split(" | ") for each in stated), (fact, value, stated)
    assert all(each.confidence in {"high", "medium", "low"} for each in identity.evidence)


@given(
    st.dictionaries(names, tensors, max_size=12),
    st.dictionaries(st.sampled_from(["global_step", "activation_func", "x.alpha"]), scalars),
    claims,
    st.sampled_from(["zeros", "ones", "nothing", "failing", "absent"]),
)
def test_no_state_dict_makes_it_raise(
    contents: dict[str, TensorInfo], plain: dict[str, object], metadata: dict[str, str], bytes_are: str
) -> None:
    """Arbitrary names, shapes, types, metadata and bytes give an identity that agrees with itself, never an error."""
    reads: list[int] = []

    def read(offset: int, length: int) -> bytes:
        reads.append(length)
        if bytes_are == "failing":
            raise SourceError("model: reading failed")
        return {"zeros": b"\0", "ones": b"\xff", "nothing": b""}[bytes_are] * length

    whole = StateDict(contents, plain, (), metadata)  # type: ignore[arg-type]
    check(identify_state_dict(whole, Probe(None if bytes_are == "absent" else read)))
    assert all(0 < length <= LARGEST_READ for length in reads)


def test_the_empty_state_dict() -> None:
    """A file without tensors has no identity."""
    assert identify_state_dict(StateDict({})) == Identity()


def test_absurd_names_cost_nothing() -> None:
    """Names of a million parts or wrappers are left out before they can cost memory or time."""
    contents = {
        "a." * 500_000: (DType.F16, (4, 4)),
        "module." * 100_000 + "x": (DType.F16, (4, 4)),
        **checkpoint("sd-1", width=1 / 16),
    }
    started = time.process_time()
    identity = identify_state_dict(state_dict(contents))
    assert time.process_time() - started < 2
    assert identity.architecture == "sd-1"
    assert all(len(each.detail) < 2000 for each in identity.evidence)


def test_many_tensors_cost_linear_time() -> None:
    """A hundred thousand names of no model take no longer than reading them does."""
    tensor = TensorInfo("x", DType.F16, (4, 4), StorageRef("0", 0, 32))
    contents = {f"layers.{index}.block.{index % 7}.weight": tensor for index in range(100_000)}
    started = time.process_time()
    identity = identify_state_dict(StateDict(contents))
    assert time.process_time() - started < 10
    assert identity.kind is None


def test_it_loads_nothing_heavy() -> None:
    """Identifying a file imports no numerical or database library, and little of the standard one."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from modelhub.tensors import *; from modelhub.identify import identify_state_dict\n"
        "name = 'lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight'\n"
        "t = TensorInfo(name, DType.F16, (4, 320), StorageRef('0', 0, 2560))\n"
        "assert identify_state_dict(StateDict({name: t})).kind == 'lora'\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "modelhub.identify.adapters" in loaded
    assert not loaded & {"numpy", "torch", "sqlalchemy", "rich", "safetensors", "pathlib", "tempfile", "logging"}
