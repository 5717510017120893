"""What a worker keeps from one test to the next: the last model, or base of an adapter, and what it made alone.

A library has many adapters for one base; loading it and sampling with it alone are the dearer half of each test. A
model that is compared is run with one prompt and seed after the other.
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
    _loaded: Loaded | None = None

    def load(self, spec: SmokeSpec, files: Files, place: Place) -> Loaded:
        """The modules of *spec*, read anew unless they are those that are kept."""
        files_of_model = spec.files if spec.adapter is None else spec.files[:-1]
        key = (files_of_model, repr(spec.components), place)
        if key != self._key or self._loaded is None:
            self._key = self._loaded = None  # before the next is loaded, so that there is room for it
            self.alone.clear()
            self._loaded = load(spec, files, place)
            self._key = key
        return self._loaded
