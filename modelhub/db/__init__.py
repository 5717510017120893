"""The catalog: what is known of the user's files, kept between runs.

:class:`Catalog` is the only door; everything that comes out of it is a frozen value.
"""

from modelhub.db.catalog import Catalog
from modelhub.db.entries import (
    ENTRY_FIELDS,
    SORTS,
    Collection,
    Derivation,
    Detail,
    Duplicates,
    Entry,
    FoundBefore,
    Identified,
    KnownDigest,
    Place,
    Query,
    Relative,
    ScanRun,
    SmokeRun,
)
from modelhub.db.libraries import Libraries
from modelhub.db.places import Batch, Change, Holding, Known, LibraryRoot, Moved, Reading, Seen, ToHash
from modelhub.db.smoke_runs import SmokeRuns

__all__ = [
    "ENTRY_FIELDS",
    "SORTS",
    "Batch",
    "Catalog",
    "Change",
    "Collection",
    "Derivation",
    "Detail",
    "Duplicates",
    "Entry",
    "FoundBefore",
    "Holding",
    "Identified",
    "Known",
    "KnownDigest",
    "Libraries",
    "LibraryRoot",
    "Moved",
    "Place",
    "Query",
    "Reading",
    "Relative",
    "ScanRun",
    "Seen",
    "SmokeRun",
    "SmokeRuns",
    "ToHash",
]
