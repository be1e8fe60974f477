"""Reads msgpack from a stranger: every length is compared with a budget, in Python integers, before memory is taken.

The usual library bounds each list, but not their sum: 32 MiB of empty lists would become 2 GB of objects. Messages here
are few names and some large buffers, so a small reader is quick, and buffers stay views of the message.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from foreact.vla.errors import ForeActError

MAX_MESSAGE_BYTES = 32 << 20
"""Of a whole message, in either direction."""
MAX_DEPTH = 8
"""Maps and lists inside each other."""
MAX_ITEMS = 20_000
"""Numbers, texts, lists, ... of one message; the numbers of an array are not counted, it is one buffer."""
MAX_TEXT_BYTES = 256 << 10

_NUMBERS = {
    0xCA: ">f", 0xCB: ">d",
    0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_LENGTHS = {
    0xC4: ("bytes", ">B"), 0xC5: ("bytes", ">H"), 0xC6: ("bytes", ">I"),
    0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I"),
    0xDC: ("list", ">H"), 0xDD: ("list", ">I"),
    0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class WireError(ForeActError):
    """A message is not what the protocol allows."""


def read_msgpack(data: bytes, on_map: Callable[[dict[Any, Any]], Any] = lambda found: found) -> Any:
    """The value in a message. Maps have texts or bytes for keys; buffers are read-only views of `data`.

    Args:
        data: The message, one value and nothing after it.
        on_map: Applied to every map, inner ones first, such as to turn a described array into one.

    Raises:
        WireError: If it is not msgpack, or beyond one of the limits of this module.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(data):,} bytes; at most {MAX_MESSAGE_BYTES:,} are read")
    reader = _Reader(data, on_map)
    value = reader.value(0)
    if reader.at != len(data):
        raise WireError(f"{len(data) - reader.at} bytes follow the message")
    return value


class _Reader:
    def __init__(self, data: bytes, on_map: Callable[[dict[Any, Any]], Any]):
        self._data, self._on_map = memoryview(data).toreadonly(), on_map
        self.at = 0
        self._items = 0

    def _take(self, n: int) -> memoryview:
        if n > len(self._data) - self.at:
            raise WireError(f"the message ends after {len(self._data)} bytes, in the middle of a value")
        self.at += n
        return self._data[self.at - n : self.at]

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def value(self, depth: int) -> Any:
        self._items += 1
        if self._items > MAX_ITEMS:
            raise WireError(f"more than {MAX_ITEMS} values in one message; send numbers as arrays")
        first = self._take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0x90:
            return self._map(first & 0x0F, depth)
        if first < 0xA0:
            return self._list(first & 0x0F, depth)
        if first < 0xC0:
            return self._text(first & 0x1F)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            return self._number(_NUMBERS[first])
        if first not in _LENGTHS:
            raise WireError(f"byte 0x{first:02x} at {self.at - 1}: extension types are not read")
        kind, code = _LENGTHS[first]
        n = self._number(code)
        if kind == "bytes":
            return self._take(n)
        if kind == "text":
            return self._text(n)
        return self._list(n, depth) if kind == "list" else self._map(n, depth)

    def _text(self, n: int) -> str:
        if n > MAX_TEXT_BYTES:
            raise WireError(f"a text of {n:,} bytes; at most {MAX_TEXT_BYTES:,} are read")
        try:
            return str(self._take(n), "utf-8")
        except UnicodeDecodeError as error:
            raise WireError("a text is not UTF-8") from error

    def _inside(self, n: int, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise WireError(f"maps and lists are nested deeper than {MAX_DEPTH}")
        if n > MAX_ITEMS - self._items:
            raise WireError(f"more than {MAX_ITEMS} values in one message; send numbers as arrays")

    def _list(self, n: int, depth: int) -> list[Any]:
        self._inside(n, depth)
        return [self.value(depth + 1) for _ in range(n)]

    def _map(self, n: int, depth: int) -> Any:
        self._inside(2 * n, depth)
        found: dict[Any, Any] = {}
        for _ in range(n):
            key = self.value(MAX_DEPTH)  # so a list or map as a key is refused
            if isinstance(key, memoryview) and len(key) <= 256:
                key = bytes(key)
            if not isinstance(key, str | bytes) or len(key) > 256:
                raise WireError("a map has a key that is not a short text")
            if key in found:
                raise WireError(f"a map has the key {key!r} twice")
            found[key] = self.value(depth + 1)
        return self._on_map(found)
