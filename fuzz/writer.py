"""Trees spelled in opcodes, each value in any of the ways that a pickle may spell it."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

from fuzz.recipes import STORAGES
from fuzz.trees import (
    After,
    Again,
    Array,
    Asked,
    Buffer,
    ComputedName,
    Extension,
    Made,
    Members,
    Name,
    Node,
    Pairs,
    Twice,
)

_STEP_OPCODES = {"pairs": (b"s", b"u"), "items": (b"a", b"e"), "adds": (b"", b"\x90")}


class Writer:
    """Writes one program: ``chunks`` are its opcodes, ``storages`` the keys of the storages that it asks for.

    *liberty* is how often, from 0 to 1, a spelling is used that no pickler writes.
    """

    def __init__(self, rng: Random, liberty: float) -> None:
        self.rng = rng
        self.liberty = liberty
        self.chunks: list[bytes] = []
        self.storages: dict[str, None] = {}
        self._memo: set[int] = set()

    def write(self, node: Node) -> None:
        """Spell *node*; its value is then on top of the stack."""
        put = self.chunks.append
        self._noise()
        match node:
            case None:
                put(b"N")
            case bool():
                put(self._any((b"\x89", b"I00\n"), (b"\x88", b"I01\n"))[node])
            case int():
                put(self._integer(node))
            case float():
                put(self._any(b"G" + struct.pack(">d", node), f"F{node!r}\n".encode()))
            case str():
                put(self._text(node))
            case bytes():
                put(self._bytes(node))
            case tuple():
                self._tuple(node)
            case list():
                self._list(node)
            case Pairs(pairs):
                self._dict(pairs)
            case Members():
                self._set(node)
            case Name(module, name):
                self._name(module, name)
            case ComputedName(module, name):
                self.write(module)
                self.write(name)
                put(b"\x93")
            case Extension(code):
                width = self.rng.choice([w for w in (1, 2, 4) if code < 1 << (8 * w)])
                put({1: b"\x82", 2: b"\x83", 4: b"\x84"}[width] + code.to_bytes(width, "little"))
            case Made():
                self._call(node)
            case After(target, steps):
                self.write(target)
                for kind, part in steps:
                    self._step(kind, part)
            case Asked(pid, text):
                self._ask(pid, text)
            case Again():
                put(self._get())
            case Twice(value):
                self.write(value)
                put(b"2")
                put(b"\x86")
            case Buffer(readonly):
                put(b"\x97")
                if readonly:
                    put(b"\x98")
            case Array(data):
                put(b"\x96" + struct.pack("<Q", len(data)) + data)
            case _:
                raise TypeError(f"no node: {node!r}")
        if self.rng.random() < 0.15:
            self._put()

    def _any(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def _wild(self) -> bool:
        return self.rng.random() < self.liberty

    def _noise(self) -> None:
        """Now and then, opcodes that come to nothing."""
        if not self._wild():
            return
        kind = self.rng.randrange(6)
        if kind == 0:
            self.chunks += [b"K\x07", b"0"]
        elif kind == 1:
            self.chunks += [b"(", b"N", self._any(b"1", b"0")]
        elif kind == 2:
            self.chunks += [b"(", b"0"]
        elif kind == 3:
            self.chunks.append(b"\x80" + bytes([self.rng.randrange(7)]))
        elif kind == 4:
            self.chunks.append(b"\x95" + struct.pack("<Q", self.rng.choice([0, 1, 5, 20, 1 << 40])))
        else:
            self.chunks += [b"cos\nsystem\n", b"0"]

    def _integer(self, number: int) -> bytes:
        raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
        ways = [f"I{number}\n".encode(), f"L{number}L\n".encode(), b"\x8a" + bytes([len(raw)]) + raw]
        ways.append(b"\x8b" + struct.pack("<i", len(raw)) + raw)
        if 0 <= number < 256:
            ways += [b"K" + bytes([number])] * 3
        if 0 <= number < 65536:
            ways += [b"M" + struct.pack("<H", number)]
        if -(1 << 31) <= number < 1 << 31:
            ways += [b"J" + struct.pack("<i", number)]
        if self._wild():
            odd = f"I{number:#x}\n,I0{number}\n,I {number}\n,L{number}\n,I{number}\0\n,I+{number}\n,L0x1L\n,I1_0\n"
            return self.rng.choice(odd.split(",")).encode()
        return self.rng.choice(ways)

    def _text(self, text: str) -> bytes:
        raw = text.encode("utf-8", "surrogatepass")
        escaped = (
            text.replace("\\", "\\u005c").replace("\0", "\\u0000").replace("\n", "\\u000a").replace("\r", "\\u000d")
        )
        ways = [b"X" + struct.pack("<I", len(raw)) + raw, b"\x8d" + struct.pack("<Q", len(raw)) + raw]
        ways.append(b"V" + escaped.replace("\x1a", "\\u001a").encode("raw-unicode-escape") + b"\n")
        if len(raw) < 256:
            ways += [b"\x8c" + bytes([len(raw)]) + raw] * 3
        if text.isascii():
            ways.append(b"T" + struct.pack("<i", len(raw)) + raw)
            ways.append(b"S" + repr(raw).encode()[1:] + b"\n")
            if len(raw) < 256:
                ways.append(b"U" + bytes([len(raw)]) + raw)
        if self._wild():
            odd = [
                b"S'\\x6fs'\n",
                b"S'a' \n",
                b'S"a"\n',
                b"S'\xff'\n",
                b"U\x02\xff\xfe",
                b"X\x02\0\0\0\xff\xfe",
                b"V\\u0061\n",
            ]
            odd += [b"V\\uZZ\n", b"S'\n", b"\x8c\x03\xed\xa0\x80", b"V\\U0001f600\n", b"V\\\\\n", b"Sa\n"]
            return self.rng.choice(odd)
        return self.rng.choice(ways)

    def _bytes(self, data: bytes) -> bytes:
        ways = [b"B" + struct.pack("<I", len(data)) + data, b"\x8e" + struct.pack("<Q", len(data)) + data]
        if len(data) < 256:
            ways.append(b"C" + bytes([len(data)]) + data)
        return self.rng.choice(ways)

    def _tuple(self, items: tuple[Node, ...]) -> None:
        short = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(items))
        marked = short is None or self.rng.random() < 0.2
        self._mark(marked)
        for item in items:
            self.write(item)
        self.chunks.append(b"t" if marked or short is None else short)

    def _list(self, items: list[Node]) -> None:
        if self.rng.random() < 0.2:
            self._mark()
            for item in items:
                self.write(item)
            self.chunks.append(b"l")
            return
        self.chunks.append(b"]")
        self._maybe_put()
        self._step("items", tuple(items))

    def _dict(self, pairs: tuple[tuple[Node, Node], ...]) -> None:
        if self.rng.random() < 0.2:
            self._mark()
            for key, value in pairs:
                self.write(key)
                self.write(value)
            self.chunks.append(b"d")
            return
        self.chunks.append(b"}")
        self._maybe_put()
        self._step("pairs", pairs)

    def _set(self, members: Members) -> None:
        if members.frozen:
            self._mark()
            for item in members.items:
                self.write(item)
            self.chunks.append(b"\x91")
            return
        self.chunks.append(b"\x8f")
        self._maybe_put()
        self._step("adds", members.items)

    def _step(self, kind: str, part: Node) -> None:
        """Change the value on top of the stack."""
        if kind == "build":
            self.write(part)
            self.chunks.append(b"b")
            return
        single, many = _STEP_OPCODES[kind]
        part = part if type(part) is tuple else (part,)  # a tree with a node replaced may have anything here
        if kind == "pairs":
            part = tuple(entry if type(entry) is tuple and len(entry) == 2 else (None, entry) for entry in part)
        groups = [part[at : at + 2] for at in range(0, len(part), 2)] if self.rng.random() < 0.2 else [part]
        for group in groups:
            alone = len(group) == 1 and single != b"" and self.rng.random() < 0.5
            self._mark(not alone)
            for entry in group:
                for value in entry if kind == "pairs" else (entry,):
                    self.write(value)
            self.chunks.append(single if alone else many)

    def _name(self, module: str, name: str) -> None:
        raw = [part.encode("utf-8", "surrogatepass") for part in (module, name)]
        if self.rng.random() < 0.6 and not any(b"\n" in part for part in raw):
            self.chunks.append(b"c" + raw[0] + b"\n" + raw[1] + b"\n")
            return
        for part in (module, name):
            self.chunks.append(self._text(part))
            if self.rng.random() < 0.1:
                self._put()
        self.chunks.append(b"\x93")

    def _call(self, made: Made) -> None:
        rng = self.rng
        ways = ["REDUCE"] * 4 + ["NEWOBJ"]
        if type(made.args) is tuple:
            ways += ["OBJ"] * (1 + self._wild())
            if type(made.callee) is Name and "\n" not in made.callee.module + made.callee.name:
                ways.append("INST")
        how = made.how if made.how and not self._wild() else rng.choice(ways if self._wild() else ["REDUCE"])
        if made.kwargs is not None:
            how = "NEWOBJ_EX"
        if how == "OBJ":
            self._mark()
            self.write(made.callee)
            for item in made.args:
                self.write(item)
            self.chunks.append(b"o")
        elif how == "INST":
            self._mark()
            for item in made.args:
                self.write(item)
            raw = [part.encode("utf-8", "surrogatepass") for part in (made.callee.module, made.callee.name)]
            self.chunks.append(b"i" + raw[0] + b"\n" + raw[1] + b"\n")
        else:
            self.write(made.callee)
            self.write(made.args)
            if how == "NEWOBJ_EX":
                self.write(made.kwargs)
            self.chunks.append({"REDUCE": b"R", "NEWOBJ": b"\x81", "NEWOBJ_EX": b"\x92"}[how])

    def _ask(self, pid: Node, text: bool) -> None:
        if text and type(pid) is str:
            self.chunks.append(b"P" + pid.encode() + b"\n")
            return
        if type(pid) is tuple and len(pid) > 2 and type(pid[2]) is str and pid[2] in STORAGES:
            self.storages[pid[2]] = None
        self.write(pid)
        self.chunks.append(b"Q")

    def _mark(self, wanted: bool = True) -> None:
        if wanted:
            self.chunks.append(b"(")

    def _maybe_put(self) -> None:
        if self.rng.random() < 0.3:
            self._put()

    def _put(self) -> None:
        """Memoise the value on top of the stack."""
        index = len(self._memo)
        if self._wild():
            index = self.rng.choice([0, 1, 2, 255, 256, 70_000])
        ways = [f"p{index}\n".encode(), b"r" + struct.pack("<I", index)]
        if index < 256:
            ways += [b"q" + bytes([index])] * 2
        if index == len(self._memo) and index not in self._memo:
            ways += [b"\x94"] * 2
        self._memo.add(index)
        self.chunks.append(self.rng.choice(ways))

    def _get(self) -> bytes:
        if not self._memo and not self._wild():
            return b"N"
        index = self.rng.randrange(6) if self._wild() or not self._memo else self.rng.choice(sorted(self._memo))
        ways = [f"g{index}\n".encode(), b"j" + struct.pack("<I", index)]
        if index < 256:
            ways.append(b"h" + bytes([index]))
        return self.rng.choice(ways)
