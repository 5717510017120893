"""Judge, convert and catalogue model files, never running a byte of them.

>>> import modelhub
>>> report = modelhub.scan("model.ckpt")  # doctest: +SKIP
>>> report.verdict is modelhub.Verdict.SAFE  # doctest: +SKIP
True

>>> weights = modelhub.load_state_dict("model.ckpt")  # doctest: +SKIP

``scan``, ``identify``, ``convert``, ``merge``, ``blend`` and ``smoke`` are both the verb and the package of it:
``modelhub.scan("model.ckpt")`` and ``modelhub.scan.Verdict``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelhub import errors as errors
    from modelhub.blend import blend as blend
    from modelhub.blend import plan_blend as plan_blend
    from modelhub.convert import convert as convert
    from modelhub.convert.content import content_digest as content_digest
    from modelhub.db import Catalog as Catalog
    from modelhub.errors import UnsafeModelError as UnsafeModelError
    from modelhub.lowrank import RankRule as RankRule
    from modelhub.lowrank import extract as extract
    from modelhub.lowrank import plan_extract as plan_extract
    from modelhub.lowrank import plan_resize as plan_resize
    from modelhub.lowrank import resize as resize
    from modelhub.merge import merge as merge
    from modelhub.merge import plan_merge as plan_merge
    from modelhub.scan.findings import Finding as Finding
    from modelhub.scan.findings import ScanReport as ScanReport
    from modelhub.scan.findings import Severity as Severity
    from modelhub.scan.findings import Verdict as Verdict
    from modelhub.smoke import smoke as smoke
    from modelhub.verbs import Inspection as Inspection
    from modelhub.verbs import identify as identify
    from modelhub.verbs import inspect as inspect
    from modelhub.verbs import scan as scan
    from modelhub.weights import load_state_dict as load_state_dict

__version__ = "0.1.0"

__all__ = [
    "Catalog",
    "Finding",
    "Inspection",
    "RankRule",
    "ScanReport",
    "Severity",
    "UnsafeModelError",
    "Verdict",
    "__version__",
    "blend",
    "content_digest",
    "convert",
    "errors",
    "extract",
    "identify",
    "inspect",
    "load_state_dict",
    "merge",
    "plan_blend",
    "plan_extract",
    "plan_merge",
    "plan_resize",
    "resize",
    "scan",
    "smoke",
]

_HOME = {
    "Catalog": "modelhub.db",
    "Finding": "modelhub.scan",
    "Inspection": "modelhub.verbs",
    "ScanReport": "modelhub.scan",
    "Severity": "modelhub.scan",
    "UnsafeModelError": "modelhub.errors",
    "Verdict": "modelhub.scan",
    "content_digest": "modelhub.convert.content",
    "inspect": "modelhub.verbs",
    "load_state_dict": "modelhub.weights",
    "plan_blend": "modelhub.blend",
    "plan_extract": "modelhub.lowrank",
    "plan_merge": "modelhub.merge",
    "plan_resize": "modelhub.lowrank",
    "RankRule": "modelhub.lowrank",
    "extract": "modelhub.lowrank",
    "resize": "modelhub.lowrank",
}
_VERBS = {
    "blend": "modelhub.blend",
    "scan": "modelhub.verbs",
    "identify": "modelhub.verbs",
    "convert": "modelhub.convert",
    "merge": "modelhub.merge",
    "smoke": "modelhub.smoke",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _VERBS or name == "errors":
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Verb(ModuleType):
    """A package that can be called as the verb it is named after."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        verb = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_VERBS[verb]), verb)(*args, **kwargs)


class _Modelhub(ModuleType):
    """This package: makes a verb of the verbs' packages when the import system binds them here."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Modelhub
