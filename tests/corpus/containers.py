"""Files whose container hides, doubles or bends what is in them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Iterator

from modelhub.samples.pickling import dumps
from tests.corpus.item import EVIL, PROGRAM, Item
from tests.corpus.zips import Entry, archive, checkpoint
from tests.pickles.assemble import called, imported, text

MAGIC = dumps(0x1950A86A20F9469CFC6C)
PROTOCOL = dumps(1001)
SYSTEM = dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}})
NO_KEYS = dumps([])
EMPTY = dumps({})


def tensor(
    key: str = "0", numel: int = 4, offset: int = 0, shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)
) -> bytes:
    """The opcodes that rebuild one float tensor of a zip checkpoint."""
    storage = b"(" + text("storage") + imported("torch", "FloatStorage") + text(key) + text("cpu") + _int(numel) + b"tQ"
    sizes = b"(" + b"".join(map(_int, shape)) + b"t" + b"(" + b"".join(map(_int, stride)) + b"t"
    return called(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage + _int(offset) + sizes + b"\x89" + called("collections", "OrderedDict"),
    )


def state(*values: bytes) -> bytes:
    """A pickle of a dict of *values*."""
    return b"\x80\x02}(" + b"".join(text(f"w{i}") + value for i, value in enumerate(values)) + b"u."


def legacy(
    *,
    magic: bytes = MAGIC,
    protocol: bytes = PROTOCOL,
    system: bytes = SYSTEM,
    value: bytes = EMPTY,
    keys: bytes = NO_KEYS,
) -> bytes:
    """A legacy torch file with parts of one's own."""
    return magic + protocol + system + value + keys


def zip_items() -> Iterator[Item]:
    """Torch zips: the payload in the open, and then every way to have loaders and scanners read different bytes."""
    good = state(tensor())
    bad = state(EVIL, tensor())
    data = bytes(16)
    benign, evil = checkpoint(good, [data]), checkpoint(bad, [data])
    pkl = "archive/data.pkl"

    def item(attack: str, what: str, whole: bytes, extension: str = ".pt") -> Item:
        return Item(attack, what, whole, extension)

    for extension in (".pt", ".pth", ".ckpt", ".bin"):
        yield item("ordinary payload", f"torch zip named {extension}", archive(evil), extension)
    yield item("ordinary payload", "torch zip, deflated", archive([Entry(pkl, bad, deflate=True), *evil[1:]]))
    yield item("ordinary payload", "torch zip, payload last", archive(checkpoint(state(tensor(), EVIL), [data])))
    yield item(
        "ordinary payload",
        "torch zip, payload discarded",
        archive(checkpoint(b"\x80\x02" + EVIL + b"0" + good[2:], [data])),
    )
    yield item("break after payload", "torch zip", archive(checkpoint(bad[:-1] + b"\xff", [data])))
    yield item("parser differential", "in a torch zip", archive(checkpoint(b"I0x10\n0" + bad[2:], [data])))

    yield item("duplicate entry", "the first is evil", archive([evil[0], *benign]))
    yield item("duplicate entry", "the last is evil", archive([*benign, evil[0]]))
    yield item("duplicate entry", "three of them", archive([benign[0], evil[0], *benign]))
    yield item("directory base", "two zips, the first is evil", archive(evil) + archive(benign))
    yield item("directory base", "two zips, the second is evil", archive(benign) + archive(evil))
    yield item("directory base", "a zip in the comment, inner is evil", archive(benign, comment=archive(evil)))
    yield item("directory base", "a zip in the comment, outer is evil", archive(evil, comment=archive(benign)))
    yield item("directory base", "a zip before the directory", archive(benign, gap=archive(evil)))
    yield item("directory base", "a zip as prefix", archive(benign, prefix=archive(evil)))
    yield item("case clash", "DATA.PKL is evil", archive([*benign, Entry("archive/DATA.PKL", bad)]))
    yield item("case clash", "only Data.Pkl, evil", archive([Entry("archive/Data.Pkl", bad), *evil[1:]]))
    yield item("case clash", "DATA.PKL first", archive([Entry("archive/DATA.PKL", bad), *benign]))

    yield item("CVE-2025-10156", "wrong checksum", archive([Entry(pkl, bad, crc=1), *evil[1:]]))
    yield item("CVE-2025-10156", "no checksum", archive([Entry(pkl, bad, crc=0), *evil[1:]]))
    for flags in (0x1, 0x20, 0x40, 0x2000):
        yield item(
            "CVE-2025-1945", f"flag {flags:#x} in the directory", archive([Entry(pkl, bad, flags=flags), *evil[1:]])
        )
        yield item(
            "CVE-2025-1945",
            f"flag {flags:#x} in the local header",
            archive([Entry(pkl, bad, local_flags=flags), *evil[1:]]),
        )
    yield item(
        "CVE-2025-1944",
        "another name in the local header",
        archive([Entry(pkl, bad, local_name="archive/notes.txt"), *evil[1:]]),
    )
    yield item(
        "CVE-2025-1944",
        "another name in the directory",
        archive([*benign, Entry("archive/notes.txt", bad, local_name=pkl)]),
    )
    yield item("zip integrity", "another size in the local header", archive([Entry(pkl, bad, local_size=3), *evil[1:]]))
    yield item("zip integrity", "bytes before the archive", archive(evil, prefix=b"#!/bin/sh\n"))
    yield item("zip integrity", "bytes after the archive", archive(evil) + bytes(100))
    yield item("zip integrity", "method that no loader has", archive([Entry(pkl, bad, method=99), *evil[1:]]))

    yield item("hidden member", "pickle among the storages", archive([*benign, Entry("archive/data/99", PROGRAM)]))
    yield item("hidden member", "second pickle beside", archive([*benign, Entry("archive/extra.pkl", PROGRAM)]))
    yield item("hidden member", "data.pkl of another folder", archive([*benign, Entry("other/data.pkl", bad)]))
    yield item(
        "hidden member",
        "Python source",
        archive([*benign, Entry("archive/code/__torch__.py", b"import os\nos.getcwd()\n")]),
    )
    yield item("CVE-2025-1889", "pickle named config.p", archive([*benign, Entry("archive/config.p", PROGRAM)]))
    yield item("CVE-2025-1889", "pickle without an extension", archive([*benign, Entry("archive/notes", PROGRAM)]))
    yield item(
        "CVE-2025-1889",
        "pickle of protocol 0 named notes.txt",
        archive([*benign, Entry("archive/notes.txt", b"cos\nsystem\n(S'true'\ntR.")]),
    )
    yield item("hidden member", "path that climbs", archive([*benign, Entry("archive/../../evil.pkl", PROGRAM)]))
    yield item("hidden member", "name with a NUL", archive([*benign, Entry("archive/data.pkl\0.txt", bad)]))
    yield item("wrapped", "zip in a zip", archive([Entry("inner.zip", archive(evil))]), ".zip")
    yield item("wrapped", "torch zip in a zip", archive([Entry("model.pt", archive(evil))]), ".zip")
    yield item("wrapped", "pickle in a zip", archive([Entry("data.pkl", PROGRAM)]), ".zip")
    yield item("wrapped", "pickle in a zip by another name", archive([Entry("readme.md", PROGRAM)]), ".zip")
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(bytes(2 << 20)) + bomb.flush()
    yield item(
        "scanner denial of service", "zip bomb", archive([Entry(pkl, packed, method=8, size=1 << 30, crc=1), *evil[1:]])
    )
    yield from _lying_tensors()
    yield from _torchscript(evil)


def _lying_tensors() -> Iterator[Item]:
    def item(what: str, value: bytes, storages: list[bytes]) -> Item:
        return Item("lying tensor", what, archive(checkpoint(state(value), storages)), ".pt")

    data = bytes(16)
    yield item("offset past the storage", tensor(offset=1 << 30), [data])
    yield item("shape larger than the storage", tensor(shape=(1 << 20, 1 << 10), stride=(1 << 10, 1)), [data])
    yield item("stride 0 makes terabytes", tensor(shape=(1_000_000, 1_000_000), stride=(0, 0)), [data])
    yield item("negative stride", tensor(stride=(-1,)), [data])
    yield item("negative offset", tensor(offset=-4), [data])
    yield item("negative shape", tensor(shape=(-4,)), [data])
    yield item("record shorter than its storage", tensor(numel=1 << 20), [data])
    yield item("missing record", tensor(key="7"), [data])
    yield item("key that climbs", tensor(key="../../../etc/passwd"), [data])
    yield item("key with zeros", tensor(key="00"), [data])
    hidden = b"\x80\x02" + tensor(offset=1 << 30) + b"0}" + text("w") + tensor() + b"s."
    yield Item("lying tensor", "made and dropped", archive(checkpoint(hidden, [data])), ".pt")
    twice = state(tensor(), tensor(numel=2, shape=(2,)))
    yield Item("lying tensor", "storage asked for with two sizes", archive(checkpoint(twice, [data])), ".pt")
    setitem = b"\x80\x02" + tensor() + text("w") + b"K\x01s."
    yield Item("CVE-2026-24747", "SETITEM on a tensor", archive(checkpoint(setitem, [data])), ".pt")


def _torchscript(evil: list[Entry]) -> Iterator[Item]:
    constants = Entry("archive/constants.pkl", b"\x80\x02).")
    code = Entry("archive/code/__torch__.py", b"class Net(Module):\n  def forward(self: Net) -> Tensor:\n    pass\n")
    yield Item("torchscript", "payload in data.pkl", archive([*evil, constants, code]), ".pt")
    hidden = [*checkpoint(state(tensor()), [bytes(16)]), Entry("archive/constants.pkl", PROGRAM), code]
    yield Item("torchscript", "payload in constants.pkl", archive(hidden), ".pt")


def legacy_items() -> Iterator[Item]:
    """Legacy torch files and tars: a payload in each of their pickles."""
    cases = {
        "payload in the object": legacy(value=PROGRAM),
        "payload as magic number": legacy(magic=PROGRAM),
        "payload as protocol": legacy(protocol=PROGRAM),
        "payload as system": legacy(system=PROGRAM),
        "payload as storage keys": legacy(keys=PROGRAM),
        "payload before the magic number": legacy(magic=b"\x80\x02" + EVIL + b"0" + MAGIC[2:]),
        "magic number by a call": legacy(
            magic=b"\x80\x02" + called("builtins", "int", text(str(0x1950A86A20F9469CFC6C))) + b".", value=PROGRAM
        ),
        "magic number by eval": legacy(
            magic=b"\x80\x02" + called("builtins", "eval", text(str(0x1950A86A20F9469CFC6C))) + b"."
        ),
        "decoy number before the magic": legacy(magic=b"\x80\x02K\x010" + MAGIC[2:], value=PROGRAM),
        "magic as text": legacy(magic=b"L119547037146038801333356L\n.", value=PROGRAM),
        "genops breaker before payload": legacy(system=b"\x80\x02I0x10\n0" + SYSTEM[2:], value=PROGRAM),
        "payload after the storages": legacy() + PROGRAM,
        "module of a class": legacy(
            value=b"\x80\x02("
            + text("module")
            + imported("os", "system")
            + text("a.py")
            + text("")
            + b"tQ"
            + text("true")
            + b"\x85R."
        ),
    }
    for what, data in cases.items():
        attack = "GHSA-97f8-7cmv-76j2" if "magic number by" in what else "legacy header"
        yield Item(attack, what, data, ".ckpt")
    for number, name in enumerate(("pickle", "tensors", "storages")):
        yield Item("tar dispatch", f"payload in {name}", _tar(name), ".pt" if number else ".ckpt")


def _tar(evil: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            data = PROGRAM if name == evil else EMPTY
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def other_items() -> Iterator[Item]:
    """Wrappers, polyglots, odd names and the formats beside torch's."""
    zipped = archive(checkpoint(state(EVIL)))
    yield Item("appended zip", "pickle, then a harmless torch zip", PROGRAM + archive(checkpoint(state())), ".pt")
    yield Item("appended zip", "pickle, then a zip", PROGRAM + archive([Entry("readme.txt", b"hello")]), ".pkl")
    yield Item(
        "appended zip", "pickle, then a zip of a harmless pickle", PROGRAM + archive([Entry("data.pkl", EMPTY)]), ".zip"
    )
    for extension in (
        ".safetensors",
        ".png",
        ".txt",
        ".PT",
        ".Ckpt",
        ".gguf",
        ".npy",
        ".model",
        "",
        ".pt.bak",
        ".json",
        ".zip",
        ".html",
    ):
        yield Item("CVE-2025-10155", f"pickle named {extension or 'without extension'}", PROGRAM, extension)
    for extension in (".safetensors", ".jpg", ".PTH", ".weights", ""):
        yield Item("CVE-2025-1889", f"torch zip named {extension or 'without extension'}", zipped, extension)
    packers = {"gzip": _gzip, "bzip2": bz2.compress, "xz": lzma.compress, "zlib": zlib.compress}
    for what, pack in packers.items():
        yield Item("wrapped", f"pickle in {what}", pack(PROGRAM), f".pkl.{what[:2]}")
        yield Item("wrapped", f"torch zip in {what}", pack(zipped), ".pt")
    yield from _arrays()
    yield from _safetensors()
    yield Item("joblib", "array bytes before the payload", _joblib(), ".joblib")
    for what, template in (
        ("globals of a function", "{{ cycler.__init__.__globals__.os.popen('true').read() }}"),
        ("classes of an object", "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{{ c }}{% endfor %}"),
    ):
        yield Item("CVE-2024-34359", f"chat template: {what}", gguf(template), ".gguf")


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def gguf(template: str) -> bytes:
    """A GGUF file of no tensors and one chat template."""
    key, value = b"tokenizer.chat_template", template.encode()
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    return header + struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value


def _arrays() -> Iterator[Item]:
    for major in (1, 2, 3):
        head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
        length = struct.pack("<H" if major == 1 else "<I", len(head))
        npy = b"\x93NUMPY" + bytes([major, 0]) + length + head + PROGRAM
        yield Item("numpy object array", f"npy version {major}", npy, ".npy")
        yield Item("numpy object array", f"npz of version {major}", archive([Entry("a.npy", npy)]), ".npz")
    yield Item("numpy object array", "npy named .bin", npy, ".bin")


def _joblib() -> bytes:
    """A dump of joblib: an array's wrapper object, its raw bytes in mid-stream, then more of the pickle."""
    wrapper = called("joblib.numpy_pickle", "NumpyArrayWrapper") + b"}" + text("shape") + b"K\x04\x85sb"
    return b"\x80\x04" + wrapper + b"\x03..." + bytes(range(32)) + EVIL + b"\x86."


def _safetensors() -> Iterator[Item]:
    def item(what: str, header: bytes, data: bytes = bytes(8), length: int | None = None) -> Item:
        return Item(
            "safetensors header",
            what,
            struct.pack("<Q", len(header) if length is None else length) + header + data,
            ".safetensors",
        )

    entry = b'{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'
    one = b'{"w":' + entry % (0, 8) + b"}"
    yield item("trailing pickle", one, bytes(8) + PROGRAM)
    yield item("duplicate keys", b'{"w":' + entry % (0, 8) + b',"w":' + entry % (0, 8) + b"}")
    yield item("overlap", b'{"a":' + entry % (0, 8) + b',"b":' + entry % (4, 12) + b"}", bytes(12))
    yield item(
        "hole with a pickle",
        b'{"a":' + entry % (0, 8) + b',"b":' + entry % (108, 116) + b"}",
        bytes(8) + PROGRAM.ljust(100) + bytes(8),
    )
    yield item("header of a terabyte", one, length=1 << 40)
    yield item("offsets backwards", b'{"w":' + entry % (8, 0) + b"}")
    yield item("size that does not fit", b'{"w":' + entry % (0, 4) + b"}", bytes(4))
    yield item("deep JSON", b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    yield item(
        "shape that overflows", b'{"w":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}'
    )
    yield item("negative shape", b'{"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}')


def _int(value: int) -> bytes:
    """BININT, or LONG1 for what does not fit it"""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data
