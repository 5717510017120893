"""What identification's tables know of adapters and no algorithm here merges, and why."""

from __future__ import annotations

import re

from modelhub.identify.modules import Module
from modelhub.merge.base import NotMerged

_LEAVES = {
    "vera_lambda_b": "VeRA, whose matrices are the same for all layers, is not merged",
    "vera_lambda_d": "VeRA, whose matrices are the same for all layers, is not merged",
    "lora_E": "AdaLoRA, which scales each rank by itself, is not merged",
    "___": "HCP-Diff's LoRAs are not merged",
    "loras": "it changes the tokens of a condition alone (Stand-In, EasyControl), and not the model",
    "lora_embedding_A": "LoRAs of embedding tables are not merged",
    "lora_embedding_B": "LoRAs of embedding tables are not merged",
    "oft_embedding_R": "OFT of embedding tables is not merged",
}
"""By the first part of a leaf."""

_PEFT = {
    "miss": "MiSS",
    "delora": "DeLoRA",
    "hira": "HiRA",
    "gralora": "GraLoRA",
    "fourierft": "FourierFT",
    "waveft": "WaveFT",
    "c3a": "C3A",
    "road": "RoAd",
    "vblora": "VB-LoRA",
    "randlora": "RandLora",
    "shira": "SHiRA",
}
"""Algorithms of PEFT's that are told by their leaves, as PEFT calls them."""

_ALGORITHMS = {
    "svdquant": "nunchaku's LoRAs, whose factors lie in the order of its kernels, are not merged",
    **{name: f"{called}, an algorithm of PEFT's, is not merged" for name, called in _PEFT.items()},
}


_INTERLEAVED = re.compile(r"(token_refiner_)?blocks_\d+_attn_qkv_proj")
"""MiniMax-H3's fused attention. Source: diffusers ``loaders/lora_conversion_utils.py``."""


def check_merged(module: Module) -> None:
    """Raise :class:`NotMerged` for a *module* of what is not merged."""
    for leaf in module.leaves:
        if (reason := _LEAVES.get(leaf.partition(".")[0])) is not None:
            raise NotMerged(reason)
    for algorithm, _ in module.tensors:
        if (reason := _ALGORITHMS.get(algorithm)) is not None:
            raise NotMerged(reason)
    if _INTERLEAVED.fullmatch(module.path) and any(leaf.startswith("lora_A.*") for leaf in module.leaves):
        raise NotMerged(
            "DiffSynth-Studio trains MiniMax-H3's queries, keys and values with their rows head by head, as its shards "
            "have them, and not its files in one piece"
        )
