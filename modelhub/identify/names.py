"""The names of a state dict, indexed so that a rule costs a look-up and not a walk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain

from modelhub.kept import Kept
from modelhub.tensors import BlockTensor, DType, StateDict, TensorInfo

_WRAPPERS = ("module.", "_orig_mod.", "netG.", "params.", "params_ema.", "params-ema.", "state_dict.", "generator.")
"""What training code leaves around a model's own names: DataParallel, ``torch.compile``, BasicSR, Lightning, GANs."""

_CHECKPOINTS = frozenset({"model.model.diffusion_model.", "net.model.diffusion_model."})
"""How names of a checkpoint begin in a wrapper that is called as a part of names is, too."""

_PACKED = ("qweight", "_weight_qdata", "weight_qdata", "weight._data")
"""What packed weights are called: by nunchaku and GPTQ, torchao, quanto."""

_PACKED_ENDS = frozenset(name.rpartition(".")[2] for name in _PACKED)

_USUAL_NAME, _USUAL_DOTS = 256, 16
"""Characters and dots of names whose parts are remembered: those of a name of nothing but dots would take 60 kB."""

_LONGEST_NAME = 512
"""Characters; longer names are no model's, and would make the index of their parts large."""

_MOST_WRAPPERS = 4


class Names:
    """Tensors by name, without the wrappers that most of the names share and without absurdly long names.

    ``tensors`` keeps the file's order, tensors in ggml's blocks included (as ``U8``, with the shape that they have
    unpacked); ``prefixes`` holds every leading part of a name up to and with a dot, ``ends`` the last part of each.
    """

    __slots__ = ("_text", "_there", "ends", "prefixes", "tensors")

    def __init__(self, state_dict: StateDict) -> None:
        tensors = _with_blocks(state_dict)
        if max(map(len, tensors), default=0) > _LONGEST_NAME:
            tensors = {name: tensor for name, tensor in tensors.items() if len(name) <= _LONGEST_NAME}
        self._text = ""
        self.prefixes, self.ends = _parts(tensors)
        if not self.prefixes.isdisjoint(_WRAPPERS):
            tensors = _unwrapped(tensors)
            self.prefixes, self.ends = _parts(tensors)
        if not self.prefixes.isdisjoint(_CHECKPOINTS):
            wrapper = "model." if "model.model.diffusion_model." in self.prefixes else "net."
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
            self.prefixes, self.ends = _parts(tensors)
        self.tensors = tensors
        if not self.ends.isdisjoint(_PACKED_ENDS):
            self.tensors = _unpacked(tensors)
            self.prefixes, self.ends = _parts(self.tensors)
        self._there = self.tensors.keys()

    def find(self, root: str, entry: str) -> str | None:
        """The name, or the beginning of names, that *entry* asks for below *root*; ``None`` when there is none.

        *entry* is a name; with ``.`` at its end the first part of names; with ``*`` at its end any beginning. A
        leading ``/`` leaves *root* out.
        """
        name = entry[1:] if entry.startswith("/") else root + entry
        if name.endswith("."):
            return name if name in self.prefixes else None
        if name.endswith("*"):
            return self._beginning(name[:-1])
        return name if name in self._there else None

    def roots(self, patterns: tuple[str, ...]) -> list[str]:
        """Those of *patterns* (``"vae."``, ``"text_encoders.*."``; ``""`` is always there) that names begin with."""
        found: dict[str, None] = {}
        for pattern in patterns:
            head, star, tail = pattern.partition("*")
            if not star:
                if not pattern or pattern in self.prefixes:
                    found[pattern] = None
            elif head in self.prefixes:
                found |= dict.fromkeys(sorted(prefix for prefix in self.prefixes if _fits(prefix, head, tail)))
        return list(found)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor *name*; of bitsandbytes' packed weights ``[n, 1]`` the one that they have unpacked.

        That needs the layer's outputs, which its bias tells, or the one of the attention that it belongs to.
        """
        shape = self.tensors[name].shape
        if len(shape) != 2 or shape[1] != 1 or name + ".absmax" not in self.tensors:
            return shape
        stem = name.removesuffix("weight")
        bias = self.tensors.get(stem + "bias") or self.tensors.get(f"{stem.rpartition('to_')[0]}to_out.0.bias")
        if bias is None or len(bias.shape) != 1 or not bias.shape[0] or 2 * shape[0] % bias.shape[0]:
            return shape
        return bias.shape[0], 2 * shape[0] // bias.shape[0]

    def _beginning(self, start: str) -> str | None:
        if not self._text:
            self._text = "\n" + "\n".join(self.tensors) + "\n"
        at = self._text.find("\n" + start)
        return None if at < 0 else self._text[at + 1 : self._text.index("\n", at + 1)]


def _with_blocks(state_dict: StateDict) -> Mapping[str, TensorInfo]:
    """The tensors, and what lies beside them in ggml's blocks."""
    packed = {
        left.path: TensorInfo(left.path, DType.U8, left.structure.shape, left.structure.storage)
        for left in state_dict.leftovers
        if isinstance(left.structure, BlockTensor)
    }
    return {**state_dict.tensors, **packed} if packed else state_dict.tensors


def last_parts(names: Iterable[str]) -> set[str]:
    """What *names* end in, behind their last dots."""
    return {name[name.rfind(".") + 1 :] for name in names}


def _parts(names: Mapping[str, object]) -> tuple[set[str], set[str]]:
    """Every leading part of *names*, with its dot, and the last part of each."""
    leading, last = zip(*map(_known_dotted.__getitem__, names), strict=True) if names else ((), ())
    return set(chain.from_iterable(leading)), set(last)


def _dotted(name: str) -> tuple[tuple[str, ...], str]:
    """The leading parts of *name*, each with its dot, and its last part."""
    parents = []
    cut = name.rfind(".") + 1
    last = name[cut:]
    while cut:
        parents.append(_one[name[:cut]])
        cut = name.rfind(".", 0, cut - 1) + 1
    return tuple(parents), _one[last]


_known_dotted = Kept(_dotted, 1 << 15, lambda name: len(name) <= _USUAL_NAME and name.count(".") <= _USUAL_DOTS)
_one: Kept[str, str] = Kept(lambda part: part, 1 << 14, lambda part: len(part) <= _USUAL_NAME)
"""One object for all parts that are alike: many names have them."""


def _unpacked(tensors: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    """*tensors*, each weight that is packed under a name of its own also under its plain one."""
    plain = {
        f"{name[: -len(ending)]}weight": tensor
        for name, tensor in tensors.items()
        for ending in _PACKED
        if name.endswith(f".{ending}")
    }
    return {**plain, **tensors}


def _fits(prefix: str, head: str, tail: str) -> bool:
    """Whether *prefix* is *head*, one part of a name, and *tail*."""
    if not prefix.startswith(head) or not prefix.endswith(tail):
        return False
    part = prefix[len(head) : len(prefix) - len(tail)]
    return bool(part) and "." not in part


def _unwrapped(tensors: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    for _ in range(_MOST_WRAPPERS):
        first = Counter(name[: name.find(".") + 1] for name in tensors)
        shared = [first[wrapper] for wrapper in _WRAPPERS]
        if 2 * sum(shared) <= len(tensors):
            break
        wrapper = _WRAPPERS[shared.index(max(shared))]
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors
