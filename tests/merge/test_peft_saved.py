"""What PEFT saves beside its factors: modules and biases that were trained whole; and what of PEFT's is not merged."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modelhub.container import open_path
from modelhub.errors import MergeError, UnmatchedKeys
from modelhub.lowrank import RankRule, resize
from modelhub.merge import merge
from modelhub.merge.modules import adapter_modules
from tests.merge.build import assert_same, load

ROOT = "model.diffusion_model."


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.norm = nn.Linear(24, 16), nn.Linear(24, 16), nn.LayerNorm(16)
        self.conv1 = nn.Conv2d(8, 16, 3)


class Small(nn.Module):
    """A model with the names of a UNet's layers; its weights are random."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.conv_in = nn.ModuleList([Block(), Block()]), nn.Conv2d(4, 8, 3)
        torch.manual_seed(0)
        for each in self.parameters():
            each.data = torch.randn_like(each)


@pytest.fixture
def peft() -> ModuleType:
    return pytest.importorskip("peft", reason="PEFT is of the dev extra")


def saved(
    peft: ModuleType, folder: Path, kind: str, options: dict[str, object]
) -> tuple[Path, dict[str, torch.Tensor]]:
    """An adapter of :class:`Small` as PEFT saves it, and the model as PEFT merges it."""
    adapted = peft.get_peft_model(Small(), getattr(peft, kind)(**options))
    for each in adapted.parameters():
        if each.requires_grad:
            each.data += torch.randn_like(each) * 0.1
    adapted.save_pretrained(folder)
    return folder, adapted.merge_and_unload().state_dict()


BOTH, LORA = {"target_modules": ["to_q", "conv1"]}, {"r": 4, "lora_alpha": 6}
PATTERNS = {"rank_pattern": {"attn1.0.to_q": 2, "conv1": 3}, "alpha_pattern": {"^attn1.0.to_q": 5, "to_k": 1}}
CASES: list[tuple[str, dict[str, object], int]] = [
    ("LoraConfig", {**BOTH, **LORA, "modules_to_save": ["norm", "conv_in"]}, 10),
    ("LoraConfig", {**BOTH, **LORA, "bias": "all"}, 13),
    ("LoraConfig", {**BOTH, **LORA, "bias": "lora_only"}, 8),
    ("LoraConfig", {**BOTH, **LORA, "lora_bias": True, "use_rslora": True}, 8),
    ("LoraConfig", {**BOTH, **LORA, "exclude_modules": ["attn1.1.to_q"]}, 3),
    ("LoraConfig", {**LORA, **PATTERNS, "target_modules": ["to_q", "to_k", "conv1"], "use_rslora": True}, 6),
    ("LoHaConfig", {**BOTH, "r": 4, "alpha": 6, "modules_to_save": ["conv_in"]}, 6),
    ("IA3Config", {**BOTH, "feedforward_modules": ["conv1"], "modules_to_save": ["norm"]}, 10),
]


@pytest.mark.parametrize(("kind", "options", "changed"), CASES)
def test_all_of_it_is_merged(
    peft: ModuleType, tmp_path: Path, kind: str, options: dict[str, object], changed: int
) -> None:
    """What PEFT saved merges to what PEFT merges, the tensors that were trained whole with it."""
    adapter, exact = saved(peft, tmp_path / "adapter", kind, options)
    before = {f"{ROOT}{name}": tensor for name, tensor in Small().state_dict().items()}
    save_file(before, tmp_path / "base.safetensors")
    merge(tmp_path / "base.safetensors", [str(adapter)], target=tmp_path / "out.safetensors")
    found = load(tmp_path / "out.safetensors")
    moved = {f"{ROOT}{name}" for name in exact if not torch.equal(exact[name], before[f"{ROOT}{name}"])}
    assert len(moved) == changed
    for name in moved:
        torch.testing.assert_close(found[name], exact[name.removeprefix(ROOT)], rtol=1e-6, atol=1e-6)
    assert_same(found, before, moved)


def test_what_was_saved_whole_is_not_lost_in_resizing(peft: ModuleType, tmp_path: Path) -> None:
    """A resized file has no configuration that says which tensors replace the model's: it is not written."""
    adapter, _ = saved(peft, tmp_path / "adapter", "LoraConfig", {**BOTH, **LORA, "modules_to_save": ["norm"]})
    with pytest.raises(MergeError, match="saved beside the LoRA is the model's own tensor"):
        resize(adapter, RankRule(2), target=tmp_path / "no.safetensors")


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("VeraConfig", {"target_modules": ["to_q", "to_k"], "r": 4}, "PEFT's algorithm VERA is not merged"),
        ("LNTuningConfig", {"target_modules": ["norm"]}, "PEFT's algorithm LN_TUNING is not merged"),
        ("MissConfig", {"target_modules": ["to_q"], "r": 4}, "MiSS, an algorithm of PEFT's, is not merged"),
        ("AdaLoraConfig", {"target_modules": ["to_q"], "total_step": 9}, "AdaLoRA, which scales each rank by itself"),
    ],
)
def test_other_algorithms_are_refused_by_name(
    peft: ModuleType, tmp_path: Path, kind: str, options: dict[str, object], reason: str
) -> None:
    """An algorithm that is not merged is told in one sentence, by its name or by what it does."""
    adapted = peft.get_peft_model(Small(), getattr(peft, kind)(**options))
    adapted.save_pretrained(tmp_path / "adapter")
    save_file({f"{ROOT}{name}": each for name, each in Small().state_dict().items()}, tmp_path / "base.safetensors")
    with pytest.raises(UnmatchedKeys, match=reason):
        merge(tmp_path / "base.safetensors", [str(tmp_path / "adapter")], target=tmp_path / "no.safetensors")


def test_a_name_of_very_many_parts_takes_no_time(tmp_path: Path) -> None:
    """Ends of names are looked for once in each name, however many parts a hostile one has."""
    name = f"base_model.model.{'a.' * 1_000_000}norm.proj.weight"
    save_file({name: torch.zeros(2)}, tmp_path / "adapter.safetensors")
    for ends, kept in (["norm"], 1), (["orm.proj"], 1), (["a.proj", "proj.w", "nor"], 0):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"modules_to_save": ends}))
        with open_path(tmp_path / "adapter.safetensors") as container:
            assert len(adapter_modules(container).modules) == kept
