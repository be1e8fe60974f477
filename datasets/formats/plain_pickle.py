"""Reads pickles of plain data without unpickling: an own small machine, in which nothing of the pickle can run.

CALVIN keeps its language annotations as a pickled dictionary inside `auto_lang_ann.npy`, and unpickling a file executes
whatever it says. Here `pickletools` splits the bytes into instructions, and this module carries out only those that
build None, booleans, numbers, texts, bytes, lists, tuples, dictionaries and arrays of numbers. The six global names
below are compared as texts; no module is imported, nothing is called, and any other instruction or name ends the
reading.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import MAX_DEPTH

MAX_INSTRUCTIONS = 20_000_000
_MARK = object()


@dataclass(frozen=True)
class _Name:
    text: str


_NAMES = {
    **{("numpy.core.multiarray", n): _Name(n) for n in ("_reconstruct", "scalar")},
    **{("numpy._core.multiarray", n): _Name(n) for n in ("_reconstruct", "scalar")},
    ("numpy", "ndarray"): _Name("ndarray"),
    ("numpy", "dtype"): _Name("dtype"),
    ("_codecs", "encode"): _Name("encode"),
    ("__builtin__", "bytes"): _Name("bytes"),
    ("builtins", "bytes"): _Name("bytes"),
}


class _DType:
    def __init__(self, code: str):
        self.code, self.order = code, ""

    def resolve(self) -> np.dtype | None:
        """The type; None for objects."""
        if self.code in ("O", "O8", "O4"):
            return None
        order = self.order if self.order in ("<", ">") else ""
        try:
            dtype = np.dtype(order + self.code)
        except TypeError as error:
            raise _Refused(f"the type {self.code!r:.40}") from error
        if dtype.kind not in "fiubU" or dtype.itemsize > 4096:
            raise _Refused(f"the type {self.code!r:.40}")
        return dtype


class _Array:
    """An array under construction: made by one instruction, filled by a later one."""

    def __init__(self) -> None:
        self.value: Any = None


class _Refused(Exception):
    pass


def read_plain_pickle(data: bytes, what: str) -> Any:
    """The plain data in a pickle of any protocol. Arrays of objects come as lists (a scalar one as its item).

    Raises:
        FormatError: If it is damaged, or holds anything but plain data; nothing of it has been executed.
    """
    try:
        return _plain(_Machine().run(data), 0, {})
    except _Refused as error:
        raise FormatError(
            f"{what} holds {error}, which is not plain data. Unpickled, such a file can run code; it is refused."
        ) from error
    except FormatError:
        raise
    except Exception as error:  # whatever damaged bytes provoke
        raise FormatError(f"{what} is a damaged pickle: {error!r:.200}") from error


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > MAX_INSTRUCTIONS:
                raise _Refused(f"more than {MAX_INSTRUCTIONS:,} instructions")
            if opcode.name == "STOP":
                if len(self.stack) != 1:
                    raise ValueError("the stack is not empty at the end")
                return self.stack[0]
            self._step(opcode.name, argument)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("LIST", "TUPLE", "DICT"):
            items = self._to_mark()
            stack.append({"LIST": list, "TUPLE": tuple, "DICT": _pairs}[name](items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._take(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else self._take(1)
            _of_type(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else self._take(2)
            _of_type(stack[-1], dict).update(_pairs(items))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "POP":
            self._take(1)
        elif name == "POP_MARK":
            self._to_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "GLOBAL":
            stack.append(_known(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_known(*self._take(2)))
        elif name == "REDUCE":
            function, arguments = self._take(2)
            stack.append(_apply(function, arguments))
        elif name == "BUILD":
            (state,) = self._take(1)
            _build(stack[-1], state)
        else:
            raise _Refused(f"the pickle instruction {name}")

    def _take(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) != count or any(item is _MARK for item in items):
            raise ValueError("the stack is too short")
        del self.stack[-count:]
        return items

    def _to_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "STRING", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2 or not all(isinstance(key, str | int | float | bytes | tuple) for key in items[::2]):
        raise ValueError("not pairs of key and value")
    return dict(zip(items[::2], items[1::2], strict=True))


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"not a {kind.__name__}")
    return value


def _known(module: Any, name: Any) -> _Name:
    found = _NAMES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
    if found is None:
        raise _Refused(f"the name {module!s:.60}.{name!s:.60}")
    return found


def _apply(function: Any, arguments: Any) -> Any:
    """What the call would give, without a call of anything that the pickle names."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise _Refused("a call of something that is not a name")
    if function.text == "_reconstruct" and len(arguments) == 3 and arguments[0] == _Name("ndarray"):
        return _Array()
    if function.text == "dtype" and arguments and isinstance(arguments[0], str):
        return _DType(arguments[0])
    if function.text == "scalar" and len(arguments) == 2 and isinstance(arguments[0], _DType):
        return _numbers((), arguments[0], False, arguments[1]).item()
    if function.text == "encode" and len(arguments) == 2 and arguments[1] == "latin1" and isinstance(arguments[0], str):
        return arguments[0].encode("latin1")  # how protocol 2 writes bytes
    if function.text == "bytes" and not arguments:
        return b""
    raise _Refused(f"a call of {function.text}")


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _DType) and isinstance(state, tuple) and len(state) >= 2 and isinstance(state[1], str):
        target.order = state[1]
    elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _DType):
        _, shape, dtype, fortran, content = state
        if (
            not isinstance(shape, tuple)
            or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
            or len(shape) > 8
        ):
            raise ValueError("not the shape of an array")
        if dtype.resolve() is None:
            if len(shape) > 1 or len(_of_type(content, list)) != math.prod(shape):
                raise _Refused("an array of objects of several dimensions")
            target.value = content if shape else content[0]
        else:
            target.value = _numbers(shape, dtype, bool(fortran), content)
    else:
        raise _Refused("an object that sets its own state")


def _numbers(shape: tuple[int, ...], dtype: _DType, fortran: bool, content: Any) -> np.ndarray:
    found = dtype.resolve()
    if found is None or not isinstance(content, bytes) or len(content) != math.prod(shape) * found.itemsize:
        raise ValueError("an array is not as long as its shape says")
    return np.frombuffer(content, found).reshape(shape, order="F" if fortran else "C")


def _plain(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """The value with arrays in their places."""
    if depth > MAX_DEPTH:
        raise _Refused(f"data nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, _Name | _DType) or value is _MARK:
        raise _Refused("a name as data")
    if isinstance(value, _Array):
        return _plain(value.value, depth + 1, done)
    if not isinstance(value, list | tuple | dict):
        return value
    if id(value) in done:  # shared parts are walked once: no growth without bounds
        return done[id(value)]
    if isinstance(value, dict):
        result: Any = {key: _plain(item, depth + 1, done) for key, item in value.items()}
    else:
        result = type(value)(_plain(item, depth + 1, done) for item in value)
    done[id(value)] = result
    return result
