"""The story of MANY smoke tests: one worker for all of them, and what they came to kept in the catalog."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from types import TracebackType

from modelhub import __version__
from modelhub.db import Catalog, Entry, Query, SmokeRun
from modelhub.errors import SourceError
from modelhub.intake import stat_of
from modelhub.smoke import Limits, Pair, Settings, SmokeResult, Worker, asked_of, judge, prepare
from modelhub.source import FileStat

KINDS = ("checkpoint", "vae", "lora", "embedding", "hypernetwork", "controlnet", "t2i-adapter", "upscaler", "restorer")
"""Kinds that there are tests for."""

_LOADED = ("safetensors", "diffusers-folder", "model-folder")
_AS_FOLDERS = frozenset({"controlnet", "t2i-adapter"})
"""Kinds of which the folder of one model is tested."""


class Trials:
    """Smoke tests over *catalog* (``None``: kept nowhere), by a worker that goes from one to the next.

    A context manager: leaving it ends the worker. Adapters are put on what *base*, a path, names; without one on a
    checkpoint of the catalog. Images are kept in the folder *images*.
    """

    def __init__(
        self,
        catalog: Catalog | None,
        settings: Settings,
        limits: Limits,
        *,
        base: str | None = None,
        images: str | None = None,
        accept: bool = False,
        keeps: bool = True,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._worker = Worker(limits)
        self._base = base
        self._images = images
        self._accept = accept
        self._keeps = keeps
        self._known_bases: dict[str, str | None] = {}

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.__exit__(kind, error, trace)

    def run(self, path: str, settings: Settings | None = None, beside: str | None = None) -> SmokeResult:
        """Test the model at *path* as :func:`modelhub.smoke.smoke` does, and keep what it came to.

        The image is compared with that of the accepted test of the same bytes that was asked for the same; or with
        *beside*, another model's, and then not judged by it. Raises what :func:`modelhub.smoke.prepare.prepare` raises,
        and :class:`~modelhub.errors.SourceError` for an image that cannot be kept.
        """
        before = stat_of(path)
        prepared = prepare(path, settings or self._settings, self._find_base)
        if isinstance(prepared, SmokeResult):
            result = prepared
        else:
            accepted = None if beside else self._accepted(before, asked_of(prepared))
            measured = self._worker.run(replace(prepared, reference=beside or accepted))
            result = judge(replace(prepared, reference=accepted), measured)
        self._keep(before, result)
        return result

    def _find_base(self, architecture: str) -> str | None:
        if self._base is not None:
            return self._base
        if architecture not in self._known_bases:
            self._known_bases[architecture] = _base_in(self._catalog, architecture) if self._catalog else None
        return self._known_bases[architecture]

    def _accepted(self, stat: FileStat, asked: object) -> str | None:
        if self._catalog is None or self._accept:
            return None
        return self._catalog.smoke_runs.accepted(stat, json.loads(json.dumps(asked)))

    def _keep(self, stat: FileStat, result: SmokeResult) -> None:
        if (
            self._catalog is None
            or not self._keeps
            or result.outcome == "not testable"
            or not self._catalog.smoke_runs.knows(stat)
        ):
            return
        sha256 = path = None
        if result.image is not None and self._images is not None:
            sha256 = hashlib.sha256(result.image).hexdigest()
            path = os.path.join(os.path.abspath(self._images), sha256[:2], f"{sha256}.png")
        facts = {name: value for name, value in result.facts.items() if name not in result.asked}
        facts |= {
            "seconds": dict(result.seconds),
            "host_memory": result.host_memory,
            "device_memory": result.device_memory,
        }
        run = SmokeRun(
            outcome=result.outcome,
            sentence=result.sentence,
            asked=dict(result.asked),
            checks=tuple(asdict(check) for check in result.checks),
            facts=facts,
            image_sha256=sha256,
            image_path=path,
            version=__version__,
        )
        if path is not None and result.image is not None:
            _write_once(path, result.image)
        self._catalog.smoke_runs.put(stat, run, str(result.asked.get("base", "")) or None)
        if self._accept and result.outcome in ("passed", "suspect"):
            self._catalog.smoke_runs.accept(stat)


def compare(trials: Trials, first: str, second: str, asked: Sequence[Settings]) -> list[Pair]:
    """What the models at *first* and *second* make of each of *asked*, and how alike that is."""
    pairs = []
    made = [trials.run(first, settings) for settings in asked]
    with tempfile.TemporaryDirectory(prefix="modelhub-compare-") as folder:
        for number, (settings, result) in enumerate(zip(asked, made, strict=True)):
            beside = None
            if result.image is not None:
                beside = os.path.join(folder, f"{number}.png")
                with open(beside, "wb") as file:
                    file.write(result.image)
            other = trials.run(second, settings, beside)
            alike = other.facts.get("reference") if beside is not None else None
            pairs.append(Pair(settings.prompts[0], settings.seed, result, other, alike))  # type: ignore[arg-type]
    return pairs


def to_test(catalog: Catalog, query: Query, *, untested: bool = False) -> list[Entry]:
    """The records of *catalog* that fit *query* and can be tested, those that share a base one after the other.

    They are safe, lie somewhere, and are of :data:`KINDS`; with *untested*, no test of them has been kept.
    """
    wanted = (query.kind,) if isinstance(query.kind, str) else query.kind or KINDS
    kinds = tuple(kind for kind in wanted if kind in KINDS)
    found = catalog.entries(replace(query, kind=kinds, verdict="safe", container=_LOADED)) if kinds else []
    done = catalog.smoke_runs.tested() if untested else frozenset()
    live = [
        entry
        for entry in found
        if entry.path is not None
        and entry.state == "live"
        and entry.id not in done
        and (entry.container != "model-folder" or entry.kind in _AS_FOLDERS)
    ]
    return sorted(live, key=lambda entry: (KINDS.index(entry.kind or ""), entry.architecture or ""))


def _base_in(catalog: Catalog, architecture: str) -> str | None:
    wanted = Query(kind="checkpoint", architecture=architecture, verdict="safe", container=_LOADED, sort="added")
    found = (entry.path for entry in catalog.entries(wanted) if entry.variant is None)
    return next((path for path in found if path is not None and os.path.lexists(path)), None)


def _write_once(path: str, data: bytes) -> None:
    """Write *data* to *path*, which is named after it, whole or not at all."""
    if os.path.exists(path):
        return
    part = f"{path}.part"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except OSError as error:
        raise SourceError(f"{path}: the image cannot be kept there: {error.strerror}") from error
