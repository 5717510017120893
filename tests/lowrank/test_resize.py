"""LoRAs of a smaller rank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import modelhub
from modelhub.errors import ChangedDuringRead, MergeError, WouldOverwrite
from modelhub.lowrank import RankRule, in_total, plan_resize
from modelhub.lowrank.base import Dynamic
from tests.merge.build import base_weights

MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
Weights = dict[str, torch.Tensor]


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(list(shape)).normal(size=shape).astype(np.float32))


def file_of(folder: Path, tensors: Weights, metadata: dict[str, str] | None = None) -> Path:
    save_file(tensors, folder / "lora.safetensors", metadata)
    return folder / "lora.safetensors"


def linear(alpha: float | None = 3.0) -> Weights:
    tensors = {f"{MODULE}.lora_up.weight": drawn(64, 8), f"{MODULE}.lora_down.weight": drawn(8, 48)}
    return tensors if alpha is None else tensors | {f"{MODULE}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize("alpha", [3.0, None])
def test_a_smaller_rank_is_the_best_there_is(tmp_path: Path, alpha: float | None) -> None:
    """The resized product, with its scale, is the best approximation of the old one, and its energy is told."""
    tensors = linear(alpha)
    source = file_of(tmp_path, tensors, {"ss_network_dim": "8", "ss_tag": "kept"})
    done = modelhub.resize(source, RankRule(5), target=tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert found[f"{MODULE}.lora_down.weight"].shape == (5, 48)
    scale = 1.0 if alpha is None else alpha / 8
    product = scale * (tensors[f"{MODULE}.lora_up.weight"] @ tensors[f"{MODULE}.lora_down.weight"]).double()
    remade = (found[f"{MODULE}.lora_up.weight"] @ found[f"{MODULE}.lora_down.weight"]).double()
    assert float(found[f"{MODULE}.alpha"]) == 5
    values = torch.linalg.svdvals(product)
    assert float((remade - product).norm()) == pytest.approx(float(values[5:].norm()), rel=1e-5)
    (kept,) = done.kept.values()
    assert kept.before == 8 and kept.rank == 5
    assert kept.energy == pytest.approx(float(values[:5].square().sum() / values.square().sum()), rel=1e-9)
    assert in_total(done.kept) == kept.energy
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_tag"] == "kept" and metadata["ss_network_dim"] == "5"
    assert json.loads(metadata["modelhub.resize"])["sha256"] == done.sha256


def test_the_same_rank_is_the_same_lora(tmp_path: Path) -> None:
    """At its own rank, or a larger one, a LoRA adds what it added, convolutions and CP forms too."""
    tensors = linear()
    tensors |= {f"{CONV}.lora_up.weight": drawn(32, 6, 1, 1), f"{CONV}.lora_down.weight": drawn(6, 16, 1, 1)}
    tensors |= {f"{CONV}.lora_mid.weight": drawn(6, 6, 3, 3), f"{CONV}.alpha": torch.tensor(2.0)}
    done = modelhub.resize(file_of(tmp_path, tensors), RankRule(64, conv_rank=6), target=tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    exact = torch.einsum(
        "mnkl,om,ni->oikl",
        tensors[f"{CONV}.lora_mid.weight"].double(),
        tensors[f"{CONV}.lora_up.weight"].double()[:, :, 0, 0],
        tensors[f"{CONV}.lora_down.weight"].double()[:, :, 0, 0],
    )
    remade = torch.einsum(
        "or,rikl->oikl",
        found[f"{CONV}.lora_up.weight"].double()[:, :, 0, 0],
        found[f"{CONV}.lora_down.weight"].double(),
    )
    torch.testing.assert_close(remade, exact * 2 / 6, rtol=1e-4, atol=1e-4)
    assert f"{CONV}.lora_mid.weight" not in found
    assert any("CP form" in note for note in done.plan.notes)
    assert done.kept[MODULE].rank == 8 and done.kept[MODULE].energy == pytest.approx(1.0)


def test_a_rank_that_no_module_has(tmp_path: Path) -> None:
    """Where nothing is cut that is told, and the file's metadata says the ranks that it has."""
    source = file_of(tmp_path, linear())
    done = modelhub.resize(source, RankRule(64), target=tmp_path / "out.safetensors")
    assert any("nothing is cut" in note for note in done.plan.notes)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == file.metadata()["ss_network_alpha"] == "8"
    with plan_resize(source, RankRule(4)) as plan:
        assert not plan.notes


def test_other_algorithms_are_kept_and_told(tmp_path: Path) -> None:
    """What is no product of two factors is copied byte for byte and counted; a file of nothing else is refused."""
    loha = {f"{CONV}.{role}": drawn(8, 4) if role.endswith("a") else drawn(4, 8) for role in ("hada_w1_a", "hada_w2_a")}
    loha |= {f"{CONV}.{role}": drawn(4, 8) for role in ("hada_w1_b", "hada_w2_b")}
    tensors = linear() | loha | {f"{MODULE}.dora_scale": drawn(64, 1)}
    done = modelhub.resize(file_of(tmp_path, tensors), RankRule(2), target=tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    for name in (*loha, f"{MODULE}.dora_scale"):
        assert torch.equal(found[name], tensors[name])
    assert done.plan.algorithms == {"loha": 1}
    assert any("DoRA" in note for note in done.plan.notes)
    save_file(loha, tmp_path / "loha.safetensors")
    with pytest.raises(MergeError, match="no module of LoRA or LoCon to resize: it has loha"):
        modelhub.resize(tmp_path / "loha.safetensors", target=tmp_path / "no.safetensors")


def test_peft_scales_go_into_the_factors(tmp_path: Path) -> None:
    """PEFT's alpha stands beside its tensors: the resized file needs none, and is refused where one would apply."""
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": drawn(8, 48), f"{name}.lora_B.weight": drawn(64, 8)}
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 24, "r": 8}))
    source = file_of(folder, tensors)
    modelhub.resize(source, RankRule(8), target=tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == tensors.keys()
    product = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"] * 3
    torch.testing.assert_close(found[f"{name}.lora_B.weight"] @ found[f"{name}.lora_A.weight"], product)
    with pytest.raises(MergeError, match="scale it once more"):
        modelhub.resize(source, RankRule(8), target=folder / "out.safetensors")
    with pytest.raises(WouldOverwrite):
        modelhub.resize(source, RankRule(8), target=source, force=True)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"])
def test_a_folder_that_an_adapter_was_saved_in(tmp_path: Path, name: str) -> None:
    """The folder stands for the file in it, to resize it and to merge it; the magnitudes of a DoRA are told of."""
    base, folder = tmp_path / "base.safetensors", tmp_path / "peft"
    save_file(base_weights("sd-1"), base)
    folder.mkdir()
    tensor = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    out, inputs = load_file(base)[tensor].shape
    stem = "base_model.model.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{stem}.lora_A.weight": drawn(4, inputs), f"{stem}.lora_B.weight": drawn(out, 4)}
    save_file(tensors | {f"{stem}.lora_magnitude_vector": drawn(out).abs()}, folder / name)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "r": 4}))
    done = modelhub.resize(folder, RankRule(4), target=tmp_path / "out.safetensors")
    assert any("magnitudes (DoRA): 1" in note for note in done.plan.notes)
    made = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for adapter, target in zip((folder, folder / name, tmp_path / "out.safetensors"), made, strict=True):
        modelhub.merge(base, [str(adapter)], target=target)
    first, second, third = (load_file(path)[tensor] for path in made)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, third, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("peft", [True, False])
def test_a_bias_keeps_its_scale(tmp_path: Path, peft: bool) -> None:
    """What the LoRA adds to a bias is scaled as its product is, and stays as strong as that."""
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q" if peft else MODULE
    down, up = ("lora_A", "lora_B") if peft else ("lora_down", "lora_up")
    tensors = {f"{name}.{down}.weight": drawn(8, 48), f"{name}.{up}.weight": drawn(64, 8)}
    tensors |= {f"{name}.{up}.bias": drawn(64).half(), f"{name}.diff_b": drawn(64)}
    tensors |= {} if peft else {f"{name}.alpha": torch.tensor(24.0)}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 24, "unet.r": 8})} if peft else None
    told: list[int] = []
    source, target = file_of(tmp_path, tensors, metadata), tmp_path / "out.safetensors"
    modelhub.resize(source, RankRule(8), target=target, progress=told.append)
    found = load_file(target)
    bias = found[f"{name}.{up}.bias"]
    assert bias.dtype is torch.float16
    torch.testing.assert_close(bias.float(), 3 * tensors[f"{name}.{up}.bias"].float(), rtol=1e-3, atol=0)
    assert torch.equal(found[f"{name}.diff_b"], tensors[f"{name}.diff_b"])
    assert sum(told) == 4 * (8 * 48 + 64 * 8)


def test_modules_whose_scale_is_not_known(tmp_path: Path) -> None:
    """A module with an alpha that is no number stays as it is, and is told; of PEFT's, whose scales do not stay beside
    them, it is an error."""
    tensors = linear() | {f"{CONV}.lora_up.weight": drawn(32, 6), f"{CONV}.lora_down.weight": drawn(6, 16)}
    tensors |= {f"{CONV}.alpha": torch.tensor(float("nan"))}
    done = modelhub.resize(file_of(tmp_path, tensors), RankRule(2), target=tmp_path / "out.safetensors")
    assert torch.equal(load_file(tmp_path / "out.safetensors")[f"{CONV}.lora_up.weight"], drawn(32, 6))
    assert list(done.kept) == [MODULE] and any(CONV in note and "alpha" in note for note in done.plan.notes)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_"
    tensors = {f"{name}{end}.lora_A.weight": drawn(8, 48) for end in "qk"}
    tensors |= {f"{name}{end}.lora_B.weight": drawn(64, 8) for end in "qk"}
    config = {"unet.lora_alpha": 24, "unet.alpha_pattern": {"to_q": 3, "to_[kv]": 3}}
    source = file_of(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(config)})
    with pytest.raises(MergeError, match=r"to_k: the pattern .* is not understood, and its scale would be lost"):
        modelhub.resize(source, RankRule(2), target=tmp_path / "no.safetensors")


def test_planning_needs_no_torch(tmp_path: Path) -> None:
    """A plan tells modules and what stays, and reads no factor."""
    with plan_resize(file_of(tmp_path, linear()), RankRule(4)) as plan:
        assert [module.name for module in plan.modules] == [MODULE]
        assert not plan.copied and plan.rule.rank == 4


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    """Where the LoRA is written to while it is read, nothing is made of it."""
    source = file_of(tmp_path, linear())

    def touch(_: int) -> None:
        with source.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")

    with pytest.raises(ChangedDuringRead):
        modelhub.resize(source, RankRule(2), target=tmp_path / "out.safetensors", progress=touch)
    assert {path.name for path in tmp_path.iterdir()} == {source.name}


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
def test_factors_of_types_that_are_not_written(tmp_path: Path, stored: torch.dtype) -> None:
    """Factors of eight bits become those of sixteen, and double ones single: nothing is rounded to eight bits again."""
    tensors = {name: tensor.to(stored) if tensor.dim() else tensor for name, tensor in linear().items()}
    done = modelhub.resize(file_of(tmp_path, tensors), RankRule(8), target=tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    made = torch.float32 if stored is torch.float64 else torch.float16
    assert found[f"{MODULE}.lora_up.weight"].dtype is found[f"{MODULE}.lora_down.weight"].dtype is made
    up, down = (tensors[f"{MODULE}.lora_{role}.weight"].double() for role in ("up", "down"))
    remade = found[f"{MODULE}.lora_up.weight"].double() @ found[f"{MODULE}.lora_down.weight"].double()
    torch.testing.assert_close(remade, up @ down * 3 / 8, rtol=0, atol=2e-2 if made is torch.float16 else 1e-5)
    assert any("become" in note for note in done.plan.notes)


@pytest.mark.parametrize("rule", [("sv_fro", 0.9), ("sv_ratio", 10.0), ("sv_cumulative", 0.9)])
def test_a_module_that_changes_nothing_has_rank_1(tmp_path: Path, rule: tuple[Dynamic, float]) -> None:
    """Of a module whose product is zero a rule for ranks keeps as little as there can be."""
    tensors = linear() | {f"{MODULE}.lora_up.weight": torch.zeros(64, 8)}
    done = modelhub.resize(file_of(tmp_path, tensors), RankRule(8, dynamic=rule), target=tmp_path / "out.safetensors")
    (kept,) = done.kept.values()
    assert (kept.rank, kept.norm, kept.energy) == (1, 0, 1)


def test_what_was_resized_before_is_not_forgotten(tmp_path: Path) -> None:
    """A LoRA that is resized once more keeps what its metadata said of the first time."""
    first = modelhub.resize(file_of(tmp_path, linear()), RankRule(6), target=tmp_path / "six.safetensors")
    second = modelhub.resize(tmp_path / "six.safetensors", RankRule(3), target=tmp_path / "three.safetensors")
    with safe_open(tmp_path / "three.safetensors", "pt") as file:
        metadata = file.metadata()
    told = {key: json.loads(value) for key, value in metadata.items() if key.startswith("modelhub.resize")}
    assert {key: (each["rank"], each["sha256"]) for key, each in told.items()} == {
        "modelhub.resize": (3, second.sha256),
        "modelhub.resize.1": (6, first.sha256),
    }
