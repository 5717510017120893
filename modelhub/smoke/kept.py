"""What a worker keeps from one test to the next: the last base of an adapter, and what it made alone.

A library has many adapters for one base; loading it and sampling with it alone are the dearer half of each test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modelhub.smoke.loading import Account, Files, Place, load
from modelhub.smoke.spec import SmokeSpec

Loaded = tuple[dict[str, Any], dict[str, Account]]


@dataclass(slots=True)
class Kept:
    """``alone`` is what was sampled with the base alone, by what was asked for."""

    alone: dict[str, Any] = field(default_factory=dict)
    _key: object = None
    _base: Loaded | None = None

    def load(self, spec: SmokeSpec, files: Files, place: Place) -> Loaded:
        """The modules of *spec*, read anew unless they are those of the base that is kept."""
        key = (spec.files[:-1], repr(spec.components), place) if spec.adapter is not None else None
        if key is None or key != self._key or self._base is None:
            self._key = self._base = None  # before the next is loaded, so that there is room for it
            self.alone.clear()
            loaded = load(spec, files, place)
            if key is not None:
                self._key, self._base = key, loaded
            return loaded
        return self._base
