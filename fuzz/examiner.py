"""The child process in which broken files are examined: ``python -m fuzz.examiner``.

Everything that modelhub does with a file's bytes before it writes anything is done; the answer says what was raised
that may not be, and how long it took. The process may use 500 MB more than it does when it has started.
"""

from __future__ import annotations

import contextlib
import resource
import time
import traceback
from typing import Any

from fuzz.workers import serve
from modelhub.container import Container, open_container
from modelhub.container.deep import deep_check
from modelhub.convert.plan import plan_conversion
from modelhub.errors import ModelHubError, SourceError
from modelhub.identify import identify
from modelhub.report.json import dumps, scan_dict
from modelhub.scan import ScanReport, scan
from modelhub.source import BytesSource

SECONDS = 5.0
MEMORY = 500 << 20


def examine(request: dict[str, Any]) -> dict[str, Any]:
    """Open, scan, identify and deeply check ``data`` as a file called ``name``, and plan its conversion.

    The answer has ``verdict``, ``seconds``, and ``error``: the traceback of anything that is raised but a
    :class:`SourceError`, or, by the plan, a :class:`ModelHubError`.
    """
    started = time.monotonic()
    verdict = error = None
    try:
        container = open_container(BytesSource(request["name"], request["data"].encode("latin-1")))
        report = scan(container)
        verdict = report.verdict.label
        identify(container)
        _look_at_all(container, report)
    except SourceError:
        pass
    except BaseException:
        error = traceback.format_exc()[-2000:]
    return {"verdict": verdict, "seconds": time.monotonic() - started, "error": error}


def _look_at_all(container: Container, report: ScanReport) -> None:
    """Everything else that is asked of an opened file."""
    dumps(scan_dict(report))
    deep_check(container)
    with contextlib.suppress(ModelHubError):
        plan_conversion(container)


def limit_memory() -> None:
    """Let this process grow by :data:`MEMORY` and no more."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


if __name__ == "__main__":
    limit_memory()
    serve(examine)
