"""A conversion appears whole and verified under its name, or not at all; the source is never touched."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelhub.convert import ConversionOptions, convert, dtype_rule
from modelhub.convert import target as target_module
from modelhub.convert.target import PartFile
from modelhub.errors import (
    AccessDenied,
    ChangedDuringRead,
    ConversionError,
    NoSpace,
    NotFound,
    SourceError,
    VerificationFailed,
    WouldOverwrite,
)
from tests.convert.conftest import run


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_the_target_holds_the_tensors_and_nothing_else_is_left(checkpoint, out):
    """The one file written is the target; its size is the planned one and its tensors are torch's."""
    before = sha256(checkpoint)
    done = run(checkpoint, out / "m.safetensors")
    assert names(out) == {"m.safetensors"}
    assert done.size == done.plan.size == (out / "m.safetensors").stat().st_size
    assert done.target == str(out / "m.safetensors")
    expected = torch.load(checkpoint)["state_dict"]
    written = load_file(out / "m.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[k], expected[k]) for k in expected)
    assert sha256(checkpoint) == before


def test_progress_adds_up(checkpoint, out):
    """progress is told every byte of the output once, on_verify every byte of the tensors once."""
    copied, verified = [], []
    done = run(checkpoint, out / "m.safetensors", progress=copied.append, on_verify=verified.append)
    assert sum(copied) == done.size
    assert sum(verified) == done.size - len(done.plan.outputs[0].header)
    assert len(copied) > 6


def test_an_existing_target_is_kept_without_force(checkpoint, out):
    """Nothing is overwritten unless asked for, not even an empty file."""
    target = out / "m.safetensors"
    target.write_bytes(b"")
    with pytest.raises(WouldOverwrite, match="exists already") as caught:
        run(checkpoint, target)
    assert caught.value.hint == "pass --force to replace it"
    assert target.read_bytes() == b""
    assert names(out) == {"m.safetensors"}


def test_force_replaces_the_target(checkpoint, out):
    """With force the old file is replaced by the whole new one."""
    target = out / "m.safetensors"
    target.write_bytes(b"old")
    run(checkpoint, target, force=True)
    assert len(load_file(target)) == 24


def test_a_target_that_appears_meanwhile_is_kept(checkpoint, out):
    """Without force, a file that another process writes during the conversion is not overwritten either."""
    target = out / "m.safetensors"
    with pytest.raises(WouldOverwrite):
        run(checkpoint, target, on_verify=lambda _: target.write_bytes(b"theirs"))
    assert target.read_bytes() == b"theirs"
    assert names(out) == {"m.safetensors"}


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("force", [False, True])
def test_the_source_is_never_the_target(checkpoint, out, link, force):
    """A path that leads to the source, by hard or symbolic link, is refused even with force."""
    before = sha256(checkpoint)
    link(checkpoint, out / "alias")
    for target in (checkpoint, out / "alias"):
        with pytest.raises(WouldOverwrite, match="is the source itself") as caught:
            run(checkpoint, target, force=force)
        assert caught.value.hint == "name another target"
    assert sha256(checkpoint) == before
    assert names(out) == {"alias"}


def test_a_safetensors_file_is_said_to_be_rewritten_in_place(tmp_path):
    """Where the source's own name can be its target, the refusal says by which option."""
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(3)}, path)
    with pytest.raises(WouldOverwrite) as caught:
        convert(path, path, options=ConversionOptions(dtypes=(dtype_rule("fp16"),)))
    assert caught.value.hint == "name another target, or say --in-place"


def test_a_symbolic_link_as_target_is_replaced_itself(checkpoint, out):
    """The file that a link points to (in a download cache, say) is never written through the link."""
    (out / "blob").write_bytes(b"precious")
    target = out / "m.safetensors"
    target.symlink_to(out / "blob")
    with pytest.raises(WouldOverwrite):
        run(checkpoint, target)
    run(checkpoint, target, force=True)
    assert not target.is_symlink()
    assert len(load_file(target)) == 24
    assert (out / "blob").read_bytes() == b"precious"


def test_a_dangling_link_as_target_is_kept_without_force(checkpoint, out):
    """A link to nowhere is a name that is taken."""
    target = out / "m.safetensors"
    target.symlink_to(out / "nowhere")
    with pytest.raises(WouldOverwrite):
        run(checkpoint, target)
    assert target.is_symlink()
    assert names(out) == {"m.safetensors"}


def test_a_folder_is_no_target(checkpoint, out):
    """A folder of the target's name is not replaced, force or not."""
    for force in (False, True):
        with pytest.raises(ConversionError, match="it is a folder"):
            run(checkpoint, out, force=force)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_file_is_no_target(checkpoint, out):
    """A pipe or a device of the target's name is never replaced, nor where it appears meanwhile; force or not."""
    target = out / "m.safetensors"
    os.mkfifo(target)
    for force in (False, True):
        with pytest.raises(WouldOverwrite, match="a device, a pipe or a socket"):
            run(checkpoint, target, force=force)
    with PartFile(str(target), 0) as part, pytest.raises(WouldOverwrite, match="a device, a pipe or a socket"):
        part.commit(force=True)
    assert target.is_fifo()
    assert names(out) == {"m.safetensors"}


def test_missing_folders_are_made_only_on_request(checkpoint, out):
    """A mistyped folder is an error; a library's folders are made."""
    target = out / "a" / "b" / "m.safetensors"
    with pytest.raises(NotFound, match="there is no folder"):
        run(checkpoint, target)
    assert names(out) == set()
    run(checkpoint, target, make_parents=True)
    assert names(target.parent) == {"m.safetensors"}


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "n" * 300])
def test_a_name_that_cannot_be_a_files_is_refused(checkpoint, out, name):
    """Null characters, lone surrogates and names that are too long give one sentence."""
    copied = []
    with pytest.raises(ConversionError):
        run(checkpoint, f"{out}/{name}", progress=copied.append)
    assert copied == []
    assert names(out) == set()


def test_the_longest_name_of_a_file_system_can_be_a_target(checkpoint, out):
    """The part file's longer name does not limit the target's: 255 bytes, cut between characters."""
    name = "é" * 121 + ".safetensors"
    run(checkpoint, out / name)
    assert names(out) == {name}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_targets_mode_follows_the_umask(checkpoint, out, umask, mode):
    """Others may read the file if they may read what the user creates, as with cp."""
    before = os.umask(umask)
    try:
        run(checkpoint, out / "m.safetensors")
    finally:
        os.umask(before)
    assert (out / "m.safetensors").stat().st_mode & 0o777 == mode


def test_a_source_in_a_read_only_folder_is_converted_elsewhere(checkpoint, out):
    """Only reading permission is needed of the source and its folder."""
    folder = checkpoint.parent / "shelf"
    folder.mkdir()
    source = checkpoint.rename(folder / "model.ckpt")
    source.chmod(0o444)
    folder.chmod(0o555)
    try:
        run(source, out / "m.safetensors")
        assert names(folder) == {"model.ckpt"}
    finally:
        folder.chmod(0o755)
    assert (out / "m.safetensors").stat().st_mode & 0o200


def test_a_source_that_changes_while_it_is_copied_is_refused(checkpoint, out):
    """A download that is still being written is not converted, and no target appears."""

    def touch(_count: int) -> None:
        with checkpoint.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")

    with pytest.raises(ChangedDuringRead, match="changed while it was read"):
        run(checkpoint, out / "m.safetensors", progress=touch)
    assert names(out) == set()


def test_a_source_that_is_cut_off_while_it_is_copied_is_refused(checkpoint, out):
    """Bytes that are no longer there are an error, not zeros."""
    with pytest.raises(ChangedDuringRead):
        run(checkpoint, out / "m.safetensors", progress=lambda _: os.truncate(checkpoint, 100_000))
    assert names(out) == set()


def test_a_source_replaced_during_verification_is_refused(checkpoint, out):
    """A file that another one was renamed over is not the one that was scanned."""
    other = checkpoint.with_name("other")
    other.write_bytes(checkpoint.read_bytes())

    def replace(_count: int) -> None:
        if other.exists():
            other.rename(checkpoint)

    with pytest.raises(ChangedDuringRead):
        run(checkpoint, out / "m.safetensors", on_verify=replace)
    assert names(out) == set()


def test_a_copy_that_differs_is_removed(checkpoint, out):
    """A bit that flips between copy and verification is found, and the target does not appear."""

    flipped = []

    def flip(_count: int) -> None:
        if flipped:
            return
        flipped.append(True)
        (part,) = out.iterdir()
        with part.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    with pytest.raises(VerificationFailed, match=r"tensor 'layer\.9\.weight' differ"):
        run(checkpoint, out / "m.safetensors", on_verify=flip)
    assert names(out) == set()


@pytest.mark.parametrize("when", ["progress", "on_verify"])
def test_an_interruption_leaves_nothing_behind(checkpoint, out, when):
    """Ctrl-C during the copy or the verification removes the part file and leaves an old target as it was."""
    target = out / "m.safetensors"
    target.write_bytes(b"old")

    def interrupt(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, target, force=True, **{when: interrupt})
    assert names(out) == {"m.safetensors"}
    assert target.read_bytes() == b"old"


def child(code: str, *arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    """Run *code* in a Python of its own, with ``run`` from above at hand."""
    prelude = """
    import errno, os, resource, signal, sys
    from modelhub.container import open_path
    from modelhub.convert import execute, plan_conversion
    def run(source, target, **options):
        with open_path(source) as container:
            return execute(plan_conversion(container), target, **options)
    """
    command = [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("function", "force"), [("link", False), ("replace", True), ("fsync", False), ("fsync", True), ("unlink", False)]
)
def test_a_kill_before_the_target_appears_loses_nothing(checkpoint, out, function, force):
    """Killed between writing and renaming, the target is absent, old or whole, and the next run cleans up."""
    before = sha256(checkpoint)
    target = out / "m.safetensors"
    if force:
        target.write_bytes(b"old")
    code = f"""
    os.{function} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    run(sys.argv[1], sys.argv[2], force={force})
    """
    done = child(code, checkpoint, target)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = names(out) - {"m.safetensors"}
    assert len(left) == 1
    assert all(name.startswith(".m.safetensors.modelhub-") and name.endswith(".part") for name in left)
    if force:
        assert target.read_bytes() == b"old"
    elif target.exists():  # killed after the target got its name and before the part file lost its own
        assert function == "unlink"
        assert len(load_file(target)) == 24
    assert sha256(checkpoint) == before

    run(checkpoint, target, force=force or target.exists())
    assert names(out) == {"m.safetensors"}
    assert len(load_file(target)) == 24


def test_the_part_file_of_a_running_conversion_is_left_alone(checkpoint, out):
    """Two conversions to one target: the second neither removes the first's part file nor its result."""
    target = out / "m.safetensors"
    with PartFile(str(target), 10) as first:
        first.write_at(0, b"0123456789")
        run(checkpoint, target)
        assert os.path.exists(first.path)
        with pytest.raises(WouldOverwrite):
            first.commit(force=False)
    assert names(out) == {"m.safetensors"}
    assert len(load_file(target)) == 24


def test_files_that_only_look_like_part_files_are_left_alone(checkpoint, out):
    """Other targets' part files and other programs' files stay."""
    others = {".m.safetensors.modelhub-notes.part", ".x.safetensors.modelhub-1-00000000.part", "m.safetensors.part"}
    for name in others:
        (out / name).write_bytes(b"")
    run(checkpoint, out / "m.safetensors")
    assert names(out) == {"m.safetensors", *others}


def test_a_limit_on_file_size_fails_before_the_copy(checkpoint, out):
    """Where a file of the output's size cannot be, that is said at once, and nothing is left."""
    code = """
    from modelhub.errors import NoSpace
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    copied = []
    try:
        run(sys.argv[1], sys.argv[2], progress=copied.append)
    except NoSpace as error:
        print(error, copied)
    """
    done = child(code, checkpoint, out / "m.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out / 'm.safetensors'}: larger than a file may be there: 6,")
    assert done.stdout.endswith(" []\n")
    assert names(out) == set()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_before_the_copy(checkpoint, small_disk):
    """On a disk without room for the output not a byte is copied, and nothing is left."""
    copied = []
    with pytest.raises(NoSpace, match="no space left"):
        run(checkpoint, small_disk / "m.safetensors", progress=copied.append)
    assert copied == []
    assert names(small_disk) == set()


def test_a_disk_that_fills_up_during_the_copy_leaves_nothing(checkpoint, small_disk, monkeypatch):
    """Where room cannot be reserved, running out of it later is the same error, and nothing is left."""
    monkeypatch.setattr(target_module, "_reserve", lambda *_: None)
    with pytest.raises(NoSpace, match="no space left"):
        run(checkpoint, small_disk / "m.safetensors")
    assert names(small_disk) == set()


def test_a_disk_that_cannot_flush_fails_the_conversion(checkpoint, out, monkeypatch):
    """An error that only fsync reports is not lost in its thread."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConversionError, match="Input/output error"):
        run(checkpoint, out / "m.safetensors")
    assert names(out) == set()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_will_do(checkpoint, out, monkeypatch, code):
    """exFAT and some network file systems have no hard links: the part file is renamed, still over no other file."""

    def refuse(*_args, **_options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    run(checkpoint, out / "m.safetensors")
    with pytest.raises(WouldOverwrite):
        run(checkpoint, out / "n.safetensors", on_verify=lambda _: (out / "n.safetensors").write_bytes(b"theirs"))
    assert names(out) == {"m.safetensors", "n.safetensors"}
    assert (out / "n.safetensors").read_bytes() == b"theirs"


def test_a_name_that_may_not_be_taken_away_is_the_only_one(tmp_path, monkeypatch):
    """Where the old name cannot go, the new one does; where it is gone already, the new one is all there is."""
    path, target = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"!")
    unlink = os.unlink

    def refuse(name):
        if name == str(path):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(name)

    def too_late(name):
        unlink(name)
        unlink(name)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        target_module.rename_to_free_name(str(path), str(target))
    assert names(tmp_path) == {"a"}
    monkeypatch.setattr(os, "unlink", too_late)
    target_module.rename_to_free_name(str(path), str(target))
    assert names(tmp_path) == {"b"}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.EACCES, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.EDQUOT, NoSpace),
        (errno.ENXIO, ConversionError),
    ],
)
def test_a_refusing_file_system_is_one_sentence(checkpoint, out, monkeypatch, code, error):
    """No permission, a read-only file system and a quota are told as what they are, naming the target."""
    real = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(error, match=r"m\.safetensors: ") as caught:
        run(checkpoint, out / "m.safetensors")
    assert isinstance(caught.value, SourceError | ConversionError)


def test_memory_stays_small(tmp_path, out):
    """The copy's memory does not grow with the file: 192 MB are converted with a few of growth."""
    torch.save({f"w{i}": torch.zeros(1 << 22) for i in range(12)}, tmp_path / "big.pt")
    code = """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = run(sys.argv[1], sys.argv[2])
    print(done.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = child(code, tmp_path / "big.pt", out / "m.safetensors")
    assert done.returncode == 0, done.stderr
    size, growth = map(int, done.stdout.split())
    assert size > 190 << 20
    assert growth * (1 if sys.platform == "darwin" else 1024) < 24 << 20


def test_a_small_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A disk that is full is one sentence, for what lies beside a model too; what was there stays."""
    path = tmp_path / "model.origin.json"
    target_module.write_file(str(path), b"old", force=False)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(target_module, "_pwrite", full)
    with pytest.raises(NoSpace, match=r"model\.origin\.json: no space left for it"):
        target_module.write_file(str(path), b"new", force=True)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("model.origin.json", b"old")]
