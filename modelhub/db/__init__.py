"""The catalog: what is known of the user's files, kept between runs.

:class:`Catalog` is the only door; everything that comes out of it is a frozen value.
"""

from modelhub.db.catalog import Catalog
from modelhub.db.entries import (
    SORTS,
    Derivation,
    Detail,
    Entry,
    FoundBefore,
    Identified,
    KnownDigest,
    Place,
    Query,
    Relative,
    ScanRun,
)

__all__ = [
    "SORTS",
    "Catalog",
    "Derivation",
    "Detail",
    "Entry",
    "FoundBefore",
    "Identified",
    "KnownDigest",
    "Place",
    "Query",
    "Relative",
    "ScanRun",
]
