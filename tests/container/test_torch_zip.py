"""PyTorch's zip checkpoints: every tensor where torch would find it, and everything that does not belong told."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.container.torch_zip import SMALL
from modelhub.scan import Verdict, scan
from tests.container.build import (
    Part,
    build_zip,
    hostile,
    imports,
    opened,
    rules,
    same_tensors,
    saved,
    split_checkpoint,
    torch_parts,
)

torch.manual_seed(0)
BASE = torch.randn(6, 5)
DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64,
]  # fmt: skip


VIEWS = {"row": BASE[2], "columns": BASE.t(), "block": BASE[1:4, 2:4], "tied": BASE, "expanded": BASE[:1].expand(4, 5)}
STATE_DICT = {
    **{f"layer.{i}": torch.randint(0, 2, (2, 3)).to(dtype) for i, dtype in enumerate(DTYPES)},
    **VIEWS,
    "scalar": torch.tensor(3.0),
    "nothing": torch.empty(0, 3),
}


def without(data: bytes, *names: str) -> list[Part]:
    return [part for part in split_checkpoint(data) if not part.name.endswith(names)]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_every_tensor_that_torch_saved(protocol):
    """All element types and all views of shared storages come back bit for bit, whatever pickle protocol was used."""
    data = saved({"state_dict": STATE_DICT, "global_step": 7}, protocol=protocol)
    container = opened(data, "model.ckpt")
    assert container.kind == "torch-zip"
    assert container.anomalies == () and container.skipped == ()
    assert [(p.member, p.role) for p in container.pickles] == [("archive/data.pkl", "object")]
    assert all(program.trace.complete for program in container.pickles)
    assert same_tensors(data, container, STATE_DICT)


def test_big_endian_storages():
    """A checkpoint whose byteorder member says big has big-endian storages."""
    data = saved({"a": torch.arange(5, dtype=torch.int32)})
    swapped = [
        Part(p.name, struct.pack(">5i", *range(5)) if p.name.endswith("data/0") else p.data)
        for p in without(data, "byteorder")
    ]
    big = build_zip([*swapped, Part("archive/byteorder", b"big")])
    container = opened(big)
    assert container.anomalies == ()
    assert container.state_dict["a"].storage.byteorder == "big"
    assert same_tensors(big, container, {"a": torch.arange(5, dtype=torch.int32)})
    assert torch.load(io.BytesIO(big), weights_only=True)["a"].tolist() == [0, 1, 2, 3, 4]


def test_files_without_the_newer_members():
    """Files by torch before 2.1 have only data.pkl, data/ and version; they are as good, and little-endian."""
    data = build_zip(without(saved(STATE_DICT), "byteorder", ".format_version", ".storage_alignment", "_id"))
    container = opened(data)
    assert container.anomalies == ()
    assert same_tensors(data, container, STATE_DICT)


def test_repacked_with_compression():
    """A checkpoint that someone zipped again is understood, and its storages are marked as compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/", b"")
        for part in split_checkpoint(saved(STATE_DICT)):
            archive.writestr(part.name, part.data)
    container = opened(buffer.getvalue())
    assert container.kind == "torch-zip"
    assert rules(container) == {"torch.compressed-storage"}
    assert set(container.state_dict) == set(STATE_DICT)
    assert not any(info.storage.plain for info in container.state_dict.values())


def test_four_gigabytes(tmp_path):
    """Storages of more than 4 GiB, and members behind them, are found where zip64 says they are."""
    path = tmp_path / "big.pt"
    with torch.serialization.skip_data():
        torch.save({"a": torch.empty((1 << 32) + 10, dtype=torch.uint8), "b": torch.empty(3)}, path)
    from modelhub.container import open_path

    with open_path(path) as container:
        assert container.anomalies == ()
        first, second = container.state_dict.values()
        assert first.nbytes == (1 << 32) + 10
        assert second.start > 1 << 32 and second.start % 64 == 0


def test_bytes_without_checksums_are_accepted(tmp_path):
    """torch can be told to write no checksums; that is noted only for what was read, and no reason for distrust."""
    previous = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        data = saved({"a": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(previous)
    assert rules(opened(data)) <= {"zip.no-crc"}


def test_other_alignment():
    """Checkpoints saved with another alignment of storages are sound too."""
    previous = torch.utils.serialization.config.save.storage_alignment
    torch.utils.serialization.config.save.storage_alignment = 4096
    try:
        data = saved({"a": torch.ones(3)})
    finally:
        torch.utils.serialization.config.save.storage_alignment = previous
    container = opened(data)
    assert container.anomalies == ()
    assert container.state_dict["a"].start % 4096 == 0


CHECKPOINT = saved({"a": torch.ones(4), "b": torch.zeros(2)})
SOUND = split_checkpoint(CHECKPOINT)
VALUE = SOUND[0].data
STORAGES = {"0": bytes(16), "1": bytes(8)}
ODD = {
    "hidden member": ([*SOUND, Part("archive/notes.txt", b"hi")], "torch.unexpected-member"),
    "other folder": ([*SOUND, Part("other/version", b"3")], "torch.unexpected-member"),
    "second data.pkl": ([*SOUND, Part("other/data.pkl", hostile())], "torch.several-objects"),
    "DATA.PKL": ([*SOUND, Part("archive/DATA.PKL", hostile())], "zip.case-clash"),
    "data.pkl twice": ([*SOUND, Part("archive/data.pkl", hostile())], "zip.duplicate-member"),
    "data.pkl below": ([Part("archive/version", b"3"), Part("x/data.pkl", VALUE)], "torch.several-objects"),
    "no version": (torch_parts(VALUE, STORAGES)[:-1], "torch.missing-member"),
    "odd version": ([*torch_parts(VALUE, STORAGES)[:-1], Part("archive/version", b"three")], "torch.version"),
    "odd byte order": ([*torch_parts(VALUE, STORAGES), Part("archive/byteorder", b"middle")], "torch.byteorder"),
    "storage missing": (torch_parts(VALUE, {"0": bytes(16)}), "torch.missing-storage"),
    "storage too short": (torch_parts(VALUE, {"0": bytes(12), "1": bytes(8)}), "torch.storage-size"),
    "storage too long": (torch_parts(VALUE, {"0": bytes(20), "1": bytes(8)}), "torch.storage-size"),
    "storage of nobody": (torch_parts(VALUE, {**STORAGES, "99": hostile()}), "torch.unreferenced-storage"),
    "bytes after STOP": (torch_parts(VALUE + b"\xff\xff", STORAGES), "pickle.trailing-bytes"),
    "pickle after STOP": (torch_parts(VALUE + hostile(), STORAGES), "pickle.several"),
    "wrong checksum": ([Part("archive/data.pkl", VALUE, crc=7), *SOUND[1:]], "zip.crc"),
    "climbing key": (
        torch_parts(VALUE.replace(b"X\1\0\0\0" + b"1", b"X\2\0\0\0" + b".."), STORAGES),
        "torch.storage-key",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_every_departure_is_told(name):
    """A checkpoint that is not exactly what torch writes says so."""
    parts, rule = ODD[name]
    container = opened(build_zip(parts))
    assert container.kind == "torch-zip"
    assert rule in rules(container)


def test_an_archive_put_together_as_torch_does_is_sound():
    """The members that the odd ones are made of have no anomaly by themselves."""
    assert opened(build_zip(SOUND)).anomalies == ()
    assert opened(build_zip(torch_parts(VALUE, STORAGES))).anomalies == ()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "place",
    [
        lambda evil: torch_parts(evil, STORAGES),
        lambda evil: torch_parts(VALUE + evil, STORAGES),
        lambda evil: torch_parts(VALUE + b"\x80\x02N." * 20 + evil, STORAGES),
        lambda evil: [Part("archive/data.pkl", evil, method=8), Part("archive/version", b"3")],
        lambda evil: [*SOUND, Part("archive/data.pkl", evil)],
        lambda evil: [Part("archive/data.pkl", evil), *SOUND],
        lambda evil: [*SOUND, Part("archive/Data.pkl", evil)],
        lambda evil: [*SOUND, Part("archive/extra.pkl", evil, method=8)],
        lambda evil: [*SOUND, Part("archive/constants.pkl", evil)],
        lambda evil: [*SOUND, Part("archive/code/x.debug_pkl", evil)],
    ],
)
def test_no_pickle_stays_unseen(place, protocol):
    """Wherever in the archive a loader could come upon a pickle, what it would import is known."""
    evil = hostile(protocol)
    assert imports(opened(evil)) <= imports(opened(build_zip(place(evil))))


def test_hidden_pickle_is_seen_under_any_name():
    """A member that begins like a pickle is traced even when nothing in its name says so."""
    container = opened(build_zip([*SOUND, Part("archive/readme", hostile())]))
    assert imports(opened(hostile())) <= imports(container)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_small_members_hide_nothing(name):
    """The members in which torch writes a number or a word are judged by what else they hold."""
    others = [part for part in SOUND if part.name != f"archive/{name}"]
    container = opened(build_zip([*others, Part(f"archive/{name}", hostile())]))
    assert imports(opened(hostile())) <= imports(container)
    assert scan(container).verdict is Verdict.UNSAFE


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/x"])
@pytest.mark.parametrize("odd", [{"flags": 1}, {"method": 99}, {"flags": 1, "method": 8}], ids=str)
def test_members_that_only_claim_to_be_unreadable_are_judged(name, odd):
    """A flag or a method that torch refuses does not hide what stands behind it for loaders that pass over it."""
    parts = [part for part in SOUND if part.name != name]
    container = opened(build_zip([*parts, Part(name, hostile(), **odd)]))
    assert imports(opened(hostile())) <= imports(container)
    assert scan(container).verdict is Verdict.UNSAFE


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript():
    """A TorchScript program is told as such; its code is not examined, and is said not to be."""

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Small()), buffer)
    container = opened(buffer.getvalue(), "small.pt")
    assert container.kind == "torchscript"
    assert "torch.script" in rules(container)
    assert "torch.unexpected-member" not in rules(container)
    assert {"data.pkl", "constants.pkl"} <= {p.member.rpartition("/")[2] for p in container.pickles}
    assert any("code" in (skip.member or "") for skip in container.skipped)


class Typed(torch.nn.Module):
    """A network with attributes and constants of the types that TorchScript spells in its pickles."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = torch.jit.Attribute([1, 2], list[int])
        self.names = torch.jit.Attribute({"a": 1.0}, dict[str, float])
        self.layer = torch.nn.Linear(2, 2)
        self.register_buffer("steps", torch.arange(3))

    def forward(self, x: torch.Tensor, sizes: list[float], flags: list[bool]) -> list[torch.Tensor]:
        return [self.layer(x) * self.sizes[0], x + torch.tensor([[1.5, 2.5]])]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:Lite Interpreter:DeprecationWarning")
@pytest.mark.parametrize("lite", [False, True])
def test_torchscript_is_called_executable_and_not_malicious(lite):
    """What torch itself writes for a TorchScript program, typed lists, debug information and all, is no gadget."""
    script = torch.jit.script(Typed())
    data = script._save_to_buffer_for_lite_interpreter() if lite else script.save_to_buffer()
    container = opened(data, "typed.pt")
    report = scan(container)
    assert report.verdict is Verdict.UNKNOWN
    assert {finding.rule for finding in report.findings} >= {"torch.script", "object.executable"}
    assert imports(container) & {"torch.jit._pickle.restore_type_tag", "torch.jit._pickle.build_intlist"}


def test_offsets_in_anomalies_are_within_the_member():
    """An anomaly with a member has its offset within that member, not within the archive."""
    container = opened(build_zip(torch_parts(VALUE + hostile(), STORAGES)))
    odd = next(odd for odd in container.anomalies if odd.rule == "pickle.several")
    assert (odd.member, odd.offset) == ("archive/data.pkl", len(VALUE))


@pytest.mark.parametrize("part", [0.05, 0.5, 0.99])
def test_a_cut_off_download_still_says_which_model_it_is(part):
    """Without the archive's directory the names, shapes and what is missing are known from what did arrive."""
    sd = {f"layer.{i}": torch.randn(50, 40) for i in range(20)}
    data = saved(sd)
    container = opened(data[: max(2000, int(len(data) * part))], "model.ckpt")
    assert container.kind == "torch-zip"
    assert rules(container) == {"zip.truncated"}
    assert {name: info.shape for name, info in container.state_dict.items()} == {
        n: tuple(t.shape) for n, t in sd.items()
    }
    assert container.skipped
    odd = container.anomalies[0]
    complete = int(odd.evidence.split()[0])
    assert complete == sum(opened(data).state_dict[n].start + 8000 <= int(len(data) * part) for n in sd)
    whole = opened(data).state_dict
    for name in list(sd)[:complete]:
        assert container.state_dict[name].start == whole[name].start


def test_missing_bytes_of_a_cut_off_download():
    """The number of missing bytes told is that of the whole file's that did not arrive."""
    data = saved({"a": torch.ones(1000), "b": torch.ones(500)})
    second = opened(data).state_dict["b"].start
    container = opened(data[: second + 100])
    assert f"{len(data) - second - 100} bytes of {len(data)} are" in container.anomalies[0].message
    assert container.anomalies[0].evidence == "1 of 2 storages are complete"


def test_cut_off_inside_its_pickle():
    """A download that ends inside data.pkl has no tensors, but its pickle was looked at as far as it goes."""
    evil = build_zip(torch_parts(hostile()[:-1] + bytes(50)))
    container = opened(evil[: evil.index(bytes(50)) + 5])
    assert container.kind == "torch-zip" and container.state_dict is None
    assert "zip.truncated" in rules(container)
    assert container.skipped
    assert imports(container) == imports(opened(hostile()))


@settings(max_examples=300)
@given(st.data())
def test_what_torch_reads_is_what_we_read(data):
    """Of any archive that torch's own reader opens, the pickle it gets is one that was traced.

    And where nothing is odd about the archive, every storage is the bytes that torch gets for it.
    """
    parts = split_checkpoint(CHECKPOINT)
    changes = data.draw(st.lists(st.sampled_from(["again", "rename", "pack", "flag", "cased", "change"]), max_size=3))
    for change in changes:
        part = parts[data.draw(st.integers(0, len(parts) - 1))]
        if change == "again":
            parts.insert(data.draw(st.integers(0, len(parts))), Part(part.name, hostile()))
        elif change == "rename":
            part.local_name = "archive/data.pkl"
        elif change == "pack":
            part.method = 8
        elif change == "flag":
            part.flags = data.draw(st.sampled_from([0x2, 0x8, 0x20, 0x800]))
        elif change == "cased":
            part.name = part.name.swapcase()
        else:
            part.data = hostile()
    built = bytearray(build_zip(parts, comment=data.draw(st.sampled_from([b"", b"PK"]))))
    for _ in range(data.draw(st.integers(0, 2))):
        built[data.draw(st.integers(0, len(built) - 1))] = data.draw(st.integers(0, 255))
    built[:4] = b"PK\3\4"  # what makes torch.load take it for an archive
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(bytes(built)))
        record = reader.get_record("data.pkl")
    except (RuntimeError, UnicodeDecodeError, IndexError):  # the last: a version of too many digits
        return
    container = opened(bytes(built))
    if not rules(container) & {"zip.deflate", "zip.file-type"}:  # there torch's record ends in stale memory
        assert imports(opened(record)) <= imports(container)
    if not container.anomalies and not container.skipped:
        for info in container.state_dict.values():
            ours = built[info.storage.start : info.storage.start + info.storage.nbytes]
            assert reader.get_record(f"data/{info.storage.key}") == ours
