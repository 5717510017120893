"""What the catalog's tests record: values as the other rooms make them, without any file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelhub.container.base import Skipped
from modelhub.db import Catalog, Entry
from modelhub.db.engine import Store, parse_url
from modelhub.db.schema import metadata
from modelhub.identify.base import Adapter, Evidence, Identity
from modelhub.scan.findings import Confidence, Coverage, Finding, Location, ScanReport, Severity, Verdict
from modelhub.source import Digest, FileStat

LORA = Identity(
    kind="lora",
    architecture="sdxl",
    precision="fp16",
    components=("unet",),
    adapter=Adapter(
        "kohya", {"lora": 3}, 3, rank=8, alpha=4.0, ranks={8: 2, 16: 1}, alphas={4.0: 3}, targets=("unet",)
    ),
    evidence=(Evidence("kind", "lora", "key", "lora_unet_… .lora_down.weight"),),
)
CHECKPOINT = Identity(
    kind="checkpoint", architecture="sd-1", variant="inpaint", prediction_type="epsilon", precision="fp32"
)
NOTHING = Identity(candidates=("sd-1", "sd-2"))

EVAL = Finding(
    "pickle.unsafe-import",
    Severity.CRITICAL,
    Confidence.HIGH,
    "imports builtins.eval",
    Location("archive/data.pkl", 17),
    "builtins.eval('…')",
)


def digest(data: str) -> Digest:
    """The digest of bytes that only the test knows."""
    return Digest(hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest())


def stat(path: str, *, size: int = 100, mtime_ns: int = 1, dev: int = 7, ino: int = 11) -> FileStat:
    return FileStat(path, size, mtime_ns, dev, ino)


def report(
    verdict: Verdict = Verdict.SAFE,
    *findings: Finding,
    container: str | None = "safetensors",
    policy: str = "p1",
    skipped: tuple[Skipped, ...] = (),
) -> ScanReport:
    return ScanReport("somewhere", container, verdict, Coverage(not skipped, skipped), findings, policy)


def dump(url: str) -> list[tuple[object, ...]]:
    """Every row of every table, whatever the database."""
    store = Store(parse_url(url))
    try:
        return store.read(
            lambda connection: [
                (table.name, *row)
                for table in metadata.sorted_tables
                for row in connection.execute(table.select().order_by(*table.primary_key.columns))
            ]
        )
    finally:
        store.close()


class Shelf:
    """A catalog with a short way to record into it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def put(
        self,
        path: str,
        data: str | None = None,
        identity: Identity = LORA,
        scan: ScanReport | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        version: str = "v1",
        seen: FileStat | None = None,
        name: str | None = None,
        is_folder: bool = False,
    ) -> Entry:
        """Record that *path* holds *data* (its own name when not given)."""
        return self.catalog.record(
            seen or stat(path),
            digest(path if data is None else data),
            report() if scan is None else scan,
            identity,
            tensor_count=3,
            parameter_count=300,
            metadata=metadata or {},
            version=version,
            name=name,
            is_folder=is_folder,
        )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The file of a catalog, for what only files do."""
    return tmp_path / "folder" / "catalog.db"


@pytest.fixture
def shelf(catalog: Catalog) -> Shelf:
    return Shelf(catalog)
