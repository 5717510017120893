"""A folder of model files as the same folder with safetensors files: a diffusers pipeline, or one transformers model.

Every file of weights keeps its place and gets the name that its library looks for: ``pytorch_model.bin`` becomes
``model.safetensors``, other stems stay. An index of shards is written anew for its new files. A ``.bin`` file beside
the same weights in safetensors is left out, so is what training leaves behind; configurations, vocabularies and texts
are copied. Nothing of the folder's own code is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from modelhub.container.base import Container
from modelhub.convert.base import Draft, OutputFile, PlainFile
from modelhub.convert.convertible import convertible
from modelhub.convert.names import named_tensors, output_metadata
from modelhub.errors import ConversionError
from modelhub.source import open_local
from modelhub.tensors import Leftover

_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt"})
_COPIED = frozenset(
    {""} | set(".json .txt .model .spm .vocab .md .yaml .yml .toml .jinja .png .jpg .jpeg .webp .gif".split())
)
"""Endings of files that hold no code and no weights: configurations, vocabularies, licences, model cards, pictures."""

_TRAINING = re.compile(r"(optimizer|scheduler|scaler|random_states|rng_state|training_args|.*\.optim)[._\d-]*\b.*")
_INDEX = re.compile(r"(?P<stem>.+)(?P<ending>\.(?:safetensors|bin|pt|pth|ckpt))\.index(?P<variant>\.[\w-]+)?\.json")
_STEMS = frozenset({"diffusion_pytorch_model", "model"})
"""What diffusers and transformers call weights in safetensors; a variant follows, behind the ending in an index."""


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of weights that belong together: one by its name, or those that an index names.

    ``path`` is the new name of the whole, relative to the folder; ``files`` are the old names; ``index`` the old
    index's name, ``None`` for one file.
    """

    path: str
    files: tuple[str, ...]
    index: str | None = None


def weight_groups(folder: Container) -> tuple[tuple[Shards, ...], tuple[Leftover, ...]]:
    """The files of weights in *folder*, and the model files in it that are left out, with why.

    Raises :class:`ConversionError` for an index that names files that are not there.
    """
    groups: dict[str, Shards] = {}
    left: list[Leftover] = []
    taken: set[str] = set()
    for index in sorted(folder.configs, key=_preference):
        if match := _INDEX.fullmatch(index):
            files = _indexed(folder, index)
            taken.update(files)
            path = renamed(f"{match['stem']}{match['variant'] or ''}{match['ending']}")
            if path in groups:
                left += [Leftover(each, "the same weights are there as safetensors") for each in (index, *files)]
            else:
                groups[path] = Shards(path, files, index)
    for file in sorted(folder.parts, key=_preference):
        if file in taken:
            continue
        name, extension = os.path.basename(file), os.path.splitext(file)[1].lower()
        if extension not in _WEIGHTS:
            left.append(Leftover(file, "a model file of another kind, not copied"))
        elif _TRAINING.fullmatch(name):
            left.append(Leftover(file, "what training left behind"))
        elif renamed(file) in groups:
            left.append(Leftover(file, "the same weights are there as safetensors"))
        else:
            groups[renamed(file)] = Shards(renamed(file), (file,))
    return tuple(sorted(groups.values(), key=lambda shards: shards.path)), tuple(left)


def is_safetensors(folder: Container) -> bool:
    """Whether *folder* has all its weights as safetensors already. Raises what :func:`weight_groups` raises."""
    groups, _ = weight_groups(folder)
    return all(folder.parts[file].kind == "safetensors" for shards in groups for file in shards.files)


def drafts_of(folder: Container, shards: Shards) -> tuple[Mapping[str, Draft], Mapping[str, str], tuple[Leftover, ...]]:
    """The tensors of *shards* by each file's new name, the metadata that the files agree on, and what is left out.

    Raises what :func:`convertible` raises, and :class:`ConversionError` where two files have a tensor of one name or
    where the index names a tensor that its file does not have.
    """
    drafts: dict[str, Draft] = {}
    agreed: set[tuple[str, str]] | None = None
    left: list[Leftover] = []
    where: dict[str, str] = {}
    for file in shards.files:
        part = folder.parts[file]
        assert part.source is not None
        state_dict = convertible(part)
        (draft,) = named_tensors(state_dict, part.source, "checkpoint").values()
        metadata, left_values = output_metadata(state_dict)
        for name in draft.tensors:
            if where.setdefault(name, file) != file:
                raise ConversionError(f"{folder.name}: the tensor {name!r:.100} is both in {where[name]} and in {file}")
        drafts[renamed(file)] = Draft(draft.tensors, notes=tuple(f"{file}: {note}" for note in draft.notes))
        left += [Leftover(f"{file}: {item.path}", item.description) for item in (*draft.leftovers, *left_values)]
        agreed = set(metadata.items()) if agreed is None else agreed & set(metadata.items())
    for name, file in _places(folder, shards.index).items():
        if where.get(name) != file:
            raise ConversionError(f"{folder.name}: {shards.index} names {name!r:.100} in {file}, where it is not")
    return drafts, dict(sorted(agreed or ())), tuple(left)


def index_of(outputs: tuple[OutputFile, ...]) -> Mapping[str, object]:
    """The index of the shards *outputs*, as transformers and diffusers write it."""
    places = {tensor.name: os.path.basename(output.path) for output in outputs for tensor in output.tensors}
    total = sum(tensor.nbytes for output in outputs for tensor in output.tensors)
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}


def index_path(path: str) -> str:
    """Where the index of shards lies that together are the file of weights *path*."""
    stem, extension = os.path.splitext(path)
    base, _, variant = os.path.basename(stem).partition(".")
    if variant and base in _STEMS:
        return f"{stem.removesuffix(f'.{variant}')}{extension}.index.{variant}.json"
    return f"{path}.index.json"


def renamed(path: str) -> str:
    """What the file of weights *path* is called as safetensors: transformers looks for ``model``, not another stem."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    if extension != ".safetensors":
        stem = re.sub(r"^pytorch_model(?=$|[.-])", "model", stem)
    return os.path.join(folder, f"{stem}.safetensors")


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """A folder's files that hold no weights: those to copy, and those that are left out."""

    plain: tuple[PlainFile, ...] = ()
    left: tuple[Leftover, ...] = ()


NO_FILES = FolderFiles()


def open_beside(folder: Container, stack: ExitStack) -> FolderFiles:
    """The files of *folder* that are copied as they are, open until *stack* is closed, and those that are not."""
    plain: list[PlainFile] = []
    left: list[Leftover] = []
    outside = {anomaly.member for anomaly in folder.anomalies if anomaly.rule == "folder.link"}
    for path in files_of(folder.name):
        if path in folder.parts or _INDEX.fullmatch(path):
            continue
        if path in outside:
            left.append(Leftover(path, "a link that leads out of the folder"))
        elif os.path.splitext(path)[1].lower() not in _COPIED:
            left.append(Leftover(path, "a file that is neither weights nor a text or picture, not copied"))
        else:
            plain.append(PlainFile(path, stack.enter_context(open_local(os.path.join(folder.name, path)))))
    return FolderFiles(tuple(plain), tuple(left))


def _preference(path: str) -> tuple[bool, str]:
    """Safetensors before what else there is."""
    return ".safetensors" not in path, path


def _indexed(folder: Container, index: str) -> tuple[str, ...]:
    files = tuple(sorted(set(_places(folder, index).values())))
    lost = next((file for file in files if file not in folder.parts), None)
    if lost is not None or not files:
        what = f"names {lost!r:.100}, which is not there" if lost is not None else "names no files"
        raise ConversionError(f"{folder.name}: the index {index} {what}")
    return files


def _places(folder: Container, index: str | None) -> Mapping[str, str]:
    """The file of each tensor that *index* names."""
    places = folder.configs[index].get("weight_map") if index is not None else None
    if index is None or not isinstance(places, dict):
        return {}
    return {str(name): os.path.join(os.path.dirname(index), str(file)) for name, file in places.items()}


def files_of(root: str, below: str = "") -> Iterator[str]:
    """Relative paths, with ``/``, of the files under *root*; neither hidden folders nor linked ones are entered."""
    for entry in sorted(os.scandir(os.path.join(root, below)), key=lambda entry: entry.name):
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            if not entry.is_symlink() and not entry.name.startswith("."):
                yield from files_of(root, path)
        elif entry.is_file() and not entry.name.startswith("."):
            yield path
