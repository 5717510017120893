"""What is odd about a file, as the readers saw it.

A reader (container or pickle machine) never decides whether an oddity is dangerous: it states it as an
:class:`Anomaly` with a rule id, and ``scan`` looks the rule's severity up in its policy.
"""

from __future__ import annotations

from typing import NamedTuple


class Anomaly(NamedTuple):
    """One departure of a file from what its format asks for.

    ``rule`` is a stable dotted id (``"zip.duplicate-member"``); ``member`` the archive member it was seen in, or
    ``None`` for the file itself; ``offset`` the byte offset within that member (within the file when ``None``).
    """

    rule: str
    message: str
    member: str | None = None
    offset: int | None = None
    evidence: str | None = None

    def inside(self, member: str) -> Anomaly:
        """The same anomaly, located in *member*."""
        return self._replace(member=member)
