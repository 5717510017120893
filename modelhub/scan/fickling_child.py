"""fickling, asked in a child process with limits of time and memory; this process never imports it.

fickling (Trail of Bits, LGPL) decompiles pickles without running them. It is slow on hostile input and may fail on any,
so each question has an answer or a reason why there is none.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

from modelhub import termination
from modelhub.container import Container, PickleProgram
from modelhub.errors import SourceError
from modelhub.pickles import Trace
from modelhub.scan.fickling_worker import NOT_INSTALLED, SEALED
from modelhub.source import Source

TIMEOUT = 20.0
"""Seconds that all programs of one file may take together."""

MAX_PROGRAM = 8 << 20
MAX_ALTOGETHER = 32 << 20
"""Bytes of one pickle program, and of all of a file, that fickling is given: it makes some kilobytes of each opcode."""

MAX_MEMORY = 512 << 20
_MAX_CHILDREN = 3
_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fickling_worker.py")

Task = Literal["opinion", "decompile"]
Answer = Mapping[str, Any]
"""What :mod:`modelhub.scan.fickling_worker` says of one program; with the key ``failed`` why it says nothing."""


@dataclass(frozen=True, slots=True)
class Question:
    """One program and the *member* that reports call it by; ``data`` are its bytes, or why they are not shown.

    ``sure`` is how many of the bytes were traced; where the trace broke off, others follow that a loader might run.
    """

    member: str | None
    program: PickleProgram
    data: bytes | str
    sure: int = 0


def questions_about(container: Container) -> list[Question]:
    """Every pickle program of *container*, files of a folder included, with its bytes."""
    left = MAX_ALTOGETHER
    questions = []
    for relative, part in container.files():
        for program in part.pickles:
            member = "!".join(filter(None, (relative, program.member))) or None
            around: Source | None = program.source or part.source
            question = _question(member, program, around, min(MAX_PROGRAM, left))
            left -= len(question.data) if isinstance(question.data, bytes) else 0
            questions.append(question)
    return questions


def ask(task: Task, questions: Sequence[Question], timeout: float = TIMEOUT) -> list[Answer]:
    """fickling's answer to each question, in order; never raises, and takes *timeout* seconds at most.

    Short programs are asked about first: a long one must not take the time of the others. When the child dies of a
    program, another one goes on with those after it.
    """
    answers: dict[int, Answer] = {n: {"failed": q.data} for n, q in enumerate(questions) if isinstance(q.data, str)}
    pending = sorted((n for n in range(len(questions)) if n not in answers), key=lambda n: len(questions[n].data))
    deadline = monotonic() + timeout
    children = 0
    while pending:
        told, why = _run(task, [questions[n] for n in pending], deadline - monotonic())
        answers.update(zip(pending, told, strict=False))
        pending = pending[len(told) :]
        children += 1
        if pending and why is not None:
            answers[pending.pop(0)] = {"failed": why}
        if why == _ABSENT or children == _MAX_CHILDREN or monotonic() >= deadline:
            answers.update({n: {"failed": why or "it did not answer"} for n in pending})
            break
    return [answers[n] for n in range(len(questions))]


_ABSENT = "fickling is not installed"
_WHY = {NOT_INSTALLED: _ABSENT, SEALED: "it tried to do more than to read"}


def _run(task: Task, questions: Sequence[Question], seconds: float) -> tuple[list[Answer], str | None]:
    """The answers that one child gives, and why there are fewer than questions."""
    import subprocess

    sizes = json.dumps([(len(question.data), question.sure) for question in questions])
    given = b"".join([sizes.encode(), b"\n", *(q.data for q in questions if isinstance(q.data, bytes))])
    why: str | None
    try:
        done = termination.run(
            command(task, seconds), given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds
        )
        said, status = done.stdout, done.returncode
        why = _WHY.get(status, f"it ended with status {status}")
    except subprocess.TimeoutExpired as error:
        said, why = error.output or b"", "it took too long"
    except OSError as error:
        said, why = b"", f"it cannot be started: {error.strerror}"
    answers = list(_parsed(said, task))[: len(questions)]
    return answers, None if len(answers) == len(questions) else why


def command(task: Task, seconds: float) -> list[str]:
    """How the child is started: isolated from the user's environment, with this process's places of modules."""
    path = json.dumps([each for each in sys.path if each])
    return [sys.executable, "-I", "-S", _WORKER, task, str(int(seconds) + 1), str(MAX_MEMORY), path]


def _parsed(said: bytes, task: Task) -> Iterator[Answer]:
    """The whole lines of an answer, up to one that is not of the agreed form."""
    for row in said.split(b"\n")[:-1]:
        try:
            answer = json.loads(row)
        except ValueError:
            return
        if not isinstance(answer, dict) or not ("failed" in answer or answer.keys() >= _ANSWERS[task]):
            return
        yield answer


_ANSWERS = {"opinion": {"objections", "imports"}, "decompile": {"lines", "more"}}


def _question(member: str | None, program: PickleProgram, around: Source | None, limit: int) -> Question:
    trace = program.trace
    sure = trace.end - trace.start
    if sure > limit:
        return Question(member, program, f"the pickle has {sure} bytes, more than fickling is given")
    try:
        if around is None or not _lies_in(around, trace):
            return Question(member, program, "its bytes are packed inside another file")
        data = around.read_at(trace.start, sure if trace.stopped else limit)
    except SourceError as error:
        return Question(member, program, str(error))
    return Question(member, program, data, min(sure, len(data)))


_FIRST_BYTE = {"GLOBAL": b"c", "INST": b"i", "STACK_GLOBAL": b"\x93"}


def _lies_in(source: Source, trace: Trace) -> bool:
    """Whether *trace* is of bytes of *source*, and not of something unpacked from it."""
    places = [(each.offset, _FIRST_BYTE[each.opcode]) for each in trace.imports[:8] if each.opcode in _FIRST_BYTE]
    if trace.stopped:
        places.append((trace.end - 1, b"."))
    if trace.protocol >= 2:
        places.append((trace.start, b"\x80"))
    return all(source.read_at(offset, 1) == byte for offset, byte in places)


def printable(text: str) -> str:
    """*text* in printable ASCII on one line: it quotes an untrusted file."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isascii() and c.isprintable() else c.encode("unicode_escape").decode() for c in text)
