"""The catalog: what is known of the user's files, kept between runs.

:class:`Catalog` is the only door; everything that comes out of it is a frozen value.
"""

from modelhub.db.catalog import Catalog
from modelhub.db.entries import (
    ENTRY_FIELDS,
    SORTS,
    Claim,
    Collection,
    Derivation,
    Detail,
    Download,
    Duplicates,
    Entry,
    FoundBefore,
    Identified,
    KnownDigest,
    Place,
    Preview,
    Query,
    Relative,
    ScanRun,
    SmokeRun,
)
from modelhub.db.libraries import Libraries
from modelhub.db.origins import Downloaded, Origins
from modelhub.db.places import Batch, Change, Holding, Known, LibraryRoot, Moved, Reading, Seen, ToHash
from modelhub.db.side_files import ImageToHash, KnownSideFile, SideFileBatch, SideFileRead, SideFiles
from modelhub.db.smoke_runs import SmokeRuns

__all__ = [
    "ENTRY_FIELDS",
    "SORTS",
    "Batch",
    "Catalog",
    "Change",
    "Claim",
    "Collection",
    "Derivation",
    "Detail",
    "Download",
    "Downloaded",
    "Duplicates",
    "Entry",
    "FoundBefore",
    "Holding",
    "Identified",
    "ImageToHash",
    "Known",
    "KnownDigest",
    "KnownSideFile",
    "Libraries",
    "LibraryRoot",
    "Moved",
    "Origins",
    "Place",
    "Preview",
    "Query",
    "Reading",
    "Relative",
    "ScanRun",
    "Seen",
    "SideFileBatch",
    "SideFileRead",
    "SideFiles",
    "SmokeRun",
    "SmokeRuns",
    "ToHash",
]
