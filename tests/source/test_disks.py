"""Which disk a file lies on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from modelhub.source import disks

pytestmark = pytest.mark.skipif(not hasattr(os, "major"), reason="device numbers as Unix has them")


@pytest.fixture
def block_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spinning disk 8:0 with the partitions 8:1 and 8:2, and 259:0, which does not spin."""
    for disk, spins in (("sda", "1"), ("nvme0n1", "0")):
        (tmp_path / "devices" / disk / "queue").mkdir(parents=True)
        (tmp_path / "devices" / disk / "queue" / "rotational").write_text(f"{spins}\n")
    for number in (1, 2):
        (tmp_path / "devices" / "sda" / f"sda{number}").mkdir()
        (tmp_path / "devices" / "sda" / f"sda{number}" / "partition").write_text(f"{number}\n")
    (tmp_path / "block").mkdir()
    for name, target in (("8:0", "sda"), ("8:1", "sda/sda1"), ("8:2", "sda/sda2"), ("259:0", "nvme0n1")):
        (tmp_path / "block" / name).symlink_to(tmp_path / "devices" / target)
    monkeypatch.setattr(disks, "_BLOCK_DEVICES", str(tmp_path / "block"))
    return tmp_path


def test_partitions_are_one_disk(block_devices: Path) -> None:
    """Two partitions of one spinning disk have one reader between them."""
    first, second = disks.disk_of(os.makedev(8, 1)), disks.disk_of(os.makedev(8, 2))
    assert first == second == disks.disk_of(os.makedev(8, 0))
    assert (first.spins, first.readers) == (True, 1)


def test_a_disk_that_does_not_spin(block_devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has as many readers as the processors are enough for, and at least one."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert disks.disk_of(os.makedev(259, 0)).readers == 4
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert disks.disk_of(os.makedev(259, 0)).readers == 1


def test_nobody_says(block_devices: Path) -> None:
    """A network share, of which nothing is known, has one reader, and is no other's disk."""
    assert disks.disk_of(os.makedev(0, 50)) == disks.Disk(str(os.makedev(0, 50)), None)
    assert disks.disk_of(os.makedev(0, 50)).readers == 1
    assert disks.disk_of(os.makedev(0, 50)) != disks.disk_of(os.makedev(0, 51))


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux tells")
def test_here() -> None:
    """The disk that the tests lie on is told, whatever it is."""
    disk = disks.disk_of(os.stat(__file__).st_dev)
    assert disk.name and disk.readers >= 1
