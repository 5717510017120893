"""The program of the process in which one model is loaded and run: ``python -P -m modelhub.smoke.worker DIR BYTES``.

Its standard input is a :class:`~modelhub.smoke.spec.SmokeSpec` as JSON. In the folder *DIR* it leaves its measurements,
a line of JSON for each as it comes, and the image; *BYTES* of address space are its limit where the system has one.

Before a byte of a model is read the process is sealed: nothing in it can unpickle a name, reach the network or start a
process from then on, whichever library asks for it.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from modelhub.smoke.run import CANNOT_LOAD, MEASURED, NO_DEVICE, OUT_OF_MEMORY
from modelhub.smoke.spec import SmokeSpec
from modelhub.smoke.telling import Teller

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
        raise Forbidden("nothing is unpickled here")

    torch.load = refuse
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        setattr(pickle, name, refuse)

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
            resource.setrlimit(which, (most, most))
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


def main(folder: str, memory: str) -> int:
    """Test the model that standard input tells of; the exit status is one of :mod:`modelhub.smoke.run`'s."""
    spec = SmokeSpec.from_json(sys.stdin.read())
    try:
        with Teller(os.path.join(folder, MEASURED)) as teller:
            teller.stage("starting")
            return _test(spec, folder, int(memory), teller)
    except BaseException as error:
        if _out_of_memory(error):
            return OUT_OF_MEMORY
        raise


def _test(spec: SmokeSpec, folder: str, memory: int, teller: Teller) -> int:
    from modelhub.smoke.loading import CannotLoad, NoDevice, place_of
    from modelhub.smoke.testing import run_test

    seal()
    try:
        place = place_of(spec.device, spec.dtype)
        if place.device.type == "cpu":  # a GPU's driver reserves more addresses than any limit that would be of use
            _limit(memory)
        run_test(spec, place, folder, teller)
    except (NoDevice, CannotLoad) as error:
        sys.stderr.write(f"{error}\n")
        return NO_DEVICE if isinstance(error, NoDevice) else CANNOT_LOAD
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
