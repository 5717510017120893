"""Giving the tensors of an output file their places in it."""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.container.safetensors import canonical_order, encode_header
from modelhub.convert.base import Assembly, OutputFile, PlannedTensor


def output_file(path: str, tensors: Mapping[str, Assembly], metadata: Mapping[str, str]) -> OutputFile:
    """The file *path* of *tensors* by name, in the order in which ``safetensors.torch.save_file`` would write them.

    Without further metadata than ``format`` it is byte for byte that function's output.
    """
    planned: list[PlannedTensor] = []
    begin = 0
    for name in canonical_order({name: made.dtype for name, made in tensors.items()}):
        made = tensors[name]
        end = begin + made.nbytes
        planned.append(PlannedTensor(name, made.dtype, made.shape, made.pieces, begin, end))
        begin = end
    header = encode_header(((p.name, p.dtype, p.shape, p.nbytes) for p in planned), metadata)
    return OutputFile(path, header, tuple(planned), dict(sorted(metadata.items())))
