"""Weights of eight bits with scales beside them: which they are, and what numbers they stand for.

``NAME.weight`` holds codes, E4M3 or E5M2, and a tensor beside it what they are multiplied with: ``NAME.scale_weight``
(ComfyUI until December 2025, its ``comfy/ops.py``; musubi-tuner, its ``fp8_optimization_utils.py``),
``NAME.weight_scale`` (ComfyUI's ``QUANTIZATION.md``, Lightricks) or ``NAME.weight_scale_inv`` (DeepSeek, which multiply
with it all the same). It has one element; or one for each row, ``[out]`` or ``[out, 1]``; or one for each block of
columns, ``[out, blocks, 1]`` (musubi-tuner); or one for each block of rows and columns, ``[row blocks, column blocks]``
(DeepSeek: 128 by 128). Scales of activations (``scale_input``, ``input_scale``), ComfyUI's word for the format
(``comfy_quant``, or ``_quantization_metadata`` in the file's metadata) and its marker ``scaled_fp8`` stand beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from modelhub.convert import Assembly, Piece
from modelhub.convert.base import Draft, file_of, stored
from modelhub.convert.dense import ComputedSource
from modelhub.convert.stream import lies_ready
from modelhub.merge.base import Shape
from modelhub.merge.codes import EIGHT_BITS, numbers_of_codes
from modelhub.tensors import DType, StorageRef, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")
LAYERS_KEY = "_quantization_metadata"

_FURTHER = (".scale_weight_tensor", ".weight_scale_2", ".weight_scalar", ".pre_quant_scale")
"""A second factor of the same weight: musubi-tuner's fast blocks, NVFP4, hybrid MXFP8, SVDQuant's smoothing."""

_FORMAT = ".comfy_quant"
_BESIDE = (".scale_input", ".input_scale", _FORMAT)
_MARKER = "scaled_fp8"
_FORMATS = frozenset(f"float8_{kind}{by}" for kind in ("e4m3fn", "e5m2") for by in ("", "_rowwise", "_blockwise"))
_SETTINGS = frozenset({"format", "full_precision_matrix_mult", "group_size", "orig_dtype", "orig_shape"})
_LONGEST_FORMAT = 4096


@dataclass(frozen=True, slots=True)
class Scaled:
    """A weight of eight bits: its *codes*, its *scales*, and the rows and columns of which one *block* has one scale.

    What a convolution has beyond its first dimension are columns. Without scales the codes are the numbers.
    """

    codes: Piece
    scales: Piece | None
    block: tuple[int, int]

    @property
    def rows(self) -> int:
        """Rows of the weight."""
        return self.codes.tensor.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the weight."""
        return prod(self.codes.tensor.shape[1:])

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks that lie below, and beside, each other."""
        return -(-self.rows // self.block[0]), -(-self.columns // self.block[1])

    def scales_of(self, first: int, last: int) -> NDArray[Any]:
        """The F32 scales of the blocks that the rows *first* to *last* are in, ``[row blocks, column blocks]``."""
        import numpy as np

        if self.scales is None:
            return np.ones((1, 1), "<f4")
        view, beside = self.scales.tensor, self.grid[1]
        begin, end = first // self.block[0], -(-last // self.block[0])
        size = view.dtype.itemsize
        data = self.scales.source.read_at(view.start + begin * beside * size, (end - begin) * beside * size)
        if view.dtype is DType.BF16:
            wide = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            wide = np.frombuffer(data, "<f2" if view.dtype is DType.F16 else "<f4").astype("<f4")
        return wide.reshape(end - begin, beside)

    def numbers(self, first: int, last: int) -> NDArray[Any]:
        """The F32 numbers of the rows *first* to *last*, ``[rows, columns]``."""
        import numpy as np

        view = self.codes.tensor
        data = self.codes.source.read_at(view.start + first * self.columns, (last - first) * self.columns)
        wide = numbers_of_codes(np.frombuffer(data, "u1"), view.dtype)
        low, width = self.block
        scales = self.scales_of(first, last)[np.arange(first, last) // low - first // low]
        blocks = wide.reshape(last - first, -1, width)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by who computes with it
            blocks *= scales[:, :, None]
        return wide.reshape(last - first, self.columns)


class ScaledSource(ComputedSource):
    """The numbers that *scaled* stands for, F32 in C order."""

    def __init__(self, scaled: Scaled) -> None:
        columns = scaled.columns

        def compute(first: int, last: int) -> NDArray[Any]:
            begin, end = first // columns, -(-last // columns)
            return scaled.numbers(begin, end).reshape(-1)[first - begin * columns : last - begin * columns]

        self.scaled = scaled
        storages = stored(scaled.codes) + (stored(scaled.scales) if scaled.scales is not None else ())
        super().__init__(file_of(scaled.codes.source), storages, scaled.rows * columns, 4, compute)


def numbers_of(name: str, scaled: Scaled) -> Piece:
    """The weight *name* as an F32 tensor."""
    source = ScaledSource(scaled)
    return Piece(source, TensorInfo(name, DType.F32, scaled.codes.tensor.shape, StorageRef(name, 0, source.size)))


@dataclass(frozen=True, slots=True)
class ScaledWeights:
    """The weights with scales of a file: those that are understood, with their scales' names, and why others are not.

    All are by the weights' names. ``beside`` are the names of all that says how the codes of the former are read.
    """

    known: Mapping[str, Scaled]
    scales: Mapping[str, str]
    refused: Mapping[str, str]
    beside: frozenset[str] = frozenset()


NO_SCALES = ScaledWeights({}, {}, {})


def scaled_weights(tensors: Mapping[str, Assembly], metadata: Mapping[str, str]) -> ScaledWeights:
    """What among *tensors* has scales beside it; of them only the words for their formats are read."""
    found: dict[str, Scaled] = {}
    named: dict[str, str] = {}
    refused: dict[str, str] = {}
    layers = _layers(metadata)
    for name, made in tensors.items():
        stem = name.removesuffix(".weight")
        if made.dtype.bits != 8 or stem == name:
            continue
        scales = [stem + each for each in SCALES if stem + each in tensors]
        further = [stem + each for each in _FURTHER if stem + each in tensors]
        word = tensors.get(stem + _FORMAT)
        settings = layers.get(stem) if word is None else _read(word.pieces[0])
        if not scales and not further and settings is None:
            continue
        known = _known(made, [tensors[each] for each in scales], further, settings)
        if isinstance(known, Scaled):
            found[name], named[name] = known, scales[0]
        else:
            refused[name] = known
    beside = {name.removesuffix(".weight") + each for name in found for each in (*SCALES, *_BESIDE)} & tensors.keys()
    beside |= {name for name in tensors if name.rpartition(".")[2] == _MARKER}
    return ScaledWeights(found, named, refused, frozenset(beside))


def _known(made: Assembly, scales: list[Assembly], further: list[str], settings: object) -> Scaled | str:
    if settings is not None:
        settings = settings if isinstance(settings, Mapping) else {}
        word = settings.get("format")
        if not isinstance(word, str) or word not in _FORMATS or not settings.keys() <= _SETTINGS:
            odd = sorted(map(str, settings.keys() - _SETTINGS))
            return f"quantised as {word!r:.60}" + (f" with {', '.join(odd):.100}" if odd else "")
    if made.dtype not in EIGHT_BITS:
        return f"quantised, of type {made.dtype.label}"
    if further:
        return f"quantised with two scales, of which one is {further[0]:.100}"
    if len(scales) != 1:
        return "quantised with several scales" if scales else "said to be quantised, and has no scale"
    (codes,), (factors,) = made.pieces, scales[0].pieces
    if factors.tensor.dtype not in (DType.F32, DType.F16, DType.BF16):
        return f"quantised with scales of type {factors.tensor.dtype.label}"
    if not all(lies_ready(piece.tensor, piece.tensor.dtype) for piece in (codes, factors)):
        return "quantised, and does not lie in one piece"
    block = _block(codes.tensor.shape, factors.tensor.shape)
    if block is None:
        ours, theirs = list(codes.tensor.shape), list(factors.tensor.shape)
        return f"quantised with scales of shape {theirs}, which do not fit its {ours}"
    return Scaled(codes, factors, block)


def _block(weight: Shape, scales: Shape) -> tuple[int, int] | None:
    """Rows and columns that have one scale; ``None`` where the shapes do not say it."""
    if not weight or not prod(weight) or not prod(scales):
        return None
    rows, columns = weight[0], prod(weight[1:])
    if prod(scales) == 1:
        return rows, columns
    if scales[0] == rows and prod(scales) == rows:
        return 1, columns
    if len(scales) == 3 and scales[::2] == (rows, 1) and columns % scales[1] == 0:
        return 1, columns // scales[1]
    if len(scales) == len(weight) == 2 and rows % scales[0] == 0 and columns % scales[1] == 0:
        block = rows // scales[0], columns // scales[1]
        # Blocks at the edges may be cut off. Of sides that are powers of two the counts cannot mean another one.
        if all(side & (side - 1) == 0 for side in block):
            return block
    return None


def plain(draft: Draft, found: ScaledWeights) -> Draft:
    """*draft*, of which no weight is in ``found.refused``, with those of eight bits as F32 numbers, without what says
    how to read their codes."""
    tensors: dict[str, Assembly] = {}
    for name, made in draft.tensors.items():
        if name in found.known:
            tensors[name] = Assembly(DType.F32, made.shape, (numbers_of(name, found.known[name]),))
        elif name in found.beside:
            continue
        elif made.dtype in EIGHT_BITS and _is_plain(made):
            scaled = Scaled(made.pieces[0], None, (made.shape[0], prod(made.shape[1:])))
            tensors[name] = Assembly(DType.F32, made.shape, (numbers_of(name, scaled),))
        else:
            tensors[name] = made
    return draft.changed(tensors)


def _is_plain(made: Assembly) -> bool:
    (piece,) = made.pieces
    return bool(made.shape) and prod(made.shape) > 0 and lies_ready(piece.tensor, made.dtype)


def without_layers(metadata: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """*metadata* that does not say of the weights *names* how they are quantised."""
    layers = _layers(metadata)
    if not layers:
        return dict(metadata)
    stems = {name.removesuffix(".weight") for name in names}
    said = json.loads(metadata[LAYERS_KEY])
    said["layers"] = {name: layer for name, layer in layers.items() if name not in stems}
    rest = {key: value for key, value in metadata.items() if key != LAYERS_KEY}
    return rest | ({LAYERS_KEY: json.dumps(said)} if said["layers"] else {})


def _layers(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """What ComfyUI's metadata says of layers, by name."""
    try:
        layers = json.loads(metadata.get(LAYERS_KEY, "{}")).get("layers", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return layers if isinstance(layers, dict) else {}


def _read(word: Piece) -> object:
    """ComfyUI's settings of a layer in a tensor of bytes; an empty text where they cannot be read."""
    view = word.tensor
    if view.dtype is not DType.U8 or view.nbytes > _LONGEST_FORMAT or not lies_ready(view, view.dtype):
        return ""
    try:
        return json.loads(word.source.read_at(view.start, view.nbytes))
    except (ValueError, RecursionError):
        return ""
