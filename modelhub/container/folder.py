"""Diffusers folders: the model files of a pipeline, its configuration, and what in it would load code of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from modelhub.anomalies import Anomaly
from modelhub.container.base import Container, Skipped
from modelhub.container.open import open_container
from modelhub.errors import AccessDenied, SourceError
from modelhub.source import Source, is_one_model, names_one_model, open_local

if TYPE_CHECKING:
    from modelhub.source.network import RemoteFolder

INDEX = "model_index.json"
"""The file that makes a folder a diffusers pipeline."""

CONFIG = "config.json"
"""The file that makes a folder, if it is named, one model of transformers or diffusers, in shards perhaps."""

LOADABLE = frozenset(
    ".safetensors .sft .bin .pt .pth .pt2 .ckpt .pkl .pickle .joblib .npy .npz .onnx .gguf .h5 .keras .msgpack".split()
)
"""Extensions, in lower case, of files that some loader of pipelines takes up."""

_INERT = frozenset({"empty", "git-lfs-pointer", "html", "image", "json", "text", "unknown"})
"""Kinds of file that are of no concern in a folder unless their name says that they are loaded."""

_CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"})
_UNLOADED = frozenset({".cache", ".git", ".huggingface", ".ipynb_checkpoints"})
"""Folders that tools keep their own files in; a component may have any other name."""

_MAX_ENTRIES = 10_000
_MAX_DEPTH = 8
_MAX_JSON = 4 << 20
_VOCABULARIES = frozenset({"vocab.json", "tokenizer.json"})  # large, and nothing but words
_LIBRARIES = frozenset({"diffusers", "transformers", "onnxruntime", "flax", "optimum"})
_PIPELINE_MODULES = frozenset(
    """animatediff aura_flow controlnet controlnet_sd3 deepfloyd_if deprecated flux flux2 hunyuandit kandinsky
    kandinsky2_2 kandinsky3 kolors latent_consistency_models latent_diffusion lumina lumina2 onnx_utils pag
    paint_by_example pixart_alpha qwenimage sana semantic_stable_diffusion shap_e stable_cascade stable_diffusion
    stable_diffusion_3 stable_diffusion_safe stable_diffusion_xl stable_video_diffusion t2i_adapter unclip unidiffuser
    versatile_diffusion wan wuerstchen""".split()
)
"""Modules of ``diffusers.pipelines`` that a ``model_index.json`` names for a class; other names are imported as such
(diffusers 0.36, ``pipeline_loading_utils.py``)."""


def read_folder(path: str, stack: ExitStack) -> Container:
    """Open the diffusers folder, or the folder of one model, at *path*; its files are closed with *stack*.

    Raises :class:`~modelhub.errors.SourceError` when there is no such folder, when it is neither, or when a file in it
    cannot be had.
    """
    pipeline = os.path.isfile(os.path.join(path, INDEX))
    if not pipeline and not os.path.isfile(os.path.join(path, CONFIG)) and not _is_one_model(path):
        raise _neither(path)
    folder = _Folder(path)
    for relative in _walk(path, "", 0, folder.anomalies, folder.skipped):
        full = os.path.join(path, relative)
        extension = os.path.splitext(relative)[1].lower()
        part = _part(full, stack, always=extension in LOADABLE)
        if part is not None:
            folder.parts[relative] = part
        elif _is_config(relative):
            with open_local(full) as source:
                folder.add_json(relative, source)
        else:
            folder.add_other(relative)
    return folder.container("diffusers-folder" if pipeline else "model-folder")


def read_remote_folder(folder: RemoteFolder) -> Container:
    """Open the folder of one model that lies on the Hub.

    Its files are told by their names: those that no loader takes up are not opened. Raises
    :class:`~modelhub.errors.SourceError` when it is neither, or when a file in it cannot be had.
    """
    here = {path.partition("/")[0] for path in folder.files}
    if CONFIG not in here and not names_one_model(here, not any("/" in path for path in folder.files)):
        raise _neither(folder.name)
    gathered = _Folder(folder.name)
    for relative in folder.files[:_MAX_ENTRIES]:
        if not _UNLOADED.isdisjoint(relative.split("/")[:-1]):
            continue
        if os.path.splitext(relative)[1].lower() in LOADABLE:
            gathered.parts[relative] = open_container(folder.open(relative))
        elif _is_config(relative):
            gathered.config_sources.append(folder.open(relative))
            gathered.add_json(relative, gathered.config_sources[-1])
        else:
            gathered.add_other(relative)
    if len(folder.files) > _MAX_ENTRIES:
        gathered.skipped.append(Skipped(f"{len(folder.files) - _MAX_ENTRIES} of its entries were not looked at"))
    return gathered.container("diffusers-folder" if INDEX in folder.files else "model-folder")


def _neither(path: str) -> SourceError:
    hint = "name the files in it, or a diffusers folder"
    return SourceError(f"{path}: a folder without {INDEX} or {CONFIG}", hint=hint)


def _is_config(relative: str) -> bool:
    return os.path.splitext(relative)[1].lower() == ".json" and os.path.basename(relative) not in _VOCABULARIES


class _Folder:
    """What has been gathered so far of the folder called *name*."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: dict[str, Container] = {}
        self.configs: dict[str, Mapping[str, object]] = {}
        self.config_sources: list[Source] = []
        self.anomalies: list[Anomaly] = []
        self.skipped: list[Skipped] = []

    def add_json(self, relative: str, source: Source) -> None:
        config = _read_json(source, relative, self.anomalies, self.skipped)
        if config is not None:
            self.configs[relative] = config

    def add_other(self, relative: str) -> None:
        if os.path.splitext(relative)[1].lower() in _CODE:
            message = "Python or machine code, which a loader runs when it is told to trust the folder's code"
            self.anomalies.append(Anomaly("folder.custom-code", message, relative))

    def container(self, kind: str) -> Container:
        foreign = [odd for relative, config in self.configs.items() for odd in _foreign_code(relative, config)]
        return Container(
            kind,
            self.name,
            None,
            anomalies=(*self.anomalies, *foreign),
            skipped=tuple(self.skipped),
            parts=self.parts,
            configs=self.configs,
            config_sources=tuple(self.config_sources),
        )


def _is_one_model(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return is_one_model(entries)
    except OSError as error:
        raise SourceError(f"{path}: cannot be listed: {error.strerror}") from error


def _part(full: str, stack: ExitStack, *, always: bool) -> Container | None:
    """The file *full*, opened, if it is one that can be loaded: *always* by its name, else by its content."""
    with ExitStack() as only:
        container = open_container(only.enter_context(open_local(full)))
        if not always and container.kind in _INERT and not container.pickles:
            return None
        stack.enter_context(only.pop_all())
        return container


def _walk(path: str, below: str, depth: int, anomalies: list[Anomaly], skipped: list[Skipped]) -> Iterator[str]:
    """Relative paths, with ``/``, of the files under *path*, in a stable order; linked folders are not entered."""
    try:
        entries = sorted(os.scandir(os.path.join(path, below)), key=lambda entry: entry.name)
    except PermissionError as error:
        raise AccessDenied(f"{os.path.join(path, below)}: may not be read: permission denied") from error
    except OSError as error:
        raise SourceError(f"{os.path.join(path, below)}: cannot be listed: {error.strerror}") from error
    if len(entries) > _MAX_ENTRIES:
        skipped.append(Skipped(f"{len(entries) - _MAX_ENTRIES} of its entries were not looked at", below or None))
    for entry in entries[:_MAX_ENTRIES]:
        relative = f"{below}/{entry.name}" if below else entry.name
        if entry.is_symlink() and not _stays_inside(path, entry.path):
            target = os.path.realpath(entry.path)
            anomalies.append(Anomaly("folder.link", "a link that leads out of the folder", relative, evidence=target))
        if entry.is_dir():
            if entry.is_symlink() or depth >= _MAX_DEPTH:
                skipped.append(Skipped("a folder that was not entered", relative))
            elif entry.name not in _UNLOADED:
                yield from _walk(path, relative, depth + 1, anomalies, skipped)
        elif entry.is_file():
            yield relative
        elif entry.is_symlink():
            skipped.append(Skipped("a link that leads nowhere", relative))


def _stays_inside(folder: str, link: str) -> bool:
    """Whether *link* points into *folder*, or from a Hugging Face cache's snapshot to the blobs of its repository, or
    of the whole cache."""
    target = os.path.realpath(link)
    root = os.path.realpath(folder)
    allowed = [root]
    repository, snapshots = os.path.split(os.path.dirname(root))
    if snapshots == "snapshots":
        allowed.append(os.path.join(repository, "blobs"))
        if os.path.basename(repository).startswith("models--"):
            allowed.append(os.path.join(os.path.dirname(repository), "blobs"))
    return any(target.startswith(place + os.sep) for place in allowed)


def _read_json(
    source: Source, relative: str, anomalies: list[Anomaly], skipped: list[Skipped]
) -> Mapping[str, object] | None:
    """The JSON object in the file *source*; ``None`` when it is something else, or too large."""
    if source.size > _MAX_JSON:
        skipped.append(Skipped(f"a JSON file of more than {_MAX_JSON} bytes is not read", relative))
        return None
    try:
        value = json.loads(source.read_at(0, source.size))
    except (ValueError, RecursionError) as error:
        anomalies.append(Anomaly("folder.bad-json", f"not a JSON text: {error}"[:200], relative))
        return None
    return value if isinstance(value, dict) else None


def _foreign_code(relative: str, config: Mapping[str, object]) -> Iterator[Anomaly]:
    """What in one configuration names code that is neither diffusers' nor transformers'."""
    if "auto_map" in config:
        message = "the configuration asks for code from outside the libraries"
        yield Anomaly("folder.remote-code", message, relative, evidence=f"{config['auto_map']!r:.200}")
    if relative != INDEX:
        return
    if not isinstance(config.get("_class_name", ""), str):
        message = "the pipeline's class is not one of diffusers' own"
        yield Anomaly("folder.custom-pipeline", message, relative, evidence=f"{config['_class_name']!r:.200}")
    for name, value in config.items():
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
            continue
        library, kind = value
        if library is None and kind is None:
            continue
        known = isinstance(library, str) and library.partition(".")[0] in _LIBRARIES | _PIPELINE_MODULES
        if not known or not isinstance(kind, str):
            message = f"component {name!r:.80} is loaded from a module that is not one of the known libraries"
            yield Anomaly("folder.custom-pipeline", message, relative, evidence=f"{value!r:.200}")
