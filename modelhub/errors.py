"""Every error that modelhub raises on purpose.

    ModelHubError
      SourceError          the bytes could not be had
        NotFound           there is no such file
        AccessDenied       it may not be read or written
        Offline            the network is needed, and switched off
        NoSpace            the target's file system is full
        ChangedDuringRead  it changed while it was read
      FormatError          the bytes are not what their format asks for
        UnknownContainer   no known kind of file
        Truncated          the file ends too early
        Malformed          the file contradicts its own format
        LimitExceeded      reading on would cost more than the stated limit
      UnsafeModelError     refused because of its scan verdict; carries the ScanReport
      ConversionError
        UnsupportedDtype   safetensors has no such element type
        UnsupportedLayout  the tensor's bytes cannot be copied as they lie
        NothingToConvert   no tensor in the file
        WouldOverwrite     the target exists already
        VerificationFailed the copy differs from its source
      MergeError
        IncompatibleArchitecture  the adapter was made for another architecture than the base's
        UnmatchedKeys      parts of an adapter have no place in the base
        RecipeNotWritten   the output is whole, its recipe is not beside it; carries what was done
      CatalogError
        SchemaTooNew       written by a newer modelhub
        CatalogLocked      another process holds it
        Conflict           no, or more than one, record fits
      SettingsError        a setting is not what it may be
      MissingExtra         an optional dependency is not installed

Each error's text is one sentence that names the file; ``hint`` says what to do next, where there is something to do.
``modelhub.cli`` turns an error into an exit code (2, or 1 for a refused unsafe file).
"""

from __future__ import annotations

from typing import Any


class ModelHubError(Exception):
    """Base of the tree: ``str(error)`` is one sentence for people, ``hint`` the next step or ``None``."""

    hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class SourceError(ModelHubError):
    """The bytes could not be had; ``path`` is what they were asked of, where that is known."""

    def __init__(self, message: str, *, path: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class NotFound(SourceError):
    """There is no such file or folder."""


class AccessDenied(SourceError):
    """The file or folder may not be read or written."""


class Offline(SourceError):
    """The network is needed, and the user has switched it off."""

    hint = "unset HF_HUB_OFFLINE"


class NoSpace(SourceError):
    """The target's file system is full."""

    hint = "make room there, or name a target elsewhere"


class ChangedDuringRead(SourceError):
    """The file changed between the first and the last byte read."""

    hint = "try again when nothing writes to it"


class FormatError(ModelHubError):
    """The bytes are not what their format asks for."""


class UnknownContainer(FormatError):
    """The file is of no kind that modelhub knows."""


class Truncated(FormatError):
    """The file ends before its own description of itself does."""


class Malformed(FormatError):
    """The file contradicts its own format."""


class LimitExceeded(FormatError):
    """Reading on would cost more time or memory than the stated limit."""


class UnsafeModelError(ModelHubError):
    """Refused because of what the scan said; ``report`` is the :class:`modelhub.scan.ScanReport`."""

    def __init__(self, message: str, report: Any, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class ConversionError(ModelHubError):
    """The file could not be converted."""


class UnsupportedDtype(ConversionError):
    """safetensors has no element type for a tensor of the file."""


class UnsupportedLayout(ConversionError):
    """A tensor's bytes cannot be copied as they lie in the file."""


class NothingToConvert(ConversionError):
    """The file holds no tensor."""


class WouldOverwrite(ConversionError):
    """The target exists already."""

    hint = "pass --force to replace it"


class AlreadyThere(ConversionError):
    """The target is, byte for byte, what the conversion would write."""


class VerificationFailed(ConversionError):
    """The written file differs from its source; it has been removed."""


class MergeError(ModelHubError):
    """The adapter could not be merged."""


class IncompatibleArchitecture(MergeError):
    """The adapter was made for another architecture than the base's."""


class UnmatchedKeys(MergeError):
    """Parts of an adapter have no place in the base."""


class RecipeNotWritten(MergeError):
    """An output was written and its recipe could not be; ``done`` is the merge or blend that was carried out."""

    def __init__(self, message: str, done: Any, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.done = done


class CatalogError(ModelHubError):
    """The catalog could not answer."""


class SchemaTooNew(CatalogError):
    """The catalog was written by a newer modelhub."""

    hint = "upgrade modelhub, or name another catalog with --catalog"


class CatalogLocked(CatalogError):
    """Another process holds the catalog's write lock for longer than the time-out."""

    hint = "try again when the other process is done"


class Conflict(CatalogError):
    """No record, or more than one, fits what was asked for."""


class SettingsError(ModelHubError):
    """A setting, or a file of them, is not what it may be."""


class MissingExtra(ModelHubError):
    """An optional dependency is not installed; the hint says which extra of modelhub brings it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", hint=f"in modelhub's checkout: pip install '.[{extra}]'")
