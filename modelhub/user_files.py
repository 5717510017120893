"""Small files of the user's own, written by hand: a policy, prompts, thresholds."""

from __future__ import annotations

from modelhub.errors import AccessDenied, NotFound, SourceError

LARGEST = 1 << 20
"""Bytes."""


def read_user_file(path: str, what: str) -> bytes:
    """The bytes of the file *path*, which messages call the *what*.

    Raises :class:`NotFound`, :class:`AccessDenied` or :class:`SourceError` when it cannot be read, and ``ValueError``
    for one of more than :data:`LARGEST` bytes.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such {what}", path=path) from error
    except PermissionError as error:
        raise AccessDenied(f"{path}: the {what} may not be read", path=path) from error
    except OSError as error:
        raise SourceError(f"{path}: the {what} cannot be read: {error.strerror}", path=path) from error
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return data
