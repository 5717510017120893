"""The way back for hypernetworks: a safetensors file becomes the pickle that AUTOMATIC1111's web UI loads.

No program loads hypernetworks from safetensors, so a library that keeps only those could not use them again. What
:mod:`modelhub.convert.names` made of names and settings is undone here: ``320.0.linear.0.weight`` is the weight
``linear.0.weight`` of the first of the two networks of width 320.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from modelhub.container import open_path
from modelhub.convert import Conversion, plan_conversion, verify
from modelhub.convert.convertible import convertible
from modelhub.convert.names import FORMAT
from modelhub.convert.target import PartFile, write_error
from modelhub.errors import ChangedDuringRead, ConversionError, WouldOverwrite
from modelhub.samples.torch_files import write_torch_zip
from modelhub.samples.weights import Storage, Weight
from modelhub.source import Source
from modelhub.tensors import StateDict, TensorInfo

_BLOCK = 1 << 20
_TEXTS = frozenset({"name", "activation_func", "weight_initialization", "sd_checkpoint", "sd_checkpoint_name"})
"""Settings that are text, whatever they look like: a checkpoint's digest can be all digits."""

_LAYER = re.compile(r"(\d{1,9})\.([01])\.(.+)", re.DOTALL)


def restore_hypernetwork(
    source_path: str | os.PathLike[str], target_path: str | os.PathLike[str] | None = None, *, force: bool = False
) -> Conversion:
    """Make the hypernetwork in the safetensors file *source_path* a ``.pt`` file again.

    *target_path* is by default beside the source; *force* replaces what is there. The new file appears when it has been
    verified: converted again, which is the plan of the answer, it has the same tensors and metadata. Raises
    :class:`ConversionError` for a file that is no such hypernetwork, :class:`WouldOverwrite`, and what opening and
    writing a file raise.
    """
    started = time.monotonic()
    name = os.fspath(source_path)
    target = os.fspath(target_path) if target_path is not None else f"{os.path.splitext(name)[0]}.pt"
    with open_path(name) as container:
        source, state_dict = container.source, container.state_dict
        if container.kind != "safetensors" or source is None or state_dict is None:
            raise ConversionError(f"{name}: only a hypernetwork in safetensors can be made a .pt file again")
        convertible(container)
        value = _hypernetwork(state_dict, source)
        if os.path.lexists(target) and not force:
            raise WouldOverwrite(f"{target}: exists already")
        with PartFile(target, source.size) as part:
            try:
                os.truncate(part.path, 0)
                write_torch_zip(part.path, value, root=os.path.splitext(os.path.basename(target))[0])
                part.sync()
            except OSError as error:
                raise write_error(error, target) from error
            ours = {key: text for key, text in state_dict.metadata.items() if key.startswith("modelhub.")}
            with open_path(part.path) as written:
                plan = plan_conversion(written, metadata=ours)
                verify(plan, name)
            size = os.path.getsize(part.path)
            part.commit(force=force)
    return Conversion(replace(plan, source=name), target, size, time.monotonic() - started)


def _hypernetwork(state_dict: StateDict, source: Source) -> Mapping[int | str, Any]:
    """The dict that the web UI saves: pairs of networks by width, and the settings by name."""
    networks: dict[int, tuple[OrderedDict[str, Weight], OrderedDict[str, Weight]]] = {}
    for key, tensor in state_dict.items():
        match = _LAYER.fullmatch(key)
        if match is None:
            raise ConversionError(f"{source.name}: the tensor {key!r:.100} is no hypernetwork's layer")
        pair = networks.setdefault(int(match[1]), (OrderedDict(), OrderedDict()))
        pair[int(match[2])][match[3]] = _weight(tensor, source)
    settings = {
        key: text if key in _TEXTS else _setting(text)
        for key, text in state_dict.metadata.items()
        if key not in FORMAT and not key.startswith("modelhub.")
    }
    return dict(sorted(networks.items())) | settings


def _weight(tensor: TensorInfo, source: Source) -> Weight:
    def chunks() -> Iterator[bytes]:
        for offset in range(0, tensor.nbytes, _BLOCK):
            size = min(_BLOCK, tensor.nbytes - offset)
            data = source.read_at(tensor.start + offset, size)
            if len(data) != size:
                raise ChangedDuringRead(f"{source.name}: it became shorter while it was read")
            yield data

    return Weight(Storage(tensor.dtype, tensor.numel, chunks), tensor.shape)


def _setting(text: str) -> Any:
    """The value that *text* is in the metadata: a truth value, a number, a list, or text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    plain = isinstance(value, bool | int | float) or (isinstance(value, list) and json.dumps(value) == text)
    written = text if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
    return value if plain and written == text else text
