"""The machine that a result was measured on, in words; never its name, its paths or whose it is."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable

from modelhub import __version__


def description(directory: str, packages: Iterable[str] = ()) -> list[str]:
    """Lines of Markdown: processor, memory, disk under *directory*, system, Python, modelhub and *packages*."""
    versions = [f"modelhub {__version__}", f"Python {platform.python_version()}", *map(_version, packages)]
    return [
        f"* measured {datetime.date.today().isoformat()}, load average {_load()} at the end",
        f"* {os.cpu_count()} cores, {_processor()}; {_memory()} of memory",
        f"* {_file_system(directory)}; {platform.system()} {platform.release().split('-')[0]}",
        f"* {', '.join(v for v in versions if v)}",
    ]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "an unknown amount"
    return f"{size / 2**30:.0f} GiB"


def _file_system(directory: str) -> str:
    """The type of file system that *directory* is on, where the system tells."""
    where = os.path.realpath(directory)
    found = ("", "a file system of unknown type")
    try:
        with open("/proc/mounts", encoding="utf-8") as file:
            for line in file:
                _, mount, kind, *_ = line.split(" ")
                inside = where == mount or where.startswith(mount.rstrip("/") + "/")
                if inside and len(mount) >= len(found[0]):
                    found = (mount, f"{kind} file system")
    except OSError:
        pass
    return found[1]


def _load() -> str:
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except (OSError, AttributeError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""
