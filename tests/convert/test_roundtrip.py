"""Whatever torch saves, in whatever of its formats: the output has the tensors that torch loads, bit by bit."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modelhub.container import open_path
from modelhub.convert import execute, plan_conversion
from modelhub.convert.content import content_digest

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
DTYPES += [torch.complex64, torch.int8]
ELEMENTS = 240

Nested = dict[str, "torch.Tensor | Nested"]

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="."), min_size=1, max_size=12).map(
    "k{}".format
)
"""Text in any script; the letter in front keeps it from being a name with a meaning, such as ``state_dict``."""


@st.composite
def tensors(draw, bases: dict[torch.dtype, torch.Tensor]) -> torch.Tensor:
    """A tensor of its own, or a view of one that others look at too: of any shape, strides and offset."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    if draw(st.booleans()):
        values = torch.arange(int(torch.tensor(shape).prod()) if shape else 1) % 97
        made = values.to(dtype).reshape(shape)
    else:
        strides = draw(st.lists(st.integers(0, 12), min_size=len(shape), max_size=len(shape)))
        made = torch.as_strided(bases[dtype], shape, strides, draw(st.integers(0, 60)))
    if dtype.is_complex and draw(st.booleans()):
        made = made.conj()
    return torch.nn.Parameter(made) if made.is_floating_point() and draw(st.booleans()) else made


@st.composite
def state_dicts(draw) -> Nested:
    bases = {dtype: (torch.arange(ELEMENTS) % 101).to(dtype) for dtype in DTYPES}
    inner = st.dictionaries(names, tensors(bases), min_size=1, max_size=4)
    return draw(st.dictionaries(names, tensors(bases) | inner, min_size=1, max_size=5))


def flat(value: Nested, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from flat(item, f"{path}{name}.")
        else:
            yield path + name, item.detach().resolve_conj()


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of the elements in C order."""
    plain = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(state_dicts(), st.booleans(), st.sampled_from([None, "state_dict", "model"]))
def test_whatever_torch_saves(value, zipped, wrapper):
    """Types, views, sharing, nesting and names in any script survive; source and output have one content digest."""
    stream = io.BytesIO()
    torch.save(value if wrapper is None else {wrapper: value}, stream, _use_new_zipfile_serialization=zipped)
    loaded = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    expected = dict(flat(loaded if wrapper is None else loaded[wrapper]))
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "m.pt"), os.path.join(folder, "m.safetensors")
        with open(source, "wb") as file:
            file.write(stream.getvalue())
        with open_path(source) as container:
            done = execute(plan_conversion(container), target, tensor_digests=True)
        found = load_file(target)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert raw(found[name]) == raw(tensor)
        assert done.digests[0].content == content_digest(source) == content_digest(target)
        assert not (done.sources[0].unverifiable if zipped else done.sources[0].matched)
