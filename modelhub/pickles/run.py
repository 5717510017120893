"""Running a pickle program on the abstract machine, without doing anything that it says.

The language that is accepted is stricter than that of any unpickler (CPython's C and Python ones, ``pickletools``):
whatever two of them could read differently is an anomaly, so that a trace without anomalies means the same to all of
them.
"""

from __future__ import annotations

import gc
from struct import unpack_from

from modelhub.pickles.machine import UNSET, Machine
from modelhub.pickles.opcodes import (
    APPEND,
    APPENDS,
    BINFLOAT,
    BINGET,
    BININT,
    BININT1,
    BININT2,
    BINPERSID,
    BINPUT,
    BINUNICODE,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    LONG_BINGET,
    LONG_BINPUT,
    MARK,
    MEMOIZE,
    NEWFALSE,
    NEWTRUE,
    NONE,
    POP,
    PROTO,
    REDUCE,
    SETITEM,
    SETITEMS,
    SHORT_BINUNICODE,
    STACK_GLOBAL,
    STOP,
    TUPLE,
    TUPLE1,
    TUPLE2,
    TUPLE3,
)
from modelhub.pickles.rare import carry_out, text_of
from modelhub.pickles.trace import Limits, Trace
from modelhub.pickles.values import Dict, Value
from modelhub.pickles.window import Broken, fail
from modelhub.source import Source


def trace_pickle(source: Source, start: int = 0, end: int | None = None, limits: Limits = Limits()) -> Trace:  # noqa: B008
    """What the one pickle program at *start* would do; it may reach up to *end* (default: the source's end).

    Never raises for the program's content: what is wrong with it is in ``Trace.anomalies``. Bytes after its STOP are
    not looked at (``Trace.end`` says where it stopped). Memory and time are bounded by *limits*.
    """
    machine = Machine(source, start, source.size if end is None else min(end, source.size), limits)
    result: Value = None
    stopped = False
    collecting = gc.isenabled()
    gc.disable()  # every value is reachable until the end: looking for garbage would only cost time
    try:
        result = _run(machine)
        stopped = True
    except Broken as broken:
        machine.anomalies.append(broken.anomaly)
    finally:
        if collecting:
            gc.enable()
    return machine.trace(result, stopped)


def _run(machine: Machine) -> Value:
    """Follow the program to its STOP and return its value; :class:`Broken` where that is impossible.

    Opcodes are compared in the order in which torch's state dicts use them, in three ranges to keep the chains short;
    the LONG_BINPUT that follows most values there is taken along with them.
    """
    window = machine.window
    marks = machine.marks
    memo = machine.memo
    stack = machine.stack
    deepest = machine.limits.depth
    buf, soft, base = window.buf, window.soft, window.base
    op = pos = 0
    if buf[0] == PROTO and window.size:
        if window.size < 2:
            fail("pickle.truncated", "the pickle ends before its STOP opcode", window.end)
        machine.protocol = buf[1]
        pos = 2
        if machine.protocol > 5:
            machine.note("pickle.protocol", f"protocol {machine.protocol} does not exist", machine.start)
    try:
        while True:
            if pos >= soft:
                op = pos
                machine.stack = stack
                pos, crossed = window.look_up(pos)
                if crossed:
                    machine.note("pickle.frame", "an opcode reaches over the end of its frame", base + op)
                buf, soft, base = window.buf, window.soft, window.base
                continue
            op = pos
            code = buf[pos]
            pos += 1
            if code == BINGET:
                index = buf[pos]
                pos += 1
                if index >= len(memo) or memo[index] is UNSET:
                    machine.get(index, base + op)
                stack.append(memo[index])
                continue
            if code < BINUNICODE:
                if code == BININT1:
                    stack.append(buf[pos])
                    pos += 1
                    continue
                if code == MARK:
                    marks.append(stack)
                    stack = []
                    if len(marks) > deepest:
                        fail("pickle.exhausting", f"more than {deepest} nested marks", base + op)
                    continue
                if code == BININT2:
                    stack.append(buf[pos] | buf[pos + 1] << 8)
                    pos += 2
                    continue
                if code == REDUCE:
                    args = stack.pop()
                    stack[-1] = machine.called(stack[-1], args, None, base + op, "REDUCE")
                elif code == BINPERSID:
                    stack[-1] = machine.asked_for(stack[-1], base + op)
                    continue
                elif code == EMPTY_TUPLE:
                    stack.append(())
                    continue
                elif code == BININT:
                    stack.append(unpack_from("<i", buf, pos)[0])
                    pos += 4
                    continue
                elif code == NONE:
                    stack.append(None)
                    continue
                elif code == BINFLOAT:
                    stack.append(unpack_from(">d", buf, pos)[0])
                    pos += 8
                    continue
                elif code == POP:
                    if stack:
                        stack.pop()
                    else:
                        stack = marks.pop()
                    continue
                elif code == DUP:
                    stack.append(stack[-1])
                    continue
                elif code == STOP:
                    return _stop(machine, stack, base + pos)
                else:
                    stack, pos = carry_out(machine, code, pos, stack)
                    buf, soft, base = window.buf, window.soft, window.base
                    continue
            elif code < PROTO:
                if code == TUPLE:
                    made = tuple(stack)
                    stack = marks.pop()
                    stack.append(made)
                    machine.made += 1
                elif code == BINUNICODE:
                    length = buf[pos] | buf[pos + 1] << 8 | buf[pos + 2] << 16 | buf[pos + 3] << 24
                    pos += 4
                    if length < 4096 and pos + length <= window.size:
                        stack.append(text_of(buf[pos : pos + length], base + op))
                        pos += length
                    else:
                        literal, pos = window.literal(pos, length, "str", machine.limits.literal)
                        stack.append(text_of(literal, base + op))
                        buf, soft, base = window.buf, window.soft, window.base
                elif code == LONG_BINPUT:
                    machine.put(int.from_bytes(buf[pos : pos + 4], "little"), stack[-1], base + op)
                    pos += 4
                    continue
                elif code == BINPUT:
                    machine.put(buf[pos], stack[-1], base + op)
                    pos += 1
                    continue
                elif code == LONG_BINGET:
                    index = buf[pos] | buf[pos + 1] << 8 | buf[pos + 2] << 16 | buf[pos + 3] << 24
                    pos += 4
                    stack.append(machine.get(index, base + op))
                    continue
                elif code == SETITEMS:
                    items = stack
                    stack = marks.pop()
                    machine.set_items(stack[-1], items, base + op, "SETITEMS")
                    continue
                elif code == APPENDS:
                    items = stack
                    stack = marks.pop()
                    machine.add_items(stack[-1], items, base + op, "APPENDS")
                    continue
                elif code == APPEND:
                    item = stack.pop()
                    machine.add_items(stack[-1], [item], base + op, "APPEND")
                    continue
                elif code == SETITEM:
                    item = stack.pop()
                    key = stack.pop()
                    machine.set_items(stack[-1], [key, item], base + op, "SETITEM")
                    continue
                elif code == EMPTY_DICT:
                    stack.append(Dict())
                    machine.made += 1
                elif code == EMPTY_LIST:
                    stack.append([])
                    machine.made += 1
                else:
                    stack, pos = carry_out(machine, code, pos, stack)
                    buf, soft, base = window.buf, window.soft, window.base
                    continue
            elif code == NEWFALSE:
                stack.append(False)
                continue
            elif code == TUPLE1:
                stack[-1] = (stack[-1],)
                machine.made += 1
            elif code == TUPLE2:
                last = stack.pop()
                stack[-1] = (stack[-1], last)
                machine.made += 1
            elif code == MEMOIZE:
                if machine.holes:
                    machine.put(len(memo) - machine.holes, stack[-1], base + op)
                else:
                    memo.append(stack[-1])
                continue
            elif code == SHORT_BINUNICODE:
                length = buf[pos]
                pos += 1
                if pos + length <= window.size:
                    stack.append(text_of(buf[pos : pos + length], base + op))
                    pos += length
                else:
                    literal, pos = window.literal(pos, length, "str", machine.limits.literal)
                    stack.append(text_of(literal, base + op))
                    buf, soft, base = window.buf, window.soft, window.base
                continue
            elif code == TUPLE3:
                last = stack.pop()
                middle = stack.pop()
                stack[-1] = (stack[-1], middle, last)
                machine.made += 1
            elif code == NEWTRUE:
                stack.append(True)
                continue
            elif code == STACK_GLOBAL:
                name = stack.pop()
                stack[-1] = machine.imported(stack[-1], name, base + op, "STACK_GLOBAL")
                continue
            else:
                stack, pos = carry_out(machine, code, pos, stack)
                buf, soft, base = window.buf, window.soft, window.base
                continue

            if buf[pos] == LONG_BINPUT and pos < soft:
                op = pos
                index = buf[pos + 1] | buf[pos + 2] << 8 | buf[pos + 3] << 16 | buf[pos + 4] << 24
                pos += 5
                if index == len(memo):
                    memo.append(stack[-1])
                else:
                    machine.put(index, stack[-1], base + op)
    except IndexError:
        machine.at = base + op
        fail("pickle.stack", "an opcode takes a value from an empty stack", base + op)
    except Broken:
        machine.at = base + op
        raise


def _stop(machine: Machine, stack: list[Value], at: int) -> Value:
    """The program's value; its STOP ends before the absolute offset *at*."""
    result = stack.pop()
    window = machine.window
    machine.at = at
    if at > window.end:
        fail("pickle.truncated", "the pickle ends inside an opcode", window.end)
    if stack or machine.marks:
        machine.note("pickle.stack", "values are left on the stack at the end", at - 1)
    if window.frame_end is not None and at != window.frame_end:
        machine.note("pickle.frame", "the last frame does not end with the pickle", at)
    return result
