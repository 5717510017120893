"""What people keep: ordinary files of the Stable Diffusion world, and ordinary pickles of plain data."""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from modelhub.samples.layouts import embedding, hypernetwork, lora, vae
from modelhub.samples.pickling import Call, Import, dumps, parameter
from modelhub.samples.safetensors_files import write_safetensors
from modelhub.samples.torch_files import write_torch_legacy, write_torch_zip
from modelhub.samples.weights import Storage, Weight, random_weight, random_weights
from modelhub.samples.wrappers import a1111_embedding, a1111_hypernetwork, lightning_checkpoint, module_state
from modelhub.tensors import DType
from tests.corpus.containers import gguf, legacy, state, tensor
from tests.corpus.item import Item
from tests.corpus.zips import Entry, archive, checkpoint
from tests.pickles.assemble import called, imported, text

_CALLBACK = "pytorch_lightning.callbacks.model_checkpoint"


def _weight(dtype: DType = DType.F32, shape: tuple[int, ...] = (2, 3), seed: int = 1) -> Weight:
    return random_weight(f"{dtype.label}{shape}", dtype, shape, seed=seed)


def _object(module: str, name: str, state: Any = None, **options: Any) -> Call:
    """An instance as protocol 2 writes it: ``cls.__new__(cls)`` and its attributes."""
    return Call(Import(module, name), new=True, state=state, **options)


def _old_object(module: str, name: str, state: Any) -> Call:
    """An instance as Python 2 wrote it: ``copy_reg._reconstructor(cls, object, None)`` and its attributes."""
    arguments = (Import(module, name), Import("__builtin__", "object"), None)
    return Call(Import("copy_reg", "_reconstructor"), arguments, state=state)


def _numpy_scalar(module: str = "numpy.core.multiarray", letter: str = "f8", data: bytes = bytes(8)) -> Call:
    dtype = Call(Import("numpy", "dtype"), (letter, False, True), state=(3, "<", None, None, None, -1, -1, 0))
    return Call(Import(module, "scalar"), (dtype, data))


def _numpy_array(module: str = "numpy.core.multiarray") -> Call:
    dtype = Call(Import("numpy", "dtype"), ("f4", False, True), state=(3, "<", None, None, None, -1, -1, 0))
    return Call(
        Import(module, "_reconstruct"),
        (Import("numpy", "ndarray"), (0,), b"b"),
        state=(1, (2,), dtype, False, bytes(8)),
    )


def _values() -> Iterator[tuple[str, Any]]:
    """Objects that a torch file may hold, by what they are."""
    weights = {f"layer.{i}.weight": _weight(seed=i) for i in range(4)}
    for dtype in (DType.F16, DType.BF16, DType.F32, DType.F64, DType.I64, DType.I32, DType.U8, DType.BOOL):
        yield f"state dict of {dtype.label}", {"w": _weight(dtype)}
    yield "module state dict", module_state(weights)
    yield "wrapped state dict", {"state_dict": module_state(weights)}
    yield "lightning checkpoint", lightning_checkpoint(weights)
    yield "lightning checkpoint with callbacks", lightning_checkpoint(weights, callbacks=True)
    callback = _object(
        _CALLBACK, "ModelCheckpoint", {"monitor": "val/loss", "best_model_score": _numpy_scalar(), "save_top_k": 1}
    )
    yield "lightning callback object", {**lightning_checkpoint(weights), "callbacks": {"checkpoint": callback}}
    early = _object("pytorch_lightning.callbacks.early_stopping", "EarlyStopping", {"patience": 3, "wait_count": 0})
    yield "lightning early stopping", {**lightning_checkpoint(weights), "callbacks": {"early": early}}
    hyper = Call(Import("pytorch_lightning.utilities.parsing", "AttributeDict"), pairs={"lr": 1e-4, "steps": 10})
    yield "lightning hyper-parameters", {**lightning_checkpoint(weights), "hyper_parameters": hyper}
    optimizer = {
        "state": {0: {"step": 1, "exp_avg": _weight()}},
        "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
    }
    yield (
        "optimizer state",
        {
            "state_dict": weights,
            "optimizer_states": [optimizer],
            "lr_schedulers": [{"base_lrs": [1e-4], "lr_lambdas": [None]}],
        },
    )
    yield "old numpy scalars", {"state_dict": weights, "loss": _numpy_scalar(), "steps": _numpy_scalar(letter="i8")}
    yield "new numpy scalars", {"state_dict": weights, "loss": _numpy_scalar("numpy._core.multiarray")}
    yield "numpy arrays", {"state_dict": weights, "mean": _numpy_array(), "std": _numpy_array("numpy._core.multiarray")}
    yield "A1111 embedding", a1111_embedding("moss", _weight(shape=(8, 768)))
    words = _object(
        "torch.nn.modules.container",
        "ParameterDict",
        {
            "training": True,
            "_parameters": OrderedDict({"*": parameter(_weight())}),
            "_buffers": OrderedDict(),
            "_modules": OrderedDict(),
        },
    )
    yield "ParameterDict embedding", {"string_to_token": {"*": _weight(DType.I64, ())}, "string_to_param": words}
    yield "diffusers embedding", {"<moss>": _weight(shape=(768,))}
    structure = (1, 1 / 16, 1)
    yield (
        "A1111 hypernetwork",
        a1111_hypernetwork("sepia", hypernetwork(structure=structure), structure=structure, seed=7),
    )
    yield "kohya LoRA", random_weights(lora("sd-1", rank=1), seed=4)
    yield "VAE", {"state_dict": random_weights(vae(width=1 / 64), seed=8)}
    yield "parameters", {"w": parameter(_weight()), "b": parameter(_weight(shape=(3,)))}
    shared = _weight()
    yield "tied weights", {"a": shared, "b": shared}
    storage: Storage = _weight(shape=(6,)).storage
    yield (
        "views of one storage",
        {
            "all": Weight(storage, (2, 3)),
            "row": Weight(storage, (3,), offset=3),
            "turned": Weight(storage, (3, 2), strides=(1, 3)),
        },
    )
    yield "list of tensors", [_weight(), _weight(shape=(3,))]
    yield "one tensor", _weight()
    yield "empty tensor", {"w": _weight(shape=(0, 4))}
    yield "upscaler", {"params_ema": weights}
    yield (
        "trainer settings",
        {"state_dict": weights, "args": _object("argparse", "Namespace", {"lr": 0.1, "name": "moss", "sizes": [1, 2]})},
    )
    yield (
        "trainer settings of Python 2",
        {"state_dict": weights, "args": _old_object("argparse", "Namespace", {"lr": 0.1})},
    )
    default = Call(Import("collections", "defaultdict"), (Import("__builtin__", "dict"),), pairs={"0": {"step": 1}})
    yield "defaultdict", {"state_dict": weights, "state": default}
    yield (
        "sets and sizes",
        {
            "state_dict": weights,
            "seen": Call(Import("__builtin__", "set"), ([1, 2],)),
            "size": Call(Import("torch", "Size"), ((1, 2),)),
        },
    )
    yield (
        "dtype and device",
        {"w": _weight(), "dtype": Import("torch", "float16"), "device": Call(Import("torch", "device"), ("cuda", 0))},
    )
    yield (
        "dates and paths",
        {
            "w": _weight(),
            "when": Call(Import("datetime", "datetime"), (b"\x07\xe6\x0a\x01\0\0\0\0\0\0",)),
            "where": Call(Import("pathlib", "PosixPath"), ("/", "home", "a")),
        },
    )
    config = _object("omegaconf.dictconfig", "DictConfig", {"_content": {"lr": 0.1}, "_parent": None})
    yield "omegaconf settings", {"state_dict": weights, "config": config}
    yield "unicode names", {"schöne.gewichte": _weight(), "重み": _weight()}
    yield "deeply nested names", {"a": {"b": {"c": {"d": _weight()}}}}
    yield "no tensors at all", {"step": 1, "name": "x", "lr": [0.1, 0.2], "none": None}


def torch_items() -> Iterator[Item]:
    """Each value in torch's two formats."""
    writers: tuple[tuple[str, Callable[..., None], str], ...] = (
        ("zip", write_torch_zip, ".pt"),
        ("legacy", write_torch_legacy, ".ckpt"),
    )
    for form, write, extension in writers:
        for what, value in _values():
            yield Item(f"torch {form}", what, _written(write, value, extension), extension)


def _written(write: Callable[..., None], value: Any, extension: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "archive" + extension)
        write(path, value)
        with open(path, "rb") as file:
            return file.read()


def twin_items() -> Iterator[Item]:
    """The harmless twins of attacks: the same shape of file or program, without anything in it that acts."""
    data = bytes(16)
    yield Item("twin", "torch zip put together by hand", archive(checkpoint(state(tensor()), [data])), ".pt")
    yield Item(
        "twin",
        "deflated data.pkl",
        archive([Entry("archive/data.pkl", state(tensor()), deflate=True), *checkpoint(b"", [data])[1:]]),
        ".pt",
    )
    yield Item("twin", "legacy put together by hand", legacy(), ".ckpt")
    yield Item(
        "twin", "whole archive of another name", archive(checkpoint(state(tensor()), [data], top="my model")), ".pth"
    )
    yield Item(
        "twin",
        "tensor made and dropped",
        archive(checkpoint(b"\x80\x02" + tensor() + b"0" + state(tensor())[2:], [data])),
        ".pt",
    )
    yield Item(
        "twin", "expanded tensor", archive(checkpoint(state(tensor(shape=(8, 4), stride=(0, 1))), [data])), ".pt"
    )
    programs = {
        "bytes in protocol 2": called("_codecs", "encode", text("\xff\x00") + text("latin1")),
        "empty ordered dict": called("collections", "OrderedDict"),
        "memo used well": text("a") + b"q\x000h\x00",
        "dup of a number": b"K\x012\x86",
        "pop of a number": b"K\x010N",
        "attributes of an ordered dict": called("collections", "OrderedDict") + b"}" + text("_metadata") + b"}sb",
        "harmless protocol 4 import": b"\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R",
        "Python 2 names": called("__builtin__", "set", b"](K\x01K\x02e"),
        "references only": imported("torch", "float16"),
        "counter": called("collections", "Counter", b"}" + text("a") + b"K\x01s"),
        "deque": called("collections", "deque", b"](K\x01K\x02e" + b"K\x05"),
        "appended list": b"]K\x01aK\x02a",
        "set by opcodes": b"\x8f(K\x01K\x02\x90",
        "long integer": b"\x8a\x09" + bytes(8) + b"\x01",
        "numpy letters": called("numpy", "dtype", text("f4") + b"\x89\x88"),
    }
    for what, body in programs.items():
        protocol = 4 if b"\x8f" in body or b"\x93" in body else 2
        yield Item("twin", what, bytes([0x80, protocol]) + body + b".")


def other_items() -> Iterator[Item]:
    """The harmless twins of other formats."""
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(8)
    yield Item("twin", "npy of numbers", npy, ".npy")
    yield Item("twin", "GGUF with a chat template", gguf("{% for m in messages %}{{ m.content }}{% endfor %}"), ".gguf")


def nested_items() -> Iterator[Item]:
    """A tensor as a plain pickle holds it: its storage is a legacy file of its own, as bytes in the pickle."""
    storage = b"(" + text("storage") + imported("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04NtQ"
    inner = legacy(value=b"\x80\x02" + storage + b".", keys=dumps(["0"])) + struct.pack("<q", 4) + bytes(16)
    loaded = called("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(inner)) + inner)
    body = loaded + b"K\x00(K\x04t(K\x01t\x89" + called("collections", "OrderedDict")
    yield Item(
        "pickled tensor", "storage in bytes", b"\x80\x03" + called("torch._utils", "_rebuild_tensor_v2", body) + b"."
    )


def plain_items() -> Iterator[Item]:
    """Plain data in every protocol, by Python's own pickler."""
    data = {"a": [1, 2.5, -3, 1 << 70, "b", b"c", None, True], "nested": {"t": (1, (2, (3,))), "set": {1}}}
    for protocol in range(6):
        kept = data if protocol > 2 else {"a": [1, 2.5, -3, 1 << 70, "b", None, True], "t": (1, (2, (3,)))}
        yield Item("plain pickle", f"protocol {protocol}", pickle.dumps(kept, protocol))
    yield Item("plain pickle", "a long list", pickle.dumps(list(range(200_000)), 4))
    shared: list[Any] = [1]
    yield Item("plain pickle", "shared and repeated", pickle.dumps([shared] * 500, 2))
    yield Item("plain pickle", "a list in itself", _in_itself())
    yield Item("plain pickle", "long text", pickle.dumps({"text": "x" * 300_000}, 4))


def _in_itself() -> bytes:
    value: list[Any] = []
    value.append(value)
    return pickle.dumps(value, 2)


def safetensors_items() -> Iterator[Item]:
    """Files of the format that cannot run anything."""
    for what, metadata in (("with metadata", {"format": "pt", "ss_network_dim": "4"}), ("without metadata", None)):
        data = _written(
            lambda path, value, metadata=metadata: write_safetensors(path, value, metadata),
            {"w": _weight(), "b": _weight(DType.F16, (4,))},
            ".safetensors",
        )
        yield Item("safetensors", what, data, ".safetensors")
    data = _written(write_safetensors_of, random_weights(lora("sd-1", rank=1), seed=4), ".safetensors")
    yield Item("safetensors", "LoRA", data, ".safetensors")
    ((dtype, shape),) = embedding("sd-1", vectors=2).values()
    data = _written(write_safetensors_of, {"emb_params": random_weight("e", dtype, shape, seed=3)}, ".safetensors")
    yield Item("safetensors", "embedding", data, ".safetensors")


def write_safetensors_of(path: str, value: Any) -> None:
    """*value* with the metadata that torch users write."""
    write_safetensors(path, value, {"format": "pt"})
