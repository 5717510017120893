"""The blocks that tensors are in, as users call them: ``IN04``, ``M00``, ``OUT11``, FLUX's ``D07`` and ``S12``, SD 3's
``J03``."""

from __future__ import annotations

import re

_BLOCKS = (
    (re.compile(r"(?:.*\.)?input_blocks\.(\d{1,4})\."), "IN"),
    (re.compile(r"(?:.*\.)?output_blocks\.(\d{1,4})\."), "OUT"),
    (re.compile(r"(?:.*\.)?(middle)_block\."), "M"),
    (re.compile(r"(?:.*\.)?double_blocks\.(\d{1,4})\."), "D"),
    (re.compile(r"(?:.*\.)?(?:single_blocks|single_transformer_blocks)\.(\d{1,4})\."), "S"),
    (re.compile(r"(?:.*\.)?joint_blocks\.(\d{1,4})\."), "J"),
)
_TRANSFORMER_BLOCK = re.compile(r"transformer_blocks\.(\d{1,4})\.")
_FLUX_ENDS = (
    (re.compile(r"(?:model\.diffusion_model\.)?(img|txt|time|vector|guidance)_in\."), "IN"),
    (re.compile(r"(?:model\.diffusion_model\.)?final_layer\."), "OUT"),
    (re.compile(r"(context_embedder|x_embedder|time_text_embed)\."), "IN"),
    (re.compile(r"(norm_out|proj_out)\."), "OUT"),
)
"""What of FLUX lies before and behind its blocks, under its own and under diffusers' names."""


def block_of(name: str, *, flux: bool = False) -> str:
    """The block that the tensor *name* of a checkpoint is in, as users call it: ``IN04``, ``M00``, ``D07`` ..."""
    for pattern, short in _BLOCKS:
        if (match := pattern.match(name)) is not None:
            return f"{short}{0 if match[1] == 'middle' else int(match[1]):02}"
    return next((end for pattern, end in _FLUX_ENDS if flux and pattern.match(name)), "")


def block_of_transformer(name: str, *, joint: bool) -> str:
    """The block that the tensor *name* of a folder's transformer is in; *joint*: it has SD 3's blocks, not FLUX's."""
    if (match := _TRANSFORMER_BLOCK.match(name)) is not None:
        return f"{'J' if joint else 'D'}{int(match[1]):02}"
    return block_of(name, flux=not joint)
