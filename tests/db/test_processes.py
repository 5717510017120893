"""Several processes, one catalog."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from modelhub.db import Catalog
from tests.db.conftest import Shelf, digest

WRITER = """
import sys
from modelhub.db import Catalog
from tests.db.conftest import Shelf, digest
url, me, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
with Catalog.open(url) as catalog:
    shelf = Shelf(catalog)
    for number in range(count):
        shelf.put(f"/m/{me}-{number}.ckpt")
        shelf.put(f"/m/{me}-copy-{number}.ckpt", f"shared {number}")
        inputs = [(digest("source"), "source")]
        catalog.derive("convert", output=digest(f"{me} {number}"), inputs=inputs, params={}, version="v1")
        catalog.derive("convert", output=digest(f"shared {number}"), inputs=inputs, params={}, version="v1")
        catalog.tag(digest("shared 0").sha256, [f"{me}-{number}"])
"""
COUNT = 12
WRITERS = ("a", "b", "c")


def test_processes_lose_nothing(nowhere: Callable[[], str]) -> None:
    """Processes that make one catalog at the same moment, then write the same and different things, keep every row."""
    url = nowhere()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, me, str(COUNT)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for me in WRITERS
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in writers:
        _, complaint = writer.communicate(timeout=120)
        assert (writer.returncode, complaint.decode()) == (0, "")
    with Catalog.open(url) as catalog:
        entries = catalog.entries()
        assert len(entries) == COUNT * len(WRITERS) + COUNT
        for number in range(COUNT):
            shared = catalog.show(str(digest(f"shared {number}")))
            assert {place.path for place in shared.locations} == {f"/m/{me}-copy-{number}.ckpt" for me in WRITERS}
            assert len(shared.scans) == 1
        tags = catalog.show(str(digest("shared 0"))).entry.tags
        assert len(tags) == COUNT * len(WRITERS)
        assert len(catalog.derived_from(digest("source"))) == COUNT * len(WRITERS) + COUNT


def test_threads_share_a_catalog(catalog: Catalog) -> None:
    """One open catalog may be used from several threads."""
    shelf = Shelf(catalog)
    threads = [
        Thread(target=lambda me=me: [shelf.put(f"/m/{me}-{number}.ckpt") for number in range(10)]) for me in WRITERS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.entries()) == 30
