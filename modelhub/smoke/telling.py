"""What a worker tells of its test while it goes on: lines of JSON that outlive it."""

from __future__ import annotations

import json
import math
from time import monotonic
from typing import Any


class Teller:
    """Writes measurements to *path*, each at once; numbers that are not finite become ``null``.

    A context manager: leaving it ends the last stage and closes the file.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "x", encoding="ascii")  # noqa: SIM115 (closed on leaving)
        self._seconds: dict[str, float] = {}
        self._stage: tuple[str, float] | None = None

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_stage()
        self._file.close()

    def stage(self, name: str) -> None:
        """From now on it is *name*, as in "while it was loading"; the stage before took the time until now."""
        self._end_stage()
        self._stage = (name, monotonic())
        self.tell(stage=name)

    def _end_stage(self) -> None:
        if self._stage is not None:
            name, began = self._stage
            self._seconds[name] = round(self._seconds.get(name, 0.0) + monotonic() - began, 3)
            self._stage = None
            self.tell(seconds=self._seconds)

    def tell(self, **values: Any) -> None:
        self._file.write(json.dumps(_finite(values)) + "\n")
        self._file.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value
