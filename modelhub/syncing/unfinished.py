"""Downloads that go on, told by what their program keeps beside them.

aria2 reserves a file's whole size first, under its own name, so that neither its name nor its size nor, soon, its
header says that most of it are holes: ``NAME.aria2`` does, until the download has ended.
"""

from __future__ import annotations

import os

_MARK = ".aria2"
_BEGINS = "a download that has not ended"


def problem_of(path: str) -> str | None:
    """What is wrong with the file at *path* if it is being downloaded, in words."""
    mark = path + _MARK
    return f"{_BEGINS}: {os.path.basename(mark)} is beside it" if os.path.lexists(mark) else None


def is_told_by(problem: str | None) -> bool:
    """Whether *problem* is one of :func:`problem_of`."""
    return problem is not None and problem.startswith(_BEGINS)


def has_ended(problem: str | None, path: str) -> bool:
    """Whether a file at *path* that had this *problem* is no longer being downloaded."""
    return is_told_by(problem) and not os.path.lexists(path + _MARK)
