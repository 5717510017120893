"""How the programs that people use lay their model folders out.

========  =====================================================  ==================================================
dialect   is told by                                             its models lie in
========  =====================================================  ==================================================
a1111     ``models/Stable-diffusion`` (AUTOMATIC1111, Forge)     ``models``, ``embeddings``, ``extensions/*/models``
comfyui   ``extra_model_paths.yaml``; ``models/checkpoints``,    ``models``, and what ``extra_model_paths.yaml``
          and ``custom_nodes`` or ``folder_paths.py``            names
invokeai  ``databases/invokeai.db`` or ``invokeai.yaml``         ``models``
hf-cache  folders named ``models--ORG--NAME``                    ``snapshots``, whose links lead to ``blobs``
plain     anything else                                          all of it
========  =====================================================  ==================================================
"""

from __future__ import annotations

import os
import re

from modelhub.errors import SourceError

DIALECTS = ("auto", "plain", "a1111", "comfyui", "invokeai", "hf-cache")
_LARGEST_YAML = 1 << 20


def detect(path: str) -> str:
    """The dialect of the folder *path*: one of :data:`DIALECTS` but ``auto``."""

    def there(*names: str) -> bool:
        return os.path.exists(os.path.join(path, *names))

    if there("models", "Stable-diffusion"):
        return "a1111"
    is_comfyui = there("models", "checkpoints") and (there("custom_nodes") or there("folder_paths.py"))
    if is_comfyui or there("extra_model_paths.yaml"):
        return "comfyui"
    if there("databases", "invokeai.db") or there("invokeai.yaml"):
        return "invokeai"
    try:
        with os.scandir(path) as entries:
            if any(entry.name.startswith("models--") and entry.is_dir() for entry in entries):
                return "hf-cache"
    except OSError:
        pass
    return "plain"


def folders_of(path: str, dialect: str) -> list[str]:
    """The folders to walk for the library *path*, each that is there; of a ``plain`` one itself."""
    if dialect == "a1111":
        extensions = os.path.join(path, "extensions")
        names = sorted(os.listdir(extensions)) if os.path.isdir(extensions) else []
        wanted = ["models", "embeddings", *(os.path.join("extensions", name, "models") for name in names)]
    elif dialect == "comfyui":
        wanted = ["models", *extra_model_paths(os.path.join(path, "extra_model_paths.yaml"))]
    elif dialect == "invokeai":
        wanted = ["models"]
    else:
        return [path]
    folders = [os.path.normpath(os.path.join(path, folder)) for folder in wanted]
    return [
        folder
        for folder in dict.fromkeys(folders)
        if os.path.isdir(folder) and not any(folder.startswith(other + os.sep) for other in folders)
    ]


_REPOSITORY = re.compile(r"models--(?:.+?--)?(.+)")


def title_of(folder: str) -> str:
    """What the model in *folder* is called: as the folder, or as the repository of which a cache has it by revision."""
    above, name = os.path.split(os.path.abspath(folder))
    above, snapshots = os.path.split(above)
    repository = _REPOSITORY.fullmatch(os.path.basename(above))
    return repository[1] if repository is not None and snapshots == "snapshots" else name


_SETTING = re.compile(r"(\s*)([A-Za-z0-9_.\-]+)\s*:\s*(.*)")


def extra_model_paths(path: str) -> list[str]:
    """The folders that ComfyUI's ``extra_model_paths.yaml`` names, relative to its own folder where they are so.

    The file has sections, each with a ``base_path`` and names with a folder or, after ``|``, several, one per line.
    Only that much of YAML is read. No file, no folders; raises :class:`SourceError` for one that cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_LARGEST_YAML)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}", path=path) from error
    folders: list[str] = []
    base = ""
    section: list[str] = []
    block: int | None = None
    for raw in text.splitlines():
        line = raw.split(" #")[0].rstrip()
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        if block is not None and indent > block:
            section.append(line.strip())
            continue
        block = None
        match = _SETTING.fullmatch(line)
        if match is None:
            continue
        name, value = match[2], match[3].strip().strip("\"'")
        if indent == 0:
            folders += [os.path.join(base, each) for each in section]
            base, section = "", []
        elif name == "base_path":
            base = os.path.expanduser(os.path.expandvars(value))
        elif value in ("|", ">", "|-", ">-"):
            block = indent
        elif name != "is_default" and value:
            section.append(value)
    folders += [os.path.join(base, each) for each in section]
    return folders
