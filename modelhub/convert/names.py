"""What tensors and facts are called in the converted file, so that its loaders find them.

Tensors keep the names they have in the unwrapped state dict, with these exceptions.

* A textual inversion embedding as trainers write it (``string_to_param``: A1111's ``.pt``, CompVis's original) becomes
  the one tensor ``emb_params``: A1111, Forge, ComfyUI, InvokeAI and diffusers take an embedding's only tensor whatever
  its name, and kohya-ss writes that one. One of several tokens becomes one such file for each.
* Where every name begins with ``module.``, which PyTorch's ``DataParallel`` puts there, all lose it.
* A hypernetwork's layers are named by their path, ``SIZE.0.`` for keys and ``SIZE.1.`` for values
  (``320.0.linear.0.weight``), its settings are metadata; no loader reads hypernetworks from safetensors yet.
* Tensors in a list without names (cloneofsimo's first LoRAs) are called by their number.

Plain values (``global_step``, an embedding's ``name``) become metadata, whose values are text: text as it is, numbers
as Python writes them, truth values as ``true`` and ``false``, a hypernetwork's lists as JSON. ``None`` says nothing and
is a leftover. ``format`` and what begins with ``modelhub.`` are names of our own: a plain value of such a name is a
leftover. A safetensors file's own metadata is kept as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import count

from modelhub.container.storages import Storages
from modelhub.convert.base import Assembly, Draft, Piece
from modelhub.convert.dense import can_be_dense
from modelhub.convert.dense import dense as dense_tensor
from modelhub.errors import ConversionError, LimitExceeded
from modelhub.source import Source
from modelhub.tensors import Leftover, Scalar, StateDict

EMBEDDING_TENSOR = "emb_params"
"""The name under which safetensors embeddings have their vectors."""

SHARED_KEY = "modelhub.shared"
"""Metadata key that lists, as JSON, the groups of names that shared bytes in the source; absent without any."""

SALVAGED_KEY = "modelhub.salvaged"
"""Metadata key, ``true`` where the source was not judged safe and only its tensors were saved."""

FORMAT = {"format": "pt"}
"""What transformers and diffusers ask for in the metadata of every safetensors file."""

MAX_TOKENS = 500
"""Tokens of one embedding; A1111's trainer makes files of one."""

_PARAM = "string_to_param."
_TOKEN = "string_to_token."  # noqa: S105 (a dict's key, no secret)
_MODULE = "module."
_OURS = "modelhub."
_LONGEST_TEXT = 1 << 16
_LISTS = frozenset({"layer_structure", "dropout_structure"})
_LAYER = re.compile(r"\d+\.[01]\.")
_AVERAGED = {("params_ema",), ("params-ema",)}


def named_tensors(
    state_dict: StateDict, source: Source, kind: str | None = None, *, dense: bool = False
) -> Mapping[str, Draft]:
    """The tensors of the file *source* by their names in the output, for each file that it becomes, by file name.

    Nearly always that is one file, of no name of its own. *kind* is the identity's, ``None`` where it is not known;
    *dense*: sparse and quantised tensors are among them, with all their elements.
    Raises :class:`ConversionError` for names that a safetensors header cannot hold, :class:`LimitExceeded` for an
    embedding of more than :data:`MAX_TOKENS` tokens.
    """
    storages = Storages(source)
    tensors = {
        key: Assembly(tensor.dtype, tensor.shape, (Piece(*storages.locate(tensor)),))
        for key, tensor in state_dict.items()
    }
    leftovers = state_dict.leftovers
    notes: list[str] = []
    if dense:
        computed = [left for left in leftovers if can_be_dense(left)]
        tensors |= {left.path: dense_tensor(left, storages) for left in computed}
        leftovers = tuple(left for left in leftovers if not can_be_dense(left))
        notes += [f"{left.path} was {left.description}, and has all its elements now" for left in computed]
    for key in tensors:
        if key == "__metadata__":
            raise ConversionError(
                f"{source.name}: a tensor is called '__metadata__', a name that safetensors keeps to itself"
            )
        if not _is_text(key):
            raise ConversionError(f"{source.name}: the tensor name {key!r:.100} is not valid text")
    vectors = [key for key in tensors if key.startswith(_PARAM)]
    if vectors and kind in (None, "embedding"):
        if len(vectors) > MAX_TOKENS:
            raise LimitExceeded(f"{source.name}: an embedding of {len(vectors)} tokens, each of which would be a file")
        return _embeddings(tensors, vectors, leftovers)
    if all(key.startswith(_MODULE) and key != _MODULE for key in tensors):
        tensors = {key.removeprefix(_MODULE): made for key, made in tensors.items()}
        notes.append("every tensor's name began with 'module.', which was taken off")
    if len(tensors) > 1 and all(re.fullmatch(r"\d+", key) for key in tensors):
        notes.append("the tensors have no names in the source: they are called by their place in its list")
    if any(path.startswith("layer_structure.") for path in state_dict.scalars) and all(map(_LAYER.match, tensors)):
        notes.append("no program loads hypernetworks from safetensors; modelhub restore makes the .pt of it again")
    if state_dict.wrapper in _AVERAGED:
        notes.append("the tensors are the averaged ones, params_ema")
    return {"": Draft(tensors, leftovers, tuple(notes))}


def _embeddings(
    tensors: Mapping[str, Assembly], vectors: list[str], leftovers: tuple[Leftover, ...]
) -> Mapping[str, Draft]:
    left = (*leftovers, *(Leftover(key, "a tensor beside the embedding") for key in tensors if key not in vectors))
    if len(vectors) == 1:
        return {"": Draft({EMBEDDING_TENSOR: tensors[vectors[0]]}, left)}
    files: dict[str, Draft] = {}
    taken: set[str] = set()  # without regard to case, as file systems may have it
    for key in vectors:
        token = key.removeprefix(_PARAM)
        stem = re.sub(r"[^\w.-]+", "_", token).strip("._")[:100] or "token"
        names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        name = next(each for each in names if each.casefold() not in taken)
        taken.add(name.casefold())
        note = f"the token {token!r:.100} is {name}.safetensors"
        files[f"{name}.safetensors"] = Draft({EMBEDDING_TENSOR: tensors[key]}, () if files else left, (note,))
    return files


def output_metadata(state_dict: StateDict) -> tuple[dict[str, str], tuple[Leftover, ...]]:
    """The metadata made of the file's plain values, sorted by key, and the values that cannot become metadata."""
    kept: dict[str, str] = dict(state_dict.metadata)
    left: list[Leftover] = []
    for key, value in _gathered(state_dict.scalars).items():
        if value is None:
            left.append(Leftover(key, "None, which says nothing"))
            continue
        text = _as_text(value)
        if key in FORMAT or key.startswith((_OURS, _TOKEN)) or not (_is_text(key) and _is_text(text)):
            left.append(Leftover(key, f"the value {text!r:.100}"))
        elif len(text) > _LONGEST_TEXT:
            left.append(Leftover(key, f"a text of {len(text)} characters"))
        else:
            kept[key] = text
    return dict(sorted((FORMAT | kept).items())), tuple(left)


def _gathered(scalars: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """*scalars* with a hypernetwork's lists, ``layer_structure.0`` and so on, as JSON under their own names."""
    lists: dict[str, list[Scalar]] = {}
    others: dict[str, Scalar] = {}
    for path, value in scalars.items():
        head, _, last = path.rpartition(".")
        if head in _LISTS and last == str(len(lists.get(head, ()))):
            lists.setdefault(head, []).append(value)
        else:
            others[path] = value
    return others | {head: json.dumps(items) for head, items in lists.items()}


def _as_text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_text(text: str) -> bool:
    """Whether *text* has no lone surrogates: JSON readers refuse them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
