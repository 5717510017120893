"""Merges against the peers that made the formats, where they are right; and where they are wrong, against the formula.

LyCORIS and PEFT are of the ``dev`` extra; both compute in float64 here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modelhub.merge import merge
from modelhub.tensors import DType
from tests.merge import reference
from tests.merge.build import Weights, assert_merged, base_weights, load

LINEAR = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_2"
CONV = "lora_unet_down_blocks_1_resnets_0_conv1"
WIDE = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_0_proj"
TENSORS = {
    WIDE: "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.ff.net.0.proj.weight",
    LINEAR: "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.ff.net.2.weight",
    CONV: "model.diffusion_model.input_blocks.4.0.in_layers.2.weight",
}
RANK, ALPHA = 4, 3.0


@pytest.fixture
def lycoris() -> ModuleType:
    return pytest.importorskip("lycoris.modules", reason="LyCORIS is of the dev extra")


@pytest.fixture
def peft() -> ModuleType:
    return pytest.importorskip("peft", reason="PEFT is of the dev extra")


def layer(weights: Weights, name: str) -> nn.Module:
    """The base's layer, in float64."""
    weight = weights[TENSORS[name]].double()
    if weight.dim() == 2:
        made: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        made = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=1, bias=False)
    made.double().weight.data.copy_(weight)  # type: ignore[union-attr, operator]
    return made


def drawn(module: nn.Module) -> nn.Module:
    """*module* with small random numbers for what it would have learned, as float32 has them."""
    generator = torch.Generator().manual_seed(5)
    for name, each in module.named_parameters():
        if "org_" not in name and "dora_scale" not in name:
            values = torch.randn(each.shape, generator=generator) * 0.2
            each.data.copy_(values)
    return module


def merged(folder: Path, weights: Weights, tensors: Weights, name: str, s: float) -> torch.Tensor:
    """The layer's weight after merging the adapter of *tensors* into the base of *weights*."""
    base, adapter, target = (folder / f"{stem}.safetensors" for stem in ("base", "adapter", f"out{s}"))
    save_file(weights, base)
    save_file({key: tensor.float().contiguous() for key, tensor in tensors.items()}, adapter)
    merge(base, [f"{adapter}:{s}"], target=target)
    return load(target)[TENSORS[name]]


CASES: dict[str, tuple[str, str, dict[str, object]]] = {
    "LoRA": ("LoConModule", LINEAR, {}),
    "LoRA, convolution": ("LoConModule", CONV, {}),
    "LoCon, CP": ("LoConModule", CONV, {"use_tucker": True}),
    "LoKr, full": ("LokrModule", LINEAR, {"factor": 4, "full_matrix": True}),
    "LoKr, full, convolution": ("LokrModule", CONV, {"factor": 4, "full_matrix": True}),
    "OFT": ("DiagOFTModule", WIDE, {"constraint": 0}),
    "OFT, constrained": ("DiagOFTModule", WIDE, {"constraint": 1}),
    "OFT, rescaled": ("DiagOFTModule", WIDE, {"rescaled": True}),
    "BOFT": ("ButterflyOFTModule", WIDE, {"lora_dim": 26}),
}
TURNS = ("DiagOFTModule", "ButterflyOFTModule")
"""What LyCORIS computes in float32 only."""

SQUARED: dict[str, tuple[str, str, dict[str, object]]] = {
    "LoHa": ("LohaModule", LINEAR, {}),
    "LoHa, convolution": ("LohaModule", CONV, {}),
    "LoHa, CP": ("LohaModule", CONV, {"use_tucker": True}),
    "LoKr": ("LokrModule", WIDE, {"factor": 4, "decompose_both": True}),
}


def module_of(lycoris: ModuleType, kind: str, name: str, weights: Weights, **options: object) -> nn.Module:
    make: Callable[..., nn.Module] = getattr(lycoris, kind)
    made = make(name, layer(weights, name), 1.0, **{"lora_dim": RANK, "alpha": ALPHA, **options})
    return drawn(made.float() if kind in TURNS else made.double())


def tensors_of(module: nn.Module, name: str) -> Weights:
    """The module as LyCORIS writes it into a file."""
    own = module.custom_state_dict()  # type: ignore[operator]
    if own is None:
        own = {key: value for key, value in module.state_dict().items() if "org_" not in key}
    return {f"{name}.{key}": value.detach() for key, value in own.items()}


@pytest.mark.parametrize("case", CASES)
def test_lycoris(lycoris: ModuleType, tmp_path: Path, case: str) -> None:
    """A file as LyCORIS writes it merges, at strength 1, to what LyCORIS makes of the weight."""
    weights = base_weights("sd-1", DType.F32)
    kind, name, options = CASES[case]
    module = module_of(lycoris, kind, name, weights, **options)
    before = weights[TENSORS[name]]
    exact = module.get_merged_weight(1.0, shape=before.shape)[0].detach()  # type: ignore[operator]
    found = merged(tmp_path, weights, tensors_of(module, name), name, 1.0)
    assert float((exact - before).norm()) > 1e-3
    if kind in TURNS:
        torch.testing.assert_close(found, exact.reshape(before.shape), rtol=1e-4, atol=1e-4)
    else:
        assert_merged(found, exact.numpy().reshape(before.shape), before)


@pytest.mark.parametrize("case", SQUARED)
def test_lycoris_scales_a_merged_product_twice(lycoris: ModuleType, tmp_path: Path, case: str) -> None:
    """LyCORIS merges LoHa and LoKr with alpha / rank squared, but runs them with it once: so does a merge."""
    weights = base_weights("sd-1", DType.F32)
    kind, name, options = SQUARED[case]
    module = module_of(lycoris, kind, name, weights, **options)
    before = weights[TENSORS[name]]
    once = module.get_weight(before.shape).detach().reshape(before.shape)  # type: ignore[operator]
    theirs = module.get_merged_weight(1.0, shape=before.shape)[0].detach().reshape(before.shape)  # type: ignore[operator]
    torch.testing.assert_close(theirs, before.double() + once * module.scale, rtol=1e-6, atol=1e-6)
    assert module.scale == ALPHA / RANK
    found = merged(tmp_path, weights, tensors_of(module, name), name, 1.0)
    assert_merged(found, before.double().numpy() + once.numpy(), before)


def path_of(model: nn.Module, path: str) -> Iterator[tuple[nn.Module, str]]:
    """The modules on the way to *path*, made where they lack."""
    for part in path.split(".")[:-1]:
        yield model, part
        if part not in model._modules:
            model.add_module(part, nn.Module())
        model = model._modules[part]  # type: ignore[assignment]
    yield model, path.rsplit(".", maxsplit=1)[-1]


PASSES = "boft_n_butterfly_factor"
HERE = "the layer's own name"
PEFTS: list[tuple[str, dict[str, object]]] = [
    ("LoraConfig", {"lora_alpha": ALPHA}),
    ("LoraConfig", {"lora_alpha": ALPHA, "use_rslora": True}),
    ("LoraConfig", {"lora_alpha": ALPHA, "use_dora": True}),
    ("LoHaConfig", {"alpha": ALPHA}),
    ("LoHaConfig", {"alpha": ALPHA, "use_effective_conv2d": True}),
    ("LoHaConfig", {"alpha_pattern": {"conv1": 3, "2": 5}, "rank_pattern": {"conv1": 2, "2": 3}}),
    ("LoKrConfig", {"alpha": ALPHA}),
    ("LoKrConfig", {"alpha": ALPHA, "decompose_both": True, "decompose_factor": 4}),
    ("LoKrConfig", {"alpha": ALPHA, "use_effective_conv2d": True}),
    ("LoKrConfig", {"alpha": ALPHA, "r": 999}),
    ("IA3Config", {"r": None, "feedforward_modules": []}),
    ("IA3Config", {"r": None, "feedforward_modules": [HERE]}),
    ("OFTConfig", {"r": 0, "oft_block_size": 4, "use_cayley_neumann": False}),
    ("OFTConfig", {"r": 0, "oft_block_size": 4, "num_cayley_neumann_terms": 3}),
    ("OFTConfig", {"r": 2, "oft_block_size": 0, "num_cayley_neumann_terms": 6, "coft": True, "eps": 0.3}),
    ("OFTConfig", {"r": 0, "oft_block_size": 4, "block_share": True}),
    ("BOFTConfig", {"r": None, "boft_block_size": 2}),
    ("HRAConfig", {}),
    ("HRAConfig", {"apply_GS": True}),
    ("BOFTConfig", {"r": None, "boft_block_num": 2, "boft_block_size": 0}),
    ("BOFTConfig", {"r": None, "boft_block_size": 2, PASSES: 2}),
]
OWN = ("lora_", "hada_", "lokr_", "ia3_", "oft_", "hra_")
"""What the names of parameters have that PEFT adds."""


def block_diagonal(blocks: torch.Tensor) -> list[torch.Tensor]:
    """What the kernel computes that PEFT compiles for BOFT where there is a GPU."""
    return [torch.stack([torch.block_diag(*each) for each in blocks])]


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [(name, *each) for name in (LINEAR, CONV) for each in PEFTS if name == LINEAR or PASSES not in each[1]],
)
def test_peft(
    peft: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    kind: str,
    options: dict[str, object],
) -> None:
    """A file as PEFT writes it, with its configuration beside it, merges to what PEFT merges."""
    kernel = SimpleNamespace(forward=block_diagonal)
    monkeypatch.setattr(peft.tuners.boft.layer, "get_fbd_cuda", lambda: kernel)
    weights = base_weights("sd-1", DType.F32)
    dotted = {
        LINEAR: "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2",
        CONV: "unet.down_blocks.1.resnets.0.conv1",
    }[name]
    root = nn.Module()
    *_, (parent, last) = path_of(root, dotted)
    parent.add_module(last, layer(weights, name))
    settings = {"r": RANK, "target_modules": [last], **options}
    settings = {key: [last] if value == [HERE] else value for key, value in settings.items() if value is not None}
    config = getattr(peft, kind)(**settings)
    adapted = peft.get_peft_model(root, config)
    generator = torch.Generator().manual_seed(5)
    for key, each in adapted.named_parameters():
        if any(word in key for word in OWN) and "magnitude" not in key:
            each.data.copy_(torch.randn(each.shape, generator=generator) * 0.2 + ("ia3_l" in key or "_s." in key))
        elif "magnitude" in key:
            each.data.copy_((each.detach() * 1.1).float())
    tensors = {key: value.detach().clone() for key, value in peft.get_peft_model_state_dict(adapted).items()}
    config.save_pretrained(tmp_path)
    *_, (parent, last) = path_of(adapted.merge_and_unload(), dotted)
    exact = parent._modules[last].weight.detach()  # type: ignore[union-attr, operator]
    before = weights[TENSORS[name]]
    found = merged(tmp_path, weights, tensors, name, 1.0)
    assert float((exact - before).norm()) > 1e-3
    assert_merged(found, exact.numpy(), before)


def test_lycoris_dora_at_strength_0_is_not_the_base(lycoris: ModuleType, tmp_path: Path) -> None:
    """LyCORIS scales only a DoRA's magnitude by the strength: at 0 it gives W + delta. Here 0 is the base, and 1 is
    what LyCORIS gives too."""
    weights = base_weights("sd-1", DType.F32)
    module = module_of(lycoris, "LoConModule", LINEAR, weights, weight_decompose=True, wd_on_out=True)
    before = weights[TENSORS[LINEAR]]
    theirs = module.get_merged_weight(0.0, shape=before.shape)[0].detach()  # type: ignore[operator]
    assert float((theirs - before).norm()) > 1e-3
    tensors = tensors_of(module, LINEAR)
    assert torch.equal(merged(tmp_path, weights, tensors, LINEAR, 0.0), before)
    at_one = module.get_merged_weight(1.0, shape=before.shape)[0].detach()  # type: ignore[operator]
    assert_merged(merged(tmp_path, weights, tensors, LINEAR, 1.0), at_one.numpy(), before)


def test_peft_dora_at_another_strength(peft: ModuleType, tmp_path: Path) -> None:
    """PEFT puts a DoRA's strength into its direction: at half strength it is not half way. Here it is, by the formula
    W + s (D - W)."""
    weights = base_weights("sd-1", DType.F32)
    before = weights[TENSORS[LINEAR]].double().numpy()
    generator = np.random.default_rng(1)
    up, down = generator.normal(size=(before.shape[0], RANK)), generator.normal(size=(RANK, before.shape[1]))
    up, down = (each.astype(np.float32).astype(np.float64) * 0.25 for each in (up, down))
    scale = (np.linalg.norm(before, axis=1) * 1.2).astype(np.float32).astype(np.float64)
    exact = reference.dora(before, before + up @ down, scale, 0, 0.5)
    stem = "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"
    tensors = {f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down, f"{stem}.lora_magnitude_vector": scale}
    made = {key: torch.from_numpy(value) for key, value in tensors.items()}
    found = merged(tmp_path, weights, made, LINEAR, 0.5)
    half = before + 0.5 * up @ down
    theirs = half * (scale / np.linalg.norm(half, axis=1))[:, None]
    assert np.abs(theirs - exact).max() > 1e-3
    assert_merged(found, exact, weights[TENSORS[LINEAR]])
