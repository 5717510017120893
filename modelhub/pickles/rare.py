"""The opcodes that torch's state dicts seldom use, each as what it does to the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelhub.pickles.machine import Machine
from modelhub.pickles.opcodes import (
    ADDITEMS,
    BINBYTES,
    BINBYTES8,
    BINSTRING,
    BINUNICODE8,
    BUILD,
    BYTEARRAY8,
    DICT,
    EMPTY_SET,
    EXT1,
    EXT2,
    EXT4,
    FLOAT,
    FRAME,
    FROZENSET,
    GET,
    GLOBAL,
    INST,
    INT,
    LIST,
    LONG,
    LONG1,
    LONG4,
    NEWOBJ,
    NEWOBJ_EX,
    NEXT_BUFFER,
    OBJ,
    PERSID,
    POP_MARK,
    PROTO,
    PUT,
    READONLY_BUFFER,
    SHORT_BINBYTES,
    SHORT_BINSTRING,
    STRING,
    UNICODE,
)
from modelhub.pickles.text import parse_float, parse_index, parse_int, parse_long, parse_string, parse_unicode
from modelhub.pickles.values import Blob, Dict, Global, LiteralKind, SetOf, Unknown, Value
from modelhub.pickles.window import LONGEST_LINE, LONGEST_TEXT, Broken, fail

Stack = list[Value]
Opcode = Callable[[Machine, int, int, Stack], tuple[Stack, int]]
"""From the machine, the opcode, the position after it in the window and the stack to the new stack and position."""


def carry_out(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    """Carry out opcode *code*, whose argument begins at *pos*; returns the stack and the position after it.

    The window may have moved; the position is one in the new window.
    """
    machine.made += 1
    opcode = _OPCODES.get(code)
    if opcode is None:
        fail("pickle.opcode", f"byte 0x{code:02x} is not an opcode", machine.window.base + pos - 1)
    return opcode(machine, code, pos, stack)


def text_of(literal: bytes | Blob, at: int) -> str | Blob:
    """A ``str`` literal as text; lone surrogates are let through, as picklers write them."""
    if isinstance(literal, Blob):
        return literal
    try:
        return str(literal, "utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return str(literal, "utf-8", "surrogatepass")
    except UnicodeDecodeError:
        fail("pickle.bad-text", "a string is not valid UTF-8", at)


_LITERALS: Mapping[int, tuple[LiteralKind, int, bool]] = {
    BINUNICODE8: ("str", 8, False),
    BINSTRING: ("bytes", 4, True),
    SHORT_BINSTRING: ("bytes", 1, False),
    BINBYTES: ("bytes", 4, False),
    SHORT_BINBYTES: ("bytes", 1, False),
    BINBYTES8: ("bytes", 8, False),
    BYTEARRAY8: ("bytearray", 8, False),
}
"""Kind of literal, bytes of its length, and whether that is signed."""


def _literal(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    window = machine.window
    at = window.base + pos - 1
    kind, width, signed = _LITERALS[code]
    length = int.from_bytes(window.buf[pos : pos + width], "little", signed=signed)
    if length < 0:
        fail("pickle.stack", "a literal has a negative length", at)
    literal, pos = window.literal(pos + width, length, kind, machine.limits.literal)
    if kind == "str":
        stack.append(text_of(literal, at))
    elif code in (BINSTRING, SHORT_BINSTRING) and isinstance(literal, bytes) and literal.isascii():
        stack.append(str(literal, "ascii"))
    else:
        stack.append(literal)
    return stack, pos


def _long(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    window = machine.window
    width = 1 if code == LONG1 else 4
    length = int.from_bytes(window.buf[pos : pos + width], "little", signed=width == 4)
    if not 0 <= length <= machine.limits.long:
        fail("pickle.exhausting", f"an integer of {length} bytes", window.base + pos - 1)
    literal, pos = window.literal(pos + width, length, "bytes", machine.limits.literal)
    assert isinstance(literal, bytes)
    stack.append(int.from_bytes(literal, "little", signed=True))
    return stack, pos


# -- text arguments

_TEXT_PARSERS = {
    INT: parse_int,
    LONG: parse_long,
    FLOAT: parse_float,
    STRING: parse_string,
    UNICODE: parse_unicode,
}


def _text(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    at = machine.window.base + pos - 1
    line, pos = machine.window.line(pos, LONGEST_TEXT if code in (STRING, UNICODE) else LONGEST_LINE)
    if len(line) > machine.limits.literal:
        machine.texts += len(line)
        if machine.texts > machine.limits.text:
            fail("pickle.limit", f"the pickle has more than {machine.limits.text} bytes of long text", at)
    value: Value = _TEXT_PARSERS[code](line)
    if value is None:
        message = "a text argument is not in canonical form: loaders read it differently"
        machine.note("pickle.text", message, at, ascii(line[:200])[:200])
        value = Unknown()
    stack.append(value)
    return stack, pos


def _memo_by_text(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    at = machine.window.base + pos - 1
    line, pos = machine.window.line(pos)
    index = parse_index(line)
    if index is None:
        fail("pickle.text", "a memo index is not in canonical form", at)
    if code == PUT:
        machine.put(index, stack[-1], at)
    else:
        stack.append(machine.get(index, at))
    return stack, pos


def _persistent_by_text(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    at = machine.window.base + pos - 1
    line, pos = machine.window.line(pos)
    machine.note("pickle.persid", "a persistent id is written as text", at, ascii(line)[:200])
    stack.append(machine.asked_for(line.decode("latin-1"), at, text=True))
    return stack, pos


# -- imports, calls and states


def _spelled(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _written_import(machine: Machine, pos: int, at: int, opcode: str) -> tuple[Global, int]:
    """The import that the two lines at *pos* name, and the position after them."""
    lines: list[bytes] = []
    for _ in range(2):
        try:
            line, pos = machine.window.line(pos)
        except Broken as broken:
            if broken.cut is not None:
                # here Python's unpickler imports: by the line without its last byte, and no second line
                module, name = map(_spelled, [*lines, broken.cut[:-1], b""][:2])
                if name:
                    machine.imported(module, name, at, opcode)
                else:
                    machine.imports.append(Global(module, name, at, opcode))  # an odd name, but that is the cut's doing
            raise
        lines.append(line)
    return machine.imported(_spelled(lines[0]), _spelled(lines[1]), at, opcode), pos


def _global(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    made, pos = _written_import(machine, pos, machine.window.base + pos - 1, "GLOBAL")
    stack.append(made)
    return stack, pos


def _inst(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    at = machine.window.base + pos - 1
    made, pos = _written_import(machine, pos, at, "INST")
    args = tuple(stack)
    stack = machine.marks.pop()
    stack.append(machine.called(made, args, None, at, "INST"))
    return stack, pos


def _obj(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    items = stack
    stack = machine.marks.pop()
    stack.append(machine.called(items[0], tuple(items[1:]), None, machine.window.base + pos - 1, "OBJ"))
    return stack, pos


def _newobj(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    args = stack.pop()
    stack[-1] = machine.called(stack[-1], args, None, machine.window.base + pos - 1, "NEWOBJ")
    return stack, pos


def _newobj_ex(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    kwargs = stack.pop()
    args = stack.pop()
    stack[-1] = machine.called(stack[-1], args, kwargs, machine.window.base + pos - 1, "NEWOBJ_EX")
    return stack, pos


def _build(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    state = stack.pop()
    machine.build(stack[-1], state, machine.window.base + pos - 1)
    return stack, pos


_EXTENSIONS = {EXT1: 1, EXT2: 2, EXT4: 4}


def _extension(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    at = machine.window.base + pos - 1
    width = _EXTENSIONS[code]
    number = int.from_bytes(machine.window.buf[pos : pos + width], "little")
    machine.note("pickle.extension", "an import is hidden behind an extension code", at, f"code {number}")
    made = Global("copyreg", f"_inverted_registry[{number}]", at, "EXT", literal=False)
    machine.imports.append(made)
    stack.append(made)
    return stack, pos + width


# -- containers


def _list_or_dict(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    items = stack
    stack = machine.marks.pop()
    machine.made += 1
    if code == LIST:
        stack.append(items)
    elif code == FROZENSET:
        stack.append(SetOf(items, frozen=True))
    else:
        made = Dict()
        machine.set_items(made, items, machine.window.base + pos - 1, "DICT")
        stack.append(made)
    return stack, pos


def _set(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    if code == EMPTY_SET:
        stack.append(SetOf([]))
        return stack, pos
    items = stack
    stack = machine.marks.pop()
    machine.add_items(stack[-1], items, machine.window.base + pos - 1, "ADDITEMS")
    return stack, pos


def _pop_mark(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    return machine.marks.pop(), pos


# -- framing


def _frame(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    window = machine.window
    at = window.base + pos - 1
    end = window.base + pos + 8 + int.from_bytes(window.buf[pos : pos + 8], "little")
    if window.frame_end is not None:
        machine.note("pickle.frame", "a frame begins inside another", at)
    elif end > window.end:
        machine.note("pickle.truncated", "a frame reaches past the end", at)
    else:
        window.begin_frame(end)
    return stack, pos + 8


def _protocol(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    machine.note("pickle.protocol", "the protocol is declared again in mid-stream", machine.window.base + pos - 1)
    machine.protocol = max(machine.protocol, machine.window.buf[pos])
    return stack, pos + 1


def _buffer(machine: Machine, code: int, pos: int, stack: Stack) -> tuple[Stack, int]:
    machine.note("pickle.buffer", "data is taken from outside the file", machine.window.base + pos - 1)
    if code == NEXT_BUFFER:
        stack.append(Unknown())
    else:
        stack[-1] = stack[-1]
    return stack, pos


_OPCODES: Mapping[int, Opcode] = {
    **dict.fromkeys(_LITERALS, _literal),
    **dict.fromkeys((LONG1, LONG4), _long),
    **dict.fromkeys(_TEXT_PARSERS, _text),
    **dict.fromkeys((GET, PUT), _memo_by_text),
    PERSID: _persistent_by_text,
    GLOBAL: _global,
    INST: _inst,
    OBJ: _obj,
    NEWOBJ: _newobj,
    NEWOBJ_EX: _newobj_ex,
    BUILD: _build,
    **dict.fromkeys(_EXTENSIONS, _extension),
    **dict.fromkeys((LIST, DICT, FROZENSET), _list_or_dict),
    **dict.fromkeys((EMPTY_SET, ADDITEMS), _set),
    POP_MARK: _pop_mark,
    FRAME: _frame,
    PROTO: _protocol,
    **dict.fromkeys((NEXT_BUFFER, READONLY_BUFFER), _buffer),
}
