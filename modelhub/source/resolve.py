"""From what the user named to the files and folders to look at."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from modelhub.errors import AccessDenied, NotFound, SourceError
from modelhub.source.address import is_remote, shown_address

MODEL_EXTENSIONS = frozenset(
    ".safetensors .sft .ckpt .pt .pth .pt2 .bin .pkl .pickle .gguf .onnx .h5 .keras .npy .npz .joblib .zip .dat "
    ".data .vae .model .tar .torchscript .ptl .7z .msgpack".split()
)
"""Extensions that a walk of a directory takes up, in lower case; a file named explicitly needs none of them."""

_NOT_WALKED = frozenset({".git", "__pycache__", ".cache", "node_modules", ".venv"})


class Found(NamedTuple):
    """One thing to examine: a file, or a folder that is one model (:func:`is_one_model`).

    ``expected`` says whether somebody calls it a model: it was named explicitly, or it has a model's extension.
    """

    path: str
    is_folder: bool = False
    expected: bool = True


def find_sources(
    arguments: Iterable[str], *, every_file: bool = False, addresses: bool = False
) -> Iterator[Found | SourceError]:
    """The files and the folders of one model that *arguments* name, in a stable order, each once.

    With *addresses*, what an address leads to (:func:`modelhub.source.network.what_lies_at`) is named by its pinned
    address; without, it is an error.
    A file is taken whatever its extension; a directory is walked (hidden folders are not entered, links to folders
    not followed) for files with one of :data:`MODEL_EXTENSIONS`, or for *every_file*; a pattern that names no file is
    expanded. What cannot be had is yielded as the error, its ``path`` set, in its place, so that the rest goes on.
    What is remembered grows with the number of folders, links and arguments, not with that of files.
    """
    return _Finder(every_file, addresses).find(arguments)


class _Finder:
    """One run of :func:`find_sources`: what it has yielded already, as real paths."""

    def __init__(self, every_file: bool, addresses: bool) -> None:
        self._addresses = addresses
        self._every_file = every_file
        self._single: set[str] = set()
        self._walked: set[str] = set()

    def find(self, arguments: Iterable[str]) -> Iterator[Found | SourceError]:
        for argument in arguments:
            if is_remote(argument):
                yield from self._far(argument)
            elif os.path.isdir(argument):
                yield from self._walk(argument)
            elif os.path.lexists(argument):
                yield from self._one(Found(argument))
            elif any(char in argument for char in "*?["):
                yield from self._matching(argument)
            else:
                yield NotFound(f"{argument}: no such file or folder", path=argument)

    def _far(self, address: str) -> Iterator[Found | SourceError]:
        """What lies at *address*; of a repository's files, those with a model's name."""
        if not self._addresses:
            shown, hint = shown_address(address), "'modelhub fetch' downloads it"
            yield SourceError(f"{shown}: an address; what lies there has to be here for this", path=shown, hint=hint)
            return
        from modelhub.source.network import what_lies_at

        try:
            for lying in what_lies_at(address, is_model_name, names_one_model):
                if lying.address not in self._single:
                    self._single.add(lying.address)
                    yield Found(lying.address, lying.is_folder)
        except SourceError as error:
            error.path = shown_address(address)
            yield error

    def _matching(self, pattern: str) -> Iterator[Found | SourceError]:
        import glob

        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            yield NotFound(f"{pattern}: nothing matches this pattern", path=pattern)
        for match in matches:
            yield from self._walk(match) if os.path.isdir(match) else self._one(Found(match))

    def _one(self, found: Found) -> Iterator[Found]:
        """*found*, unless it has been yielded under this or another name."""
        real = os.path.realpath(found.path)
        walked = os.path.dirname(real) in self._walked and self._takes_up(real) and os.path.exists(real)
        if walked or real in self._single:
            return
        self._single.add(real)
        yield found

    def _takes_up(self, path: str) -> bool:
        """Whether a walk of the folder that the file *path* lies in takes it up by its name."""
        return self._every_file or is_model_name(path)

    def _walk(self, top: str) -> Iterator[Found | SourceError]:
        folders = [(top, os.path.realpath(top))]
        while folders:
            folder, real = folders.pop()
            try:
                entries = listing_of(folder)
            except SourceError as error:
                yield error
                continue
            if is_one_model(entries):
                yield from self._one(Found(folder, is_folder=True))
                continue
            names = {entry.name for entry in entries}
            below = [(entry.path, os.path.join(real, entry.name)) for entry in entries if is_entered(entry, names)]
            folders += reversed(below)
            yield from self._files(real, entries)

    def _files(self, real: str, entries: Iterable[os.DirEntry[str]]) -> Iterator[Found]:
        """The files among the *entries* of the folder *real*, links last: a file goes by its own name if it can."""
        if real in self._walked:
            return
        links = []
        for entry in entries:
            if entry.is_symlink():
                links.append(entry)
            elif (
                self._takes_up(entry.name)
                and not entry.is_dir(follow_symlinks=False)
                and os.path.join(real, entry.name) not in self._single
            ):
                yield Found(entry.path, expected=is_model_name(entry.name))
        self._walked.add(real)
        for entry in links:
            if self._takes_up(entry.name) and not os.path.isdir(entry.path):
                yield from self._one(Found(entry.path, expected=is_model_name(entry.name)))


def is_model_name(path: str) -> bool:
    """Whether *path* has one of :data:`MODEL_EXTENSIONS`."""
    return os.path.splitext(path)[1].lower() in MODEL_EXTENSIONS


def is_one_model(entries: Iterable[os.DirEntry[str]]) -> bool:
    """Whether the folder with these *entries* is one model, by their names (:func:`names_one_model`)."""
    names: set[str] = set()
    is_leaf = True
    for entry in entries:
        names.add(entry.name)
        is_leaf = is_leaf and (entry.name.startswith(".") or not entry.is_dir())
    return names_one_model(names, is_leaf)


def names_one_model(names: Collection[str], is_leaf: bool) -> bool:
    """Whether a folder with entries of these *names* is one model; *is_leaf* says that no folder is among them.

    It is a diffusers pipeline if it has a ``model_index.json``. Without folders in it it is also one model if it has an
    index of shards, an adapter as PEFT saves it, or a configuration and no other weights than those that diffusers and
    transformers load with it.
    """
    if "model_index.json" in names:
        return True
    if not is_leaf:
        return False
    weights = {name for name in names if is_model_name(name)}
    if "adapter_config.json" in names and weights and all(name.startswith("adapter_model.") for name in weights):
        return True
    if any(_SHARDS.fullmatch(name) for name in names):
        return True
    return "config.json" in names and bool(weights) and all(map(_COMPONENT.fullmatch, weights))


_SHARDS = re.compile(r".+\.(safetensors|bin)(\.[\w-]+)?\.index(\.[\w-]+)?\.json")
_COMPONENT = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)([.-].*)?\.(safetensors|bin)")
"""How diffusers (``utils/constants.py``) and transformers (``utils/__init__.py``) name weights and their indexes."""


def is_entered(entry: os.DirEntry[str], siblings: set[str]) -> bool:
    """Whether a walk goes down into *entry*.

    A Hugging Face cache keeps its files nameless in ``blobs`` and links to them by name from ``snapshots``.
    """
    if not entry.is_dir(follow_symlinks=False) or entry.name in _NOT_WALKED or entry.name.startswith("."):
        return False
    if entry.name != "blobs" or "snapshots" not in siblings:
        return True
    return _CACHED_REPOSITORY.fullmatch(os.path.basename(os.path.dirname(os.path.abspath(entry.path)))) is None


_CACHED_REPOSITORY = re.compile(r"(models|datasets|spaces|kernels)--.+")


def listing_of(folder: str) -> list[os.DirEntry[str]]:
    """What lies in *folder*, by name. Raises :class:`SourceError` where that cannot be told."""
    try:
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise cannot_be_listed(folder, error) from error


def cannot_be_listed(folder: str, error: OSError) -> SourceError:
    """Why nothing is known of what lies in *folder*."""
    if isinstance(error, PermissionError):
        return AccessDenied(f"{folder}: may not be read: permission denied", path=folder)
    return SourceError(f"{folder}: cannot be listed: {error.strerror}", path=folder)
