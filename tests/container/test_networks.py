"""Whole networks: pickled ones, Lightning's checkpoints and TorchScript programs, walked without their classes."""

from __future__ import annotations

import io

import pytest
import torch
from safetensors.torch import load_file

from modelhub.convert import convert
from tests.container.build import opened, same_tensors, saved

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Part(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4, bias=False)
        self.norm = torch.nn.BatchNorm1d(4)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("fleeting", torch.arange(5.0), persistent=False)
        self.register_buffer("absent", None)
        self.size = 7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)) + torch.tensor([1.0, 2.0, 3.0, 4.0])


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList([Part(), Part()])
        self.tied = torch.nn.Linear(3, 4)
        self.tied.weight = self.parts[0].linear.weight
        self.names = torch.nn.ParameterDict(
            {"a": torch.nn.Parameter(torch.ones(2)), "b": torch.nn.Parameter(torch.zeros(3))}
        )
        self.extra = torch.full((2,), 9.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[1](self.tied(x)[:, :3])


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickled_network_is_its_state_dict(legacy, protocol):
    """Parameters, buffers and modules by the names of ``state_dict()``; what that leaves out is told."""
    network = Network()
    container = opened(data := saved(network, legacy=legacy, protocol=protocol))
    expected = network.state_dict()
    assert set(container.state_dict) == set(expected)
    assert same_tensors(data, container, {name: expected[name] for name in container.state_dict})
    told = {left.path: left.description for left in container.state_dict.leftovers}
    assert set(told) == {"extra", "parts.0.fleeting", "parts.1.fleeting"}
    assert not any(left.unread for left in container.state_dict.leftovers)
    assert ("parts.0.linear.weight", "tied.weight") in container.state_dict.shared_groups()


def test_lightning(tmp_path):
    """The networks in a trainer's checkpoint lie in its state dict; hyperparameters and callbacks are told."""
    state = Network().state_dict()
    value = {
        "state_dict": state,
        "epoch": 2,
        "hyper_parameters": {"net": Part()},
        "callbacks": {"a": {"best": torch.ones(1)}},
    }
    container = opened(data := saved(value))
    assert same_tensors(data, container, dict(state))
    assert {left.path for left in container.state_dict.leftovers} == {"hyper_parameters", "callbacks"}


@pytest.fixture
def script(tmp_path):
    """A TorchScript program, and the network that it was made of."""
    network = Network().eval()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    return network, buffer.getvalue()


def test_torchscript(script):
    """A program's tensors are its attributes, and the constants of its code by the names they have there."""
    network, data = script
    container = opened(data, "x.pt")
    assert container.kind == "torchscript"
    found = container.state_dict
    constants = {name for name in found if name.startswith("CONSTANTS.")}
    fleeting = {f"parts.{i}.fleeting": network.parts[i].fleeting for i in range(2)}
    expected = {**network.state_dict(), **fleeting, "extra": network.extra}
    for name in constants:
        expected[name] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert set(found) == set(expected)
    assert same_tensors(data, container, {name: expected[name] for name in found})


def test_torchscript_constants(tmp_path):
    """Tensors that code refers to are in the program beside its attributes."""

    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self_constant

    self_constant = torch.randn(5)
    traced = torch.jit.trace(Constant(), torch.zeros(5))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    data = buffer.getvalue()
    container = opened(data, "x.pt")
    assert list(container.state_dict) == ["CONSTANTS.c0"]
    assert same_tensors(data, container, {"CONSTANTS.c0": self_constant})


def test_torchscript_is_converted(script, tmp_path):
    """Its tensors can be salvaged; its code stays behind."""
    network, data = script
    (tmp_path / "m.pt").write_bytes(data)
    found = load_file(convert(tmp_path / "m.pt", salvage=True).target)
    for name, tensor in network.state_dict().items():
        assert torch.equal(found[name], tensor)
