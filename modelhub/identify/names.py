"""The names of a state dict, indexed so that a rule costs a look-up and not a walk."""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.tensors import TensorInfo

_WRAPPERS = ("module.", "_orig_mod.", "netG.", "params.", "params_ema.", "params-ema.", "state_dict.")
"""What training code leaves around a model's own names: DataParallel, ``torch.compile``, BasicSR, Lightning."""

_LONGEST_NAME = 512
"""Characters; longer names are no model's, and would make the index of their parts large."""

_MOST_WRAPPERS = 4


class Names:
    """Tensors by name, without the wrappers that most of the names share and without absurdly long names.

    ``tensors`` keeps the file's order; ``prefixes`` holds every leading part of a name up to and with a dot.
    """

    __slots__ = ("prefixes", "tensors")

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        if any(len(name) > _LONGEST_NAME for name in tensors):
            tensors = {name: tensor for name, tensor in tensors.items() if len(name) <= _LONGEST_NAME}
        self.tensors = _unwrapped(tensors)
        self.prefixes: dict[str, None] = {}
        for name in self.tensors:
            cut = name.rfind(".")
            while cut >= 0 and (prefix := name[: cut + 1]) not in self.prefixes:
                self.prefixes[prefix] = None
                cut = name.rfind(".", 0, cut)

    def find(self, root: str, entry: str) -> str | None:
        """The name, or the beginning of names, that *entry* asks for below *root*; ``None`` when there is none.

        *entry* is a name; with ``.`` at its end the first part of names; with ``*`` at its end any beginning. A
        leading ``/`` leaves *root* out.
        """
        name = entry[1:] if entry.startswith("/") else root + entry
        if name.endswith("."):
            return name if name in self.prefixes else None
        if name.endswith("*"):
            return next((each for each in self.tensors if each.startswith(name[:-1])), None)
        return name if name in self.tensors else None

    def roots(self, patterns: tuple[str, ...]) -> list[str]:
        """Those of *patterns* (``"vae."``, ``"text_encoders.*."``; ``""`` is always there) that names begin with."""
        found: dict[str, None] = {}
        for pattern in patterns:
            head, star, tail = pattern.partition("*")
            if star:
                found |= {prefix: None for prefix in self.prefixes if _fits(prefix, head, tail)}
            elif not pattern or pattern in self.prefixes:
                found[pattern] = None
        return list(found)


def _fits(prefix: str, head: str, tail: str) -> bool:
    """Whether *prefix* is *head*, one part of a name, and *tail*."""
    if not prefix.startswith(head) or not prefix.endswith(tail):
        return False
    part = prefix[len(head) : len(prefix) - len(tail)]
    return bool(part) and "." not in part


def _unwrapped(tensors: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    for _ in range(_MOST_WRAPPERS):
        if 2 * sum(name.startswith(_WRAPPERS) for name in tensors) <= len(tensors):
            break
        shared = [sum(name.startswith(wrapper) for name in tensors) for wrapper in _WRAPPERS]
        wrapper = _WRAPPERS[shared.index(max(shared))]
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors
