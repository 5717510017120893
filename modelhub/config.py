"""What the user has settled once: the catalog, the library and the verdict that counts as found.

Each setting is taken from the first place that has it: a flag, the environment (``MODELHUB_CATALOG``,
``MODELHUB_LIBRARY``, ``MODELHUB_FAIL_ON``), ``modelhub.toml`` in the working directory, the user's own file
(``config.toml`` in the directory that :func:`user_file` names), and it remembers where it came from.

The file in the working directory may have come with a download. So it can only point a library at itself: its
``catalog`` and ``library`` are paths inside its own folder, and it says nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from modelhub.errors import AccessDenied, SettingsError, SourceError

PROJECT_FILE = "modelhub.toml"
FAIL_ON = ("unknown", "suspicious", "unsafe")
_LARGEST_FILE = 1 << 16
_OF_USERS = ("catalog", "library", "fail_on", "enrich_endpoint")


class Setting(NamedTuple):
    """A value and, in words, where it came from."""

    value: str
    origin: str


class Settings(NamedTuple):
    """What holds for one run; ``None``: nobody has said anything.

    ``catalog`` is an SQLAlchemy URL or the path of an SQLite file, ``library`` the folder that takes converted models,
    ``enrich_endpoint`` the address of a service that is asked about models (the user's own file or the environment).
    """

    catalog: Setting | None = None
    library: Setting | None = None
    enrich_endpoint: Setting | None = None


def load_settings(
    catalog: str | None = None,
    library: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    directory: str = ".",
) -> Settings:
    """The settings for one run; *catalog* and *library* are the flags' values.

    Raises :class:`SettingsError` for a file of settings that is not TOML, or holds a key or a value that it may not.
    """
    project = _project_settings(os.path.join(directory, PROJECT_FILE))
    user = _user_settings(environ)

    def pick(name: str, flag: str | None) -> Setting | None:
        if flag is not None:
            return Setting(flag, f"--{name}")
        return _from_environment(name, environ) or project.get(name) or user.get(name)

    return Settings(pick("catalog", catalog), pick("library", library), pick("enrich_endpoint", None))


def fail_on_setting(flag: str | None = None, *, environ: Mapping[str, str] = os.environ) -> Setting:
    """The mildest verdict that counts as found. The file in the working directory has no say in this."""
    if flag is not None:
        return Setting(flag, "--fail-on")
    chosen = _from_environment("fail_on", environ) or _user_settings(environ).get("fail_on")
    if chosen is None:
        return Setting("suspicious", "default")
    if chosen.value not in FAIL_ON:
        raise SettingsError(f"{chosen.origin}: fail_on is {chosen.value!r}", hint=f"use one of {', '.join(FAIL_ON)}")
    return chosen


def user_file(environ: Mapping[str, str] = os.environ) -> str:
    """Path of the user's own file of settings, whether or not it exists.

    The directories are those of ``platformdirs.user_config_dir("modelhub", appauthor=False)``, which every command
    would pay for with two dozen modules.
    """
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        base = environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Application Support")
    else:
        base = environ.get("XDG_CONFIG_HOME", "").strip() or os.path.join(home, ".config")
    return os.path.join(base, "modelhub", "config.toml")


def _from_environment(name: str, environ: Mapping[str, str]) -> Setting | None:
    variable = f"MODELHUB_{name.upper()}"
    value = environ.get(variable)
    return Setting(value, variable) if value else None


def _user_settings(environ: Mapping[str, str]) -> dict[str, Setting]:
    path = user_file(environ)
    return {name: Setting(value, path) for name, value in _read(path, _OF_USERS).items()}


def _project_settings(path: str) -> dict[str, Setting]:
    folder = os.path.realpath(os.path.dirname(path) or ".")
    settings = {}
    for name, value in _read(path, ("catalog", "library")).items():
        inside = os.path.realpath(os.path.join(folder, value))
        if "://" in value or os.path.isabs(value) or not inside.startswith(folder.rstrip(os.sep) + os.sep):
            raise SettingsError(
                f"{path}: {name} = {value!r} does not lie in the folder of that file",
                hint=f"give a path inside that folder, or use --{name} or MODELHUB_{name.upper()}",
            )
        settings[name] = Setting(inside, path)
    return settings


def _read(path: str, known: tuple[str, ...]) -> dict[str, str]:
    """The strings that the TOML file *path* sets; nothing where there is no such file."""
    if not os.path.lexists(path):
        return {}
    if not os.path.isfile(path):  # a FIFO would never answer
        raise SourceError(f"{path}: not a regular file")
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except PermissionError as error:
        raise AccessDenied(f"{path}: may not be read: permission denied") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST_FILE:
        raise SettingsError(f"{path}: too long for a file of settings")
    import tomllib

    try:
        values = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not a TOML file: {error}") from error
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"{path}: unknown setting {name!r}", hint=f"it may set {', '.join(known)}")
        if not isinstance(value, str) or not value:
            raise SettingsError(f"{path}: {name} must be a text", hint=f'write {name} = "..."')
    return values
