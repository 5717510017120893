"""The abstract pickle machine: runs a pickle program without doing anything that it says.

It keeps the real stack, marks and memo, but imports become :class:`Global` values, calls become :class:`Call` values,
persistent ids become :class:`Persistent` values. The language it accepts is stricter than that of any unpickler
(CPython's C and Python ones, ``pickletools``): whatever two of them could read differently is an anomaly, so that a
trace without anomalies means the same to all of them.
"""

from __future__ import annotations

import gc
import re
from struct import unpack_from
from typing import NoReturn

from modelhub.anomalies import Anomaly
from modelhub.pickles.opcodes import (
    ADDITEMS,
    APPEND,
    APPENDS,
    BINBYTES,
    BINBYTES8,
    BINFLOAT,
    BINGET,
    BININT,
    BININT1,
    BININT2,
    BINPERSID,
    BINPUT,
    BINSTRING,
    BINUNICODE,
    BINUNICODE8,
    BUILD,
    BYTEARRAY8,
    DICT,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_SET,
    EMPTY_TUPLE,
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
    LONG_BINGET,
    LONG_BINPUT,
    MARK,
    MEMOIZE,
    NEWFALSE,
    NEWOBJ,
    NEWOBJ_EX,
    NEWTRUE,
    NEXT_BUFFER,
    NONE,
    OBJ,
    PERSID,
    POP,
    POP_MARK,
    PROTO,
    PUT,
    READONLY_BUFFER,
    REDUCE,
    SETITEM,
    SETITEMS,
    SHORT_BINBYTES,
    SHORT_BINSTRING,
    SHORT_BINUNICODE,
    STACK_GLOBAL,
    STOP,
    STRING,
    TUPLE,
    TUPLE1,
    TUPLE2,
    TUPLE3,
    UNICODE,
)
from modelhub.pickles.text import (
    parse_float,
    parse_index,
    parse_int,
    parse_long,
    parse_string,
    parse_unicode,
)
from modelhub.pickles.trace import Build, Limits, Mutation, Trace
from modelhub.pickles.values import (
    Blob,
    Call,
    CallOpcode,
    Dict,
    Global,
    LiteralKind,
    Persistent,
    SetOf,
    Unknown,
    Value,
)
from modelhub.source import Source

_WINDOW = 1 << 18
_HEADROOM = 64
_PADDING = bytes(16)
_LINE = 1 << 16
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)


def trace_pickle(source: Source, start: int = 0, end: int | None = None, limits: Limits = Limits()) -> Trace:  # noqa: B008
    """What the one pickle program at *start* would do; it may reach up to *end* (default: the source's end).

    Never raises for the program's content: what is wrong with it is in ``Trace.anomalies``. Bytes after its STOP are
    not looked at (``Trace.end`` says where it stopped). Memory and time are bounded by *limits*.
    """
    machine = _Machine(source, start, source.size if end is None else min(end, source.size), limits)
    result: Value = None
    stopped = False
    collecting = gc.isenabled()
    gc.disable()  # every value is reachable until the end: looking for garbage would only cost time
    try:
        result = machine.run()
        stopped = True
    except _Broken as broken:
        machine.anomalies.append(broken.anomaly)
    finally:
        if collecting:
            gc.enable()
    return Trace(
        imports=tuple(machine.imports),
        calls=tuple(machine.calls),
        builds=tuple(machine.builds),
        mutations=tuple(machine.mutations),
        persistent_ids=tuple(machine.persistent),
        anomalies=tuple(machine.anomalies),
        result=result,
        stopped=stopped,
        protocol=machine.protocol,
        start=start,
        end=machine.base + machine.pos,
    )


class _Broken(Exception):
    """The program cannot be followed any further; ``cut`` is a line that the end of the file cuts off."""

    def __init__(self, anomaly: Anomaly, cut: bytes | None = None) -> None:
        self.anomaly = anomaly
        self.cut = cut


def _spelled(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


class _Machine:
    """State of one run. ``base`` is the absolute offset of the window ``buf``, ``pos`` an offset into it."""

    def __init__(self, source: Source, start: int, end: int, limits: Limits) -> None:
        self.source = source
        self.start = start
        self.end = end
        self.limits = limits
        self.imports: list[Global] = []
        self.calls: list[Call] = []
        self.builds: list[Build] = []
        self.mutations: list[Mutation] = []
        self.persistent: list[Persistent] = []
        self.anomalies: list[Anomaly] = []
        self.protocol = 0
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.frame_end: int | None = None
        self.consumed = 0
        self.made = 0
        self.base = start
        self.pos = 0
        self.buf = b""
        self.size = 0
        self.window_soft = 0
        self.soft = 0

    # -- reading

    def _load(self, at: int, want: int, consumed: int = 0) -> None:
        """Make the window begin at absolute offset *at* and hold *want* bytes, or all that are left.

        *consumed* is how many bytes of the present window the program has used; here, every so often, its budgets are
        looked at.
        """
        self.consumed += consumed
        limits = self.limits
        if self.consumed > limits.program:
            self.fail("pickle.limit", f"the pickle is longer than {limits.program} bytes of opcodes", at)
        if max(self.made, len(self.stack)) > limits.values:
            self.fail("pickle.limit", f"the pickle makes more than {limits.values} objects", at)
        if len(self.memo) > limits.memo:
            self.fail("pickle.limit", f"the pickle memoises more than {limits.memo} objects", at)
        want = max(0, min(want, self.end - at))
        data = self.source.read_at(at, want)
        self.base = at
        self.pos = 0
        self.size = len(data)
        self.buf = data + _PADDING
        if self.size < want:
            self.end = at + self.size
        self.window_soft = self.size if at + self.size >= self.end else self.size - _HEADROOM
        self._heed_frame()

    def _heed_frame(self) -> None:
        """Set ``soft``, where the loop has to look up: at the window's end or, before it, the frame's."""
        self.soft = self.window_soft
        if self.frame_end is not None:
            self.soft = min(self.soft, max(0, self.frame_end - self.base))

    def _look_up(self, pos: int) -> None:
        """The loop came to ``soft``: a frame's end, the window's end, or the end of everything."""
        self.pos = pos
        at = self.base + pos
        if self.frame_end is not None and at >= self.frame_end:
            if at > self.frame_end:
                self.note("pickle.frame", "an opcode reaches over the end of its frame", at)
            self.frame_end = None
            self._heed_frame()
            if pos < self.soft:
                return
        if at >= self.end:
            self.pos = min(pos, self.size)
            self.fail("pickle.truncated", "the pickle ends before its STOP opcode", self.end)
        self._load(at, _WINDOW, pos)

    def _line(self, pos: int) -> tuple[bytes, int]:
        """The bytes up to the next newline, and the position after it."""
        newline = self.buf.find(b"\n", pos, self.size)
        if newline < 0 and self.base + self.size < self.end:
            self._load(self.base + pos, _WINDOW, pos)
            pos = 0
            newline = self.buf.find(b"\n", 0, self.size)
        if newline < 0 or newline - pos > _LINE:
            cut = self.buf[pos : self.size] if newline < 0 and self.size - pos <= _LINE else None
            odd = Anomaly("pickle.truncated", "a text argument has no end", None, self.base + min(pos, self.size))
            raise _Broken(odd, cut)
        return self.buf[pos:newline], newline + 1

    def _literal(self, pos: int, length: int, kind: LiteralKind) -> tuple[bytes | Blob, int]:
        """The *length* bytes at *pos*, kept when they are few, and the position after them."""
        at = self.base + pos
        if length > self.end - at:
            self.fail("pickle.truncated", f"a literal of {length} bytes reaches past the end", min(at, self.end))
        if length > self.limits.literal:
            self._load(at + length, _WINDOW, pos)
            return Blob(kind, at, length), 0
        if pos + length > self.size:
            self._load(at, max(_WINDOW, length + _HEADROOM), pos)
            pos = 0
        return self.buf[pos : pos + length], pos + length

    # -- telling

    def note(self, rule: str, message: str, at: int, evidence: str | None = None) -> None:
        """State an anomaly and go on."""
        self.anomalies.append(Anomaly(rule, message, None, at, evidence))
        if len(self.anomalies) >= self.limits.anomalies:
            self.fail("pickle.limit", "too much is wrong with this pickle to go on", at)

    def fail(self, rule: str, message: str, at: int) -> NoReturn:
        """State an anomaly after which the program cannot be followed."""
        raise _Broken(Anomaly(rule, message, None, at))

    # -- making

    def _import(self, module: Value, name: Value, at: int, opcode: str) -> Global:
        self.made += 1
        if not isinstance(module, str) or not isinstance(name, str):
            told = [v if isinstance(v, str) else "?" for v in (module, name)]
            self.note("pickle.computed-name", "the name of an import is computed, not written", at)
            made = Global(told[0], told[1], at, opcode, literal=False)
        else:
            made = Global(module, name, at, opcode)
            if _MODULE.fullmatch(module) is None or _IDENTIFIER.fullmatch(name) is None:
                if _MODULE.fullmatch(module) and _MODULE.fullmatch(name):
                    message = "an import's name has dots: it reaches into what it imports"
                    self.note("pickle.dotted-name", message, at, f"{module} {name}")
                else:
                    message = "an import's name is not a plain identifier"
                    self.note("pickle.odd-name", message, at, ascii(f"{module} {name}")[:200])
        self.imports.append(made)
        return made

    def _call(self, callee: Value, args: Value, kwargs: Value, at: int, opcode: CallOpcode) -> Call:
        self.made += 1
        made = Call(callee, args, kwargs, at, opcode)
        self.calls.append(made)
        return made

    def _set_items(self, target: Value, pairs: list[tuple[Value, Value]], at: int, opcode: str) -> None:
        if type(target) is Dict:
            target.pairs.extend(pairs)
        elif type(target) is not Call:
            self.made += 1
            self.mutations.append(Mutation(target, opcode, at))
        elif isinstance(target.pairs, list):
            target.pairs.extend(pairs)
        else:
            target.pairs = pairs

    def _add_items(self, target: Value, items: list[Value], at: int, opcode: str) -> None:
        if type(target) is list and opcode != "ADDITEMS":
            target.extend(items)
        elif type(target) is SetOf and opcode == "ADDITEMS" and not target.frozen:
            target.items.extend(items)
        elif type(target) is not Call or not items:  # Python's unpickler calls extend() for no items too
            self.made += 1
            self.mutations.append(Mutation(target, opcode, at))
        elif isinstance(target.items, list):
            target.items.extend(items)
        else:
            target.items = items

    def _pairs(self, items: list[Value], at: int) -> list[tuple[Value, Value]]:
        if len(items) % 2:
            self.fail("pickle.stack", "a dict's items do not come in pairs", at)
        return list(zip(items[::2], items[1::2], strict=True))

    # -- running

    def run(self) -> Value:
        """Follow the program to its STOP and return its value; :class:`_Broken` where that is impossible."""
        self._load(self.start, _WINDOW)
        if self.buf[0] == PROTO and self.size >= 2:
            self.protocol = self.buf[1]
            self.pos = 2
            if self.protocol > 5:
                self.note("pickle.protocol", f"protocol {self.protocol} does not exist", self.start)
        try:
            return self._loop()
        except IndexError:
            at = self.base + self.pos
            self.fail("pickle.stack", "an opcode takes a value from an empty stack", at)

    def _loop(self) -> Value:
        # Compared in the order in which torch's state dicts use them, in three ranges to keep the chains short.
        stack = self.stack
        memo = self.memo
        marks = self.marks
        pos = self.pos
        buf = self.buf
        soft = self.soft
        while True:
            if pos >= soft:
                self.stack = stack
                self._look_up(pos)
                pos, buf, soft = self.pos, self.buf, self.soft
                continue
            self.pos = pos
            code = buf[pos]
            pos += 1
            if code == BINPUT:
                memo[buf[pos]] = stack[-1]
                pos += 1
            elif code == BINGET:
                index = buf[pos]
                pos += 1
                if index not in memo:
                    self._unset(index)
                stack.append(memo[index])
            elif code < BINUNICODE:
                if code == BININT1:
                    stack.append(buf[pos])
                    pos += 1
                elif code == MARK:
                    marks.append(stack)
                    stack = []
                    if len(marks) > self.limits.depth:
                        self.fail("pickle.limit", f"more than {self.limits.depth} nested marks", self.base + pos - 1)
                elif code == BININT2:
                    stack.append(buf[pos] | buf[pos + 1] << 8)
                    pos += 2
                elif code == REDUCE:
                    args = stack.pop()
                    stack[-1] = self._call(stack[-1], args, None, self.base + pos - 1, "REDUCE")
                elif code == BINPERSID:
                    persistent = Persistent(stack.pop(), self.base + pos - 1, text=False)
                    self.persistent.append(persistent)
                    stack.append(persistent)
                    self.made += 1
                elif code == EMPTY_TUPLE:
                    stack.append(())
                elif code == BININT:
                    stack.append(unpack_from("<i", buf, pos)[0])
                    pos += 4
                elif code == NONE:
                    stack.append(None)
                elif code == BINFLOAT:
                    stack.append(unpack_from(">d", buf, pos)[0])
                    pos += 8
                elif code == POP:
                    if stack:
                        stack.pop()
                    else:
                        stack = marks.pop()
                elif code == DUP:
                    stack.append(stack[-1])
                elif code == STOP:
                    return self._stop(stack, pos)
                else:
                    stack, pos, buf, soft = self._rare(code, pos, stack)
            elif code < PROTO:
                if code == BINUNICODE:
                    length = buf[pos] | buf[pos + 1] << 8 | buf[pos + 2] << 16 | buf[pos + 3] << 24
                    pos += 4
                    if length < 4096 and pos + length <= self.size:
                        literal: bytes | Blob = buf[pos : pos + length]
                        pos += length
                    else:
                        literal, pos = self._literal(pos, length, "str")
                        buf, soft = self.buf, self.soft
                    stack.append(self._text(literal))
                elif code == LONG_BINPUT:
                    index = buf[pos] | buf[pos + 1] << 8 | buf[pos + 2] << 16 | buf[pos + 3] << 24
                    if index > self.limits.memo:
                        self.fail("pickle.limit", f"memo index {index} is too large", self.base + pos - 1)
                    memo[index] = stack[-1]
                    pos += 4
                elif code == TUPLE:
                    made = tuple(stack)
                    stack = marks.pop()
                    stack.append(made)
                    self.made += 1
                elif code == LONG_BINGET:
                    index = buf[pos] | buf[pos + 1] << 8 | buf[pos + 2] << 16 | buf[pos + 3] << 24
                    pos += 4
                    if index not in memo:
                        self._unset(index)
                    stack.append(memo[index])
                elif code == SETITEMS:
                    items = stack
                    stack = marks.pop()
                    at = self.base + pos - 1
                    self._set_items(stack[-1], self._pairs(items, at), at, "SETITEMS")
                elif code == APPENDS:
                    items = stack
                    stack = marks.pop()
                    self._add_items(stack[-1], items, self.base + pos - 1, "APPENDS")
                elif code == APPEND:
                    item = stack.pop()
                    self._add_items(stack[-1], [item], self.base + pos - 1, "APPEND")
                elif code == SETITEM:
                    item = stack.pop()
                    key = stack.pop()
                    self._set_items(stack[-1], [(key, item)], self.base + pos - 1, "SETITEM")
                elif code == EMPTY_DICT:
                    stack.append(Dict())
                    self.made += 1
                elif code == EMPTY_LIST:
                    stack.append([])
                    self.made += 1
                else:
                    stack, pos, buf, soft = self._rare(code, pos, stack)
            elif code == TUPLE2:
                last = stack.pop()
                stack[-1] = (stack[-1], last)
                self.made += 1
            elif code == NEWFALSE:
                stack.append(False)
            elif code == TUPLE1:
                stack[-1] = (stack[-1],)
                self.made += 1
            elif code == TUPLE3:
                last = stack.pop()
                middle = stack.pop()
                stack[-1] = (stack[-1], middle, last)
                self.made += 1
            elif code == MEMOIZE:
                memo[len(memo)] = stack[-1]
            elif code == SHORT_BINUNICODE:
                length = buf[pos]
                pos += 1
                if pos + length <= self.size:
                    literal = buf[pos : pos + length]
                    pos += length
                else:
                    literal, pos = self._literal(pos, length, "str")
                    buf, soft = self.buf, self.soft
                stack.append(self._text(literal))
            elif code == NEWTRUE:
                stack.append(True)
            elif code == STACK_GLOBAL:
                name = stack.pop()
                stack[-1] = self._import(stack[-1], name, self.base + pos - 1, "STACK_GLOBAL")
            else:
                stack, pos, buf, soft = self._rare(code, pos, stack)

    def _stop(self, stack: list[Value], pos: int) -> Value:
        result = stack.pop()
        at = self.base + pos
        self.pos = pos
        if at > self.end:
            self.fail("pickle.truncated", "the pickle ends inside an opcode", self.end)
        if stack or self.marks:
            self.note("pickle.stack", "values are left on the stack at the end", at - 1)
        if self.frame_end is not None and at != self.frame_end:
            self.note("pickle.frame", "the last frame does not end with the pickle", at)
        return result

    def _unset(self, index: int) -> NoReturn:
        self.fail("pickle.memo", f"memo entry {index} is read before it is set", self.base + self.pos)

    def _text(self, literal: bytes | Blob) -> str | Blob:
        if isinstance(literal, Blob):
            return literal
        try:
            return str(literal, "utf-8")
        except UnicodeDecodeError:
            pass
        try:
            return str(literal, "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self.fail("pickle.bad-text", "a string is not valid UTF-8", self.base + self.pos)

    def _rare(self, code: int, pos: int, stack: list[Value]) -> tuple[list[Value], int, bytes, int]:
        """Carry out an opcode that torch's state dicts seldom use; returns stack, position, window and ``soft``."""
        self.stack = stack
        self.made += 1
        at = self.base + pos - 1
        if code in _LENGTH:
            kind, width, signed = _LENGTH[code]
            length = int.from_bytes(self.buf[pos : pos + width], "little", signed=signed)
            if length < 0:
                self.fail("pickle.stack", "a literal has a negative length", at)
            literal, pos = self._literal(pos + width, length, kind)
            if kind == "str":
                stack.append(self._text(literal))
            elif code in (BINSTRING, SHORT_BINSTRING) and isinstance(literal, bytes) and literal.isascii():
                stack.append(str(literal, "ascii"))
            else:
                stack.append(literal)
        elif code in _LINE_OPCODES:
            if code in (GLOBAL, INST):
                made, pos = self._written_import(pos, at, "GLOBAL" if code == GLOBAL else "INST")
                if code == GLOBAL:
                    stack.append(made)
                else:
                    args = tuple(stack)
                    self.stack = stack = self.marks.pop()
                    stack.append(self._call(made, args, None, at, "INST"))
            else:
                line, pos = self._line(pos)
                self._text_opcode(code, line, at)
        elif code in (LONG1, LONG4):
            width = 1 if code == LONG1 else 4
            length = int.from_bytes(self.buf[pos : pos + width], "little", signed=width == 4)
            if not 0 <= length <= self.limits.long:
                self.fail("pickle.limit", f"an integer of {length} bytes", at)
            literal, pos = self._literal(pos + width, length, "bytes")
            assert isinstance(literal, bytes)
            stack.append(int.from_bytes(literal, "little", signed=True))
        elif code == FRAME:
            length = int.from_bytes(self.buf[pos : pos + 8], "little")
            pos += 8
            if self.frame_end is not None:
                self.note("pickle.frame", "a frame begins inside another", at)
            elif self.base + pos + length > self.end:
                self.note("pickle.truncated", "a frame reaches past the end", at)
            else:
                self.frame_end = self.base + pos + length
                self._heed_frame()
        elif code == BUILD:
            state = stack.pop()
            target = stack[-1]
            self.builds.append(Build(target, state, at))
            self.made += 1
            if type(target) is Call:
                target.states = (*target.states, state)
                if len(target.states) > 16:
                    self.fail("pickle.limit", "one object is given its state over and over", at)
        elif code == NEWOBJ:
            args = stack.pop()
            stack[-1] = self._call(stack[-1], args, None, at, "NEWOBJ")
        elif code == NEWOBJ_EX:
            kwargs = stack.pop()
            args = stack.pop()
            stack[-1] = self._call(stack[-1], args, kwargs, at, "NEWOBJ_EX")
        elif code == OBJ:
            items = stack
            self.stack = stack = self.marks.pop()
            stack.append(self._call(items[0], tuple(items[1:]), None, at, "OBJ"))
        elif code in (LIST, DICT, FROZENSET):
            items = stack
            self.stack = stack = self.marks.pop()
            self.made += 1
            if code == LIST:
                stack.append(items)
            elif code == DICT:
                made_dict = Dict()
                made_dict.pairs.extend(self._pairs(items, at))
                stack.append(made_dict)
            else:
                stack.append(SetOf(items, frozen=True))
        elif code == EMPTY_SET:
            stack.append(SetOf([]))
            self.made += 1
        elif code == ADDITEMS:
            items = stack
            self.stack = stack = self.marks.pop()
            self._add_items(stack[-1], items, at, "ADDITEMS")
        elif code == POP_MARK:
            self.stack = self.marks.pop()
        elif code == PROTO:
            self.note("pickle.protocol", "the protocol is declared again in mid-stream", at)
            self.protocol = max(self.protocol, self.buf[pos])
            pos += 1
        elif code in (EXT1, EXT2, EXT4):
            width = {EXT1: 1, EXT2: 2, EXT4: 4}[code]
            number = int.from_bytes(self.buf[pos : pos + width], "little")
            pos += width
            self.note("pickle.extension", "an import is hidden behind an extension code", at, f"code {number}")
            made = Global("copyreg", f"_inverted_registry[{number}]", at, "EXT", literal=False)
            self.imports.append(made)
            stack.append(made)
        elif code == NEXT_BUFFER:
            self.note("pickle.buffer", "data is taken from outside the file", at)
            stack.append(Unknown())
        elif code == READONLY_BUFFER:
            self.note("pickle.buffer", "data is taken from outside the file", at)
            stack[-1] = stack[-1]
        else:
            self.fail("pickle.opcode", f"byte 0x{code:02x} is not an opcode", at)
        return self.stack, pos, self.buf, self.soft

    def _written_import(self, pos: int, at: int, opcode: str) -> tuple[Global, int]:
        """The import that the two lines at *pos* name, and the position after them."""
        lines: list[bytes] = []
        for _ in range(2):
            try:
                line, pos = self._line(pos)
            except _Broken as broken:
                if broken.cut is not None:
                    # here Python's unpickler imports: by the line without its last byte, and no second line
                    lines = [*lines, broken.cut[:-1], b""]
                    self._import(_spelled(lines[0]), _spelled(lines[1]), at, opcode)
                raise
            lines.append(line)
        return self._import(_spelled(lines[0]), _spelled(lines[1]), at, opcode), pos

    def _text_opcode(self, code: int, line: bytes, at: int) -> None:
        stack = self.stack
        value: Value
        if code == PERSID:
            self.note("pickle.persid", "a persistent id is written as text", at, ascii(line)[:200])
            value = Persistent(line.decode("latin-1"), at, text=True)
            self.persistent.append(value)
            self.made += 1
        elif code in (GET, PUT):
            index = parse_index(line)
            if index is None:
                self.fail("pickle.text", "a memo index is not in canonical form", at)
            if code == PUT:
                if index > self.limits.memo:
                    self.fail("pickle.limit", f"memo index {index} is too large", at)
                self.memo[index] = stack[-1]
                return
            if index not in self.memo:
                self._unset(index)
            value = self.memo[index]
        else:
            value = _TEXT_PARSERS[code](line)
            if value is None:
                message = "a text argument is not in canonical form: loaders read it differently"
                self.note("pickle.text", message, at, ascii(line)[:200])
                value = Unknown()
        stack.append(value)


_TEXT_PARSERS = {
    INT: parse_int,
    LONG: parse_long,
    FLOAT: parse_float,
    STRING: parse_string,
    UNICODE: parse_unicode,
}
_LINE_OPCODES = frozenset({*_TEXT_PARSERS, GET, PUT, PERSID, GLOBAL, INST})
_LENGTH: dict[int, tuple[LiteralKind, int, bool]] = {
    BINUNICODE8: ("str", 8, False),
    BINSTRING: ("bytes", 4, True),
    SHORT_BINSTRING: ("bytes", 1, False),
    BINBYTES: ("bytes", 4, False),
    SHORT_BINBYTES: ("bytes", 1, False),
    BINBYTES8: ("bytes", 8, False),
    BYTEARRAY8: ("bytearray", 8, False),
}
