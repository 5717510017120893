"""From what the user named to the files and folders to look at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelhub.errors import AccessDenied, NotFound, SourceError

MODEL_EXTENSIONS = frozenset(
    ".safetensors .sft .ckpt .pt .pth .pt2 .bin .pkl .pickle .gguf .onnx .h5 .keras .npy .npz .joblib .zip .dat "
    ".data .vae .model .tar .torchscript .ptl .7z .msgpack".split()
)
"""Extensions that a walk of a directory takes up, in lower case; a file named explicitly needs none of them."""

_NOT_WALKED = frozenset({".git", "__pycache__", ".cache", "node_modules", ".venv"})


@dataclass(frozen=True, slots=True)
class Found:
    """One thing to examine: a file, or a diffusers folder (a directory holding ``model_index.json``)."""

    path: str
    is_folder: bool = False


def find_sources(arguments: Iterable[str]) -> Iterator[Found | SourceError]:
    """The files and diffusers folders that *arguments* name, in a stable order, each once.

    A file is taken whatever its extension; a directory is walked (hidden folders are not entered, links to folders
    not followed) for files with one of :data:`MODEL_EXTENSIONS`; a pattern that names no file is expanded.
    What cannot be had is yielded as the error, its ``path`` set, in its place, so that the rest goes on.
    """
    seen: set[str] = set()
    for argument in arguments:
        for found in _expand(argument):
            if isinstance(found, SourceError):
                yield found
                continue
            real = os.path.realpath(found.path)
            if real not in seen:
                seen.add(real)
                yield found


def _expand(argument: str) -> Iterator[Found | SourceError]:
    if os.path.isdir(argument):
        yield from _walk(argument)
    elif os.path.lexists(argument):
        yield Found(argument)
    elif any(char in argument for char in "*?["):
        import glob

        matches = sorted(glob.glob(argument, recursive=True))
        if not matches:
            yield NotFound(f"{argument}: nothing matches this pattern", path=argument)
        for match in matches:
            yield from _walk(match) if os.path.isdir(match) else iter([Found(match)])
    else:
        yield NotFound(f"{argument}: no such file or folder", path=argument)


def _walk(directory: str) -> Iterator[Found | SourceError]:
    if os.path.isfile(os.path.join(directory, "model_index.json")):
        yield Found(directory, is_folder=True)
        return
    try:
        entries = sorted(os.scandir(directory), key=lambda e: e.name)
    except PermissionError:
        yield AccessDenied(f"{directory}: may not be read: permission denied", path=directory)
        return
    except OSError as error:
        yield SourceError(f"{directory}: cannot be listed: {error.strerror}", path=directory)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _NOT_WALKED and not entry.name.startswith("."):
                yield from _walk(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in MODEL_EXTENSIONS:
            yield Found(entry.path)
