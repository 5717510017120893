"""The program of the process in which models are loaded and run: ``python -P -m modelhub.smoke.worker``.

Each line of its standard input is a task: a folder, bytes of address space (its limit where the system has one), and
a :class:`~modelhub.smoke.spec.SmokeSpec`, as JSON. In the folder it leaves its measurements, a line of JSON for each as
it comes, and the image; then it answers with a line. What goes wrong ends it.

Before a byte of a model is read the process is sealed: nothing in it can unpickle a name, reach the network or start a
process from then on, whichever library asks for it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from modelhub.smoke.run import CANNOT_LOAD, DONE, MEASURED, NO_DEVICE, OUT_OF_MEMORY, STARTING
from modelhub.smoke.spec import SmokeSpec
from modelhub.smoke.telling import Teller

if TYPE_CHECKING:
    from modelhub.smoke.kept import Kept

_FORBIDDEN = (
    "pickle.find_class",
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pty.spawn",
)
"""Audit events (https://docs.python.org/3/library/audit_events.html) of unpickling, the network and new
processes."""


class Forbidden(RuntimeError):
    """The sealed process was asked for what it must not do."""


def seal() -> None:
    """Let nothing unpickle, reach the network or start a process from now on."""
    import pickle

    import torch

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise Forbidden("nothing is unpickled and no process started here")

    class Refusing:
        """A class, since libraries that are imported later have classes of their own below it."""

        def __init__(self, *_: Any, **__: Any) -> None:
            refuse()

    torch.load = torch.serialization.load = refuse
    for name in ("load", "loads"):
        setattr(pickle, name, refuse)
    for name in ("Unpickler", "_Unpickler"):
        setattr(pickle, name, Refusing)
    try:
        import _posixsubprocess
    except ImportError:  # Windows has none
        pass
    else:
        _posixsubprocess.fork_exec = refuse  # raises no audit event, and multiprocessing calls it directly

    def audit(event: str, _: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            raise Forbidden(f"{event} is forbidden here")

    sys.addaudithook(audit)


def _limit(nbytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has none: there is the parent's time limit alone
        return
    for which, most in ((resource.RLIMIT_AS, nbytes), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(which, (most, resource.getrlimit(which)[1]))
        except (OSError, ValueError):  # a lower limit is set already, or the system does not know this one
            continue


def _out_of_memory(error: BaseException) -> bool:
    """Whether *error* is how Python or torch says that there is no memory left."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "Cannot allocate memory" in text
        or "unable to mmap" in text
    )


def main() -> int:
    """Carry out the tasks; the exit status is one of :mod:`modelhub.smoke.run`'s."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    kept = None
    try:
        for line in sys.stdin:
            folder, memory, spec = json.loads(line)
            with Teller(os.path.join(folder, MEASURED)) as teller:
                teller.stage(STARTING)
                from modelhub.smoke.kept import Kept

                kept = kept or _begin(Kept())
                status = _test(SmokeSpec.from_json(spec), folder, memory, teller, kept)
            if status:
                return status
            answers.write(DONE)
            answers.flush()
    except BaseException as error:
        if _out_of_memory(error):
            return OUT_OF_MEMORY
        raise
    return 0


def _begin(kept: Kept) -> Kept:
    from modelhub.smoke import testing  # noqa: F401 (all that is imported is, before nothing can be any more)

    seal()
    return kept


def _test(spec: SmokeSpec, folder: str, memory: int, teller: Teller, kept: Kept) -> int:
    from modelhub.smoke.loading import CannotLoad, NoDevice, place_of
    from modelhub.smoke.testing import run_test

    try:
        place = place_of(spec.device, spec.dtype, spec.pipeline)
        if place.device.type == "cpu":  # a GPU's driver reserves more addresses than any limit that would be of use
            _limit(memory)
        run_test(spec, place, folder, teller, kept)
    except (NoDevice, CannotLoad) as error:
        sys.stderr.write(f"{error}\n")
        return NO_DEVICE if isinstance(error, NoDevice) else CANNOT_LOAD
    return 0


if __name__ == "__main__":
    sys.exit(main())
