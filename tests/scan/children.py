"""Stand-ins for the child process in which fickling is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from modelhub.scan import fickling_child


def replaced_by(monkeypatch: pytest.MonkeyPatch, program: str, *args: str) -> list[list[str]]:
    """Have the Python *program* run instead of the child; returns the commands that will have been started."""
    started: list[list[str]] = []

    def command(task: str, seconds: float) -> list[str]:
        started.append([sys.executable, "-I", "-c", program, *args])
        return started[-1]

    monkeypatch.setattr(fickling_child, "command", command)
    return started


def saying(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, object]) -> None:
    """Have the child read its questions and give *answers*, whatever was asked."""
    said = "".join(json.dumps(answer) + "\n" for answer in answers)
    replaced_by(monkeypatch, "import sys; sys.stdin.buffer.read(); print(sys.argv[1], end='')", said)


def with_fickling_in(monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    """Have the real child find a package ``fickling`` in *directory* first."""
    real: Callable[..., list[str]] = fickling_child.command

    def command(task: fickling_child.Task, seconds: float) -> list[str]:
        *rest, path = real(task, seconds)
        return [*rest, json.dumps([directory, *json.loads(path)])]

    monkeypatch.setattr(fickling_child, "command", command)


HANGS = "import time; time.sleep(60)"
CRASHES = "import os; os.abort()"
