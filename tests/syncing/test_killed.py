"""A sync that is killed at any point loses nothing, and the next one completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelhub.db import Catalog, Query
from modelhub.syncing import add_library, sync
from tests.cli.run import ROOT
from tests.syncing.files import lora, put

FILES = 120
SYNC = """
import sys, time
import modelhub.syncing.sync as story
from modelhub.db import Catalog
story.BATCH = story.NEW = 5
with Catalog.open(sys.argv[1]) as catalog:
    print("begun", flush=True)
    story.sync(catalog, processes=2, on_change=lambda change: time.sleep(0.002))
"""


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.3])
def test_killed(tmp_path: Path, delay: float) -> None:
    """kill -9 while files are being added, moved and let go: every tag stays, and one more sync gives the truth."""
    url, models = str(tmp_path / "c.db"), tmp_path / "models"
    for number in range(FILES):
        put(models / f"m{number}.safetensors", lora(number), mtime=10**18 + number)
    with Catalog.open(url) as catalog:
        add_library(catalog, str(models))
        sync(catalog)
        for number in range(0, FILES, 10):
            catalog.tag(f"m{number}.safetensors", [f"tag {number}"])
    (models / "new").mkdir()
    for number in range(0, FILES, 2):
        os.rename(models / f"m{number}.safetensors", models / "new" / f"renamed{number}.safetensors")
    for number in range(1, FILES, 4):
        put(models / f"m{number}.safetensors", lora(1000 + number))
    for number in range(3, FILES, 4):
        os.unlink(models / f"m{number}.safetensors")
    with subprocess.Popen(
        [sys.executable, "-c", SYNC, url], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    with Catalog.open(url) as catalog:
        gone = catalog.entries(Query(gone=True))
        assert sorted(tag for entry in gone for tag in entry.tags) == sorted(f"tag {n}" for n in range(0, FILES, 10))
        sync(catalog)
        live = {entry.path: entry for entry in catalog.entries()}
        assert live.keys() == {str(path) for path in models.rglob("*.safetensors")}
        for number in range(0, FILES, 10):
            assert live[str(models / "new" / f"renamed{number}.safetensors")].tags == (f"tag {number}",)
        assert sync(catalog).counts == {"unchanged": len(live)}
