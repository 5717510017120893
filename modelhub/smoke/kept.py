"""What a worker keeps from one test to the next: the last model, or base of an adapter, and what it made alone.

A library has many adapters for one base; loading it and sampling with it alone are the dearer half of each test. A
model that is compared is run with one prompt and seed after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modelhub.smoke.loading import Account, Files, Place, load
from modelhub.smoke.scoring import Scorer
from modelhub.smoke.spec import CLIP, SmokeSpec
from modelhub.smoke.telling import Teller

Loaded = tuple[dict[str, Any], dict[str, Account]]


@dataclass(slots=True)
class Kept:
    """``alone`` is what was sampled with the base alone, by what was asked for."""

    alone: dict[str, Any] = field(default_factory=dict)
    _scorer: tuple[object, Scorer] | None = None
    _key: object = None
    _loaded: Loaded | None = None

    def load(self, spec: SmokeSpec, files: Files, place: Place, teller: Teller) -> Loaded:
        """The modules of *spec*, read anew unless they are those that are kept."""
        files_of_model = spec.files if spec.adapter is None else spec.files[:-1]
        key = (files_of_model, repr(spec.components), place)
        if key != self._key or self._loaded is None:
            self._key = self._loaded = None  # before the next is loaded, so that there is room for it
            self.alone.clear()
            self._loaded = load(spec.components, files, place, teller)
            self._key = key
        return self._loaded

    def scorer(self, spec: SmokeSpec, place: Place) -> Scorer | None:
        """What says how well an image shows its prompt, if *spec* has something that does; loaded once."""
        if spec.clip is None:
            return None
        tokenizer = spec.tokenizer or CLIP
        key = (spec.clip.files, tokenizer, place)
        if self._scorer is None or self._scorer[0] != key:
            self._scorer = None
            self._scorer = (key, Scorer(spec.clip, tokenizer, place))
        return self._scorer[1]
