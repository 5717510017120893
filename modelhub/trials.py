"""The story of MANY smoke tests: a worker for each device, and what they came to kept in the catalog."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace

from modelhub import __version__
from modelhub.db import Catalog, Entry, Query, SmokeRun
from modelhub.errors import CatalogError, FormatError, MissingExtra, SourceError
from modelhub.intake import stat_of
from modelhub.smoke import (
    FLOWS,
    VARIANTS,
    Ahead,
    Calibration,
    ClipSpec,
    Crew,
    Limits,
    Measured,
    NotTestable,
    Pair,
    Settings,
    SmokeResult,
    SmokeSpec,
    TensorFile,
    Worker,
    asked_of,
    clip_of,
    judge,
    prepare,
)
from modelhub.smoke.spec import CLIP
from modelhub.source import FileStat
from modelhub.vocabulary import WORDS

KINDS = (
    "checkpoint",
    "diffusion-model",
    "vae",
    "text-encoder",
    "lora",
    "embedding",
    "hypernetwork",
    "controlnet",
    "t2i-adapter",
    "upscaler",
    "restorer",
)
"""Kinds that there are tests for."""

_LOADED = ("safetensors", "diffusers-folder", "model-folder")

Source = tuple[str, Exception | None]
"""A path, and what keeps it from being looked at, if anything does."""


@dataclass(frozen=True, slots=True)
class _Test:
    """The test *number* of a run: the model at ``spec.path``, which is what *stat* says."""

    number: int
    stat: FileStat
    spec: SmokeSpec


class Trials:
    """Smoke tests over *catalog* (``None``: kept nowhere), each by a worker that goes from one to the next.

    A context manager: leaving it ends the workers, one for each of *devices* (none: the settings' own). Adapters are
    put on what *base*, a path, names; without one on a checkpoint of the catalog. Images are compared with their
    prompts by the CLIP model *clip*, a path, or one of the catalog, and kept in the folder *images*. Models of an
    architecture that there is one of *calibrations* for are judged by it.
    """

    def __init__(
        self,
        catalog: Catalog | None,
        settings: Settings,
        limits: Limits,
        *,
        devices: Sequence[str] = (),
        base: str | None = None,
        clip: str | None = None,
        images: str | None = None,
        calibrations: Mapping[str, Calibration] | None = None,
        accept: bool = False,
        keeps: bool = True,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._limits = limits
        self._devices: Sequence[str | None] = devices or (None,)
        self._ended = ExitStack()
        self._worker = self._ended.enter_context(Worker(limits, self._devices[0]))
        self._base = base
        self._clip = clip
        self._found_clip: tuple[ClipSpec | None, str] | None = None
        self._images = images
        self._calibrations = calibrations or {}
        self._accept = accept
        self._keeps = keeps
        self._known_bases: dict[str, str | None] = {}
        self.accepted = 0
        """Images that became the reference of later tests."""

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.close()

    def run(self, path: str, settings: Settings | None = None, beside: str | None = None) -> SmokeResult:
        """Test the model at *path* as :func:`modelhub.smoke.smoke` does, and keep what it came to.

        The image is compared with that of the accepted test of the same bytes that was asked for the same; or with
        *beside*, another model's, and then not judged by it. Raises what :func:`modelhub.smoke.prepare.prepare` raises,
        and :class:`~modelhub.errors.SourceError` for an image that cannot be kept.
        """
        test = self._prepared(1, path, settings or self._settings, beside)
        if isinstance(test, SmokeResult):
            return test
        return self._finished(test, self._worker.run(test.spec), judged=beside is None)

    def run_all(self, sources: Iterable[Source]) -> Iterator[tuple[int, str, SmokeResult | Exception]]:
        """Test the models of *sources*, one on each device at a time, and keep what each comes to.

        Yields the number of each, from 1, its path and its result, or why there is none, in the order in which they
        are done; of one device that is the order of *sources*. While models are run the next one is prepared and its
        files are read ahead. Raises :class:`~modelhub.errors.MissingExtra` and :class:`~modelhub.errors.CatalogError`.
        """
        crew: Crew[_Test] = self._ended.enter_context(Crew(self._limits, self._devices))
        ahead = self._ended.enter_context(Ahead())
        in_use: tuple[TensorFile, ...] = ()
        for number, (path, barred) in enumerate(sources, 1):
            test = barred or self._prepared_or_barred(number, path)
            if isinstance(test, _Test) and not crew.has_idle:
                ahead.read(file for file in test.spec.files if file not in in_use)
            while not crew.has_idle:
                yield self._next_of(crew)
            ahead.stop()
            if isinstance(test, _Test):
                in_use = test.spec.files
                crew.start(test, test.spec)
            else:
                yield number, path, test
            del test  # nothing of a result is held while the next one is made
        while crew.is_busy:
            yield self._next_of(crew)

    def _next_of(self, crew: Crew[_Test]) -> tuple[int, str, SmokeResult | Exception]:
        test, measured = crew.next_done()
        try:
            return test.number, test.spec.path, self._finished(test, measured)
        except SourceError as error:  # its image cannot be kept
            return test.number, test.spec.path, error

    def _prepared_or_barred(self, number: int, path: str) -> _Test | SmokeResult | Exception:
        try:
            return self._prepared(number, path, self._settings)
        except (MissingExtra, CatalogError):
            raise
        except Exception as error:
            return error

    def _prepared(self, number: int, path: str, settings: Settings, beside: str | None = None) -> _Test | SmokeResult:
        """The test of the model at *path*; or its result, which is kept, where it need not be run."""
        before = stat_of(path)
        prepared = prepare(path, settings, self._find_base)
        if isinstance(prepared, SmokeResult):
            self._keep(before, prepared)
            return prepared
        reference = beside or self._accepted(before, asked_of(prepared))
        clip, no_clip = self._scorer(prepared.tokenizer or CLIP)
        return _Test(number, before, replace(prepared, reference=reference, clip=clip, no_clip=no_clip))

    def _finished(self, test: _Test, measured: Measured, *, judged: bool = True) -> SmokeResult:
        """The result of *test*, after it was kept; by its reference it is *judged* or not."""
        calibration = self._calibrations.get(test.spec.architecture or "")
        thresholds = None if calibration is None else calibration.thresholds(asked_of(test.spec))
        result = judge(test.spec if judged else replace(test.spec, reference=None), measured, thresholds)
        self._keep(test.stat, result)
        return result

    def _scorer(self, tokenizer: str) -> tuple[ClipSpec | None, str]:
        """What says how well an image shows its prompt; or why nothing does."""
        if self._found_clip is None:
            self._found_clip = self._look_for_clip()
        clip, _ = self._found_clip
        if clip is not None and tokenizer == CLIP and clip.words != WORDS:
            return None, f"not measured: {clip.path}: it has {clip.words} words, and not CLIP's {WORDS} (--tokenizer)"
        return self._found_clip

    def _look_for_clip(self) -> tuple[ClipSpec | None, str]:
        paths = [self._clip] if self._clip is not None else _encoders_in(self._catalog)
        for path in paths:
            try:
                return clip_of(path), ""
            except (NotTestable, SourceError, FormatError) as error:
                if self._clip is not None:
                    return None, f"not measured: {path}: {str(error).removeprefix(f'{path}: ')}"
        return None, "not measured: the catalog has no CLIP model with both towers (--clip)"

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
        kept = {name: _keep_image(image, self._images) for name, image in _images_of(result) if self._images}
        facts = {name: value for name, value in result.facts.items() if name not in result.asked}
        facts |= {
            "seconds": dict(result.seconds),
            "host_memory": result.host_memory,
            "device_memory": result.device_memory,
        }
        if "grid" in kept:
            facts["grid_image"] = dict(zip(("sha256", "path"), kept["grid"], strict=True))
        sha256, path = kept.get("image", (None, None))
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
        self._catalog.smoke_runs.put(stat, run, str(result.asked.get("base", "")) or None)
        if self._accept and result.outcome in ("passed", "suspect"):
            self._catalog.smoke_runs.accept(stat)
            self.accepted += 1


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
            pairs.append(Pair(settings.prompts[0], settings.first_seed, result, other, alike))  # type: ignore[arg-type]
    return pairs


def to_test(catalog: Catalog, query: Query, *, untested: bool = False) -> tuple[list[Entry], Mapping[str, int]]:
    """The records of *catalog* that fit *query* and can be tested, those that share a base one after the other; and
    how many of the others that there are tests for are left out, by why.

    They are safe safetensors, lie somewhere, and are of :data:`KINDS`; with *untested*, no test of them has been kept.
    What they were converted from is not left out.
    """
    wanted = (query.kind,) if isinstance(query.kind, str) else query.kind or KINDS
    kinds = tuple(kind for kind in wanted if kind in KINDS)
    all_of_them = catalog.entries(replace(query, kind=kinds)) if kinds else []
    testable = [entry for entry in all_of_them if _why_not(entry) is None]
    artifacts = {entry.artifact for entry in testable}
    left_out = Counter(str(_why_not(entry)) for entry in all_of_them if entry.artifact not in artifacts)
    done = catalog.smoke_runs.tested() if untested else frozenset()
    found = [entry for entry in testable if entry.id not in done]
    return sorted(found, key=lambda entry: (KINDS.index(entry.kind or ""), entry.architecture or "")), left_out


def _why_not(entry: Entry) -> str | None:
    """Why *entry* is not tested, of whatever kind it is."""
    if entry.path is None or entry.state != "live":
        return "not there now"
    if entry.verdict != "safe":
        return "not called safe by a scan"
    return None if entry.container in _LOADED else "no safetensors (modelhub convert)"


def _base_in(catalog: Catalog, architecture: str) -> str | None:
    wanted = Query(kind="checkpoint", architecture=architecture, verdict="safe", container=_LOADED, sort="added")
    entries = [entry for entry in catalog.entries(wanted) if entry.variant in VARIANTS]
    if architecture in FLOWS:  # only folders have the tokenizer of T5
        entries.sort(key=lambda entry: entry.container != "diffusers-folder")
    found = (entry.path for entry in entries)
    return next((path for path in found if path is not None and os.path.lexists(path)), None)


def _images_of(result: SmokeResult) -> Iterator[tuple[str, bytes]]:
    """The images that there are, by name."""
    for name in ("image", "grid"):
        image: bytes | None = getattr(result, name)
        if image is not None:
            yield name, image


def _keep_image(image: bytes, folder: str) -> tuple[str, str]:
    """The SHA-256 of the PNG file *image*, and where in *folder* it lies from now on, named after it."""
    sha256 = hashlib.sha256(image).hexdigest()
    path = os.path.join(os.path.abspath(folder), sha256[:2], f"{sha256}.png")
    _write_once(path, image)
    return sha256, path


def _encoders_in(catalog: Catalog | None) -> Iterator[str]:
    """Where the safe text encoders of *catalog* lie that are files, the oldest first: a whole CLIP model is one."""
    if catalog is not None:
        wanted = Query(kind="text-encoder", verdict="safe", container="safetensors", sort="added")
        for entry in catalog.entries(wanted):
            if entry.path is not None and os.path.lexists(entry.path):
                yield entry.path


def _write_once(path: str, data: bytes) -> None:
    """Write *data* to *path*, which is named after it, whole or not at all."""
    if os.path.exists(path):
        return
    part = f"{path}.{os.urandom(4).hex()}.partial"  # another run may be writing the same
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(part)
        raise SourceError(f"{path}: the image cannot be kept there: {error.strerror}") from error
