"""What cannot be loaded, or is not what its name says, and is nobody's attack; and whole pickled programs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.corpus.containers import legacy, state, tensor
from tests.corpus.item import Item
from tests.corpus.zips import Entry, archive, checkpoint
from tests.pickles.assemble import called, imported, text


def broken_items() -> Iterator[Item]:
    """Cut, empty and foreign files."""
    whole = archive(checkpoint(state(*[tensor()] * 8), [bytes(16)]))
    old = legacy(value=state())
    for part in (1, 2, 3):
        yield Item("cut off", f"torch zip at {part} quarters", whole[: len(whole) * part // 4], ".pt")
        yield Item("cut off", f"legacy at {part} quarters", old[: len(old) * part // 4], ".ckpt")
    yield Item("cut off", "torch zip without its last bytes", whole[:-20], ".pt")
    yield Item("cut off", "pickle in mid-string", b"\x80\x02X\xff\x00\x00\x00abc")
    yield Item("cut off", "pickle without STOP", b"\x80\x02}q\x00")
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    whole_safetensors = struct.pack("<Q", len(header)) + header + bytes(8)
    yield Item("cut off", "safetensors in its data", whole_safetensors[:-4], ".safetensors")
    yield Item("cut off", "safetensors in its header", whole_safetensors[:30], ".safetensors")
    yield Item(
        "download error",
        "HTML page",
        b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n",
        ".ckpt",
    )
    yield Item("download error", "empty file", b"", ".pt")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
    yield Item("download error", "Git LFS pointer", pointer, ".safetensors")
    yield Item("download error", "JSON error", b'{"error":"Unauthorized"}', ".pt")
    yield Item("download error", "zeros", bytes(4096), ".ckpt")
    yield Item("corrupt", "an opcode that does not exist", b"\x80\x02}\xff.")
    yield Item("corrupt", "text that is not UTF-8", b"\x80\x02X\x02\x00\x00\x00\xff\xff.")
    yield Item("corrupt", "empty stack", b"\x80\x020.")
    yield Item("corrupt", "torch zip without version", archive(checkpoint(state(tensor()), [bytes(16)])[:-1]), ".pt")
    yield Item(
        "corrupt",
        "torch zip with one bad checksum",
        archive([*checkpoint(state())[:-1], Entry("archive/version", b"3\n", crc=5)]),
        ".pt",
    )
    yield Item("foreign", "random bytes", bytes(i * 37 % 251 for i in range(2000)), ".bin")
    yield Item("foreign", "text", b"hello, this is a readme\n" * 20, ".pt")
    yield Item("cut off", "GGUF", b"GGUF\x03\x00\x00\x00" + struct.pack("<QQ", 5, 2), ".gguf")
    yield Item("foreign", "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(500), ".h5")
    yield Item("foreign", "PNG", b"\x89PNG\r\n\x1a\n" + bytes(100), ".png")
    network = imported("torch.nn.modules.container", "Sequential") + b")\x81}" + text("training") + b"\x88sb"
    yield Item("whole network", "Sequential", archive(checkpoint(b"\x80\x02" + network + b".")), ".pt")
    yolo = (
        b"}"
        + text("model")
        + imported("ultralytics.nn.tasks", "DetectionModel")
        + b")\x81}"
        + text("training")
        + b"\x88sbs"
    )
    yield Item("whole network", "YOLO detector", archive(checkpoint(b"\x80\x02" + yolo + b".")), ".pt")
    old_style = imported("models.yolo", "Model") + b")\x81}" + text("training") + b"\x88sb"
    yield Item("whole network", "YOLOv5", archive(checkpoint(b"\x80\x02" + old_style + b".")), ".pt")
    code = Entry("archive/code/__torch__.py", b"class Net(Module):\n  pass\n")
    script = [*checkpoint(state(tensor()), [bytes(16)]), Entry("archive/constants.pkl", b"\x80\x02)."), code]
    yield Item("whole network", "TorchScript", archive(script), ".pt")
    sparse = called("torch._utils", "_rebuild_sparse_tensor", imported("torch", "sparse_coo") + b")")
    yield Item("unmodelled tensor", "sparse", archive(checkpoint(state(sparse))), ".pt")
    yield Item("unfamiliar", "reference to a class", b"\x80\x02" + imported("colour_maps.tools", "Palette") + b".")
