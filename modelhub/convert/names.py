"""What tensors and facts are called in the converted file, so that its loaders find them.

Tensors keep the names they have in the unwrapped state dict, with one exception. A textual inversion embedding as
trainers write it (``string_to_param``: A1111's ``.pt``, CompVis's original) becomes the one tensor ``emb_params``:
A1111, Forge, ComfyUI, InvokeAI and diffusers take an embedding's only tensor whatever its name, and kohya-ss writes
that one. A hypernetwork's layers are named by their path (``320.0.linear.0.weight``); no loader reads hypernetworks
from safetensors yet.

Plain values (``global_step``, an embedding's ``name``) become metadata, whose values are text: text as it is, numbers
as Python writes them, truth values as ``true`` and ``false``. ``None`` says nothing and is left out. ``format`` and
what begins with ``modelhub.`` are names of our own: a plain value of such a name is a leftover.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.errors import ConversionError
from modelhub.tensors import Leftover, Scalar, StateDict, TensorInfo

EMBEDDING_TENSOR = "emb_params"
"""The name under which safetensors embeddings have their vectors."""

SHARED_KEY = "modelhub.shared"
"""Metadata key that lists, as JSON, the groups of names that shared bytes in the source; absent without any."""

SALVAGED_KEY = "modelhub.salvaged"
"""Metadata key, ``true`` where the source was not judged safe and only its tensors were saved."""

FORMAT = {"format": "pt"}
"""What transformers and diffusers ask for in the metadata of every safetensors file."""

_PARAM = "string_to_param."
_TOKEN = "string_to_token."  # noqa: S105 (a dict's key, no secret)
_OURS = "modelhub."
_LONGEST_TEXT = 1 << 16


def output_tensors(
    state_dict: StateDict, name: str, kind: str | None = None
) -> tuple[dict[str, TensorInfo], tuple[Leftover, ...]]:
    """The tensors of the file *name* by their names in the output, and the tensors that are left behind.

    *kind* is the identity's, ``None`` where it is not known.

    Raises :class:`ConversionError` for names that a safetensors header cannot hold, and for an embedding of several
    tokens, which is several files.
    """
    tensors: Mapping[str, TensorInfo] = state_dict.tensors
    left: tuple[Leftover, ...] = ()
    vectors = [key for key in tensors if key.startswith(_PARAM)]
    if vectors and kind in (None, "embedding"):
        if len(vectors) > 1:
            tokens = ", ".join(repr(key.removeprefix(_PARAM)) for key in vectors[:5])
            raise ConversionError(
                f"{name}: an embedding of {len(vectors)} tokens ({tokens}): a safetensors embedding has one"
            )
        left = tuple(Leftover(key, "a tensor beside the embedding") for key in tensors if key != vectors[0])
        tensors = {EMBEDDING_TENSOR: tensors[vectors[0]]}
    for key in tensors:
        if key == "__metadata__":
            raise ConversionError(f"{name}: a tensor is called '__metadata__', a name that safetensors keeps to itself")
        if not _is_text(key):
            raise ConversionError(f"{name}: the tensor name {key!r:.100} is not valid text")
    return dict(tensors), left


def output_metadata(state_dict: StateDict) -> tuple[dict[str, str], tuple[Leftover, ...]]:
    """The metadata made of the file's plain values, sorted by key, and the values that cannot become metadata."""
    kept: dict[str, str] = {}
    left: list[Leftover] = []
    for key, value in state_dict.scalars.items():
        if value is None:
            continue
        text = _as_text(value)
        if key in FORMAT or key.startswith((_OURS, _TOKEN)) or not (_is_text(key) and _is_text(text)):
            left.append(Leftover(key, f"the value {text!r:.100}"))
        elif len(text) > _LONGEST_TEXT:
            left.append(Leftover(key, f"a text of {len(text)} characters"))
        else:
            kept[key] = text
    return dict(sorted((FORMAT | kept).items())), tuple(left)


def _as_text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_text(text: str) -> bool:
    """Whether *text* has no lone surrogates: JSON readers refuse them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
