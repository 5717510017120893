"""What identification goes by: names, shapes, metadata and a few numbers, from files or from what was kept of them.

A catalog keeps :func:`stored` of every file it has seen, and answers again with :func:`restored` when the rules have
changed, without the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelhub.container.base import Container
from modelhub.identify.probe import Probe
from modelhub.identify.side_file import Told, claimed_beside, told_beside
from modelhub.source import LocalSource, Source, is_distant
from modelhub.tensors import DTYPE_BY_LABEL, BlockTensor, Leftover, Scalar, StateDict, StorageRef, TensorInfo

_LONGEST_VALUE = 1 << 12
"""Characters of a metadata value that is kept; longer ones list training images, tags or workflows."""

_KEPT_SCALARS = frozenset(
    """general.architecture global_step epoch step name sd_checkpoint sd_checkpoint_name activation_func
    layer_structure""".split()
)
"""Plain values beside the tensors that say something of the model; a LoRA's alphas are kept as well."""

_NOWHERE = StorageRef("", 0, 0)


@dataclass(frozen=True, slots=True)
class Observation:
    """The tensors of a file, or of each file of a folder by relative path, and what answers for their numbers.

    ``files`` has the one key ``""`` for a single file; ``configs`` are a folder's parsed JSON objects by path;
    ``beside`` is what a configuration beside the file says of its prediction type.
    """

    files: Mapping[str, tuple[StateDict, Probe]]
    configs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    beside: Told | None = None

    @property
    def is_folder(self) -> bool:
        return "" not in self.files


def observe(container: Container, *, sparing: bool = False) -> Observation:
    """What identification needs of *container*; numbers are read when they are asked for, by a *sparing* probe or one
    that reads them all. Behind a network every probe is sparing."""
    files = {
        path or "": (_with_claims(part.state_dict, part), _probe(part.source, sparing))
        for path, part in container.files()
        if part.state_dict is not None
    }
    if container.source is None and container.state_dict is not None:
        files[""] = container.state_dict, Probe()
    if not isinstance(container.source, LocalSource):
        return Observation(files, container.configs)
    return Observation(files, container.configs, told_beside(container.source.stat.path))


def _with_claims(state_dict: StateDict, file: Container) -> StateDict:
    """The tensors of *file*; what a configuration beside it says is their metadata where they say nothing else."""
    claims = claimed_beside(file.source.stat.path) if isinstance(file.source, LocalSource) else {}
    return replace(state_dict, metadata={**claims, **state_dict.metadata}) if claims else state_dict


def _probe(source: Source | None, sparing: bool) -> Probe:
    return Probe() if source is None else Probe(source.read_at, sparing=sparing or is_distant(source))


def stored(observation: Observation) -> dict[str, Any]:
    """*observation* as a plain JSON object, with the numbers that identification has read of it or taken for read.

    ``files`` by path: ``tensors`` as ``[name, element type, shape]``, ``blocks`` (of GGUF files) as ``[name, ggml type,
    shape, bytes]``, ``metadata``, ``scalars``, ``numbers``.
    """
    return {
        "files": {
            path: {
                "tensors": [[name, tensor.dtype.label, list(tensor.shape)] for name, tensor in state_dict.items()],
                "blocks": [
                    [left.path, left.structure.kind, list(left.structure.shape), left.structure.storage.nbytes]
                    for left in state_dict.leftovers
                    if isinstance(left.structure, BlockTensor)
                ],
                "metadata": {key: value for key, value in state_dict.metadata.items() if len(value) <= _LONGEST_VALUE},
                "scalars": {name: value for name, value in state_dict.scalars.items() if _is_kept(name, value)},
                "numbers": probe.numbers,
            }
            for path, (state_dict, probe) in observation.files.items()
        },
        "configs": {path: dict(config) for path, config in observation.configs.items()},
        "beside": list(observation.beside) if observation.beside else None,
    }


def restored(plain: Mapping[str, Any]) -> Observation:
    """The observation that *plain*, an answer of :func:`stored`, is of."""
    files: dict[str, tuple[StateDict, Probe]] = {}
    for path, file in plain["files"].items():
        tensors = {
            name: TensorInfo(name, DTYPE_BY_LABEL[label], tuple(shape), _NOWHERE)
            for name, label, shape in file["tensors"]
        }
        blocks = tuple(
            Leftover(name, "", True, BlockTensor(kind, tuple(shape), StorageRef("", 0, nbytes)))
            for name, kind, shape, nbytes in file["blocks"]
        )
        files[path] = StateDict(tensors, file["scalars"], blocks, file["metadata"]), Probe(None, file["numbers"])
    return Observation(files, plain["configs"], Told(*plain["beside"]) if plain["beside"] else None)


def _is_kept(name: str, value: Scalar) -> bool:
    if isinstance(value, str) and len(value) > _LONGEST_VALUE:
        return False
    return name in _KEPT_SCALARS or name.endswith(".alpha")
