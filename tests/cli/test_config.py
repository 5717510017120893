"""Settings and where they come from."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from modelhub.config import Setting, fail_on_setting, load_settings, user_file
from modelhub.errors import SettingsError, SourceError
from tests.cli.run import modelhub


def _write_user_file(text: str) -> str:
    path = Path(user_file())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_nothing_is_set_by_default() -> None:
    """Without any settings the catalog and the library are left to their rooms, and SUSPICIOUS counts as found."""
    settings = load_settings()
    assert (settings.catalog, settings.library) == (None, None)
    assert fail_on_setting() == Setting("suspicious", "default")


def test_precedence_and_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flag before environment before ./modelhub.toml before the user's file; each value says where it is from."""
    user = _write_user_file('catalog = "u.db"\nlibrary = "u"\nfail_on = "unsafe"\n')
    assert load_settings().catalog == Setting("u.db", user)
    assert fail_on_setting() == Setting("unsafe", user)
    Path("modelhub.toml").write_text('catalog = "here/p.db"\n')
    project = load_settings()
    assert project.catalog == Setting(os.path.realpath("here/p.db"), os.path.join(".", "modelhub.toml"))
    assert project.library == Setting("u", user)
    monkeypatch.setenv("MODELHUB_CATALOG", "sqlite:///e.db")
    monkeypatch.setenv("MODELHUB_FAIL_ON", "unknown")
    assert load_settings().catalog == Setting("sqlite:///e.db", "MODELHUB_CATALOG")
    assert fail_on_setting() == Setting("unknown", "MODELHUB_FAIL_ON")
    assert load_settings(catalog="f.db").catalog == Setting("f.db", "--catalog")
    assert fail_on_setting("suspicious") == Setting("suspicious", "--fail-on")


@pytest.mark.parametrize(
    "text",
    [
        'catalog = "/etc/catalog.db"',
        'catalog = "../catalog.db"',
        'library = "a/../../elsewhere"',
        'catalog = "postgresql://evil.example/x"',
        'catalog = "sqlite:////home/me/important.db"',
        'library = "out"',
        'library = "."',
        'fail_on = "unsafe"',
        'policy = "mine.toml"',
        "catalog = 3",
        'catalog = ""',
        "catalog = [",
        '[catalog]\nurl = "x"',
    ],
)
def test_the_folder_s_file_can_do_no_harm(text: str) -> None:
    """A modelhub.toml that came with a download may only name paths inside its own folder, links resolved."""
    os.symlink(os.path.expanduser("~"), "out")
    Path("modelhub.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"modelhub\.toml"):
        load_settings()


def test_a_file_of_settings_that_would_block_or_is_endless() -> None:
    """A FIFO or a huge file in the place of settings is refused, not waited for."""
    os.mkfifo("modelhub.toml")
    with pytest.raises(SourceError, match="not a regular file"):
        load_settings()
    os.unlink("modelhub.toml")
    Path("modelhub.toml").write_text("#" * 100_000)
    with pytest.raises(SettingsError, match="too long"):
        load_settings()


def test_a_wrong_fail_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict that does not exist is an error that says where it was set."""
    monkeypatch.setenv("MODELHUB_FAIL_ON", "dangerous")
    with pytest.raises(SettingsError, match="MODELHUB_FAIL_ON"):
        fail_on_setting()
    ran = modelhub("scan", "x.ckpt")
    assert ran.code == 2
    assert "hint: use one of unknown, suspicious, unsafe" in ran.err


def test_scan_does_not_listen_to_the_folder() -> None:
    """``scan`` in an untrusted folder is not moved by its modelhub.toml, however that looks."""
    Path("modelhub.toml").write_text("not toml at all")
    Path("x.ckpt").write_bytes(b"")
    assert "toml" not in modelhub("scan", "x.ckpt").err


def test_the_user_s_file_is_where_platformdirs_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's file lies in the platform's folder for configuration."""
    assert os.path.dirname(user_file()) == platformdirs.user_config_dir("modelhub", appauthor=False)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert os.path.dirname(user_file()) == platformdirs.user_config_dir("modelhub", appauthor=False)
